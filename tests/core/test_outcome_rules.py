"""Constraints on the last answer: phrases as whole words, whatever their case; schemas by whoever checks them."""

import pytest

from crewkeeper_supervisor.core.outcome import PROBLEMS_MAX, Outcome, broken


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("The total is  900 EUR.", 0),
        ("the TOTAL\nis 900 eur", 0),
        ("The totals is 900 EURO", 1),
        ("The total is 900 EUR, guaranteed", 1),
        ("", 1),
    ],
)
def test_phrases(text, problems):
    rules = Outcome(must_mention=("total is 900 EUR",), never=("Guaranteed",))
    assert len(broken(rules, text)) == problems


def test_problems_name_the_phrase():
    rules = Outcome(must_mention=("budget",), never=("secret", "$5"))
    assert broken(rules, "a secret for $5") == [
        "does not mention 'budget'",
        "says 'secret', which it must never",
        "says '$5', which it must never",
    ]


def test_schemas_are_asked_for():
    asked = []

    def validator(schema, document):
        asked.append((schema, document))
        return ["wrong"]

    assert broken(Outcome(schema={"type": "object"}), "x", {"a": 1}, validator) == ["wrong"]
    assert asked == [({"type": "object"}, {"a": 1})]
    assert broken(Outcome(schema={"type": "object"}), "x", {"a": 1}) == []


def test_problems_are_bounded():
    assert len(broken(Outcome(must_mention=tuple(f"word{n}" for n in range(100))), "")) == PROBLEMS_MAX
