"""An answer that is an error is no use to whoever needs some of several: the rest may be a deadlock then."""

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.crew import Agent, Crew
from support.journal import Journal


def crossed(k: int) -> Journal:
    """`a` waits for `k` of the answers of `b`, who waits for `a`, and of `c` (and of `d`)."""
    journal = Journal(Crew(name="crossed", agents=tuple(Agent(name=name) for name in "abcd")))
    journal.start()
    for agent, other in (("a", "b"), ("b", "a")):
        journal.task(agent, "t")
        journal.call(agent, "t", f"c{agent}", other)
    for name in "cd":
        journal.call("a", "t", f"c{name}", name)
        journal.begin_call(name, f"c{name}", "h")
    journal.wait("b", "t", m.OnCall(call="cb"))
    journal.wait("a", "t", m.OnSome(k=k, of=tuple(m.OnCall(call=call) for call in ("ca", "cc", "cd"))))
    return journal


def fail(journal: Journal, agent: str) -> None:
    """The handler of `agent` answers with an error."""
    del journal.mirrors[agent].tasks["h"]
    journal.mirrors["a"].calls.pop(f"c{agent}")
    journal.say(agent, m.Reply, to="a", id_=f"c{agent}", error=m.Fault(code="refused", text="no"))


def deadlocks(journal: Journal) -> list[tuple[str, ...]]:
    for _ in range(8):
        journal.tick(1.0)
        for agent in "abcd":
            journal.affirm(agent)
    return [i.finding.core[0] for i in journal.core.incidents.values() if i.finding.kind == "deadlock"]


def test_a_wait_for_any_is_stuck_when_the_others_have_failed() -> None:
    journal = crossed(1)
    fail(journal, "c")
    assert deadlocks(journal) == []  # d may still answer
    fail(journal, "d")
    assert deadlocks(journal) == [("a/t", "b/t")]


def test_a_wait_for_two_is_stuck_when_one_of_three_has_failed() -> None:
    journal = crossed(2)
    fail(journal, "c")
    assert deadlocks(journal) == [("a/t", "b/t")]


@pytest.mark.parametrize("failed", ["c", "cd"])
def test_a_wait_that_can_no_longer_be_met_fails_at_once_and_is_no_deadlock(failed: str) -> None:
    journal = crossed(3)
    for agent in failed:
        fail(journal, agent)
    assert deadlocks(journal) == []


def test_the_error_of_a_lost_call_is_an_answer_too() -> None:
    journal = crossed(1)
    fail(journal, "d")
    journal.exited("c", restart=False)  # the supervisor answers a's call with peer_gone
    assert deadlocks(journal) == [("a/t", "b/t")]
