"""Prices: exact, rounded up, never zero for want of knowledge; the worst case of a call."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.core.tools import Price
from crewkeeper_supervisor.gate.prices import PriceBook, UnknownPrice, Usage, estimate_tokens, table_models

AT_S = 1_795_359_600.0  # 2026-11-22
BOOK = PriceBook(
    {
        "local/*": Price(input_microusd=0, output_microusd=0),
        "mine": Price(input_microusd=3_000_000, output_microusd=15_000_000, cached_microusd=300_000),
        "mine-*": Price(input_microusd=1, output_microusd=1),
        "gpt-4o": Price(input_microusd=1_000_000, output_microusd=1_000_000),
    }
)
USAGE = Usage(input_tokens=1000, output_tokens=500, cached_tokens=200)


def test_declared_prices_go_before_the_table():
    assert BOOK.cost("mine", USAGE, at_s=AT_S).microusd == 800 * 3 + 200 * 3 // 10 + 500 * 15
    assert BOOK.cost("gpt-4o", USAGE, at_s=AT_S).microusd == 1500
    assert BOOK.cost("gpt-4o", USAGE, at_s=AT_S).source == "declared"
    assert BOOK.cost("local/anything", USAGE, at_s=AT_S).microusd == 0


def test_parts_of_a_millionth_are_rounded_up():
    assert BOOK.cost("mine-small", Usage(input_tokens=1, output_tokens=0), at_s=AT_S).microusd == 1
    assert BOOK.cost("mine-small", Usage(input_tokens=0, output_tokens=0), at_s=AT_S).microusd == 0


def test_the_table_knows_models_by_both_names():
    plain = PriceBook().cost("gpt-4o", USAGE, at_s=AT_S)
    assert (plain.microusd, plain.source, plain.model) == (7250, "table", "openai/gpt-4o")
    assert PriceBook().cost("openai/gpt-4o", USAGE, at_s=AT_S) == plain


def test_prices_are_those_of_the_day():
    before = PriceBook().cost("o3", USAGE, at_s=1_746_000_000.0)
    after = PriceBook().cost("o3", USAGE, at_s=AT_S)
    assert before.microusd > after.microusd > 0


def test_an_estimate_stays_one():
    guessed = Usage(input_tokens=10, output_tokens=10, estimated=True)
    assert PriceBook().cost("gpt-4o", guessed, at_s=AT_S).estimated
    assert BOOK.cost("mine", guessed, at_s=AT_S).estimated
    assert BOOK.reservation("mine", input_tokens=1, max_tokens=1, at_s=AT_S).estimated
    assert not BOOK.cost("mine", USAGE, at_s=AT_S).estimated


@pytest.mark.parametrize(
    "model", ["", "nobody", "nobody/nothing", "openai/nothing-like-it", "x" * 10_000, "/", "gpt-99"]
)
def test_an_unknown_model_has_no_price(model: str):
    with pytest.raises(UnknownPrice) as caught:
        PriceBook().cost(model, USAGE, at_s=AT_S)
    assert caught.value.model == model
    assert "prices" in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(UnknownPrice):
        PriceBook().reservation(model, input_tokens=1, max_tokens=1, at_s=AT_S)


def test_near_models_are_named():
    with pytest.raises(UnknownPrice) as caught:
        PriceBook().cost("gpt-4-turboo", USAGE, at_s=AT_S)
    assert "gpt-4-turbo" in caught.value.near


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-1, output_tokens=0),
        Usage(input_tokens=1, output_tokens=2**41),
        Usage(input_tokens=10, output_tokens=0, cached_tokens=6, cache_write_tokens=5),
        Usage(input_tokens=10, output_tokens=0, cache_write_1h_tokens=1),
    ],
)
def test_impossible_usage_is_refused(usage: Usage):
    with pytest.raises(ValueError, match="tokens"):
        BOOK.cost("mine", usage, at_s=AT_S)


MODELS = ["mine", "gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro", "o3", "anthropic/claude-opus-4-1", "local/x"]


@settings(max_examples=200, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    tokens_in=st.integers(0, 400_000),
    tokens_out=st.integers(0, 50_000),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_no_call_costs_more_than_was_reserved(model: str, tokens_in: int, tokens_out: int, shares: tuple[float, ...]):
    cached = int(tokens_in * shares[0])
    written = int((tokens_in - cached) * shares[1])
    used = Usage(
        input_tokens=tokens_in,
        output_tokens=int(tokens_out * shares[2]),
        cached_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=int(written * shares[3]),
    )
    for book in (PriceBook(), BOOK):
        try:
            reserved = book.reservation(model, input_tokens=tokens_in, max_tokens=tokens_out, at_s=AT_S)
        except UnknownPrice:
            continue
        assert book.cost(model, used, at_s=AT_S).microusd <= reserved.microusd


def test_every_price_of_the_table_is_a_number_or_a_refusal():
    priced = 0
    for model in table_models():
        try:
            cost = PriceBook().cost(model, USAGE, at_s=AT_S)
        except UnknownPrice:
            continue
        assert cost.microusd >= 0
        priced += 1
    assert priced > 500


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("", 0),
        ("a", 1),
        ("word " * 100, 100),
        ("日本語" * 10, 30),
        ("\0\1\2", 2),
        ("?!%&/~#§" * 100, 500),  # about one for each sign
        ("7" * 900, 600),
        ("QmFzZTY0IGlzIGRlbnNl" * 10, 90),
        ("ᚠᛇᚻ" * 100, 600),
    ],
)
def test_estimates_are_high(text: str, least: int):
    assert estimate_tokens(text.encode()) >= least
    assert estimate_tokens(text.encode()) >= len(text.encode()) / 3


def test_running_text_is_a_token_for_three_bytes_and_what_is_left_out_is_not_counted():
    text = b"The crew went to the coast and wrote down what it had seen there. " * 50
    assert estimate_tokens(text) == -(-len(text) // 3)
    picture = b"iVBORw0KGgoAAAANSUhEUg" * 1000
    assert estimate_tokens(text + picture, [picture]) == estimate_tokens(text)


@pytest.mark.parametrize("model", ["openai/gpt-4o:online", "anthropic/claude-sonnet-4.5:online", "o3-deep-research"])
def test_a_service_beyond_tokens_has_no_price_of_the_table(model: str):
    with pytest.raises(UnknownPrice):
        PriceBook().cost(model, USAGE, at_s=AT_S)
    declared = PriceBook({model: Price(input_microusd=9, output_microusd=9)})
    assert declared.cost(model, USAGE, at_s=AT_S).source == "declared"


def test_the_table_is_not_imported_before_it_is_needed():
    code = "import sys, crewkeeper_supervisor.gate.prices; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
