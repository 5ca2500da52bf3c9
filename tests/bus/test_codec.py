"""Codec: whatever the bytes are, the outcome is a message or a CodecError."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from crewkeeper_bus import codec, messages
from crewkeeper_bus.errors import CodecError
from crewkeeper_bus.subjects import Kind

SENT = {"inc": "i1", "seq": 1}
VALID = {
    Kind.REQ: {**SENT, "task": "t", "body": {"n": 1}},
    Kind.REP: {**SENT, "body": None},
    Kind.MSG: {**SENT, "task": "t", "body": [1]},
    Kind.PROG: {**SENT, "text": "half"},
    Kind.CANCEL: {**SENT},
    Kind.HB: {**SENT, "role": "w"},
    Kind.NOTE: {**SENT, "t": "wait", "task": "t", "epoch": 1, "condition": {"on": "call", "call": "c"}},
    Kind.TOOL: {**SENT, "t": "call", "task": "t", "tool": "search", "args": {"q": 1}},
}
HOSTILE = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{",
    b'"',
    b'"\\',
    b"{}" * 30_000,
    b"{" * 60_000,
    b"[" * 1_000,
    b"[" * 1_000 + b"]" * 1_000,
    b'{"a":' * 1_000 + b"1" + b"}" * 1_000,
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999999",
    b"9" * 5_000,
    b'{"inc":"i1","seq":1e400,"task":"t","body":1}',
    b'{"inc":"i1","seq":' + b"9" * 4_000 + b',"task":"t","body":1}',
    b'{"inc":"i1","seq":NaN,"task":"t","body":1}',
    b'{"inc":"\xff","seq":1,"task":"t","body":1}',
    b'{"inc":"\\ud800","seq":1,"task":"t","body":1}',
    b'{"inc":"a.b","seq":1,"task":"t","body":1}',
    b'{"inc":"i1\\n","seq":1,"task":"t","body":1}',
    b'{"inc":"i1","seq":0,"task":"t","body":1}',
    b'{"inc":"i1","seq":-1,"task":"t","body":1}',
    b'{"inc":"i1","seq":true,"task":"t","body":1}',
    b'{"inc":"i1","seq":1,"t":"wait","task":"t","epoch":1,"condition":{"on":"timer","after_s":NaN}}',
]
HOSTILE_NOTES = [
    b'{"inc":"i1","seq":1,"t":"nothing","task":"t"}',
    b'{"inc":"i1","seq":1,"t":"usage","task":"t","cost_microusd":-5}',
    b'{"inc":"i1","seq":1,"t":"wait","task":"t","epoch":1,"condition":{"on":"timer","after_s":1e300}}',
    b'{"inc":"i1","seq":1,"t":"wait","task":"t","epoch":1,"condition":{"on":"some","k":0,"of":[]}}',
]


def decodes(decode, kind, payload):
    try:
        decode(kind, payload)
    except CodecError:
        return False
    return True


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_a_codec_error_for_every_kind(payload):
    for kind in Kind:
        for decode in (codec.decode_agent, codec.decode_supervisor):
            with pytest.raises(CodecError):
                decode(kind, payload)


@pytest.mark.parametrize("payload", HOSTILE_NOTES, ids=range(len(HOSTILE_NOTES)))
def test_notes_outside_their_schema_are_a_codec_error(payload):
    with pytest.raises(CodecError):
        codec.decode_agent(Kind.NOTE, payload)


@given(st.binary(max_size=400), st.sampled_from(Kind))
def test_arbitrary_bytes_never_raise_anything_else(payload, kind):
    decodes(codec.decode_agent, kind, payload)
    decodes(codec.decode_supervisor, kind, payload)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(VALUES, st.sampled_from(list(VALID)), st.data())
def test_a_valid_message_with_one_field_replaced_never_raises_anything_else(value, kind, data):
    field = data.draw(st.sampled_from(sorted(VALID[kind])))
    decodes(codec.decode_agent, kind, json.dumps({**VALID[kind], field: value}).encode())


@pytest.mark.parametrize("kind", VALID, ids=str)
def test_valid_messages_decode_and_come_back_the_same(kind):
    message = codec.decode_agent(kind, json.dumps(VALID[kind]).encode())
    assert codec.decode_agent(kind, codec.encode(message)) == message
    assert (message.inc, message.seq) == ("i1", 1)


def test_unknown_keys_are_ignored():
    newer = json.dumps({**VALID[Kind.REQ], "later": {"x": 1}}).encode()
    assert codec.decode_agent(Kind.REQ, newer).verb == "ask"


def test_a_kind_that_the_side_does_not_send_is_an_error():
    for kind in set(Kind) - set(messages.AGENT_MESSAGES):
        with pytest.raises(CodecError, match="no agent sends"):
            codec.decode_agent(kind, b"{}")
    for kind in set(Kind) - set(messages.SUPERVISOR_MESSAGES):
        with pytest.raises(CodecError, match="does not send"):
            codec.decode_supervisor(kind, b"{}")


def test_the_size_limit_is_inclusive():
    payload = json.dumps({**VALID[Kind.MSG], "body": "x" * 100}).encode()
    assert codec.decode_agent(Kind.MSG, payload, limit_bytes=len(payload))
    with pytest.raises(CodecError, match=f"{len(payload)} bytes.*{len(payload) - 1}"):
        codec.decode_agent(Kind.MSG, payload, limit_bytes=len(payload) - 1)


def test_the_nesting_limit_is_inclusive():
    inside = codec.NESTING_MAX - 1  # the message itself is one level
    for levels, fits in ((inside, True), (inside + 1, False)):
        body = b"[" * levels + b"]" * levels
        payload = b'{"inc":"i1","seq":1,"task":"t","body":' + body + b"}"
        assert decodes(codec.decode_agent, Kind.MSG, payload) is fits


def naive_nesting(payload):
    depth = deepest = 0
    in_string = escaped = False
    for byte in payload:
        char = chr(byte)
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\ab\n\x01', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(JSON, st.integers(0, 8))
@example([[]], 1)
@example(["[[[[[[[["], 1)
@example({'"\\': [[["]"]]]}, 2)
@example(["\n", [[[]]]], 2)
def test_nesting_of_json_equals_the_oracle_up_to_the_limit(value, limit):
    payload = json.dumps(value).encode()
    true = naive_nesting(payload)
    counted = codec.nesting(payload, limit)
    assert (counted > limit) == (true > limit)
    if counted > limit:
        assert counted == limit + 1
    else:
        assert counted >= true  # a small text is answered by its number of brackets


@example(b'][}["\\ "[', 0)
@given(st.text(alphabet='[]{}"\\a ', max_size=60).map(str.encode), st.integers(0, 6))
def test_nesting_never_misses_depth_in_texts_that_are_not_json(payload, limit):
    outside = re.sub(rb'"(?:[^"\\]|\\.)*(?:"|\\?$)', b"", payload)
    if b"\\" not in outside:  # no decoder gets beyond such a one
        assert (codec.nesting(payload, limit) > limit) >= (naive_nesting(payload) > limit)


@pytest.mark.parametrize("value", [object(), {1, 2, object()}, 1j, {"x": object()}])
def test_a_body_that_is_no_plain_data_is_refused(value):
    with pytest.raises(CodecError, match="plain data"):
        codec.encode_body(value)


def test_a_body_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(CodecError):
        codec.encode_body(loop)


def test_a_body_over_a_limit_is_refused():
    with pytest.raises(CodecError, match="limit is 10"):
        codec.encode_body("x" * 10, limit_bytes=10)
    deep = 1
    for _ in range(codec.NESTING_MAX + 1):
        deep = [deep]
    with pytest.raises(CodecError, match="deeper"):
        codec.encode_body(deep)


def test_a_body_comes_back_as_data_or_as_a_type():
    body = codec.encode_body({"a": [1, "x"]})
    assert codec.decode_body(body) == {"a": [1, "x"]}
    assert codec.decode_body(body, dict[str, list[int | str]]) == {"a": [1, "x"]}
    with pytest.raises(CodecError, match="body"):
        codec.decode_body(body, list[int])


def test_the_published_schemas_are_valid_and_accept_what_the_decoder_accepts():
    schemas = codec.schemas()
    for kind, message in VALID.items():
        schema = {**schemas["kinds"][f"agent:{kind}"], "$defs": schemas["$defs"]}
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(schema)
        assert validator.is_valid(message)
        assert not validator.is_valid({**message, "seq": 0})
        assert not validator.is_valid({**message, "inc": "a.b"})


def test_a_heartbeat_may_say_that_it_answers_no_probe():
    beat = codec.decode_agent(Kind.HB, b'{"inc":"i1","seq":1,"role":"a","nonce":""}')
    assert isinstance(beat, messages.Heartbeat)
    assert beat.nonce == ""
    with pytest.raises(CodecError):
        codec.decode_agent(Kind.HB, b'{"inc":"i1","seq":1,"role":"a","nonce":"a b"}')
