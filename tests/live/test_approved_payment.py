"""A crew that really runs, in which a person decides whether a tool does: from the crew file to the tool's effect."""

import json
import os
import signal

import httpx2
import pytest

from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.receiver import Receiver
from support.up import SECRET, up

pytestmark = pytest.mark.live

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
    port = free_port()
    (tmp_path / "m.py").write_text(TOOLS)
    (tmp_path / "crew.yaml").write_text(crew(port))
    with Receiver(SECRET) as receiver, up(tmp_path, monkeypatch, HOOK=receiver.url, HOOK_SECRET=SECRET) as crew_up:
        yield crew_up, receiver


def test_money_moves_only_when_a_person_says_so(desk, capsys):
    crew_up, receiver = desk
    paid = crew_up.folder / "paid"
    asked = crew_up.wait_for(
        lambda: [each.body["data"] for each in receiver.received if each.body["data"]["kind"] == "approval"]
    )
    assert paid.read_text() == "ann 1\n"  # what no rule stops has run; what needs a person has not
    assert asked[0]["args"] == {"to": "bob", "cents": 900}
    assert asked[0]["rule"] == "dear"
    assert run(["graph"]) == 0
    assert "finance (a person)" in capsys.readouterr().out

    # Everything that could forget the question is killed: it is asked once, and the link still counts.
    for command in ("approvals serve", "serve"):
        for pid in crew_up.wait_for(lambda words=command: crew_up.pids(words)):
            os.kill(pid, signal.SIGKILL)

    def pressed():
        try:
            return httpx2.post(asked[0]["links"]["approve"], data={"by": "Kim"}, timeout=30, trust_env=False)
        except httpx2.TransportError:
            return None  # it is being started again

    answer = crew_up.wait_for(pressed)
    assert "Approved" in answer.text, answer.text
    crew_up.wait_for(lambda: "bob 900" in paid.read_text())

    def pending():
        capsys.readouterr()
        assert run(["approvals", "ls", "-o", "name"]) == 0
        return capsys.readouterr().out.split()

    (second,) = crew_up.wait_for(pending)
    assert run(["approvals", "deny", second, "--yes", "--timeout", "300", "--reason", "enough"]) == 0

    def done():
        capsys.readouterr()
        assert run(["events"]) == 0
        story = capsys.readouterr().out
        return "payer: refused" in story and "payer: all done" in story

    crew_up.wait_for(done)
    assert paid.read_text() == "ann 1\nbob 900\n"
    # Who dies after a message has gone out and before that is recorded sends it again, under the same id.
    told = {each.id: each.body["type"] for each in receiver.received if each.body["data"]["kind"] == "approval"}
    assert list(told.values()).count("crewkeeper.approval.asked") == 2
    assert list(told.values()).count("crewkeeper.approval.resolved") <= 2
