"""Pausing, resuming, killing and answering in a crew that really runs: host, controller, agents, each a process."""

import json
import os

import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run
from support.up import up

pytestmark = pytest.mark.live

CLERK = {"main": [{"repeat": {"times": 100_000, "do": [{"work": 0.02}, {"checkpoint": True}]}}]}
ASKER = {"main": [{"ask_human": {"who": "ops", "text": "Book the hotel?"}}, {"progress": "answered"}, {"sleep": 600}]}
CREW = f"""\
crew: desk
agents:
  clerk:
    run: [python, -m, crewkeeper_agents.scripted, '{json.dumps(CLERK)}']
  asker:
    run: [python, -m, crewkeeper_agents.scripted, '{json.dumps(ASKER)}']
restart: {{policy: transient, intensity: 3, period: 60s, shutdown: 2s}}
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A running crew."""
    (tmp_path / "crew.yaml").write_text(CREW)
    with up(tmp_path, monkeypatch) as crew:
        yield crew


@pytest.fixture
def act(desk, capsys):
    def acted(*arguments):
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return acted


def statuses(act):
    code, out, _ = act("agent", "ls", "-o", "jsonl")
    return {row["name"]: row["status"] for row in map(json.loads, out.splitlines())} if code == 0 else {}


def test_a_person_acts_on_a_running_crew(desk, act):
    desk.wait_for(lambda: set(statuses(act).values()) == {"up"})

    code, _, err = act("pause", "clerk", "--yes")
    assert code == failure.NOT_FOUND
    assert "for one agent: supervisor agent pause NAME" in err

    # A pause is reported by the agent itself, and so is the end of it.
    code, out, _ = act("agent", "pause", "clerk", "--yes", "-o", "json")
    assert code == 0, out
    assert json.loads(out)["outcome"] == "paused"
    assert statuses(act)["clerk"] == "paused"
    code, out, _ = act("agent", "resume", "clerk")
    assert code == 0, out
    assert out.startswith("clerk: running: ")

    # A question waits for a person, who answers it.
    (question,) = desk.wait_for(lambda: act("questions", "ls", "-o", "name")[1].split())
    assert "Book the hotel?" in act("questions", "ls")[1]
    code, _, err = act("questions", "answer", question, "yes, book it")
    assert code == 0, err
    assert act("questions", "ls", "-o", "name")[1] == ""
    desk.wait_for(lambda: "asker: answered" in act("events")[1])

    # A kill is terminated only when the host has reported the end of the process, and the process is gone.
    pid = json.loads(act("agent", "describe", "clerk", "-o", "json")[1])["agent"]["pid"]
    code, out, _ = act("agent", "kill", "clerk", "--yes", "--why", "test", "-o", "json")
    result = json.loads(out)
    assert (code, result["outcome"]) == (0, "terminated"), out
    assert any("clerk's process" in proof["text"] for proof in result["evidence"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    code, out, _ = act("agent", "kill", "clerk", "--yes", "-o", "json")  # once more is harmless, and says the same
    assert (code, json.loads(out)["outcome"]) == (0, "terminated"), out
    assert act("agent", "pause", "clerk", "--yes")[0] == failure.FAILED
    assert statuses(act)["asker"] == "up"
    assert "test" in act("events")[1]
    assert act("agent", "logs", "clerk")[0] == 0
