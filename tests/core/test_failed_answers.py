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


def test_an_error_in_place_of_an_answer_that_was_lost_is_known_from_the_next_heartbeat() -> None:
    journal = crossed(1)
    fail(journal, "d")
    journal.hold = True
    journal.reply("c", "h")  # in the journal, and nowhere else
    journal.mirrors["a"].inbox.clear()
    journal.hold = False
    for _ in range(6):
        journal.tick(2.0)
        journal.heartbeat("a")
    assert "cc" not in journal.mirrors["a"].calls, "told in its stead that it was lost"
    assert deadlocks(journal) == [("a/t", "b/t")]


def test_what_failed_in_an_earlier_wait_is_not_waited_for_in_the_next() -> None:
    journal = crossed(1)
    for agent in "cd":
        fail(journal, agent)
        journal.mirrors["a"].answered(f"c{agent}", failed=True)
    wait = journal.mirrors["a"].tasks["t"].wait
    assert wait is not None
    assert wait.condition == m.OnCall(call="ca")
    journal.wake("a", "t")  # its parts go on waiting, together with another that has begun
    journal.wait("a", "t", wait.condition)
    assert deadlocks(journal) == [("a/t", "b/t")]
