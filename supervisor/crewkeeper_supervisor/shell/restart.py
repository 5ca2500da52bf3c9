"""A process kept running by the restart rules: started, watched, started again, reported; ended only on request.

The rules themselves are pure and live in `core.restart`; this is the loop that has a clock and a process.
"""

from typing import Final, Protocol

import anyio
from msgspec import Struct

from crewkeeper_supervisor.core.crew import Restart
from crewkeeper_supervisor.core.restart import RestartBudget, asks_for_restart
from crewkeeper_supervisor.shell.launcher import CANNOT_START, REAP_LIMIT_S, ChildProcess, Launch

STOPPED_AT_WORK: Final = 3
"""Exit status of an agent that its supervisor stopped in the middle of its work."""
WORD_LIMIT_S: Final = 1.0
"""An agent and the host of an agent are told of a stop separately: with that status, the host's word is waited for this
long before the exit is taken for a crash."""


class Ended(Struct, frozen=True, kw_only=True):
    """How a kept process ended for good."""

    name: str
    code: int
    """Last exit status, negative for a signal; 0 where it never ran."""
    asked: bool
    """Whether somebody asked for the end."""
    gave_up: bool
    """Whether the restart budget was spent."""

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than in order or by request."""
        return self.gave_up or (self.code != 0 and not self.asked)


class Reports(Protocol):
    """Who is told what happens to a process. A call may take its time; the process is not started again before."""

    async def started(self, name: str, pid: int, restarts: int) -> None:
        """The process runs; it has been restarted so many times before."""

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        """The process ended, and whether it is started again; `why` is empty for an exit in order."""

    async def exhausted(self, name: str, rule: Restart) -> None:
        """It ended once more than its rule allows and is given up."""


class KeptProcess:
    """One child that is started again as its rule says, until it ends in order, is given up or is asked to end.

    Attributes:
        name: The launch's name.
        running: Its pid now; 0 between two starts and after the end.
    """

    def __init__(self, launch: Launch, rule: Restart, reports: Reports) -> None:
        self.name = launch.name
        self.running = 0
        self._launch = launch
        self._rule = rule
        self._reports = reports
        self._child: ChildProcess | None = None
        self._begun = False
        self._asked = anyio.Event()
        self._done = anyio.Event()

    async def run(self) -> Ended:
        """Keep it until its end; once. Cancelling kills the process."""
        self._begun = True
        budget = RestartBudget(self._rule.intensity, self._rule.period_s)
        code, gave_up = 0, False
        try:
            while not self._asked.is_set():
                code, pid, why = await self._once(budget.spent)
                if code == STOPPED_AT_WORK:
                    with anyio.move_on_after(WORD_LIMIT_S):
                        await self._asked.wait()
                delay_s = None
                if not self._asked.is_set() and asks_for_restart(self._rule, code):
                    delay_s = budget.spend(anyio.current_time())
                    gave_up = delay_s is None
                await self._reports.exited(self.name, pid, code, restart=delay_s is not None, why=why)
                if delay_s is None:
                    break
                with anyio.move_on_after(delay_s):
                    await self._asked.wait()
                if self._asked.is_set():
                    why = "told to end before it was started again"
                    await self._reports.exited(self.name, pid, code, restart=False, why=why)
            if gave_up:
                await self._reports.exhausted(self.name, self._rule)
        finally:
            self._done.set()
        return Ended(name=self.name, code=code, asked=self._asked.is_set(), gave_up=gave_up)

    def expect_end(self) -> None:
        """Start it no more; what runs goes on until it ends or `stop` is called."""
        self._asked.set()

    async def stop(self, grace_s: float) -> None:
        """End it for good: SIGTERM, SIGKILL after `grace_s` seconds; returns when it is gone. May be repeated."""
        self._asked.set()
        if self._child is not None:
            await self._child.stop(grace_s)
        if self._begun:
            with anyio.move_on_after(REAP_LIMIT_S):
                await self._done.wait()

    def kill(self) -> None:
        """End it for good with SIGKILL, without waiting."""
        self._asked.set()
        if self._child is not None:
            self._child.kill()

    async def _once(self, restarts: int) -> tuple[int, int, str]:
        """Start it and wait for its end; (exit status, pid, why it ended)."""
        child = ChildProcess(self._launch)
        try:
            pid = await child.start()
        except OSError as error:
            return CANNOT_START, 0, f"cannot start {self._launch.argv[0]!r}: {error.strerror or error}"
        self._child, self.running = child, pid
        if self._asked.is_set():  # asked while it was being started
            child.kill()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._reports.started, self.name, pid, restarts)
                code = await child.wait()
        finally:
            self._child, self.running = None, 0
        return code, pid, _why(code)


def _why(code: int) -> str:
    if code == 0:
        return ""
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
