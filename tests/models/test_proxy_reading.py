"""Requests read and bounded, usage read out of answers, events cut: without network."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.model_proxy.event_stream import Events, EventTooLarge, data_of, is_last
from crewkeeper_supervisor.model_proxy.input_bound import DOCUMENT_TOKENS, IMAGE_TOKENS
from crewkeeper_supervisor.model_proxy.problem import Problem
from crewkeeper_supervisor.model_proxy.request import Limits, read
from crewkeeper_supervisor.model_proxy.usage import reported
from crewkeeper_supervisor.shell.crewfile import CrewFileError, parse

LIMITS = Limits(max_output_tokens=1000)
HI: Any = [{"role": "user", "content": "hi"}]


def wanted(call: Any = "chat", limits: Limits = LIMITS, **fields: Any) -> Any:
    body = json.dumps({"model": "m", "messages": HI} | fields).encode()
    return read(call, body, limits, {"resp_1": 500}.get)


# --- requests ---


def test_bounds_of_what_comes_out():
    assert wanted().output_tokens == 1000
    assert json.loads(wanted().payload)["max_completion_tokens"] == 1000
    assert wanted(max_tokens=7, n=3).output_tokens == 21
    assert "max_completion_tokens" not in json.loads(wanted(max_tokens=7).payload)
    assert wanted(max_tokens=7, max_completion_tokens=9).output_tokens == 9
    assert wanted(max_tokens=None).output_tokens == 1000
    assert wanted("responses", max_output_tokens=5).output_tokens == 5
    assert wanted("embeddings", input="x").output_tokens == 0


def test_a_key_given_twice_is_sent_as_it_was_counted():
    request = read("chat", b'{"model": "m", "messages": [], "max_tokens": 999999, "max_tokens": 5}', LIMITS, {}.get)
    assert request.output_tokens == 5
    assert request.payload.count(b"max_tokens") == 1
    assert json.loads(request.payload)["max_tokens"] == 5


@given(st.text(max_size=300))
def test_text_counts_a_token_for_three_bytes_at_least(text: str):
    request = wanted(messages=[{"role": "user", "content": text}])
    assert request.input_tokens >= len(text.encode("utf-8", "surrogatepass")) / 3


def test_pictures_documents_and_bare_tokens():
    plain = wanted().input_tokens
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900_000}}
    assert (
        0
        < wanted(messages=[{"role": "user", "content": [picture, picture]}]).input_tokens - 2 * IMAGE_TOKENS
        < plain + 60
    )
    source = {"type": "base64", "media_type": "application/pdf", "data": "A" * 30}
    document = {"type": "document", "source": source}
    said = wanted("messages", max_tokens=5, messages=[{"role": "user", "content": [document]}])
    assert said.input_tokens > DOCUMENT_TOKENS
    assert wanted("embeddings", input=[[1] * 5000]).input_tokens >= 5000
    schema = {"type": "function", "function": {"name": "f", "parameters": {"type": "image", "x": "y" * 3000}}}
    assert 1000 < wanted(tools=[schema]).input_tokens < IMAGE_TOKENS


def test_what_only_looks_like_a_picture_is_counted_as_the_text_that_it_is():
    alike = {"type": "image", "source": {"data": "y" * 600_000}}
    schema = {"name": "f", "input_schema": {"type": "object", "properties": {"x": alike}}}
    assert wanted("messages", max_tokens=1, tools=[schema]).input_tokens >= 200_000
    used = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": alike}}
    said = [{"role": "assistant", "content": [used]}]
    assert wanted("messages", max_tokens=1, messages=said).input_tokens >= 200_000
    beside = {"type": "image", "source": {"data": "A"}, "title": "y" * 600_000}
    said = [{"role": "user", "content": [beside]}]
    assert wanted("messages", max_tokens=1, messages=said).input_tokens >= 200_000


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("chat", {"tools": [{"type": "web_search"}]}),
        ("responses", {"tools": [{"type": "mcp", "server_url": "https://x"}]}),
        ("responses", {"background": True}),
        ("responses", {"conversation": "c"}),
        ("responses", {"prompt": {"id": "p"}}),
        ("responses", {"previous_response_id": "resp_2"}),
        ("messages", {"container": "c"}),
        ("messages", {"tools": [{"type": "code_execution_20250825", "name": "x"}]}),
        ("messages", {"speed": "fast"}),
        ("chat", {"service_tier": "priority"}),
        ("chat", {"models": ["m", "dearer"]}),
        ("chat", {"plugins": [{"id": "web"}]}),
        ("chat", {"modalities": ["text", "audio"], "audio": {"voice": "x", "format": "wav"}}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A"}}]}]}),
        ("messages", {"inference_geo": "us"}),
        (
            "messages",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
        ),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
        ("chat", {"n": True}),
        ("chat", {"max_tokens": 1.5}),
        ("chat", {"stream": "yes"}),
        ("chat", {"stream": True, "stream_options": []}),
        ("chat", {"model": ""}),
    ],
)
def test_what_has_no_bound_or_price_is_refused(call: str, fields: dict[str, Any]):
    with pytest.raises(Problem) as raised:
        wanted(call, **fields)
    assert raised.value.status == 400
    assert not raised.value.retry


def test_what_the_operator_allows_passes_and_earlier_answers_count():
    allowed = Limits(max_output_tokens=1000, unpriced=True)
    assert wanted(limits=allowed, tools=[{"type": "web_search"}]).model == "m"
    assert wanted("responses", previous_response_id="resp_1").input_tokens - wanted("responses").input_tokens >= 500
    own = [{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]
    assert wanted("messages", max_tokens=1, tools=own).model == "m"


# --- usage ---


@pytest.mark.parametrize(
    ("protocol", "usage", "found"),
    [
        ("openai", {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 9}, (5, 4, 0)),
        ("openai", {"prompt_tokens": 5, "total_tokens": 5}, (5, 0, 0)),
        ("openai", {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 5}}, (5, 2, 5)),
        (
            "openai",
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 6}},
            (None, None, 0),
        ),
        ("openai", {"prompt_tokens": True, "completion_tokens": 2}, (None, 2, 0)),
        ("openai", {"prompt_tokens": 2**50, "completion_tokens": -2}, (None, None, 0)),
        ("anthropic", {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 7}, (12, 2, 7)),
        ("anthropic", {"output_tokens": 2}, (None, 2, 0)),
    ],
)
def test_usage_is_read_or_not_believed(protocol: Any, usage: Any, found: Any):
    seen = reported(protocol, {"model": "m", "usage": usage})
    assert (seen.input_tokens, seen.output_tokens, seen.cached_tokens) == found
    assert seen.model == "m"


def test_what_is_written_to_a_cache_for_an_hour_is_told_apart():
    used = {"input_tokens": 5, "output_tokens": 2, "cache_creation_input_tokens": 30}
    parts = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
    seen = reported("anthropic", {"usage": used | {"cache_creation": parts}})
    assert (seen.input_tokens, seen.cache_write_tokens, seen.cache_write_1h_tokens) == (35, 30, 20)
    assert seen.joined(reported("anthropic", {"usage": {"output_tokens": 9}})).cache_write_1h_tokens == 20
    assert reported("anthropic", {"usage": used | {"cache_creation": {"ephemeral_1h_input_tokens": 99}}}).is_whole


def test_parts_of_a_response_are_known_by_their_ids():
    answer = {"id": "resp_2", "output": [{"id": "rs_2"}, {"id": 7}, 7, {"id": "msg_2"}], "usage": {"input_tokens": 5}}
    assert reported("openai", {"type": "response.completed", "response": answer}).items == ("rs_2", "msg_2")
    assert reported("openai", {"id": "x", "output": "y"}).items == ()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_answer_breaks_the_reading_of_usage(value: Any):
    for protocol in ("openai", "anthropic"):
        for wrapped in (value, {"usage": value}, {"message": {"usage": value}}, {"response": value}):
            reported(protocol, wrapped)  # type: ignore[arg-type]


# --- events ---


@given(st.lists(st.sampled_from(["data: {}", "event: a\ndata: 1", ": note", "data: x\r\ndata: y"])), st.data())
def test_events_come_out_as_they_went_in_however_they_are_cut(events: list[str], data: st.DataObject):
    ends = [data.draw(st.sampled_from(["\n\n", "\r\n\r\n"])) for _ in events]
    whole = "".join(event + end for event, end in zip(events, ends, strict=True)).encode()
    cutter, found, at = Events(), list[bytes](), 0
    while at < len(whole):
        size = data.draw(st.integers(1, 9))
        found += cutter.feed(whole[at : at + size])
        at += size
    assert b"".join(found) + cutter.rest == whole
    assert len(found) == len(events)


def test_events_are_bounded_and_their_data_is_read():
    with pytest.raises(EventTooLarge):
        Events(100).feed(b"data: " + b"x" * 200)
    assert data_of(b"event: a\ndata: {\ndata: }\n\n") == {}
    assert data_of(b"data: [DONE]\n\n") is None
    assert is_last(b"data: [DONE]\n\n", None)
    assert is_last(b"", {"type": "message_stop"})
    assert not is_last(b'data: {"x": "[DONE]"}\n\n', {"x": "[DONE]"})


# --- the crew file ---


def codes(proxy: str, env: str = "{}", folder: Path = Path(__file__).parent) -> list[tuple[str, str]]:
    text = f"crew: t\nagents:\n  a: {{run: python a.py, env: {env}}}\nmodel_proxy: {proxy}\n"
    try:
        found: Any = parse(text.encode(), "c.yaml", folder).warnings
    except CrewFileError as error:
        found = error.problems
    return [(each.code, each.path) for each in found]


def test_a_crew_file_cannot_hand_the_keys_to_agents():
    assert codes("{upstreams: {openai: {}}}") == []
    assert codes("{upstreams: {}}") == [("CREW-111", "model_proxy.upstreams")]
    assert codes("{upstreams: {openai: {key: sk-1}}}") == [("CREW-203", "model_proxy.upstreams.openai.key")]
    assert codes("{upstreams: {openai: {}}, listen: '0.0.0.0:80'}") == [("CREW-205", "model_proxy.listen")]
    assert codes("{upstreams: {openai: {}}, listen: 'localhost:0'}") == []
    assert codes("{upstreams: {openai: {}}, listen: '127.0.0.1:70000'}") == [("CREW-114", "model_proxy.listen")]
    assert codes("{upstreams: {openai: {}}}", "{OPENAI_API_KEY: x}") == [("CREW-119", "agents.a.env.OPENAI_API_KEY")]
    assert codes("{upstreams: {openai: {key: '${K}'}}}", "{X: 'a-${K}'}") == [("CREW-119", "agents.a.env.X")]
    assert codes("{upstreams: {openai: {key: '${K}'}}}", "{X: '${J}'}") == []
