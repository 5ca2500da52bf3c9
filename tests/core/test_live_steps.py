"""Bodies of agents as detectors read them: whatever they hold, in part if they are large, alike each time."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.core.live_steps import (
    EMPTY_MAX_BYTES,
    HEAD_BYTES,
    READ_MAX_BYTES,
    SILENCE,
    TAIL_BYTES,
    prose_of,
    read,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
    max_leaves=30,
)


@given(st.binary(max_size=200) | JSON.map(msgspec.json.encode))
@settings(max_examples=300, deadline=None)
def test_whatever_a_body_holds_it_is_read_and_alike_each_time(body: bytes) -> None:
    said, again = read(body), read(msgspec.Raw(body))
    assert said == again
    assert said.print(names=True) == again.print(names=True)
    assert said.arguments() == again.arguments()
    assert (said is SILENCE) == (len(body) <= EMPTY_MAX_BYTES)


def test_a_large_body_is_read_in_part_and_counts_as_a_whole() -> None:
    body = b'"' + b"word " * READ_MAX_BYTES + b'"'
    other = body.replace(b"word", b"wort", READ_MAX_BYTES // 2)[: len(body)]
    changed = body[: len(body) // 2] + b"WORD!" + body[len(body) // 2 + 5 :]
    assert len(read(body).text) <= HEAD_BYTES + TAIL_BYTES + 1
    assert read(body).print() == read(bytes(body)).print()
    assert read(body).print().digest not in (read(changed).print().digest, read(other).print().digest)
    assert read(body).arguments() != read(changed).arguments()


def test_arguments_of_very_many_parts_count_by_their_text() -> None:
    many = msgspec.json.encode({f"k{number}": number for number in range(65)})
    assert read(many).fields is None
    assert read(many).arguments() == read(many).arguments()


@pytest.mark.parametrize(
    ("value", "prose"),
    [
        ("one word", ""),
        ("three words here", "three words here"),
        ({"id": "r-1", "text": "a plan for Lisbon", "n": 3}, "a plan for Lisbon"),
        ([["first of all parts"], {"deep": ["and the second part"]}], "first of all parts and the second part"),
        (None, ""),
        (17, ""),
    ],
)
def test_prose_is_sentences_and_no_names_or_numbers(value: object, prose: str) -> None:
    assert prose_of(value) == prose


def test_prose_is_bounded() -> None:
    assert len(prose_of(["a b c " * 1000] * 50)) <= 2000 + 50
