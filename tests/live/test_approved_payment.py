"""A crew that really runs, in which a person decides whether a tool does: from the crew file to the tool's effect."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.receiver import Receiver

pytestmark = pytest.mark.live

LIMIT_S = 60.0
SECRET = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
TOOLS = """\
def pay(to: str, cents: int) -> str:
    "Pay somebody."
    with open("paid", "a") as file:
        file.write(f"{to} {cents}\\n")
    return "paid"
"""


def payer(*calls: tuple[str, int]) -> str:
    pay = [{"tool": {"name": "pay", "args": {"to": to, "cents": cents}, "call_id": to}} for to, cents in calls]
    tried = [{"catch": {"do": [step], "error": "refused", "then": [{"progress": "refused"}]}} for step in pay]
    return json.dumps({"main": [*tried, {"progress": "all done"}, {"sleep": 600}]})


def crew(port: int) -> str:
    return f"""\
crew: desk
agents:
  payer:
    run: [python, -m, crewkeeper_agents.scripted, '{payer(("ann", 1), ("bob", 900), ("cid", 901))}']
    tools: [pay]
tools:
  pay: {{function: "m:pay", cost_usd: 1}}
rules:
  - {{id: dear, tools: [pay], when: "args.cents > 100", do: approve, because: much money}}
approvals: {{who: finance, expire: 10m, listen: "127.0.0.1:{port}"}}
escalate:
  - {{webhook: "${{HOOK}}", secret: "${{HOOK_SECRET}}", allow_private: true}}
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A running crew and what its people are told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "m.py").write_text(TOOLS)
    (tmp_path / "crew.yaml").write_text(crew(port))
    state = tmp_path / "state"
    monkeypatch.setenv("CREWKEEPER_STATE", str(state))
    monkeypatch.delenv("CREWKEEPER_NATS_URL", raising=False)
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "up", "crew.yaml", "--state", str(state)]
    with Receiver(SECRET) as receiver, (tmp_path / "up.log").open("wb") as log:
        env = {**os.environ, "HOOK": receiver.url, "HOOK_SECRET": SECRET}
        host = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=env)
        try:
            yield tmp_path, receiver, host
        finally:
            host.send_signal(signal.SIGINT)
            try:
                host.wait(30)
            except subprocess.TimeoutExpired:
                host.kill()
                host.wait()


def wait_for(condition, log: Path):
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {LIMIT_S} s; {log.read_text()[-3000:]}")


def children(pid: int, words: str) -> list[int]:
    """Processes of this machine that a host started, by what their command lines hold."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if words in (each / "cmdline").read_text().replace("\0", " ") and str(pid) != each.name:
                found.append(int(each.name))
        except (OSError, ValueError):
            continue
    return found


def test_money_moves_only_when_a_person_says_so(desk, capsys):
    folder, receiver, _ = desk
    log, paid = folder / "up.log", folder / "paid"
    asked = wait_for(
        lambda: [each.body["data"] for each in receiver.received if each.body["data"]["kind"] == "approval"], log
    )
    assert paid.read_text() == "ann 1\n"  # what no rule stops has run; what needs a person has not
    assert asked[0]["args"] == {"to": "bob", "cents": 900}
    assert asked[0]["rule"] == "dear"
    assert run(["graph"]) == 0
    assert "finance (a person)" in capsys.readouterr().out

    # Everything that could forget the question is killed: it is asked once, and the link still counts.
    for words in (f"approvals serve --state {folder}", f"main serve --state {folder}"):
        for pid in children(os.getpid(), words):
            os.kill(pid, signal.SIGKILL)

    def pressed():
        try:
            return httpx2.post(asked[0]["links"]["approve"], data={"by": "Kim"}, timeout=30, trust_env=False)
        except httpx2.TransportError:
            return None  # it is being started again

    answer = wait_for(pressed, log)
    assert "Approved" in answer.text, answer.text
    wait_for(lambda: "bob 900" in paid.read_text(), log)

    def pending():
        capsys.readouterr()
        assert run(["approvals", "ls", "-o", "name"]) == 0
        return capsys.readouterr().out.split()

    (second,) = wait_for(pending, log)
    assert run(["approvals", "deny", second, "--yes", "--reason", "enough"]) == 0

    def done():
        capsys.readouterr()
        assert run(["events"]) == 0
        story = capsys.readouterr().out
        return "payer: refused" in story and "payer: all done" in story

    wait_for(done, log)
    assert paid.read_text() == "ann 1\nbob 900\n"
    assert len([each for each in receiver.received if each.body["data"]["kind"] == "approval"]) == 2
