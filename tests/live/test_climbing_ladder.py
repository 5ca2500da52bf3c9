"""A crew that really runs, in which an agent goes round in circles: from the first repeat to people who are told."""

import json
import os
import signal
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.receiver import Receiver
from support.up import SECRET, up

pytestmark = pytest.mark.live

TOOLS = """\
def search(query: str) -> str:
    "Search for trains."
    with open("searched", "a") as file:
        file.write(query + "\\n")
    return "no results for trains to Porto"
"""
LOOPER = """\
from crewkeeper_agents import Agent

looper = Agent("looper")


@looper.main
async def work(crew):
    while True:
        await crew.call_tool("search", {"query": "trains to Porto"})
        for nudge in crew.take_nudges():
            with open("nudged", "a") as file:
                file.write(nudge.text + "\\n")
        await crew.sleep(0.1)


looper.run()
"""
CREW = """\
crew: rounds
agents:
  looper: {run: [python, looper.py], tools: [search]}
  other:  {run: [python, -m, crewkeeper_agents.scripted, '{"main": [{"sleep": 600}]}']}
tools:
  search: {function: "m:search"}
responses:
  loop: {do: [warn, nudge, hold, escalate], climb: 1s, hold: 10m}
  drift: {shadow: true}
escalate:
  - {webhook: "${HOOK}", secret: "${HOOK_SECRET}", allow_private: true}
"""


@pytest.fixture
def rounds(tmp_path, monkeypatch):
    """A running crew and what its people are told."""
    (tmp_path / "m.py").write_text(TOOLS)
    (tmp_path / "looper.py").write_text(LOOPER)
    (tmp_path / "crew.yaml").write_text(CREW)
    with Receiver(SECRET) as receiver, up(tmp_path, monkeypatch, HOOK=receiver.url, HOOK_SECRET=SECRET) as crew:
        yield crew, receiver


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_a_loop_is_warned_of_nudged_held_and_told(rounds, capsys):
    crew, receiver = rounds
    folder = crew.folder

    def shown():
        capsys.readouterr()
        if run(["responses", "-o", "json"]) != 0:
            return {}
        view = json.loads(capsys.readouterr().out)
        return {row["kind"]: row for row in view["responses"]} | {"held": view["held"]}

    # The agent's own code is given the nudge, while the supervisor is killed and started again.
    nudge = crew.wait_for(lambda: lines(folder / "nudged"))[0]
    for pid in crew.wait_for(lambda: crew.pids("serve")):
        os.kill(pid, signal.SIGKILL)
    assert "You are repeating the same steps" in nudge
    assert 'What came back each time: "no results for trains to Porto".' in nudge
    assert "search: " in nudge
    assert "finish with what you have" in nudge

    # It goes on all the same: its calls are held, and then people are told, though it can show no evidence any more.
    held = crew.wait_for(lambda: shown().get("held"))
    assert [each["agent"] for each in held] == ["looper"]
    told = crew.wait_for(lambda: [each.body for each in receiver.received if each.body["data"]["kind"] == "loop"])
    assert told[0]["type"] == "crewkeeper.loop.opened"
    loop = shown()["loop"]
    assert (loop["did"], loop["would"], loop["open"]) == ({"warn": 1, "nudge": 1, "hold": 1, "escalate": 1}, {}, 1)
    assert shown()["drift"]["shadow"]
    searched = len(lines(folder / "searched"))

    # A person lets it go on. It was nudged once in all that time.
    assert run(["agent", "resume", "looper", "--timeout", "300", "--yes"]) == 0
    crew.wait_for(lambda: len(lines(folder / "searched")) > searched)
    assert shown()["held"] == []
    assert len(lines(folder / "nudged")) == 1
    capsys.readouterr()
    assert run(["incidents", "show", held[0]["incident"]]) == 0
    story = capsys.readouterr().out
    assert "looper's model was given the nudge" in story
    assert "looper was let go on by" in story
