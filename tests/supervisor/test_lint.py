from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.cli.up import load
from crewkeeper_supervisor.core.crew import Agent, Crew, Response, Responses, Restart, Webhook
from crewkeeper_supervisor.core.lint import SPREAD_ONLY, LintWarning, lint


def crew_of(calls: dict[str, list[str] | None], **settings: dict[str, object]) -> Crew:
    """A crew from who may call whom; `settings` are further fields by agent. Nothing else to warn about."""
    agents = tuple(
        Agent(name=name, run=("x",), may_call=None if callees is None else tuple(callees), **settings.get(name, {}))  # type: ignore[arg-type]
        for name, callees in calls.items()
    )
    return Crew(name="c", agents=agents, escalate=(Webhook(webhook="https://h/"),))


def rings(crew: Crew) -> list[LintWarning]:
    return [warning for warning in lint(crew) if warning.code == "CREW-210"]


def test_a_tree_of_calls_is_silent() -> None:
    assert lint(crew_of({"a": ["b", "c"], "b": ["c"], "c": []})) == []


def test_the_shortest_ring_is_told_in_words() -> None:
    crew = crew_of({"planner": ["writer", "reviewer"], "writer": ["reviewer"], "reviewer": ["planner"]})
    (warning,) = rings(crew)
    assert warning.severity == "warning"
    assert warning.path == ("agents", "planner", "may_call")
    assert warning.message.startswith("planner -> reviewer -> planner can close a ring of calls")
    assert "(3 agents lie on such rings)" in warning.message
    assert "planner and reviewer have one slot" in warning.message
    assert "reentrant: chain on planner and reviewer" in warning.remedy


def test_an_agent_that_may_call_itself_is_a_ring() -> None:
    (warning,) = rings(crew_of({"a": ["a"]}))
    assert warning.message.startswith("a -> a can close a ring")


def test_separate_rings_are_told_apart() -> None:
    crew = crew_of({"a": ["b"], "b": ["a", "c"], "c": ["d"], "d": ["c"]})
    assert [warning.message.split(" can ")[0] for warning in rings(crew)] == ["a -> b -> a", "c -> d -> c"]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({}, {}, "warning"),
        ({"concurrency": 4}, {}, "warning"),
        ({"reentrant": "chain"}, {}, "warning"),
        ({"reentrant": "full"}, {}, "warning"),
        ({"concurrency": 4}, {"concurrency": 3}, "note"),
        ({"concurrency": 4}, {"reentrant": "chain"}, "note"),
        ({"reentrant": "chain"}, {"reentrant": "chain"}, "note"),
        ({"reentrant": "full"}, {"concurrency": 3}, "note"),
        ({"reentrant": "full"}, {"reentrant": "chain"}, None),
        ({"reentrant": "full"}, {"reentrant": "full"}, None),
    ],
)
def test_slots_and_reentrancy_decide_how_likely_a_ring_is(
    a: dict[str, object], b: dict[str, object], expected: str | None
) -> None:
    for first, second in permutations((a, b)):
        found = rings(crew_of({"a": ["b"], "b": ["a"]}, a=first, b=second))
        assert [warning.severity for warning in found] == ([expected] if expected else [])


def test_the_notes_name_the_condition() -> None:
    slots = rings(crew_of({"a": ["b"], "b": ["a"]}, a={"concurrency": 4}, b={"concurrency": 3}))[0]
    assert "at least 3 requests under way at once fill a and b" in slots.message
    chain = {"reentrant": "chain"}
    assert (
        "two requests meet from different sides"
        in rings(crew_of({"a": ["b"], "b": ["a"]}, a=chain, b=chain))[0].message
    )


def test_agents_that_may_call_anybody_are_one_note() -> None:
    found = lint(crew_of({f"a{n}": None for n in range(50)}))
    assert [(warning.code, warning.severity) for warning in found] == [("CREW-211", "note")]
    assert found[0].message.startswith("50 of 50 agents may call anybody (a0, a1")
    assert "and 42 more" in found[0].message


def test_an_agent_without_callers_and_calls_is_named() -> None:
    found = lint(crew_of({"a": ["b"], "b": [], "lost": []}))
    assert [(warning.code, warning.path) for warning in found] == [("CREW-212", ("agents", "lost"))]
    assert lint(crew_of({"alone": []})) == []


def test_an_escalation_nobody_receives_is_named() -> None:
    agent = Agent(name="a", run=("x",), may_call=())
    (found,) = lint(Crew(name="c", agents=(agent,)))
    assert (found.code, found.severity) == ("CREW-213", "note")
    assert found.message.startswith("deadlock, restart_intensity, forgery, intrusion, survivor and flood escalate")
    quiet = Response(do=("warn",))
    noisy = ("deadlock", "restart_intensity", "forgery", "intrusion", "survivor", "flood")
    responses = Responses(**dict.fromkeys(noisy, quiet))
    assert lint(Crew(name="c", agents=(agent,), responses=responses)) == []
    asked = Responses(**dict.fromkeys(noisy, quiet), loop=Response(do=("nudge", "escalate"), climb_s=5.0))
    (found,) = lint(Crew(name="c", agents=(agent,), responses=asked))
    assert found.message.startswith("loop escalate")


def test_a_crew_without_a_possible_victim_is_named() -> None:
    spared = {"never_victim": True}
    assert [w.code for w in lint(crew_of({"a": ["b"], "b": []}, a=spared, b=spared))] == ["CREW-214"]
    assert lint(crew_of({"a": ["b"], "b": []}, a=spared)) == []


NAMES = ["a", "b", "c", "d", "e"]


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), unique=True), min_size=1))
def test_a_ring_is_told_exactly_when_brute_force_finds_one(calls: dict[str, list[str]]) -> None:
    calls = {name: [callee for callee in callees if callee in calls] for name, callees in calls.items()}
    cycles = [
        ring
        for size in range(1, len(calls) + 1)
        for ring in permutations(sorted(calls), size)
        if all(callee in calls[caller] for caller, callee in zip(ring, (*ring[1:], ring[0]), strict=True))
    ]
    found = rings(crew_of(calls))
    assert bool(found) == bool(cycles)
    told = [tuple(warning.message.split(" can ")[0].split(" -> ")) for warning in found]
    for ring in told:
        assert ring[:-1] in cycles
    assert min(map(len, told), default=0) == (min(map(len, cycles)) + 1 if cycles else 0)


def test_a_dense_crew_costs_bounded_work() -> None:
    names = [f"a{n}" for n in range(2000)]
    ring = {name: [names[(index + 1) % len(names)]] for index, name in enumerate(names)}
    (warning,) = rings(crew_of(ring))
    assert len(warning.message) < 500


def test_what_counts_only_on_several_hosts_is_noted() -> None:
    moves = Restart(elsewhere=True)
    (note,) = lint(crew_of({"a": ["b"], "b": []}, b={"host": {"gpu": "a100"}}, a={"restart": moves}))
    assert (note.code, note.severity, note.path) == (SPREAD_ONLY, "note", ("agents", "b", "host"))
    assert note.message.startswith("host and restart.elsewhere of a and b have no effect under supervisor up")
    (note,) = lint(crew_of({"a": ["b"], "b": []}, b={"restart": moves}))
    assert note.path == ("agents", "b", "restart", "elsewhere")
    assert note.message.startswith("restart.elsewhere of b has no effect")


def test_up_says_what_counts_only_on_several_hosts_and_launch_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "crew.yaml"
    file.write_text("crew: c\nagents:\n  a: {run: x, may_call: [b], host: {gpu: a100}}\n  b: {run: x, may_call: []}\n")
    load([file])
    assert SPREAD_ONLY in capsys.readouterr().err
    load([file], spread=True)
    assert SPREAD_ONLY not in capsys.readouterr().err
