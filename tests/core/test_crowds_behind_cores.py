"""Crowds behind cores: what hangs on many is kept once, named up to a limit, and looked at when any of them opens."""

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core import detection
from crewkeeper_supervisor.core.crew import Agent, Crew, Response, Responses
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.suspicion import BEHIND_LEAST, Behind
from support.journal import Journal

CROWD = 5


def two_rings() -> Journal:
    """`a` and `b`, `c` and `d` wait for each other; each of the crowd waits for an answer of `a` or one of `c`."""
    agents = (*(Agent(name=name) for name in "abcd"), Agent(name="crowd", concurrency=CROWD))
    policy = Responses(deadlock=Response(do=("break",)))
    journal = Journal(Crew(name="c", agents=agents, responses=policy))
    journal.start()
    for agent, other in ("ab", "ba", "cd", "dc"):
        journal.task(agent, "t")
        journal.call(agent, "t", f"c{agent}", other)
    for number in range(CROWD):
        journal.task("crowd", f"t{number}")
        for to in "ac":
            journal.call("crowd", f"t{number}", f"{to}{number}", to)
        calls = tuple(m.OnCall(call=f"{to}{number}") for to in "ac")
        journal.wait("crowd", f"t{number}", m.OnSome(k=1, of=calls))
    for agent in "abcd":
        journal.wait(agent, "t", m.OnCall(call=f"c{agent}"))
    for _ in range(3):
        for agent in "abcd":
            journal.affirm(agent)
        journal.tick(0.3)
    return journal


def deadlocks(journal: Journal) -> list[Incident]:
    return [incident for incident in journal.core.incidents.values() if incident.finding.kind == "deadlock"]


def test_a_finding_names_so_many_of_those_who_hang_on_its_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "TAIL_MAX", 2)
    found = deadlocks(two_rings())
    assert [incident.finding.core for incident in found] == [(("a/t", "b/t"),), (("c/t", "d/t"),)]
    for incident in found:
        finding = incident.finding
        assert finding.tail == ("crowd/t0", "crowd/t1")
        assert {edge.task for edge in finding.edges} == {*finding.core[0], *finding.tail}
        assert finding.summary.endswith(", and 3 more hang on it than are named")


def test_a_wait_that_is_over_clears_its_report_however_many_hang_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "TAIL_MAX", 2)
    journal = two_rings()
    first, second = deadlocks(journal)
    assert first.finding.victim is not None
    journal.obey_breaks(first.finding.victim.agent)
    assert (first.state, second.state) == ("resolved", "acting")


def test_groups_are_kept_once_and_in_order() -> None:
    behind, other = Behind(("c", "a")), Behind()
    behind.add([("b",), ("c", "a"), ()], "abc")
    other.join(behind, "abc")
    assert list(behind) == list(other) == ["c", "a", "b"]


def test_what_waits_no_more_is_left_out_when_there_is_too_much_of_it() -> None:
    behind = Behind()
    for number in range(BEHIND_LEAST):
        behind.add([("a", f"over{number}")], ("a", "b"))
    kept = list(behind)
    assert len(kept) <= BEHIND_LEAST + 4
    assert kept[0] == "a"
