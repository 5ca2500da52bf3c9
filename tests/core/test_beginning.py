"""When a crew begins: all are there at once, however they came, and finding that out does not grow with the crew."""

import pytest

from crewkeeper_supervisor.core import lifecycle
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.roster import AgentView
from support.journal import Journal


def crew_of(count: int) -> Journal:
    return Journal(Crew(name="all", agents=tuple(Agent(name=f"a{number}") for number in range(count))))


def test_an_agent_that_went_before_the_beginning_is_waited_for_again() -> None:
    journal = crew_of(3)
    journal.join("a0")
    journal.join("a2")
    journal.exited("a2", restart=True)
    journal.join("a1")
    assert journal.core.state == "starting"
    journal.join("a2")
    assert journal.core.state == "running"


@pytest.mark.parametrize("step", [1, -1, 7], ids=["in order", "backwards", "mixed"])
def test_looking_for_the_missing_costs_little_an_agent(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count, looks = 200, 0
    is_missing = lifecycle._is_missing

    def counted(view: AgentView) -> bool:
        nonlocal looks
        looks += 1
        return is_missing(view)

    monkeypatch.setattr(lifecycle, "_is_missing", counted)
    journal = crew_of(count)
    for number in range(count):
        journal.join(f"a{number * step % count}")
    assert journal.core.state == "running"
    assert looks < 20 * count
