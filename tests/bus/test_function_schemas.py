"""Schemas of Python functions."""

import datetime
import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from crewkeeper_bus.function_schema import SignatureRefused, reader_of, schema_of
from crewkeeper_supervisor.gate.arguments import ArgumentCheck


class Place(msgspec.Struct, forbid_unknown_fields=True):
    street: str
    number: int = 1


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


def search(
    query: str,
    limit: Annotated[int, Meta(ge=1, le=10)] = 5,
    mode: Literal["fast", "deep"] = "fast",
    tags: list[str] | None = None,
    place: Place | None = None,
    mood: Mood = Mood.GOOD,
    since: datetime.date = datetime.date(2020, 1, 1),
    *,
    weights: dict[str, float] = {"a": 1.0},  # noqa: B006 - what an author may well write
    depth: Annotated[int, Meta(description="how deep")] = 0,
) -> list[str]:
    """Search the
    archive.

    More about it.

    Args:
        query: What to look for,
            in words.
        limit (int): How many at most.
        depth: not used, the annotation goes before

    Returns:
        weights: not an argument here.
    """
    return [query, str((limit, mode, tags, place, mood, since, weights, depth))]


def test_hints_docstring_and_defaults_become_a_schema():
    made = schema_of(search)
    assert (made.name, made.description) == ("search", "Search the archive.")
    properties = made.schema["properties"]
    assert made.schema["required"] == ["query"]
    assert made.schema["additionalProperties"] is False
    assert properties["query"] == {"type": "string", "description": "What to look for, in words."}
    assert properties["limit"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
        "default": 5,
        "description": "How many at most.",
    }
    assert properties["mode"]["enum"] == ["deep", "fast"]
    assert properties["depth"]["description"] == "how deep"
    assert "description" not in properties["weights"]
    assert made.schema["$defs"]["Place"]["required"] == ["street"]


@pytest.mark.parametrize(
    ("args", "fits"),
    [
        ({"query": "x"}, True),
        ({"query": "x", "place": {"street": "s"}, "mood": "bad", "since": "2026-01-01", "tags": None}, True),
        ({"query": "x", "place": {"number": 3}}, False),
        ({"query": "x", "mood": "ugly"}, False),
        ({"query": "x", "limit": 11}, False),
        ({"query": "x", "other": 1}, False),
        ({}, False),
    ],
)
def test_the_schema_checks_calls(args: dict[str, Any], fits: bool):
    assert (ArgumentCheck("search", schema_of(search).schema).check(args) is None) is fits


def test_a_function_without_arguments_takes_none():
    def now() -> str:
        return "now"

    schema = schema_of(now).schema
    assert ArgumentCheck("now", schema).check({}) is None
    assert ArgumentCheck("now", schema).check({"x": 1}) is not None
    assert schema_of(now).description == ""


def no_hint(x) -> None: ...
def anything(*args: int) -> None: ...
def names(**more: int) -> None: ...
def position(x: int, /) -> None: ...
def odd(x: object.__class__) -> None: ...
def undefined(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_hint, "x has no type hint"),
        (anything, "args"),
        (names, "more"),
        (position, "'/'"),
        (odd, "JSON"),
        (undefined, "Nowhere"),
    ],
)
def test_what_no_schema_can_say_is_refused(function: Any, message: str):
    with pytest.raises(SignatureRefused) as caught:
        schema_of(function)
    assert message in str(caught.value)


def test_arguments_are_read_in_the_types_of_the_hints() -> None:
    read = reader_of(search)
    kwargs = read(b'{"query": "x", "place": {"street": "s"}, "mood": "bad", "since": "2024-02-29"}')
    assert kwargs["place"] == Place(street="s", number=1)
    assert kwargs["mood"] is Mood.BAD
    assert kwargs["since"] == datetime.date(2024, 2, 29)
    assert (kwargs["limit"], kwargs["tags"], kwargs["weights"]) == (5, None, {"a": 1.0})
    kwargs = read(b'{"query": "x", "limit": 7.0, "weights": {"a": 2.0}}')
    assert (kwargs["limit"], type(kwargs["limit"]), kwargs["weights"]) == (7, int, {"a": 2.0})


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"query": 1}', b'{"query": "x", "limit": 7.5}', b'{"query": "x", "nonsense": 1}', b"[]", b"{"]
)
def test_arguments_that_do_not_fit_are_refused(raw: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        reader_of(search)(raw)
