"""Children: the processes that a runner starts beside controllers and servers, each with a log; how they are ended."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release
from crewkeeper_supervisor.chaos.real.left_over import StartedProcesses

END_S: Final = 20.0
"""How long the first of them, the host, may take to end its crew."""
OTHERS_END_S: Final = 0.2


class CannotPlay(Exception):  # noqa: N818 - what it is
    """The stage could not be set up; `log` is what the host said last."""

    def __init__(self, what: str, log: str) -> None:
        super().__init__(what)
        self.log = log


class Children:
    """The processes of one run, in the order in which they were started.

    Args:
        folder: Where their logs are.
        known: Is told of every one.
    """

    def __init__(self, folder: Path, known: StartedProcesses) -> None:
        self._folder = folder
        self._known = known
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: list[str], env: dict[str, str], log: str, cwd: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start one."""
        descriptor = os.open(self._folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = popen_guarded(command, stdout=descriptor, stderr=descriptor, env=env, cwd=cwd)
        finally:
            os.close(descriptor)
        self._processes.append(process)
        self._known.add(log.removesuffix(".log"), process.pid)
        return process

    @property
    def first_ended(self) -> bool:
        """Whether the first one, the host, has ended."""
        return bool(self._processes) and self._processes[0].poll() is not None

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        """SIGKILL of one; harmless when repeated."""
        if process.poll() is None:
            kill_group(process.pid, signal.SIGKILL)
            process.wait(END_S)
            release(process.pid)

    def stop(self) -> None:
        """End all of them, by force where they take long; harmless when repeated."""
        for process in reversed(self._processes):
            if process.poll() is None:
                kill_group(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(END_S if process is self._processes[0] else OTHERS_END_S)
            except subprocess.TimeoutExpired:
                kill_group(process.pid, signal.SIGKILL)
                process.wait(END_S)
            release(process.pid)
        self._processes.clear()
