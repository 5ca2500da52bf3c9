"""Conditions: what compiles, where a mistake is, what they see of a call."""

import pytest

from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.condition import (
    MAX_DEPTH,
    VARIABLES,
    Condition,
    ConditionError,
    ConditionFailed,
    Facts,
    too_deep,
)

CALL = Call(
    agent="bob-1",
    role="bob",
    tool="pay",
    args={"amount": 5, "to": "ann@example.com", "items": [{"n": 1}, {"n": 2}]},
    crew="trip",
    task="t1",
    depth=2,
    chain=("ann", "carol"),
    cost_microusd=1_500_000,
    at_s=1_795_359_600.0,  # 2026-11-22 15:00:00 UTC, a Sunday
)


@pytest.mark.parametrize(
    "text",
    [
        "hop == 'tool' && agent == 'bob-1' && role == 'bob' && tool == 'pay' && to == ''",
        "args.amount == 5 && args['amount'] < 5.5",
        "args.items.exists(i, i.n == 2) && !args.items.all(i, i.n == 2)",
        "args.items.map(i, i.n) == [1, 2]",
        "has(args.amount) && !has(args.other)",
        "args.?other.orValue('none') == 'none'",
        "args.to.endsWith('@example.com') && args.to.split('@')[0] == 'ann'",
        "args.to.lowerAscii().matches('^[a-z]+@')",
        "depth == 2 && chain[0] == 'ann' && 'carol' in chain",
        "cost_usd > 1.0 && cost_microusd == 1500000",
        "now.getHours() == 15 && now.getDayOfWeek() == 0 && now > timestamp('2026-01-01T00:00:00Z')",
        "crew == 'trip' && task == 't1'",
        "size(args) == 3",
        "type(args.amount) == int",
    ],
)
def test_conditions_see_the_call(text: str):
    assert Condition(text).holds(Facts(CALL)) is True


def test_every_variable_can_be_named():
    for name in VARIABLES:
        assert Condition(f"{name} == {name}").holds(Facts(CALL))


def test_a_role_that_is_not_said_is_the_agent():
    assert Condition("role == 'ann'").holds(Facts(Call(agent="ann")))


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("agrs.path == 'x'", 1, 1, "'agrs' (did you mean 'args'?)"),
        ("tool == 'x' && agrs.a.b == 1", 1, 16, "'agrs'"),
        ("args.path.startWith('x')", 1, 11, "'startWith' (did you mean 'startsWith'?)"),
        ("tool == 3", 1, 6, "== cannot be applied to string, int"),
        ("depth > 'x'", 1, 7, "> cannot be applied to int, string"),
        ("true &&\n  tol == 'x'", 2, 3, "'tol' (did you mean 'tool'?)"),
        ("'é😀' == tol", 1, 9, "'tol'"),
        ("args[", 1, 6, "not CEL"),
        ("", 1, 1, "not CEL"),
        ("1 + 2", 1, 1, "INT"),
        ("args.x", 1, 1, "anything"),
        ("tool", 1, 1, "STRING"),
        ("(" * 40 + "true" + ")" * 40, 1, 1, "deep"),
        ("tool.matches('a') || tool.matches('(?=b)')", 1, 35, "regular expression"),
        ("tool.matches(r'(a)\\1')", 1, 14, "regular expression"),
        ("tool ==\n 'x' && tool.matches( \"[\" )", 2, 23, "regular expression"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, line: int, column: int, message: str):
    with pytest.raises(ConditionError) as caught:
        Condition(text)
    flaw = caught.value.flaws[0]
    assert (flaw.line, flaw.column) == (line, column)
    assert message in flaw.message
    assert flaw.remedy


def test_all_mistakes_of_one_condition_are_told():
    with pytest.raises(ConditionError) as caught:
        Condition("foo == 1 && bar == 2")
    assert [flaw.column for flaw in caught.value.flaws] == [1, 13]


def test_what_looks_like_an_expression_in_a_text_or_comment_is_none():
    assert not Condition("tool == 'x.matches(\"(?=a)\")' // .matches('(?=b)')").holds(Facts(CALL))


@pytest.mark.parametrize(
    "text", ["args.none == 1", "args.to > 5", "1 / (depth - 2) == 1", "args.amount.matches('x')", "args.items[9] == 1"]
)
def test_what_gives_neither_true_nor_false_fails(text: str):
    with pytest.raises(ConditionFailed) as caught:
        Condition(text).holds(Facts(CALL))
    assert "\n" not in str(caught.value)
    assert 0 < len(str(caught.value)) <= 200


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


def test_depth_is_bounded():
    assert not too_deep(nested(MAX_DEPTH // 2))
    assert too_deep(nested(MAX_DEPTH // 2 + 1))
    with pytest.raises(ConditionFailed, match="nested"):
        Facts(Call(agent="a", args={"x": nested(MAX_DEPTH)}))


def test_absurd_times_do_not_escape():
    assert Condition("now > timestamp('2999-01-01T00:00:00Z')").holds(Facts(Call(agent="a", at_s=1e300)))
    assert Condition("now == timestamp('1970-01-01T00:00:00Z')").holds(Facts(Call(agent="a", at_s=-5)))
