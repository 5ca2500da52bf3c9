"""What one agent can make the core keep has an end; what is beyond is a finding, and the others do not feel it."""

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core import quotas
from crewkeeper_supervisor.core.crew import Agent, Crew, Rate
from support.core_checks import check
from support.journal import Journal

FREE = Rate(messages_per_s=1_000_000, burst=10_000_000, bytes_per_s=2**40)


@pytest.fixture
def journal(monkeypatch):
    for name in ("TASKS_MAX", "CALLS_MAX", "UNREAD_MAX", "TICKETS_MAX", "QUESTIONS_MAX"):
        monkeypatch.setattr(quotas, name, 20)
    agents = tuple(Agent(name=name, run=("x",)) for name in ("a", "eve"))
    made = Journal(Crew(name="c", agents=agents, rate=FREE))
    made.start()
    made.task("a", "main", name="main")
    made.task("eve", "t")
    return made


def told(journal: Journal) -> list[str]:
    return [incident.finding.summary for incident in journal.core.incidents.values()]


def test_tasks(journal: Journal):
    for number in range(100):
        journal.task("eve", f"t{number}")
    assert len(journal.core.agents["eve"].tasks) <= 20
    assert "20 tasks open" in told(journal)[0]
    journal.task("a", "other")
    assert "other" in journal.core.agents["a"].tasks
    check(journal.core)


def test_calls_are_refused(journal: Journal):
    given = [command for number in range(100) for command in journal.call("eve", "t", f"c{number}", "a")]
    assert len(journal.core._state.graph.calls) == 20
    refused = [command for command in given if getattr(command, "error", None) is not None]
    assert len(refused) == 80
    assert refused[0].error.code == "refused"
    assert "20 calls open" in told(journal)[0]
    journal.call("a", "main", "mine", "eve")
    assert "mine" in journal.core._state.graph.calls
    check(journal.core)


def test_messages_that_nobody_takes(journal: Journal):
    for number in range(100):
        journal.send("eve", "t", "a", f"m{number}")
    assert len(journal.core.agents["a"].node.unread["eve"]) == 20
    assert "messages not taken" in told(journal)[0]


def test_tickets(journal: Journal):
    for number in range(100):
        journal.acquire("eve", "t", "disk", f"k{number}")
    assert len(journal.core._state.graph.resources["disk"].queue) == 20
    assert "20 tickets open" in told(journal)[0]
    check(journal.core)


def test_questions(journal: Journal):
    for number in range(100):
        journal.say("eve", m.AskHuman, task="t", question=f"q{number}", who="ops", text="?")
    assert len(journal.core.questions) == 20
    journal.say("a", m.AskHuman, task="main", question="mine", who="ops", text="?")
    assert "mine" in journal.core.questions
