"""OpenTelemetry spans of agents, in each of their forms, become the same run."""

import json
from typing import Any

import pytest

from crewkeeper_supervisor.core.genai_spans import events_of, spans_of

ASK = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "plan a trip"}]}])
SAY = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "done"}]}])
SPANS: list[tuple[str, str, str, int, int, dict[str, Any], bool]] = [
    ("s1", "", "invoke_agent planner", 1, 90, {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner",
        "gen_ai.input.messages": ASK, "gen_ai.output.messages": SAY,
    }, False),
    ("s2", "s1", "chat m", 2, 20, {
        "gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 12,
        "gen_ai.output.messages": SAY,
    }, False),
    ("s3", "s1", "http", 21, 60, {"http.method": "GET"}, False),
    ("s4", "s3", "execute_tool search", 22, 40, {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.id": "c1",
        "gen_ai.tool.call.arguments": '{"q": "hotels"}', "gen_ai.tool.call.result": "none",
    }, True),
    ("s5", "s1", "invoke_agent booker", 41, 80, {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "booker", "gen_ai.input.messages": ASK,
    }, False),
]  # fmt: skip
EXPECTED = [
    ("user", "planner", "message", "plan a trip"),
    ("planner", "planner", "llm", "done"),
    ("planner", "tools", "tool_call", '{"q":"hotels"}'),
    ("tools", "planner", "tool_result", "none"),
    ("planner", "booker", "message", "plan a trip"),
    ("planner", "user", "message", "done"),
]


def otlp_value(value: Any) -> dict[str, Any]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def otlp() -> dict[str, Any]:
    spans = [
        {
            "traceId": "t1", "spanId": span, "parentSpanId": parent, "name": name,
            "startTimeUnixNano": str(start), "endTimeUnixNano": str(end),
            "attributes": [{"key": key, "value": otlp_value(value)} for key, value in attributes.items()],
            "status": {"code": 2} if failed else {},
        }
        for span, parent, name, start, end, attributes, failed in SPANS
    ]  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans[:2]}, {"spans": spans[2:]}]}]}


def sdk() -> list[dict[str, Any]]:
    return [
        {
            "context": {"trace_id": "t1", "span_id": span}, "parent_id": parent or None, "name": name,
            "start_time": f"2031-01-01T00:00:{start:02}.000000Z", "end_time": f"2031-01-01T00:01:{end:02}.000000Z"
            if end > 59 else f"2031-01-01T00:00:{end:02}.000000Z",
            "attributes": attributes, "status": {"status_code": "ERROR" if failed else "OK"},
        }
        for span, parent, name, start, end, attributes, failed in SPANS
    ]  # fmt: skip


@pytest.mark.parametrize("document", [otlp(), sdk(), [otlp()]], ids=["otlp", "sdk", "list"])
def test_all_forms_become_the_same_run(document):
    (events,) = events_of(spans_of(document)).values()
    assert [(one["from"], one["to"], one["kind"], one["text"]) for one in events] == EXPECTED
    assert [one["i"] for one in events] == list(range(len(events)))
    assert events[1]["tokens"] == {"in": 30, "out": 12}
    assert events[2]["args"] == {"q": "hotels"}
    assert (events[2]["call"], events[3]["call"], events[3]["error"]) == ("c1", "c1", True)


def test_calls_without_spans_come_from_the_messages():
    call = {
        "role": "assistant",
        "parts": [{"type": "tool_call", "id": "c9", "name": "search", "arguments": {"q": "x"}}],
    }
    reply = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c9", "response": "found"}]}
    spans = [
        {
            "context": {"trace_id": "t", "span_id": str(number)}, "start_time": number, "end_time": number,
            "attributes": {"gen_ai.operation.name": "chat", "gen_ai.agent.name": "a", **attributes},
        }
        for number, attributes in enumerate((
            {"gen_ai.output.messages": json.dumps([call])},
            {"gen_ai.input.messages": json.dumps([call, reply])},
            {"gen_ai.input.messages": json.dumps([call, reply])},
        ))
    ]  # fmt: skip
    (events,) = events_of(spans_of(spans)).values()
    assert [one["kind"] for one in events] == ["llm", "tool_call", "tool_result", "llm", "llm"]
    assert events[2]["text"] == "found"


def test_older_attributes_and_span_events_are_read():
    spans = [
        {
            "context": {"trace_id": "t", "span_id": "1"}, "start_time": 1, "end_time": 2,
            "attributes": {"gen_ai.operation.name": "chat", "gen_ai.completion.0.content": "hello"},
        },
        {
            "context": {"trace_id": "t", "span_id": "2"}, "start_time": 3, "end_time": 4,
            "attributes": {"gen_ai.operation.name": "chat"},
            "events": [{"name": "gen_ai.choice", "attributes": {"message": '{"content": "bye"}'}}],
        },
    ]  # fmt: skip
    (events,) = events_of(spans_of(spans)).values()
    assert [one["text"] for one in events] == ["hello", "bye"]


def test_traces_are_told_apart_and_others_left_out():
    spans = [
        {"context": {"trace_id": trace, "span_id": "1"}, "attributes": {"gen_ai.operation.name": operation}}
        for trace, operation in (("t1", "chat"), ("t2", "chat"), ("t3", ""))
    ]
    assert list(events_of(spans_of(spans))) == ["t1", "t2"]


@pytest.mark.parametrize("document", [{}, {"a": 1}, [1], "x", None])
def test_anything_else_is_refused(document):
    with pytest.raises(ValueError, match="is neither OTLP/JSON"):
        spans_of(document)
