"""Analysis of traces: any events whatever are taken, within bounds; calls find their answers."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.core.trace import OPEN_CALLS_MAX, StepReader, TraceEvent
from crewkeeper_supervisor.core.trace_analysis import TraceAnalysis, TraceHeader

names = st.sampled_from(["a", "b", "user", "tools", "*", ""])
texts = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["", "[]", "Error: no", "ok", "Thanks!", "W1234567", "Table: A=HUNGRY(0,L) B=HUNGRY(0,L) | Forks: [A] [B]"]
    ),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    dict,
    sender=names,
    to=st.none() | names,
    kind=st.sampled_from(["message", "tool_call", "tool_result", "llm"]),
    text=texts,
    tool=st.none() | st.sampled_from(["t", "status", "search"]),
    args=st.none() | values,
    call=st.none() | st.sampled_from(["c1", "c2"]),
    tokens=st.none() | st.integers(-5, 500) | st.dictionaries(texts, st.integers() | texts, max_size=2),
    error=st.none() | st.booleans(),
    poll=st.booleans(),
    progress=st.booleans(),
)


@given(st.lists(events, max_size=40), st.booleans())
def test_any_run_is_taken_and_told_the_same_twice(run: list[dict[str, Any]], known: bool):
    header = TraceHeader(objective="a task", tools=("t",) if known else None)

    def told() -> list[Any]:
        analysis = TraceAnalysis("x", header)
        found = [one for i, event in enumerate(run) for one in analysis.feed(TraceEvent(i=i, **event))]
        return found + analysis.finish()

    first = told()
    assert first == told()
    for one in first:
        assert 0 <= one.onset <= one.at < len(run)
        assert one.why
        msgspec.json.encode(one)


def event(i: int, sender: str, kind: str, **more: Any) -> TraceEvent:
    return TraceEvent(i=i, sender=sender, kind=kind, **more)  # type: ignore[arg-type]


def test_answers_find_their_calls_by_id_or_in_order():
    reader = StepReader()
    calls = [
        event(n, "a", "tool_call", to="t", tool="t", args={"n": n}, call=f"c{n}" if n > 1 else None) for n in range(4)
    ]
    assert [reader.read(call) for call in calls] == [[]] * 4
    (late,) = reader.read(event(4, "t", "tool_result", to="a", tool="t", text="x", call="c3"))
    (first,) = reader.read(event(5, "t", "tool_result", to="a", tool="t", text="y"))
    assert (late.began, late.at, first.began, first.at) == (3, 4, 0, 5)
    (report,) = reader.read(event(6, "t", "tool_result", to="b", tool="other", text="z"))
    assert report.kind == "report"


def test_models_cost_their_agents_next_step():
    reader = StepReader()
    reader.read(event(0, "a", "llm", text="x" * 400))
    reader.read(event(1, "b", "llm", text="x", tokens=7))
    (step,) = reader.read(event(2, "a", "message", to="b", text="x" * 40))
    assert step.tokens == 110


def test_open_calls_are_bounded():
    reader = StepReader()
    lost = [
        step for n in range(OPEN_CALLS_MAX + 5) for step in reader.read(event(n, "a", "tool_call", tool="t", args={}))
    ]
    assert len(lost) == 5
    assert not any(step.answered for step in lost)


def test_deeply_nested_arguments_are_taken():
    nested: Any = "x"
    for _ in range(900):
        nested = {"a": [nested]}
    analysis = TraceAnalysis("x")
    for n in range(3):
        analysis.feed(event(2 * n, "a", "tool_call", tool="t", args={"deep": nested}))
        analysis.feed(event(2 * n + 1, "t", "tool_result", to="a", text="Error: too deep, do it otherwise please " * 3))
