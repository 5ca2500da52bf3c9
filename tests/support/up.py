"""Up: a crew under `supervisor up`, each part of it a process of its own, for tests that act on it from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

LIMIT_S = 180.0
"""How long anything may take that a test waits for."""
SECRET = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
"""What the webhooks of a crew are signed with."""
T = TypeVar("T")


class Up:
    """A crew that runs.

    Attributes:
        folder: Where its crew file is and its agents run.
        state: Its state directory.
        log: What the host writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "up.log"

    def wait_for(self, condition: Callable[[], T]) -> T:
        """Wait until a condition holds, with a limit; returns what it returned."""
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s:
            if value := condition():
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {LIMIT_S} s; {self.log.read_text()[-3000:]}")

    def pids(self, command: str) -> list[int]:
        """Processes of this machine that run `supervisor` with this command on its state directory."""
        words = f"main {command} --state {self.state}"
        found = []
        for each in Path("/proc").iterdir():
            try:
                if words in (each / "cmdline").read_text().replace("\0", " "):
                    found.append(int(each.name))
            except (OSError, ValueError):
                continue
        return found


@contextmanager
def up(folder: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Iterator[Up]:
    """Run `crew.yaml` of a folder; commands in this process are about it, too. `environ` is the host's in addition."""
    crew = Up(folder)
    monkeypatch.setenv("CREWKEEPER_STATE", str(crew.state))
    for name in ("CREWKEEPER_NATS_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "up", "crew.yaml", "--state", str(crew.state)]
    with crew.log.open("wb") as log:
        host = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environ})
    try:
        yield crew
    finally:
        host.send_signal(signal.SIGINT)
        try:
            host.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            host.kill()
            host.wait()
