"""The crew that the README leads to, run as it stands there: it deadlocks, is freed, and its own receiver is told."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crewkeeper_supervisor.chaos.real.loopback import free_port
from support.up import LIMIT_S, SECRET, up

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
NAMES = ("asker.py", "adder.py", "crew.yaml", "receiver.py")


def shown() -> dict[str, str]:
    """The files of the section about an own crew, in the order in which it shows them."""
    _, _, section = (ROOT / "README.md").read_text().partition("## Your own crew")
    found = re.findall(r"^```(?:python|yaml)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return dict(zip(NAMES, found, strict=False))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_crew_of_the_readme_is_freed_and_its_receiver_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for name, text in shown().items():
        (tmp_path / name).write_text(text.replace("8099", str(port)))
    monkeypatch.setenv("OPS_WEBHOOK", f"http://127.0.0.1:{port}/")
    monkeypatch.setenv("OPS_WEBHOOK_SECRET", SECRET)
    told = tmp_path / "told.log"
    with told.open("wb") as out:
        receiver = subprocess.Popen([sys.executable, str(tmp_path / "receiver.py")], stdout=out, stderr=out)
    try:
        until_s = time.monotonic() + LIMIT_S
        while not listens(port):
            assert time.monotonic() < until_s, told.read_text()
            time.sleep(0.05)
        with up(tmp_path, monkeypatch) as crew:
            crew.wait_for(lambda: "crewkeeper.deadlock.resolved |" in told.read_text())
            crew.wait_for(lambda: "the run is over" in crew.log.read_text())
    finally:
        receiver.kill()
        receiver.wait()
    assert (
        "crewkeeper.deadlock.opened | deadlock: adder → asker → adder | supervisor incidents show" in told.read_text()
    )
    assert "asker: 17 + 25 = 42 things" in crew.log.read_text()
