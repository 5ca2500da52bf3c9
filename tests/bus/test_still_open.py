"""Conditions: what is left of a wait once some of its calls are over."""

import pytest

from crewkeeper_bus.conditions import Condition, OnAll, OnCall, OnMessage, OnSome, still_open

A, B, C, D = (OnCall(call=name) for name in "abcd")
WORD = OnMessage(senders=("x",))


def every(*parts: Condition) -> OnAll:
    return OnAll(of=parts)


def some(k: int, *parts: Condition) -> OnSome:
    return OnSome(k=k, of=parts)


@pytest.mark.parametrize(
    ("condition", "good", "failed", "left"),
    [
        (every(A, B, C), "a", "", every(B, C)),
        (every(A, B), "a", "", B),
        (some(2, A, B, C, D), "a", "b", some(1, C, D)),
        (some(2, A, B, C), "", "c", every(A, B)),
        (some(1, A, B), "", "a", B),
        (every(A, some(1, B, C)), "a", "b", C),
        (some(1, every(A, B), every(C, D)), "c", "a", D),
        (some(1, every(A, WORD), B), "a", "", some(1, WORD, B)),
        (every(WORD, A), "a", "", WORD),
        (some(2, A, B), "", "", some(2, A, B)),
        (WORD, "a", "b", WORD),
    ],
)
def test_what_is_met_and_what_cannot_be_is_left_out(
    condition: Condition, good: str, failed: str, left: Condition
) -> None:
    assert still_open(condition, good, failed) == left


@pytest.mark.parametrize(
    ("condition", "good", "failed"),
    [(every(A, B), "ab", ""), (every(A, B), "", "b"), (some(2, A, B, C), "", "ab"), (A, "a", ""), (A, "", "a")],
)
def test_a_wait_that_is_about_to_end_is_told_whole(condition: Condition, good: str, failed: str) -> None:
    assert still_open(condition, good, failed) == condition
