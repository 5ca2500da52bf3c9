"""Processes: the agents of a scenario as the journal tells of them, and what the runner does to them by signal."""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.abc

STEP_S: Final = 0.1
"""Length of one turn of a slowed process: a part of it running, the rest stopped."""


class Slowed:
    """A process that runs for a share of its time. `stops`: how often it was stopped."""

    def __init__(self, pid: int, factor: int) -> None:
        self.stops = 0
        self._pid = pid
        self._factor = factor
        self._over = anyio.Event()

    async def work(self) -> None:
        """Stop it and let it go on, in turn, until `end`."""
        while not self._over.is_set():
            self.stops += _signal(self._pid, signal.SIGSTOP)
            with anyio.move_on_after(STEP_S * (1 - 1 / self._factor)):
                await self._over.wait()
            _signal(self._pid, signal.SIGCONT)
            with anyio.move_on_after(STEP_S / self._factor):
                await self._over.wait()

    async def end(self) -> None:
        """Let it run."""
        self._over.set()
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

    async def kill(self, agent: str) -> int:
        """SIGKILL; 1 if there was somebody to kill."""
        return _signal(self._pids.get(agent, 0), signal.SIGKILL)

    async def freeze(self, agent: str) -> int:
        """SIGSTOP; the process, 0 if there was none."""
        pid = self._pids.get(agent, 0)
        return pid if _signal(pid, signal.SIGSTOP) else 0

    def thaw(self, pid: int) -> None:
        """SIGCONT."""
        _signal(pid, signal.SIGCONT)

    def pid(self, agent: str) -> int:
        """Its process; 0 if there is none."""
        return self._pids.get(agent, 0)

    async def slow(self, agent: str, factor: int) -> Slowed:
        """Let it have one part in `factor` of its time."""
        slowed = Slowed(self._pids.get(agent, 0), factor)
        self._begin(slowed.work)
        return slowed


def _signal(pid: int, number: signal.Signals) -> int:
    if pid > 0:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            return 1
    return 0
