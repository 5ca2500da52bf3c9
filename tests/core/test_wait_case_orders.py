"""The verdict of a wait case is the same for every order in which the events of different agents arrive."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.core.case_order import Openings, causal_order
from crewkeeper_supervisor.core.case_problems import problems_of
from crewkeeper_supervisor.core.wait_case import WaitCase
from support.case_merges import merges, streams_of
from support.true_crew import TrueCrew, leaves

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "wait_cases.json").read_bytes())["cases"]
SEEDS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def result(case: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    replay = WaitCase(case["agents"], case["resources"])
    for event in events:
        replay.apply(event)
    return replay.result()


def numbered(case: dict[str, Any]) -> dict[str, Any]:
    """The case with the numbers that its lock manager would have given."""
    clock = 0
    asked: dict[tuple[str, str], int] = {}
    events = []
    for event in case["events"]:
        clock += 2
        if event["e"] == "wait" and any("res" in leaf for leaf in leaves(event["for"])):
            asked.update({(event["task"], leaf["res"]): clock for leaf in leaves(event["for"]) if "res" in leaf})
            event = {**event, "ticket": clock}
        elif event["e"] == "acquire":
            event = {**event, "req": asked.get((event["task"], event["res"]), clock), "rev": clock + 1}
        events.append(event)
    return {**case, "events": events}


def generated(seed: int, *, restarts: bool = True) -> dict[str, Any]:
    rnd = random.Random(f"case-{seed}")
    return TrueCrew(rnd, restarts=restarts).live(rnd.randint(4, 40)).case()


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_case_has_its_verdict_in_every_order(case: dict[str, Any]) -> None:
    told = numbered(case)
    assert result(told, told["events"]) == case["expect"]
    for events in merges(told, random.Random(case["id"]), 300):
        assert result(told, events) == case["expect"], json.dumps(events)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_ends_and_new_limits_of_agents_may_arrive_at_any_time(case: dict[str, Any]) -> None:
    if not any(event["e"] == "restart" for event in case["events"]):
        told = numbered(case)
        late = [event for event in told["events"] if event["e"] in ("crash", "exit", "config")]
        others = [event for event in told["events"] if event not in late]
        for place in range(len(others) + 1):
            assert result(told, others[:place] + late + others[place:]) == case["expect"]


@SEEDS
@given(st.integers(0, 2**32))
def test_generated_cases_have_the_verdict_that_playing_on_finds(seed: int) -> None:
    for number in range(20):
        case = generated(seed + number)
        assert problems_of(case, "") == []
        assert result(case, case["events"]) == case["expect"], json.dumps(case)


@SEEDS
@given(st.integers(0, 2**32), st.booleans())
def test_generated_cases_have_their_verdict_in_every_order(seed: int, restarts: bool) -> None:
    case = generated(seed, restarts=restarts)
    for events in merges(case, random.Random(seed), 30):
        assert result(case, events) == case["expect"], json.dumps({**case, "events": events})


def test_the_generated_cases_reach_every_verdict_often() -> None:
    found = [generated(seed)["expect"] for seed in range(600)]
    for verdict in ("none", "stalled", "orphan", "deadlock"):
        assert sum(expect["verdict"] == verdict for expect in found) >= 20, verdict
    assert sum(bool(expect["core"]) for expect in found) >= 10
    assert sum(bool(expect["timed_deadlock"]) for expect in found) >= 20
    assert any(len(expect["core"]) > 1 for expect in found)


def test_the_causal_order_keeps_every_stream_and_puts_causes_first() -> None:
    for seed in range(100):
        case = generated(seed, restarts=False)
        for arrived in merges(case, random.Random(seed), 5):
            order = [arrived[place] for place in causal_order(Openings(case["agents"], arrived), arrived)]
            assert sorted(map(id, order)) == sorted(map(id, arrived))
            seen: set[tuple[str, str]] = set()
            for event in order:
                needed = {"start": ("call", "call"), "reply": ("call", "call"), "recv": ("send", "msg")}.get(event["e"])
                assert needed is None or (needed[0], event[needed[1]]) in seen
                seen |= {(event["e"], event[key]) for key in ("call", "msg") if key in event}
            last = {agent: stream[-1] for agent, stream in streams_of(case).items()}
            assert all(any(event is end for event in order) for end in last.values())


def test_the_line_for_a_lock_is_that_of_the_numbers_not_of_arrival() -> None:
    (case,) = [case for case in CASES if case["id"] == "C15"]
    told = numbered(case)
    first, second = (
        place for place, event in enumerate(told["events"]) if event["e"] == "wait" and event["task"] in "bc"
    )
    events = list(told["events"])
    events[first], events[second] = events[second], events[first]
    assert result(told, events)["verdict"] == "deadlock"
    bare = [{key: value for key, value in event.items() if key != "ticket"} for event in events]
    assert result(told, bare)["verdict"] == "none"
