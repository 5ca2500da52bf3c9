"""A case that cannot be replayed is refused with every problem, its place and a remedy; unknown keys are no problem."""

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.core.case_problems import DEPTH_MAX, problems_of
from crewkeeper_supervisor.core.wait_case import WaitCase
from support.true_crew import TrueCrew

SOUND: dict[str, Any] = {
    "id": "s",
    "agents": {"Alpha": {"concurrency": 2}, "Beta": {"role": "pool"}, "Gamma": {"role": "pool"}},
    "resources": {"disk": {"kind": "sem", "units": 2}},
    "events": [
        {"e": "start", "call": "c", "task": "b", "agent": "Beta"},
        {"e": "task", "task": "a", "agent": "Alpha"},
        {"e": "call", "call": "c", "task": "a", "to": "pool"},
        {"e": "send", "task": "a", "msg": "m", "topic": "news"},
        {"e": "recv", "task": "b", "msg": "m"},
        {"e": "wait", "task": "a", "for": {"k": 1, "of": [{"call": "c"}, {"res": "disk", "n": 2}]}, "mood": "calm"},
    ],
}


def told(change: Any) -> list[str]:
    case = copy.deepcopy(SOUND)
    change(case)
    return [str(problem) for problem in problems_of(case, "#0")]


def test_a_sound_case_has_no_problems_whatever_else_it_says() -> None:
    assert problems_of({**SOUND, "weather": "fine"}, "#0") == []
    assert problems_of({key: value for key, value in SOUND.items() if key != "resources"}, "#0") != []


CHANGES: list[tuple[Any, str]] = [
    (lambda c: c.pop("id"), "case '#0': id: missing: is no id; give the case a string of its own"),
    (lambda c: c.update(events={}), "case 's': events: {}: is no list; write […]"),
    (lambda c: c.pop("agents"), "case 's': agents: missing: is no object; write {…}"),
    (lambda c: c["agents"].update(Alpha=3), "case 's': agents.Alpha: 3: is no object; write {} for the defaults"),
    (
        lambda c: c["agents"]["Alpha"].update(concurrency=True),
        "case 's': agents.Alpha.concurrency: True: is no whole number of at least 0; correct it",
    ),
    (
        lambda c: c["agents"]["Alpha"].update(reentrant="ful"),
        "case 's': agents.Alpha.reentrant: 'ful': is no such choice; write one of 'none', 'chain', 'full'",
    ),
    (
        lambda c: c["events"][1].update(e="tsk"),
        "case 's', event 1: e: 'tsk': is no kind of event; did you mean 'task'?",
    ),
    (lambda c: c["events"][2].pop("to"), "case 's', event 2: to: missing: call needs it; write a string"),
    (
        lambda c: c["events"][3].pop("topic"),
        "case 's', event 3: to: missing: send needs `to` or `topic`; name the receiver or the topic",
    ),
    (
        lambda c: c["events"][5]["for"].update(k=3),
        "case 's', event 5: for.k: 3: cannot be met by 2 conditions; correct the number or the list",
    ),
    (
        lambda c: c["events"][5]["for"]["of"].append({"msg_from": ["Alfa"]}),
        "case 's', event 5: for.of[2].msg_from[0]: 'Alfa': there is no such agent or role; did you mean 'Alpha'?",
    ),
    (
        lambda c: c["events"][1].update(agent="Alhpa"),
        "case 's', event 1: agent: 'Alhpa': there is no such agent; did you mean 'Alpha'?",
    ),
    (
        lambda c: c["events"][4].update(msg="x"),
        "case 's', event 4: msg: 'x': there is no such message; send it with send",
    ),
    (
        lambda c: c["events"][0].pop("agent"),
        "case 's', event 0: agent: missing: 'pool' has several instances; say which one started the call",
    ),
    (
        lambda c: c["events"].append(dict(c["events"][2])),
        "case 's', event 6: call: 'c': there is a call of it already, event 2; rename one",
    ),
]


@pytest.mark.parametrize(("change", "line"), CHANGES, ids=[line.split(": ", 1)[1][:40] for _, line in CHANGES])
def test_a_problem_is_told_with_its_place_and_a_remedy(change: Any, line: str) -> None:
    assert line in told(change)


def test_conditions_are_nested_only_so_deep() -> None:
    deep: dict[str, Any] = {"timer": 1}
    for _ in range(DEPTH_MAX + 1):
        deep = {"all": [deep]}
    assert any("nested too deep" in line for line in told(lambda c: c["events"][5].update({"for": deep})))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_damaged_case_is_refused_or_replayed_never_a_crash(seed: int) -> None:
    rnd = random.Random(seed)
    case = TrueCrew(rnd).live(25).case()
    for _ in range(rnd.randint(1, 3)):
        spot: Any = case
        while isinstance(spot, dict | list) and spot:
            key = rnd.choice(list(spot)) if isinstance(spot, dict) else rnd.randrange(len(spot))
            if not isinstance(spot[key], dict | list) or rnd.random() < 0.2:
                spot[key] = rnd.choice((None, 7, -1, "zz", [], {}, [None], {"call": 1}, True, 1.5, "t0"))
                break
            spot = spot[key]
    if not problems_of(case, "#0"):
        replay = WaitCase(case["agents"], case.get("resources", {}))
        for event in case["events"]:
            replay.apply(event)
        assert replay.result()["verdict"] in ("none", "stalled", "orphan", "deadlock")
