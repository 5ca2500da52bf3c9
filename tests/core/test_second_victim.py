"""A second victim is only chosen when the first was told and did not obey."""

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import TellAgent
from crewkeeper_supervisor.core.crew import Agent, Crew
from support.journal import Journal, wire


def victims(journal: Journal) -> list[str]:
    told = [c for c in journal.commands if isinstance(c, TellAgent) and isinstance(c.message, m.Break)]
    return [command.agent for command in told]


@pytest.fixture
def ring() -> Journal:
    """A confirmed deadlock whose `Break` was decided and, its owner being dead, never published."""
    journal = Journal(Crew(name="ring", agents=(Agent(name="a"), Agent(name="b"))))
    journal.start()
    for agent, other in (("a", "b"), ("b", "a")):
        journal.task(agent, "t")
        journal.call(agent, "t", f"c{agent}", other)
    for agent in "ab":
        journal.wait(agent, "t", m.OnCall(call=f"c{agent}"))
    journal.tick(1.0)
    journal.obey = False
    for agent in "ab":
        journal.affirm(agent)
    return journal


def test_while_nobody_could_be_told_no_second_is_chosen(ring: Journal) -> None:
    for _ in range(5):
        ring.tick(4.0)
    assert len(victims(ring)) == 1
    assert [i.state for i in ring.core.incidents.values()] == ["acting"]


def test_once_told_it_has_its_time_to_obey(ring: Journal) -> None:
    ring.tick(6.0)
    for command in list(ring.core.pending.values()):
        ring.store(*wire(command))
    ring.tick(3.0)
    assert len(victims(ring)) == 1
    ring.tick(6.0)
    assert sorted(victims(ring)) == ["a", "b"]


def test_its_time_to_obey_runs_from_when_it_was_told(ring: Journal) -> None:
    ring.tick(4.0)
    for command in list(ring.core.pending.values()):
        ring.store(*wire(command))
    ring.tick(4.0)
    assert len(victims(ring)) == 1
    ring.tick(2.0)
    assert sorted(victims(ring)) == ["a", "b"]
