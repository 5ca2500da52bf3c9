"""Stalls: progress counts, not silence; waiting for somebody who gets on is none."""

import pytest

from crewkeeper_supervisor.core.stall import DEPTH_MAX, Condition, next_look_s, stalled


def names(conditions: dict[str, Condition], now_s: float = 1000.0, limit_s: float = 100.0) -> list[str]:
    return [one.agent for one in stalled(conditions, now_s, limit_s)]


def test_an_agent_without_progress_has_stalled():
    assert names({"a": Condition(progress_at_s=800), "b": Condition(progress_at_s=950)}) == ["a"]


@pytest.mark.parametrize(
    "excuse",
    [
        {"working": False}, {"alive": False}, {"paused": True}, {"excused": True},
        {"call_since_s": 700.0}, {"call_since_s": 450.0}, {"waits_for": ("busy",)}, {"waits_for": ("dead", "busy")},
        {"waits_for": ("middle",)},
    ],
    ids=str,
)  # fmt: skip
def test_excuses(excuse):
    conditions = {
        "a": Condition(progress_at_s=0, **excuse),
        "busy": Condition(progress_at_s=990),
        "dead": Condition(progress_at_s=0, alive=False),
        "middle": Condition(progress_at_s=0, waits_for=("busy",)),
    }
    assert names(conditions) == []


def test_a_call_that_takes_too_long_excuses_nobody():
    conditions = {
        "caller": Condition(progress_at_s=0, waits_for=("callee",)),
        "callee": Condition(progress_at_s=0, call_since_s=300.0, call_max_s=600.0),
    }
    assert names(conditions) == ["caller", "callee"]
    assert stalled(conditions, 1000, 100)[0].waits_for == ("callee",)


def test_waiting_for_the_dead_excuses_nobody():
    assert names(
        {"a": Condition(progress_at_s=0, waits_for=("b",)), "b": Condition(progress_at_s=990, alive=False)}
    ) == ["a"]


def test_rings_end():
    ring = {f"a{n}": Condition(progress_at_s=0, waits_for=(f"a{(n + 1) % 50}",)) for n in range(50)}
    assert len(names(ring)) == 50
    chain = {f"a{n}": Condition(progress_at_s=0, waits_for=(f"a{n + 1}",)) for n in range(DEPTH_MAX - 2)}
    chain[f"a{DEPTH_MAX - 2}"] = Condition(progress_at_s=999)
    assert names(chain) == []


def test_the_next_look_is_when_the_first_could_stall():
    conditions = {
        "old": Condition(progress_at_s=0),
        "fresh": Condition(progress_at_s=950),
        "calls": Condition(progress_at_s=0, call_since_s=990.0, call_max_s=20.0),
        "human": Condition(progress_at_s=0, excused=True),
    }
    assert next_look_s(conditions, 1000.0, 100.0) == 1010.0
    assert next_look_s({"old": conditions["old"]}, 1000.0, 100.0) is None
