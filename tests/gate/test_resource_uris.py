"""Spellings of one resource: a rule that names one of them is about all."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.policy import Policy
from crewkeeper_supervisor.gate.resource_uri import normal, normal_pattern, oddity

SAME = [
    ("file:///srv/caf\u00e9/a", "file:///srv/cafe\u0301/a", "file:///srv/caf%C3%A9/a", "file:///srv/cafe%CC%81/a"),
    ("file:///srv/a(1)+b,c.txt", "file:///srv/a%281%29%2Bb%2Cc.txt", "file:///srv/a(1%29+b%2Cc.txt"),
    ("file:///C:/a[id].txt", "file:///C%3A/a%5Bid%5D.txt"),
    ("file:///srv/{a}|b", "file:///srv/%7Ba%7D%7Cb"),
    ("memo://plan*", "memo://plan%2A"),
    ("memo://<\u0301*\u0301", "memo://%3C\u0301%2A%CC%81"),
    ("https://example.org", "https://example.org/", "https://example.org/#top", "https://example.org#top"),
    ("https://example.org?x=\u00e9", "https://example.org/?x=%C3%A9", "https://example.org/?x=e%CC%81#top"),
    ("memo://\u03a9", "memo://\u2126", "memo://%E2%84%A6"),
    ("memo://%FF\u00e9", "memo://%FF%C3%A9"),
]
OTHERS = [
    ("file:///srv/cafe", "file:///srv/caf\u00e9"),
    ("https://example.org/?a=1&b=2", "https://example.org/?a=1%26b=2"),
    ("https://example.org/?a=1&b=2", "https://example.org/?b=2&a=1"),
    ("memo://a#b", "memo://a"),
    ("memo://a%2Fb", "memo://a/b"),
    ("memo://a%3Fb", "memo://a?b"),
    ("memo://%FF", "memo://%FE"),
    ("memo://%E2%80%8B", "memo://"),
    ("memo://%ED%A0%80", "memo://?"),
]
PAIRS = [pair for spellings in SAME for pair in itertools.product(spellings, repeat=2)]


def _reads(uri: str) -> Call:
    return Call(agent="a", hop="resource", to=f"files.{uri}", args={"uri": uri})


@pytest.mark.parametrize(("named", "asked"), PAIRS)
def test_a_rule_that_names_one_spelling_holds_for_all(named: str, asked: str) -> None:
    assert oddity(asked) == ""
    by_name = Policy([Rule(id="x", hop="resource", to=(f"files.{named}",), do="deny")])
    assert by_name.decide(_reads(asked)).effect == "deny"
    assert by_name.never(_reads(asked)) != ""
    assert by_name.explain(_reads(asked)).decision.effect == "deny"
    by_condition = Policy([Rule(id="x", hop="resource", when=f"args.uri == {normal(named)!r}", do="deny")])
    assert by_condition.decide(_reads(asked)).effect == "deny"


@pytest.mark.parametrize(("named", "asked"), OTHERS)
def test_what_is_another_resource_stays_another(named: str, asked: str) -> None:
    rule = Rule(id="x", hop="resource", to=(f"files.{named}",), do="deny")
    assert Policy([rule]).decide(_reads(asked)).effect == "allow"


@pytest.mark.parametrize(
    ("pattern", "asked"),
    [
        ("files.file:///srv/caf%C3%A9/*", "file:///srv/cafe\u0301/a"),
        ("files.*caf\u00e9*", "file:///srv/caf%C3%A9/a"),
        ("files.https://example.org*", "https://example.org"),
        ("files.https://example.*", "https://example.org"),
        ("*", "https://example.org"),
    ],
)
def test_patterns_match_what_names_do(pattern: str, asked: str) -> None:
    policy = Policy([Rule(id="x", hop="resource", to=(pattern,), do="deny")])
    assert policy.decide(_reads(asked)).effect == "deny"


def test_a_star_in_a_name_stands_for_itself() -> None:
    policy = Policy([Rule(id="x", hop="resource", to=("files.memo://a%2A",), do="deny")])
    assert policy.decide(_reads("memo://a*")).effect == "deny"
    assert policy.decide(_reads("memo://ab")).effect == "allow"


def test_names_of_others_than_resources_are_taken_as_they_are() -> None:
    rule = Rule(id="x", to=("files.caf\u00e9",), do="deny")
    for hop, name, effect in (("prompt", "caf%C3%A9", "allow"), ("resource", "caf%C3%A9", "deny")):
        call = Call(agent="a", hop=hop, to=f"files.{name}")  # type: ignore[arg-type]
        assert Policy([rule]).decide(call).effect == effect


@given(st.text(st.sampled_from("aeKf:/?#%*.()[]{}`;\u00e9\u0301\u0338\u037e\u212a\u200b<%C%3%A%9%2%8"), max_size=30))
def test_the_form_of_a_form_is_itself_and_hides_nothing(text: str) -> None:
    for uri in (text, f"https://h/{text}", f"files.https://h?{text}"):
        once = normal(uri)
        assert normal(once) == once
        assert "*" not in once
        assert normal_pattern(once) == once
