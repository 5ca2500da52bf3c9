"""Approval servers as a host starts them: one process for each address that crew files name, for as long as it runs.

They are children like a controller: killed, they are started again; the host gone, they are gone.
"""

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.core.crew import Crew, Restart
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.launcher import Launch
from crewkeeper_supervisor.shell.listening import listener, parted
from crewkeeper_supervisor.shell.restart import KeptProcess

RULE: Final = Restart(policy="permanent", intensity=1000, period_s=60.0, shutdown_s=4.0)
LOG: Final = "approvals.log"


@asynccontextmanager
async def serving(
    crews: Sequence[Crew], ground: Ground, env: Mapping[str, str], tell: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serve approval links around a block, where a crew asks for it.

    Args:
        crews: The crews; those with `approvals.listen` count.
        ground: The server they run on.
        env: Environment of the processes.
        tell: Where lines for people go.

    Raises:
        ConfigError: An address is taken, or not of this machine.
    """
    addresses = {crew.approval_listen: crew for crew in crews if crew.approval_listen}
    for listen, crew in addresses.items():
        _check_free(listen, crew)
    kept = [KeptProcess(_launch(crew, ground, env), RULE, _Reports(listen, tell)) for listen, crew in addresses.items()]
    async with anyio.create_task_group() as tasks:
        for process in kept:
            tasks.start_soon(process.run)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                for process in kept:
                    await process.stop(RULE.shutdown_s)


def _launch(crew: Crew, ground: Ground, env: Mapping[str, str]) -> Launch:
    state = ground.place.state
    words = ["-m", "crewkeeper_supervisor.cli.main", "approvals", "serve", "--state", str(state)]
    words += ["--listen", crew.approval_listen, *(["--url", crew.approval_url] if crew.approval_url else [])]
    return Launch(name="approvals", argv=(sys.executable, *words), env=ground.environment(env), log=state / LOG)


def _check_free(listen: str, crew: Crew) -> None:
    """Say at once what would otherwise only be read in a log."""
    try:
        listener(*parted(listen, "127.0.0.1:8790")).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            f"crew {crew.name}: approval links cannot be served at {listen}: {why}; choose another approvals.listen"
        ) from None


class _Reports:
    """Tells people what happens to one of them."""

    def __init__(self, listen: str, tell: Callable[[str], None]) -> None:
        self._listen = listen
        self._tell = tell

    async def started(self, name: str, pid: int, restarts: int) -> None:
        self._tell(f"approvals at {self._listen}" + (f" again, process {pid}" if restarts else ""))

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        if restart:
            self._tell(f"the server of approval links died ({why or 'exit status 0'}) and is started again; see {LOG}")

    async def exhausted(self, name: str, rule: Restart) -> None:
        self._tell(f"the server of approval links cannot be kept running; decide with supervisor approvals; see {LOG}")
