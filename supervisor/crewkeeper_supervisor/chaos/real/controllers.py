"""Controllers: the supervisor processes of a scenario, started, killed and stopped by name."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release

END_S: Final = 10.0
_MAIN: Final = ("-m", "crewkeeper_supervisor.cli.main")
_MUTATED: Final = ("-m", "crewkeeper_supervisor.cli.chaos_mutated")


class Controllers:
    """`supervisor serve`, several times.

    Args:
        count: How many.
        state: State directory.
        env: Their environment.
        folder: Where their logs are.
        mutation: Fault of the product that they run with; empty: none.
        owner: Tells who owns the run now, by name.
    """

    def __init__(
        self, count: int, state: Path, env: dict[str, str], folder: Path, mutation: str, owner: Callable[[], str]
    ) -> None:
        self.names = [f"s{number}" for number in range(1, count + 1)]
        self._state = state
        self._env = env
        self._folder = folder
        self._mutation = mutation
        self._owner = owner
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def alive(self) -> list[str]:
        """Those that run."""
        return [name for name, process in self._running.items() if process.poll() is None]

    async def start(self, name: str) -> None:
        """Start one, unless it runs."""
        if name in self.alive:
            return
        program = (*_MUTATED, self._mutation) if self._mutation else _MAIN
        command = [sys.executable, *program, "serve", "--state", str(self._state), "--name", name]
        log = os.open(self._folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._running[name] = popen_guarded(command, stdout=log, stderr=log, env=self._env)
        finally:
            os.close(log)

    async def kill(self, which: str) -> list[str]:
        """SIGKILL of `owner`, `standby` or `all`; the names of those that ran."""
        killed = [name for name in self._which(which) if name in self.alive]
        for name in killed:
            process = self._running[name]
            kill_group(process.pid, signal.SIGKILL)
            process.wait(END_S)
            release(process.pid)
        return killed

    async def freeze(self, which: str) -> list[str]:
        """SIGSTOP; the names of those that ran."""
        frozen = [name for name in self._which(which) if name in self.alive]
        for name in frozen:
            kill_group(self._running[name].pid, signal.SIGSTOP)
        return frozen

    def thaw(self, names: list[str]) -> None:
        """SIGCONT."""
        for name in names:
            kill_group(self._running[name].pid, signal.SIGCONT)

    def stop(self) -> None:
        """End all of them."""
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

    def _which(self, which: str) -> list[str]:
        owner = self._owner()
        match which:
            case "owner":
                return [owner] if owner in self.names else self.names[:1]
            case "standby":
                return [name for name in self.names if name != owner]
            case _:
                return list(self.names)
