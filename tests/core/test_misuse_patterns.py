"""Misuse of tools: patterns are told, single slips are not; identifiers are grounded in what the run was told."""

import pytest

from crewkeeper_supervisor.core.grounding import IDENTIFIERS_MAX, Grounding, identifiers_in, identifiers_of
from crewkeeper_supervisor.core.misuse import LOOKBACK, MisuseDetector
from crewkeeper_supervisor.core.steps import Step


def call(at: int, **more: object) -> Step:
    return Step(at=at, began=at, agent="a", kind="tool", name=str(more.pop("name", "t")), **more)  # type: ignore[arg-type]


def test_the_third_refusal_for_one_reason_is_told_once():
    detector = MisuseDetector()
    found = [detector.step(call(at, refused="no deletes")) for at in range(6)]
    assert [bool(one) for one in found] == [False, False, True, False, False, False]
    assert (found[2][0].pattern, found[2][0].onset, found[2][0].detail) == ("refusals", 0, "no deletes")


def test_refusals_for_different_reasons_are_none():
    detector = MisuseDetector()
    assert [one for at in range(6) for one in detector.step(call(at, refused=f"rule {at}"))] == []


def test_refusals_far_apart_are_none():
    detector = MisuseDetector()
    for at in range(6 * LOOKBACK):
        assert detector.step(call(at, refused="rule" if at % LOOKBACK == 0 else "")) == []


def test_one_invented_tool_is_a_slip_and_two_are_a_pattern():
    detector = MisuseDetector()
    assert detector.step(call(0, name="serch", known=False)) == []
    assert detector.step(call(1, name="search", known=True)) == []
    (found,) = detector.step(call(2, name="find_all", known=False))
    assert (found.pattern, found.detail) == ("unknown_tool", "serch, find_all")


def test_made_up_identifiers_are_told_when_they_fail():
    grounding = Grounding()
    grounding.saw("order W1234567 of user anna_4411")
    detector = MisuseDetector(grounding)
    for at in range(5):
        assert detector.step(call(at, quotes=("w1234567",), failed=True)) == []
        assert detector.step(call(at, quotes=("w9999999",), failed=False)) == []
    found = [one for at in range(3) for one in detector.step(call(at, quotes=(f"w777777{at}",), failed=True))]
    assert [one.pattern for one in found] == ["ungrounded"]
    assert "w7777770" in found[0].detail


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("order #W2378156 for yusuf_rossi_9620", ["w2378156", "yusuf_rossi_9620"]),
        ("on 2024-05-21 at 10:30, zip 98178, item 1656367028", ["1656367028"]),
        ("flight HAT030, page 3 of 12, v2", ["hat030"]),
        ("no numbers here", []),
    ],
)
def test_identifiers_are_words_that_nobody_guesses(text, found):
    assert identifiers_of(text) == found


def test_identifiers_in_prose_and_code_are_no_arguments():
    assert identifiers_in({"code": "x1234 = call(y5678)", "id": "W2378156", "rows": [{"n": 1656367028}]}) == (
        "w2378156",
        "1656367028",
    )


def test_nothing_is_reported_once_memory_has_overflowed():
    grounding = Grounding()
    assert grounding.unknown(["w9999999"]) == ("w9999999",)
    grounding.saw(" ".join(f"id{number:06}" for number in range(5000)))
    for part in range(IDENTIFIERS_MAX // 5000 + 1):
        grounding.saw(" ".join(f"k{part}n{number:06}" for number in range(4500)))
    assert grounding.unknown(["w9999999"]) == ()
