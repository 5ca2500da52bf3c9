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
from crewkeeper_supervisor.core.crew import Agent, Crew, Watching
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.supervisor import Supervisor

AGENTS = (Agent(name="a", run=("x",)), Agent(name="b", run=("x",)))
CREW = Crew(name="trip", agents=AGENTS, watch=Watching(stall_s=0))


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


def crash(tape: Tape, agent: str = "b", pid: int = 11) -> Incident:
    tape.play("_host", ProcessExited(agent=agent, pid=pid, code=3, restart=True))
    return list(tape.fold.incidents.values())[-1]


def come_back(tape: Tape, agent: str = "b") -> None:
    tape.play("_host", ProcessStarted(agent=agent, pid=11))
    tape.play(agent, Joined(inc=f"i{agent}{tape.count}", seq=1, role=agent))


def stay_up(tape: Tape, for_s: int) -> None:
    tape.count += for_s  # an entry a second
    tape.play("_", Tick())


def test_a_crash_is_over_when_the_agent_is_back_and_the_next_one_much_later_is_news() -> None:
    tape = running()
    for _ in range(2):
        incident = crash(tape)
        assert incident.state == "open"
        tape.play("_host", ProcessStarted(agent="b", pid=11))
        assert incident.state == "open", "started is not up"
        tape.play("a", Joined(inc=f"ia{tape.count}", seq=1, role="a"))
        assert incident.state == "open", "that is another agent"
        come_back(tape)
        assert incident.state == "resolved"
        assert incident.steps[-1].text == "b has joined and is up"
        stay_up(tape, 60)
    assert len(tape.fold.incidents) == 2


def test_a_loop_of_crashes_is_one_incident_until_the_agent_stays_up() -> None:
    tape = running()
    first = crash(tape)
    come_back(tape)
    loop = crash(tape)
    assert (first.state, loop is first) == ("resolved", False)
    assert loop.finding.evidence["again"] == first.id
    assert "it had come back from a crash only 1 s before" in loop.finding.summary
    for _ in range(30):
        come_back(tape)
        stay_up(tape, 50)
        assert crash(tape) is loop, "also when it stays up almost as long as its restarts are counted"
    come_back(tape)
    stay_up(tape, 58)
    assert loop.state == "open"
    assert tape.fold.next_tick_at_s() == 1000.0 + tape.count + 1
    stay_up(tape, 0)
    assert (loop.state, loop.count) == ("resolved", 31)
    assert loop.steps[-1].text == "b has stayed up for 60 s; it had crashed 32 times in a row"
    assert crash(tape) is not loop, "what comes later is news"
    assert len(loop.steps) < 50


def test_another_agent_is_no_part_of_a_loop() -> None:
    tape = running()
    crash(tape)
    come_back(tape)
    other = crash(tape, "a", 10)
    assert "again" not in other.finding.evidence


def test_a_loop_that_a_person_closes_is_told_of_anew_when_it_goes_on() -> None:
    tape = running()
    crash(tape)
    come_back(tape)
    closed = crash(tape)
    tape.play("_", OperatorAsked(action="resolve", incident=closed.id, by="kim"))
    assert closed.state == "resolved"
    come_back(tape)
    again = crash(tape)
    assert again is not closed
    assert again.finding.evidence.get("again")
    assert [each.state for each in tape.fold.incidents.values()] == ["resolved", "resolved", "open"]


def test_crashes_that_are_over_hide_no_later_one() -> None:
    tape = running()
    for _ in range(60):
        crash(tape)
        come_back(tape)
        stay_up(tape, 61)
    crash(tape)
    states = [incident.state for incident in tape.fold.incidents.values()]
    assert states == ["resolved"] * 60 + ["open"]
