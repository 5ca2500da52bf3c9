"""Model proxies as the host starts them: one process for each run that has one, its port, and what agents are told.

The port is bound here for as long as the run lasts, and listened on by the proxy alone: between two starts of a proxy
nobody else can take it and gather the keys of agents.
"""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_bus.credentials import Credentials
from crewkeeper_supervisor.core.crew import Crew, Restart
from crewkeeper_supervisor.shell.crew_variables import resolve_env, upstream_values
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.launcher import Launch
from crewkeeper_supervisor.shell.listening import parted, reserved, shown_address
from crewkeeper_supervisor.shell.restart import KeptProcess

RULE: Final = Restart(policy="permanent", intensity=1000, period_s=60.0, shutdown_s=4.0)
READY_LIMIT_S: Final = 20.0
READY_POLL_S: Final = 0.02


class CannotListen(ShellError):  # noqa: N818 - what the operator reads
    """The address of a model proxy is taken, or not of this machine."""


class HostedProxy:
    """The proxy of one run.

    Attributes:
        address: Where it listens, as `http://127.0.0.1:40001`.
    """

    def __init__(self, crew: Crew, run: str, state: Path, env: Mapping[str, str], tell: Callable[[str], None]) -> None:
        """Reserve its port.

        Args:
            crew: A crew with `model_proxy`.
            run: Its run.
            state: The state directory.
            env: The proxy's environment, with the providers' keys and the server's address.
            tell: Where lines for people go.

        Raises:
            CannotListen: The port cannot be had.
            SettingMissing: A variable that it names is not set.
        """
        assert crew.model_proxy is not None
        for key, text in upstream_values(crew.model_proxy):
            resolve_env(text, env, key)
        self._declared = crew.model_proxy
        self._run = run
        self._tell = tell
        host, port = parted(crew.model_proxy.listen, "127.0.0.1:8100")
        try:
            self._bound = reserved(host, port)
        except OSError as error:
            raise CannotListen(
                f"the model proxy of crew {crew.name} cannot listen on {crew.model_proxy.listen}: "
                f"{error.strerror or error}; choose another model_proxy.listen"
            ) from None
        where = shown_address(host, self._bound.getsockname()[1])
        self.address = f"http://{where}"
        self._log = state / "runs" / run / "logs" / "_model-proxy.log"
        module = ("-m", "crewkeeper_supervisor.cli.main", "model-proxy", run)
        launch = Launch(
            name="model proxy",
            argv=(sys.executable, *module, "--listen", where, "--state", str(state)),
            env={**env, "PYTHONUNBUFFERED": "1"},
            log=self._log,
        )
        self._process = KeptProcess(launch, RULE, self)

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""
        return self._process.running

    async def ready(self) -> bool:
        """Whether it answers, once it does or its time to begin is over."""
        host, port = self._bound.getsockname()[:2]
        with anyio.move_on_after(READY_LIMIT_S):
            while True:
                try:
                    stream = await anyio.connect_tcp(host, port)
                except OSError:
                    await anyio.sleep(READY_POLL_S)
                else:
                    await stream.aclose()
                    return True
        self._tell(f"{self._run}: the model proxy does not answer; no agent reaches a model. Its log: {self._log}")
        return False

    async def _stop(self) -> None:
        """End it and give the port back."""
        await self._process.stop(RULE.shutdown_s)
        self._bound.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run it around a block: the block begins when it answers, and it ends with the block."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._process.run)
            try:
                await self.ready()
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop()

    def settings(self, credentials: Credentials) -> dict[str, str]:
        """What an agent's environment must hold to reach models through it."""
        key = f"{credentials.user}:{credentials.password}"
        env: dict[str, str] = {}
        if self._declared.openai is not None:
            env |= {"OPENAI_BASE_URL": f"{self.address}/v1", "OPENAI_API_KEY": key}
        if self._declared.anthropic is not None:
            env |= {"ANTHROPIC_BASE_URL": self.address, "ANTHROPIC_API_KEY": key}
        return env

    # --- the process's reports (restart.Reports) ---

    async def started(self, name: str, pid: int, restarts: int) -> None:
        """Tell when it is back."""
        if restarts:
            self._tell(f"{self._run}: the model proxy is back, process {pid}")

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        """Tell when it died."""
        if restart:
            self._tell(
                f"{self._run}: the model proxy died ({why or 'exit status 0'}) and is started again; see {self._log}"
            )

    async def exhausted(self, name: str, rule: Restart) -> None:
        """Tell that it is given up."""
        self._tell(f"{self._run}: the model proxy cannot be kept running: no agent reaches a model; see {self._log}")
