"""Controllers: the supervisor processes of a scenario, started, killed and stopped by name."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release
from crewkeeper_supervisor.chaos.faults.holds import Holds
from crewkeeper_supervisor.chaos.real import own_clock
from crewkeeper_supervisor.chaos.real.left_over import StartedProcesses

END_S: Final = 10.0
FAIL_POINT: Final = "CREWKEEPER_FAIL_POINT"
FAIL_LOG: Final = "CREWKEEPER_FAIL_LOG"
Ending = Callable[[], Awaitable[None]]
"""Ends what a fault does to one controller; harmless when repeated."""
_MAIN: Final = ("-m", "crewkeeper_supervisor.cli.main")
_MUTATED: Final = ("-m", "crewkeeper_supervisor.cli.chaos_mutated")


def program_of(mutation: str) -> tuple[str, ...]:
    """What Python is to run as `supervisor`, with this fault of the product; empty: none."""
    return (*_MUTATED, mutation) if mutation else _MAIN


class Controllers:
    """`supervisor serve`, several times.

    Args:
        count: How many.
        state: State directory.
        env: Their environment.
        folder: Where their logs are.
        mutation: Fault of the product that they run with; empty: none.
        owner: Tells who owns the run now, by name.
        known: Is told of every process.
    """

    def __init__(
        self,
        count: int,
        state: Path,
        env: dict[str, str],
        folder: Path,
        mutation: str,
        owner: Callable[[], str],
        known: StartedProcesses,
    ) -> None:
        self.names = [f"s{number}" for number in range(1, count + 1)]
        self._state = state
        self._env = env
        self._folder = folder
        self._mutation = mutation
        self._owner = owner
        self._known = known
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._armed: set[str] = set()
        self._holds = Holds()

    def which(self, which: str) -> list[str]:
        """Names of `owner`, `standby` or `all`."""
        owner = self._owner()
        match which:
            case "owner":
                return [owner] if owner in self.names else self.names[:1]
            case "standby":
                return [name for name in self.names if name != owner]
            case _:
                return list(self.names)

    def pid(self, name: str) -> int:
        """The process of one; 0 unless it runs."""
        return self._running[name].pid if name in self.alive else 0

    def log(self, name: str) -> Path:
        """What it has said."""
        return self._folder / f"{name}.log"

    @property
    def alive(self) -> list[str]:
        """Those that run."""
        return [name for name, process in self._running.items() if process.poll() is None]

    async def start(self, name: str, more: dict[str, str] | None = None) -> None:
        """Start one, unless it runs; `more` is added to its environment."""
        if name in self.alive:
            return
        self._kill(name)  # what has ended by itself is guarded no longer
        program = program_of(self._mutation)
        command = [sys.executable, *program, "serve", "--state", str(self._state), "--name", name]
        env = self._env | {own_clock.NAME: name} | (more or {})
        log = os.open(self.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._running[name] = popen_guarded(command, stdout=log, stderr=log, env=env)
            self._known.add(name, self._running[name].pid)
        finally:
            os.close(log)

    async def take_down(self, which: str) -> list[Ending]:
        """SIGKILL of `owner`, `standby` or `all`; for each that ran or was down before, what ends this."""
        names = [name for name in self.which(which) if name in self.alive or self._holds.held(name)]
        for name in names:
            self._kill(name)
        return [self._away(name) for name in names]

    def can_be_armed(self, which: str) -> bool:
        """Whether any of `owner`, `standby` or `all` is kept down by nothing."""
        return not all(self._holds.held(name) for name in self.which(which))

    async def arm(self, which: str, point: str, log: Path) -> list[Ending]:
        """Start `owner`, `standby` or `all` anew, each to die at a fail point that it writes to `log`.

        Those that another fault keeps down stay so. Returns what ends this for each of the others.

        Raises:
            OSError: There are no others.
        """
        names = [name for name in self.which(which) if not self._holds.held(name)]
        if not names:
            raise OSError("other faults keep down all that it is for")
        for name in names:
            self._kill(name)
        for name in names:
            await self.start(name, {FAIL_POINT: point, FAIL_LOG: str(log)})
            self._armed.add(name)
        return [self._away(name) for name in names]

    def _away(self, name: str) -> Ending:
        """Keep one from being started as usual; the last of several that do so starts it when it ends."""
        end = self._holds.take(name)

        async def over() -> None:
            if end() is None:
                return
            if name in self._armed:
                self._armed.remove(name)
                self._kill(name)
            await self.start(name)

        return over

    def _kill(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            kill_group(process.pid, signal.SIGKILL)
            process.wait(END_S)
            release(process.pid)

    async def freeze(self, which: str) -> list[Callable[[], None]]:
        """SIGSTOP of those that run; for each what ends that, with SIGCONT if nothing else stops this process."""
        found = {name: pid for name in self.which(which) if (pid := self.pid(name))}
        for pid in found.values():
            kill_group(pid, signal.SIGSTOP)
        return [
            self._holds.undoing(f"{name} frozen {pid}", partial(self._thaw, name, pid)) for name, pid in found.items()
        ]

    def _thaw(self, name: str, pid: int) -> None:
        if self.pid(name) == pid:  # else it was killed meanwhile, and is another process
            kill_group(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End all of them; harmless when repeated."""
        for process in self._running.values():
            kill_group(process.pid, signal.SIGCONT)
            kill_group(process.pid, signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                kill_group(process.pid, signal.SIGKILL)
                process.wait(END_S)
            release(process.pid)
        self._running.clear()
