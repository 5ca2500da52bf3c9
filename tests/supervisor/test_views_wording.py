"""Hostile text is harmless on a terminal; times, money and counts read well."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.views.wording import ago, clock, count, dollars, duration, moment, money, safe, safe_json

HOSTILE = {
    "\x1b[2J\x1b[31mred": r"\x1b[2J\x1b[31mred",
    "a\nb\rc\td": r"a\nb\rc\td",
    "\x9b31m": r"\x9b31m",
    "\u202egnp.exe": r"\u202egnp.exe",
    "zero\u200bwidth": r"zero\u200bwidth",
    "\u2028line": r"\u2028line",
    "\ud800lone": r"\ud800lone",
    "\U000e0041tag": r"\U000e0041tag",
    "\x07\x7f": r"\x07\x7f",
    "Zürich → 東京 😀": "Zürich → 東京 😀",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_a_terminal_would_obey_is_shown_instead(text, shown):
    assert safe(text) == shown


@given(st.text(st.characters(), max_size=400))
def test_nothing_unprintable_gets_through(text):
    shown = safe(text)
    assert shown.isprintable()
    shown.encode()


def test_long_text_is_cut_with_an_ellipsis():
    assert safe("x" * 301) == "x" * 299 + "…"
    assert safe("x" * 300) == "x" * 300
    assert safe("x" * 9000, None) == "x" * 9000


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_json_stays_the_same_data_without_unprintable_characters(text):
    shown = safe_json(msgspec.json.encode({"text": text}))
    assert shown.isprintable()
    assert json.loads(shown) == {"text": text}


def test_indented_json_keeps_its_lines():
    assert safe_json(msgspec.json.format(b'{"a":"\xc2\x9b"}', indent=2)) == '{\n  "a": "\\u009b"\n}'


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.027, "27ms"),
        (0.25, "0.2s"),
        (9.96, "10.0s"),
        (12, "12s"),
        (59.9, "59s"),
        (185, "3m05s"),
        (7800, "2h10m"),
        (5 * 86400 + 3 * 3600, "5d03h"),
    ],
)
def test_spans(seconds, shown):
    assert duration(seconds) == shown


def test_ages():
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert ago(now - timedelta(seconds=12), now) == "12s ago"
    assert ago(None, now) == "-"
    assert moment(0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert clock(now) == now.astimezone().strftime("%H:%M:%S")


@pytest.mark.parametrize(
    ("microusd", "shown"),
    [(0, "$0.00"), (31_200, "$0.0312"), (1, "$0.000001"), (5_000_000, "$5.00"), (1_500_000, "$1.50")],
)
def test_money_is_exact(microusd, shown):
    assert dollars(money(microusd)) == shown
    assert money(microusd) * 1_000_000 == microusd
    assert isinstance(money(microusd), Decimal)


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (9999, "9999"), (12_345, "12.3k"), (400_000, "400k"), (4_000_000, "4M")]
)
def test_counts(number, shown):
    assert count(number) == shown
