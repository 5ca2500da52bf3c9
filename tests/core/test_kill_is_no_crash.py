"""An agent that people end has not crashed; a crew whose main activity was cut short has not done its work."""

from typing import Any

import msgspec
import pytest

from crewkeeper_bus.messages import (
    Joined,
    Left,
    OperatorAsked,
    ProcessExited,
    ProcessStarted,
    RunDeclared,
    StopRun,
    TaskBegan,
    Tick,
)
from crewkeeper_supervisor.core.commands import AskHost
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.supervisor import Supervisor

CREW = Crew(name="trip", agents=(Agent(name="a", run=("x",)), Agent(name="b", run=("x",))))


class Tape:
    """Events, one a second."""

    def __init__(self) -> None:
        self.fold = Supervisor("r")
        self.count = 0
        self.orders: list[Any] = []

    def play(self, sender: str, message: Any) -> None:
        self.count += 1
        event = Recorded(
            seq=self.count, at_s=1000.0 + self.count, sender=sender, to="_", id=f"i{self.count}", message=message
        )
        self.orders += [command.message for command in self.fold.handle(event) if isinstance(command, AskHost)]


def running() -> Tape:
    tape = Tape()
    tape.play("_host", RunDeclared(crew=msgspec.to_builtins(CREW)))
    for number, name in enumerate("ab"):
        tape.play("_host", ProcessStarted(agent=name, pid=10 + number))
        tape.play(name, Joined(inc=f"i{name}", seq=1, role=name))
    tape.play("a", TaskBegan(inc="ia", seq=2, task="t1", name="main"))
    return tape


@pytest.mark.parametrize("says_goodbye", [True, False])
@pytest.mark.parametrize("code", [3, -9])
def test_an_agent_that_is_killed_has_not_crashed(code: int, says_goodbye: bool) -> None:
    tape = running()
    tape.play("_", OperatorAsked(action="kill", agent="a"))
    if says_goodbye:
        tape.play("a", Left(inc="ia", seq=3, done=False))
    tape.play("_host", ProcessExited(agent="a", pid=10, code=code))
    assert tape.fold.agents["a"].status == "gone"
    assert tape.fold.incidents == {}
    for _ in range(5):
        tape.play("_", Tick())
    assert [order.state for order in tape.orders if isinstance(order, StopRun)] == ["failed"]


def test_the_same_exit_unasked_is_a_crash() -> None:
    tape = running()
    tape.play("_host", ProcessExited(agent="a", pid=10, code=3))
    assert [incident.finding.kind for incident in tape.fold.incidents.values()] == ["crash"]


def test_a_crash_is_over_when_the_agent_is_back_and_the_next_one_is_news() -> None:
    tape = running()
    for inc in ("ib2", "ib3"):
        tape.play("_host", ProcessExited(agent="b", pid=11, code=3, restart=True))
        tape.play("_host", ProcessStarted(agent="b", pid=11))
        assert [incident.state for incident in tape.fold.incidents.values()][-1] == "open", "started is not up"
        tape.play("a", Joined(inc=f"{inc}a", seq=1, role="a"))
        assert [incident.state for incident in tape.fold.incidents.values()][-1] == "open", "that is another agent"
        tape.play("b", Joined(inc=inc, seq=1, role="b"))
    crashes = list(tape.fold.incidents.values())
    assert [(each.finding.kind, each.state) for each in crashes] == [("crash", "resolved")] * 2
    assert crashes[0].steps[-1].text == "b has joined and is up"


def test_crashes_that_are_over_hide_no_later_one() -> None:
    tape = running()
    for number in range(60):
        tape.play("_host", ProcessExited(agent="b", pid=11, code=3, restart=True))
        tape.play("b", Joined(inc=f"ib{number}x", seq=1, role="b"))
    tape.play("_host", ProcessExited(agent="b", pid=11, code=3))
    states = [incident.state for incident in tape.fold.incidents.values()]
    assert states == ["resolved"] * 60 + ["open"]
