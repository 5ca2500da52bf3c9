"""Accounts of an agent's own state: however they are made, they cost the core no more than so much."""

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core import heartbeat, intake, upkeep
from crewkeeper_supervisor.core.crew import Agent, Crew, Rate
from crewkeeper_supervisor.core.quotas import ITEMS_MAX
from crewkeeper_supervisor.core.state import HEARTBEAT_WEIGHT
from support.journal import Journal

MANY = 3000


def beat(room: Journal, number: int, count: int = MANY) -> None:
    """A heartbeat that names tasks which nobody has heard of, and none of those before."""
    tasks = tuple(m.TaskState(task=f"t{number}x{each}") for each in range(count))
    room.say("a", m.Heartbeat, role="a", tasks=tasks)


@pytest.fixture
def room() -> Journal:
    made = Journal(Crew(name="room", agents=(Agent(name="a"), Agent(name="b"))))
    made.start()
    return made


def test_tasks_made_up_anew_in_each_heartbeat_are_taken_over_so_often_and_no_more(room: Journal) -> None:
    for number in range(8):
        beat(room, number)
    view = room.core.agents["a"]
    taken = 8 - view.throttled
    assert 1 < taken <= 1 + ITEMS_MAX / (10 * MANY)
    assert f"t{taken - 1}x0" in view.node.tasks
    assert view.last_seen_s == room.now_s  # it is alive all the same
    room.tick(60.0)
    beat(room, 99)
    assert "t99x0" in view.node.tasks


def test_heartbeats_beyond_that_are_not_even_read(room: Journal) -> None:
    rate = room.crew.rate
    view = room.core.agents["a"]
    sent, size_bytes = 0, 0
    while not view.throttled:
        before = sum(len(payload) for _, _, payload in room.entries)
        room.say("a", m.Heartbeat, role="a", queued=("c" * 32,) * 7000)
        size_bytes += sum(len(payload) for _, _, payload in room.entries) - before
        sent += 1
    assert size_bytes - size_bytes / sent <= rate.burst_bytes / HEARTBEAT_WEIGHT


def test_that_is_a_flood_when_it_lasts(room: Journal) -> None:
    for number in range(250):
        room.now_s += 0.008
        beat(room, number, 500)
    assert "flood" in [each.finding.kind for each in room.core.incidents.values()]


def test_an_honest_account_of_any_size_is_taken_over(room: Journal) -> None:
    beat(room, 1, 8000)  # as much as a message holds
    assert len(room.core.agents["a"].node.tasks) == 8000
    for _ in range(20):  # and said again and again it costs little
        room.tick(0.5)
        beat(room, 1, 8000)
    assert room.core.agents["a"].throttled == 0


def test_waits_count_by_all_that_they_name(room: Journal) -> None:
    room.task("a", "t")
    senders = m.OnMessage(senders=("b",) * 256)
    condition = m.OnAll(of=(senders,) * 200)
    assert upkeep.size_of(condition) == 1 + 200 * 257
    for _ in range(50):
        room.wait("a", "t", condition)
    view = room.core.agents["a"]
    assert view.throttled == 50 - 2
    for _ in range(100):
        room.wait("a", "t", m.OnMessage(senders=("b",) * (intake.UPKEEP_FREE - 1)))
    assert view.throttled == 50 - 2  # small ones are counted as messages


def test_answers_on_their_way_are_counted_once_for_a_heartbeat(room: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    heal = heartbeat._heal_question
    monkeypatch.setattr(
        heartbeat, "_heal_question", lambda state, node, question: asked.append(question) or heal(state, node, question)
    )
    waits = (m.OpenWait(epoch=1, for_s=1000, condition=m.OnHuman(who="x", question="q")),) * 3
    tasks = tuple(m.TaskState(task=f"t{number}", wait=wait) for number, wait in enumerate(waits))
    room.say("a", m.Heartbeat, role="a", tasks=tasks)
    assert asked == ["q"]


def test_after_a_pause_any_heartbeat_is_read_however_little_may_be_sent() -> None:
    limits = {"payload_bytes": 4 * 1024 * 1024, "rate": Rate(bytes_per_s=1024)}
    room = Journal(Crew(name="room", agents=(Agent(name="a"),), **limits))
    room.start()
    room.tick(24 * 3600.0)
    beat(room, 1, 20_000)
    assert len(room.core.agents["a"].node.tasks) == 20_000
