"""How much is read of one sender: exactly the burst at once, the rate over time, and the same for whoever folds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.crew import Agent, Crew, Rate
from crewkeeper_supervisor.core.events import Rejected, Throttled
from crewkeeper_supervisor.core.quotas import Quota
from crewkeeper_supervisor.core.rates import OWED, Bucket
from crewkeeper_supervisor.core.supervisor import Supervisor
from support.journal import Journal, fold

RATE = Rate(messages_per_s=10, bytes_per_s=1024, burst=20)


def test_a_burst_is_read_and_then_the_rate():
    bucket = Bucket(RATE, 0.0)
    assert sum(bucket.take(RATE, 0.0, 1) for _ in range(100)) == 20
    assert sum(bucket.take(RATE, 1.0, 1) for _ in range(100)) == 10
    assert sum(bucket.take(RATE, 1000.0, 1) for _ in range(100)) == 20


def test_bytes_count_too():
    bucket = Bucket(RATE, 0.0)
    assert bucket.take(RATE, 0.0, 8 * 1024 * 1024)
    assert not bucket.take(RATE, 0.0, 1024)
    assert bucket.take(RATE, 1.0, 1024)


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 5000)), max_size=300))
def test_no_more_than_the_rate_is_ever_read(sent: list[tuple[float, int]]):
    bucket, now_s, newest_s, count, size = Bucket(RATE, 0.0), 0.0, 0.0, 0, 0
    for step_s, size_bytes in sent:
        now_s += step_s
        newest_s = max(newest_s, now_s)
        if bucket.take(RATE, now_s, size_bytes):
            count, size = count + 1, size + size_bytes
    assert count <= RATE.burst + RATE.messages_per_s * newest_s + 1e-6
    assert size <= RATE.burst_bytes + RATE.bytes_per_s * newest_s + 1e-3


def flooded() -> Journal:
    agents = (Agent(name="a", run=("x",)), Agent(name="eve", run=("x",)))
    journal = Journal(Crew(name="c", agents=agents, rate=RATE))
    journal.start()
    for _ in range(200):
        journal.now_s += 0.01
        journal.say("eve", m.Progress, task="t", text="again")
    journal.task("a", "main", name="main")
    return journal


def test_one_that_floods_costs_nobody_else_a_word():
    journal = flooded()
    assert journal.core.agents["eve"].throttled > 100
    assert journal.core.agents["a"].throttled == 0
    assert "main" in journal.core.agents["a"].tasks


def test_whoever_folds_the_journal_leaves_out_the_same():
    journal = flooded()
    core, _ = fold(journal.entries, peek=True)
    assert core.digest() == journal.core.digest()
    assert core.agents["eve"].throttled == journal.core.agents["eve"].throttled


def test_what_is_over_the_limit_is_not_looked_at():
    core = Supervisor("r1")
    journal = flooded()
    events = []
    for seq, (at_s, subject, payload) in enumerate(journal.entries, start=1):
        event = core.read(seq, at_s, subject, payload if ".eve." not in subject else b"{" * len(payload))
        events.append(event)
        core.handle(event)
    assert any(isinstance(event, Throttled) for event in events)


def test_the_words_of_strangers_share_one_limit():
    journal = flooded()
    before = len(journal.core._state.buckets)
    for number in range(100):
        journal.store(f"crew.r1.note.stranger{number}._.x", b"{}")
    assert len(journal.core._state.buckets) <= before + 1


@pytest.mark.parametrize("id_", ["\x01\xff", "x" * 33, "a.b", ""])
def test_words_on_a_subject_that_is_none_count_against_whoever_published_there(id_: str):
    """The server lets an agent publish in its own name alone, whatever it puts into the other places."""
    journal = Journal(Crew(name="c", agents=(Agent(name="eve"), Agent(name="b")), rate=RATE))
    journal.start()
    journal.store(f"crew.r1.msg.eve.b.{id_}", b"{}")
    (incident,) = journal.core.incidents.values()
    assert (incident.finding.kind, incident.finding.agents) == ("malformed", ("eve",))
    before = journal.core.agents["eve"].throttled
    for _ in range(5 * RATE.burst):
        journal.store(f"crew.r1.msg.eve.b.{id_}", b"{}")
    assert journal.core.agents["eve"].throttled > before


@pytest.mark.parametrize("subject", ["", "crew.r1.msg.eve", "crew.r1.msg._.b.x.y", "crew.r1.msg.é.b.x.y"])
def test_where_no_agent_could_publish_nobody_is_blamed(subject: str):
    event = Supervisor("r1").read(1, 0.0, subject, b"{}")
    assert isinstance(event, Rejected)
    assert event.sender == ""


def answering_crew() -> Journal:
    spec = (Agent(name="eve"), Agent(name="mallory"), Agent(name="worker", replicas=2), Agent(name="b"))
    journal = Journal(Crew(name="c", agents=spec, rate=RATE))
    journal.start()
    journal.tick(60.0)
    return journal


def test_an_innocent_is_not_throttled_for_what_others_send_it():
    """Two attackers below the limit each; the receiver reports each message with three notes, far above it."""
    journal = answering_crew()
    for round_ in range(60):
        journal.tick(0.2)
        for attacker in ("eve", "mallory"):
            journal.store(f"crew.r1.msg.{attacker}.b.m{attacker}{round_}", b"{}")
            for kind, number in (("note", 1), ("note", 2), ("note", 3), ("rep", 4)):
                to = attacker if kind == "rep" else "_"
                journal.store(f"crew.r1.{kind}.b.{to}.n{attacker}{round_}x{number}", b"{}")
    assert journal.core.agents["b"].throttled == 0
    assert journal.core.agents["eve"].throttled == 0
    assert not [each for each in journal.core.incidents.values() if each.finding.kind == "flood"]


def test_every_instance_of_a_role_has_room_to_answer():
    journal = answering_crew()
    buckets = journal.core._state.buckets
    journal.store("crew.r1.req.eve.worker.c1", b"{}")
    assert [buckets[name].owed for name in ("worker-1", "worker-2")] == [OWED, OWED]


def test_to_answer_is_no_room_to_begin_and_does_not_grow_without_end():
    journal = answering_crew()
    for number in range(200):
        journal.store(f"crew.r1.msg.eve.b.m{number}", b"{}")
        journal.store(f"crew.r1.msg.b.eve.a{number}", b"{}")
        journal.store(f"crew.r1.msg.b.b.s{number}", b"{}")
    bucket = journal.core._state.buckets["b"]
    assert bucket.owed <= RATE.burst
    assert journal.core.agents["b"].throttled >= 400 - RATE.burst - 5
    large = Bucket(RATE, 0.0)
    large.owe(RATE)
    assert large.take(RATE, 0.0, 8 * 1024 * 1024, answers=True)
    assert not large.take(RATE, 0.0, 1024 * 1024, answers=True)


def test_a_quota_counts_only_when_it_must():
    counted = []

    def count() -> int:
        counted.append(len(open_))
        return len(open_)

    quota, open_ = Quota(), []
    for _ in range(1000):
        if quota.take(10, count):
            open_.append(1)
    assert len(open_) == 10
    assert len(counted) < 20
    open_.clear()
    assert any(quota.take(10, count) for _ in range(200))
