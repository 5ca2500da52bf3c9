"""Processes: the agents of a scenario as the journal tells of them, and what the runner does to them by signal."""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.abc

from crewkeeper_supervisor.chaos.faults.holds import Holds

STEP_S: Final = 0.1
"""Length of one turn of a slowed process: a part of it running, the rest stopped."""


class Slowed:
    """A process that runs for a share of its time. `stops`: how often it was stopped.

    Args:
        pid: The process.
        factor: It runs for one part in so many.
        frozen: Whether something else has stopped it, so that it must not go on.
    """

    def __init__(self, pid: int, factor: int, frozen: Callable[[], bool]) -> None:
        self.stops = 0
        self._pid = pid
        self._factor = factor
        self._frozen = frozen
        self._over = anyio.Event()

    async def work(self) -> None:
        """Stop it and let it go on, in turn, until `end`."""
        while not self._over.is_set():
            self.stops += not self._frozen() and _signal(self._pid, signal.SIGSTOP)
            with anyio.move_on_after(STEP_S * (1 - 1 / self._factor)):
                await self._over.wait()
            self._go_on()
            with anyio.move_on_after(STEP_S / self._factor):
                await self._over.wait()

    def end(self) -> None:
        """Let it run."""
        self._over.set()
        self._go_on()

    def _go_on(self) -> None:
        if not self._frozen():
            _signal(self._pid, signal.SIGCONT)


class Processes:
    """The agents' processes.

    Args:
        pids: Process of each agent that runs, kept up to date by whoever reads the journal.
        begin: Starts something in the background.
    """

    def __init__(self, pids: dict[str, int], begin: Callable[[Callable[[], Any]], None]) -> None:
        self._pids = pids
        self._begin = begin
        self._holds = Holds()
        self._slowed: dict[int, Slowed] = {}

    async def kill(self, agent: str) -> int:
        """SIGKILL; 1 if there was somebody to kill."""
        return _signal(self._pids.pop(agent, 0), signal.SIGKILL)  # it is nobody's process from now on

    async def freeze(self, agent: str) -> Callable[[], None] | None:
        """SIGSTOP; what ends that, with SIGCONT when nothing else freezes the process; None: there was none."""
        pid = self._pids.get(agent, 0)
        if not _signal(pid, signal.SIGSTOP):
            return None
        return self._holds.undoing(_frozen(pid), lambda: self.thaw(pid))

    def thaw(self, pid: int) -> None:
        """SIGCONT."""
        _signal(pid, signal.SIGCONT)

    def pid(self, agent: str) -> int:
        """Its process; 0 if there is none."""
        return self._pids.get(agent, 0)

    async def slow(self, agent: str, factor: int) -> tuple[Slowed, Callable[[], None]]:
        """Let it have one part in `factor` of its time; who slows it, and what ends that.

        Two that slow one process at the same time share one who does it, until the last of them ends.
        """
        pid = self._pids.get(agent, 0)
        slowed = self._slowed.get(pid)
        if slowed is None:
            slowed = self._slowed[pid] = Slowed(pid, factor, lambda: self._holds.held(_frozen(pid)))
            self._begin(slowed.work)

        def over() -> None:
            del self._slowed[pid]
            slowed.end()

        return slowed, self._holds.undoing(f"{pid} slow", over)


def _frozen(pid: int) -> str:
    return f"{pid} frozen"


def _signal(pid: int, number: signal.Signals) -> int:
    if pid > 0:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            return 1
    return 0
