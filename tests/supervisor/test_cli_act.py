"""Pausing, resuming, killing and answering in a crew that really runs: host, controller, agents, each a process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run

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
LIMIT_S = 60.0


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A running crew; yields its state directory."""
    (tmp_path / "crew.yaml").write_text(CREW)
    for name in ("CREWKEEPER_NATS_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    state = tmp_path / "state"
    monkeypatch.setenv("CREWKEEPER_STATE", str(state))
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "up", "crew.yaml", "--state", str(state)]
    with (tmp_path / "up.log").open("wb") as log:
        host = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=dict(os.environ))
    try:
        yield state
    finally:
        host.send_signal(signal.SIGINT)
        try:
            host.wait(30)
        except subprocess.TimeoutExpired:
            host.kill()
            host.wait()


@pytest.fixture
def act(desk, capsys):
    def acted(*arguments):
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return acted


def wait_for(condition):
    """Wait until a condition holds, with a limit; returns what it returned."""
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {LIMIT_S} s")


def statuses(act):
    code, out, _ = act("agent", "ls", "-o", "jsonl")
    return {row["name"]: row["status"] for row in map(json.loads, out.splitlines())} if code == 0 else {}


def test_a_person_acts_on_a_running_crew(act):
    wait_for(lambda: set(statuses(act).values()) == {"up"})

    # A pause is reported by the agent itself, and so is the end of it.
    code, out, _ = act("agent", "pause", "clerk", "--yes", "-o", "json")
    assert code == 0, out
    assert json.loads(out)["outcome"] == "paused"
    assert statuses(act)["clerk"] == "paused"
    code, out, _ = act("agent", "resume", "clerk")
    assert code == 0, out
    assert out.startswith("clerk: running: ")

    # A question waits for a person, who answers it.
    (question,) = wait_for(lambda: act("questions", "ls", "-o", "name")[1].split())
    assert "Book the hotel?" in act("questions", "ls")[1]
    code, _, err = act("questions", "answer", question, "yes, book it")
    assert code == 0, err
    assert act("questions", "ls", "-o", "name")[1] == ""
    wait_for(lambda: "asker: answered" in act("events")[1])

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
