"""Redactions carried out on arguments; names and their patterns."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.gate.call import Redaction
from crewkeeper_supervisor.gate.cleaning import clean
from crewkeeper_supervisor.gate.name_pattern import matches, near

ARGS = {
    "to": "bob@example.com",
    "card": {"number": "4111 1111 1111 1111", "cvc": 123},
    "items": [{"note": "a", "n": 1}, {"note": "b"}],
}


def cleaned(*what: str, key: bytes = b"") -> dict[str, object]:
    before = repr(ARGS)
    after, _ = clean(ARGS, [Redaction(rule="r", what=what)], key)
    assert repr(ARGS) == before, "the arguments given are left alone"
    again, found = clean(after, [Redaction(rule="r", what=what)], key)
    assert (again, found) == (after, [])
    return after


def test_classes_and_kinds():
    assert cleaned("personal")["to"] == "[redacted:email]"
    assert cleaned("card") == {**ARGS, "card": {"number": "[redacted:card]", "cvc": 123}}
    assert cleaned("secrets") == ARGS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("args.to", {**ARGS, "to": "[redacted:argument]"}),
        ("args.card", {**ARGS, "card": "[redacted:argument]"}),
        ("args.card.cvc", {**ARGS, "card": {**ARGS["card"], "cvc": "[redacted:argument]"}}),
        (
            "args.items[].note",
            {**ARGS, "items": [{"note": "[redacted:argument]", "n": 1}, {"note": "[redacted:argument]"}]},
        ),
        ("args.items.1.note", {**ARGS, "items": [{"note": "a", "n": 1}, {"note": "[redacted:argument]"}]}),
        ("args.*.number", {**ARGS, "card": {**ARGS["card"], "number": "[redacted:argument]"}}),
        ("args.nothing.there", ARGS),
    ],
)
def test_paths(path: str, expected: dict[str, object]):
    assert cleaned(path) == expected


def test_rules_add_up_and_equal_values_stay_comparable():
    args = {"a": {"id": 7}, "b": {"id": 7}, "c": {"id": 8}, "mail": "x@example.com"}
    both = [Redaction(rule="r", what=("args.*.id",)), Redaction(rule="s", what=("email",))]
    after, found = clean(args, both, b"key")
    assert after["a"] == after["b"] != after["c"]
    assert re.fullmatch(r"\[redacted:email:[0-9a-f]{12}\]", after["mail"])
    assert sorted(each.path for each in found) == ["args.a.id", "args.b.id", "args.c.id", "args.mail"]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("*", "", True),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "axxbxxc", True),
        ("a*b*c", "acb", False),
        ("*b*", "abc", True),
        ("*b*b*", "abc", False),
        ("*ab*ba*", "aba", False),
        ("files.write_*", "files.write_file", True),
        ("files.write_*", "filesXwrite_file", False),
        ("[a]", "a", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool):
    assert matches(pattern, name) is expected


@settings(max_examples=500, deadline=None)
@given(pattern=st.text("ab*", max_size=6), name=st.text("ab", max_size=8))
def test_patterns_mean_what_an_expression_would(pattern: str, name: str):
    expression = "".join(".*" if char == "*" else re.escape(char) for char in pattern)
    assert matches(pattern, name) is (re.fullmatch(expression, name) is not None)


def test_a_hostile_pattern_costs_little():
    assert not matches("a*" * 60 + "b", "a" * 10_000)


def test_near_names():
    assert near("Read-File", ["read_file", "write_file"]) == ("read_file", "write_file")
    assert near("x" * 1000, ["x" * 1000]) == ()
    assert near("qqq", ["read"]) == ()
