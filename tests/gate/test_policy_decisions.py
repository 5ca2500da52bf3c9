"""What rules decide: order, scope, errors, shadow, hooks, versions."""

from collections.abc import Sequence
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.call import Call, Decision, Redaction, Shadow, Warned
from crewkeeper_supervisor.gate.policy import HookFailed, Policy, PolicyError, check


def rule(do: str, **keys: object) -> Rule:
    return msgspec.convert({"id": "r", "do": do, **keys}, Rule)


def rules(*given: Rule) -> list[Rule]:
    """With ids by position: r1, r2 …"""
    return [msgspec.structs.replace(each, id=f"r{number}") for number, each in enumerate(given, 1)]


def decide(given: Sequence[Rule], call: Call | None = None, **options) -> Decision:
    policy = Policy(given, **options)
    call = call or Call(agent="ann", tool="pay", args={"amount": 5})
    decision = policy.decide(call)
    assert decision == policy.decide(call), "the same call is decided alike"
    assert decision == policy.explain(call).decision, "explaining decides like deciding"
    return decision


def effect(*given: Rule, call: Call | None = None) -> tuple[str, str]:
    decision = decide(rules(*given), call)
    return decision.effect, decision.rule


def test_without_rules_the_default_holds():
    assert decide([]).effect == "allow"
    denied = decide([], default="deny")
    assert (denied.effect, denied.rule) == ("deny", "")
    assert denied.because


@pytest.mark.parametrize("order", list(permutations(["allow", "deny", "approve"])))
def test_the_first_that_decides_wins(order: tuple[str, ...]):
    assert effect(*(rule(do) for do in order)) == (order[0], "r1")


def test_a_condition_that_is_false_leaves_it_to_the_next():
    assert effect(rule("deny", when="args.amount > 10"), rule("approve", when="args.amount > 1")) == ("approve", "r2")


@pytest.mark.parametrize(
    ("keys", "applies"),
    [
        ({}, True),
        ({"tools": ["pay"]}, True),
        ({"tools": ["p*y"]}, True),
        ({"tools": ["*"]}, True),
        ({"tools": ["pa"]}, False),
        ({"tools": ["Pay"]}, False),
        ({"tools": ["search", "pay"]}, True),
        ({"agents": ["ann"]}, True),
        ({"agents": ["payer"]}, True),
        ({"agents": ["bob"]}, False),
        ({"hop": "tool"}, True),
        ({"hop": "agent"}, False),
        ({"to": ["*"]}, False),
        ({"hop": "tool", "tools": ["pay"], "agents": ["a*"]}, True),
        ({"tools": ["pay"], "agents": ["bob"]}, False),
    ],
)
def test_a_rule_is_about_the_calls_that_it_names(keys: dict[str, object], applies: bool):
    call = Call(agent="ann", role="payer", tool="pay")
    assert effect(rule("deny", **keys), call=call) == (("deny", "r1") if applies else ("allow", ""))


@pytest.mark.parametrize(
    ("keys", "call", "applies"),
    [
        ({"to": ["bob"]}, Call(agent="ann", hop="agent", to="bob"), True),
        ({"to": ["worker"]}, Call(agent="ann", hop="agent", to="worker-2", to_role="worker"), True),
        ({"to": ["worker"]}, Call(agent="ann", hop="agent", to="worker-2"), False),
        ({"hop": "model", "to": ["openai/*"]}, Call(agent="ann", hop="model", to="openai/gpt-4o"), True),
        ({"hop": "agent", "to": ["*"]}, Call(agent="ann", hop="model", to="openai/gpt-4o"), False),
        ({"tools": ["*"]}, Call(agent="ann", hop="agent", to="bob"), False),
        # Nameless does not slip through a rule about everything.
        ({"tools": ["*"]}, Call(agent="ann", hop="tool"), True),
        ({"hop": "model", "to": ["*"]}, Call(agent="ann", hop="model"), True),
    ],
)
def test_recipients_are_named_like_callers(keys: dict[str, object], call: Call, applies: bool):
    assert effect(rule("deny", **keys), call=call)[0] == ("deny" if applies else "allow")


BAD = "args.missing == 1"


@pytest.mark.parametrize("do", ["allow", "deny", "approve", "redact"])
def test_a_condition_that_cannot_be_evaluated_denies(do: str):
    decision = decide(rules(rule(do, when=BAD, because="the reason"), rule("allow")))
    assert (decision.effect, decision.rule, decision.because) == ("deny", "r1", "the reason")
    assert "missing" in decision.error


@pytest.mark.parametrize(
    "args",
    [
        {"amount": "5"},
        {"amount": None},
        {"amount": 2**70},
        {"amount": {"a": 1}},
        {},
        {"amount": object()},
        {"amount": 1, "x": "\ud800"},
    ],
)
def test_what_the_engine_does_not_take_denies(args: dict[str, object]):
    decision = decide(rules(rule("allow", when="args.amount < 10 && args.x != 'y'")), Call(agent="ann", args=args))
    assert (decision.effect, bool(decision.error)) == ("deny", True)


def test_towers_of_arguments_deny_and_harm_nobody():
    tower: list[object] = []
    for _ in range(200_000):
        tower = [tower]
    decision = Policy(rules(rule("allow", when="args.x == args.x"))).decide(Call(agent="ann", args={"x": tower}))
    assert decision.effect == "deny"
    assert "nested" in decision.error
    while tower:  # freed level by level: the interpreter's own recursion has a limit, too
        tower = tower[0]  # type: ignore[assignment]


def test_too_much_work_denies():
    loops = "args.x.all(a, args.x.all(b, args.x.all(c, args.x.all(d, true))))"
    decision = decide(rules(rule("allow", when=loops)), Call(agent="ann", args={"x": list(range(200))}))
    assert (decision.effect, "budget" in decision.error) == ("deny", True)


def test_a_hostile_text_costs_linear_time():
    evil = Call(agent="ann", args={"x": "a" * 50_000 + "!"})
    assert decide(rules(rule("deny", when="args.x.matches('^(a+)+$')")), evil).effect == "allow"


def test_a_warning_that_cannot_be_evaluated_warns():
    decision = decide(rules(rule("warn", when=BAD), rule("approve")))
    assert (decision.effect, decision.rule) == ("approve", "r2")
    (warned,) = decision.warnings
    assert (warned.rule, "missing" in warned.error) == ("r1", True)


def test_redactions_and_warnings_apply_wherever_they_stand():
    above = rules(rule("allow"), rule("redact"), rule("redact", redact=["email"]), rule("warn", because="look"))
    decision = decide(above)
    assert decision.redactions == (
        Redaction(rule="r2", what=("secrets", "personal")),
        Redaction(rule="r3", what=("email",)),
    )
    assert decision.warnings == (Warned(rule="r4", because="look"),)
    assert decide(rules(rule("redact"), rule("approve"))).redactions


def test_a_redaction_that_fails_undoes_a_permission():
    assert effect(rule("allow"), rule("redact", when=BAD)) == ("deny", "r2")


def test_nothing_goes_on_with_a_denied_call():
    decision = decide(rules(rule("redact"), rule("deny"), rule("redact", when=BAD), rule("warn")))
    assert (decision.effect, decision.rule, decision.redactions, decision.warnings) == ("deny", "r2", (), ())


def test_shadow_rules_are_told_and_not_enforced():
    decision = decide(
        rules(
            rule("deny", shadow=True), rule("redact", shadow=True), rule("deny", when=BAD, shadow=True), rule("approve")
        )
    )
    assert (decision.effect, decision.rule, decision.redactions) == ("approve", "r4", ())
    first, second, third = decision.shadow
    assert (first, second) == (Shadow(rule="r1", do="deny"), Shadow(rule="r2", do="redact"))
    assert (third.rule, third.do, "missing" in third.error) == ("r3", "deny", True)


DO = st.sampled_from(["allow", "deny", "approve", "redact", "warn"])
WHEN = st.sampled_from(["", "true", "false", "args.n > 1", "args.s == 'x'", BAD])
SCOPE = st.sampled_from(
    [{}, {"tools": ["pay"]}, {"tools": ["s*"]}, {"agents": ["ann"]}, {"hop": "agent"}, {"to": ["bob"]}]
)
RULES = st.lists(
    st.tuples(DO, WHEN, SCOPE, st.booleans()).map(lambda t: rule(t[0], when=t[1], shadow=t[3], **t[2])), max_size=6
).map(lambda given: rules(*given))
CALLS = st.builds(
    Call,
    agent=st.sampled_from(["ann", "bob"]),
    hop=st.sampled_from(["tool", "agent", "model"]),
    tool=st.sampled_from(["", "pay", "search"]),
    to=st.sampled_from(["", "bob"]),
    args=st.fixed_dictionaries({}, optional={"n": st.integers(0, 3), "s": st.sampled_from(["x", "y"])}),
)


@settings(max_examples=300, deadline=None)
@given(given_rules=RULES, call=CALLS)
def test_shadow_rules_change_nothing_but_the_report(given_rules: list[Rule], call: Call):
    whole = decide(given_rules, call)
    without = decide([each for each in given_rules if not each.shadow], call)
    assert msgspec.structs.replace(whole, shadow=(), version="") == msgspec.structs.replace(without, version="")
    assert without.shadow == ()


@settings(max_examples=300, deadline=None)
@given(given_rules=RULES, call=CALLS)
def test_only_a_permission_or_the_default_permits(given_rules: list[Rule], call: Call):
    decision = decide(given_rules, call, default="deny")
    by_id = {each.id: each for each in given_rules}
    if decision.effect != "deny":
        decided = by_id[decision.rule]
        assert (decided.do, decided.shadow) == (decision.effect, False)
    if decision.error:
        assert decision.effect == "deny"


@settings(max_examples=200, deadline=None)
@given(given_rules=RULES, call=CALLS, extra=WHEN)
def test_a_denial_put_first_never_permits_more(given_rules: list[Rule], call: Call, extra: str):
    before = decide(given_rules, call)
    after = decide([rule("deny", id="first", when=extra), *given_rules], call)
    assert after.effect == "deny" or after.effect == before.effect


class Hooked:
    """Hooks that answer what they are told, or fail."""

    def __init__(self, answer: bool | str | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, float]] = []

    def ask(self, hook: str, call: Call, deadline_s: float) -> bool | str:
        self.asked.append((hook, deadline_s))
        if self.answer is None:
            raise HookFailed("it took too long")
        return self.answer


def test_a_hook_says_whether_its_rule_applies():
    hooked = rules(rule("deny", hook="m:f", deadline_s=0.5, because="by hook"))
    assert decide(hooked, hooks=Hooked(True)).because == "by hook"
    assert decide(hooked, hooks=Hooked("its own reason")).because == "its own reason"
    assert decide(hooked, hooks=Hooked(False)).effect == "allow"
    failed = decide(rules(rule("allow", hook="m:f")), hooks=Hooked(None))
    assert (failed.effect, failed.error) == ("deny", "it took too long")
    nobody = decide(rules(rule("allow", hook="m:f")))
    assert (nobody.effect, "m:f" in nobody.error) == ("deny", True)


def test_a_hook_is_asked_only_when_the_condition_holds():
    hooks = Hooked(True)
    assert decide(rules(rule("deny", hook="m:f", when="args.amount > 100")), hooks=hooks).effect == "allow"
    assert hooks.asked == []
    assert Policy(rules(rule("deny", hook="m:f"), rule("warn", hook="m:f"))).hook_names == ("m:f",)


def test_the_version_is_of_what_decides():
    one = rules(rule("deny", tools=["a"]), rule("allow", when="true"))
    same = rules(rule("deny", tools=["a"]), rule("allow", when="true"))
    assert Policy(one).version == Policy(same).version
    assert len(Policy(one).version) == 32
    others = [
        list(reversed(one)),
        one[:1],
        rules(rule("deny", tools=["b"]), rule("allow", when="true")),
        rules(rule("deny", tools=["a"], shadow=True), rule("allow", when="true")),
        rules(rule("deny", tools=["a"], because="x"), rule("allow", when="true")),
    ]
    versions = {Policy(each).version for each in others} | {Policy(one, default="deny").version}
    assert len(versions) == 6
    assert Policy(one).version not in versions


def test_explaining_tells_of_every_rule():
    given_rules = rules(
        rule("deny", tools=["x"]),
        rule("warn", when="args.amount > 1", because="look"),
        rule("deny", when="args.amount > 10"),
        rule("approve", shadow=True),
        rule("allow", when="args.amount < 10"),
        rule("deny"),
        rule("redact"),
    )
    told = Policy(given_rules).explain(Call(agent="ann", tool="pay", args={"amount": 5}))
    assert [(each.rule, each.outcome, each.value) for each in told.rules] == [
        ("r1", "other call", None),
        ("r2", "warns", True),
        ("r3", "not so", False),
        ("r4", "shadow", None),
        ("r5", "decides", True),
        ("r6", "not reached", None),
        ("r7", "redacts", None),
    ]
    assert told.rules[0].detail == "tool is pay"


@pytest.mark.parametrize(
    ("given_rules", "kinds"),
    [
        ([rule("deny", when="agrs.x")], ["condition"]),
        ([rule("deny", tools=["a"], hop="agent")], ["contradiction"]),
        ([rule("deny", to=["a"], hop="tool")], ["contradiction"]),
        ([rule("deny", to=["a"], tools=["b"])], ["contradiction"]),
        ([rule("deny", redact=["email"])], ["contradiction"]),
        ([rule("redact", redact=["emial", "args."])], ["name", "name"]),
        ([rule("deny", id="x"), rule("redact", id="x")], ["name"]),
        ([rule("deny", id="x", when="1"), rule("redact", id="y", when="2")], ["condition", "condition"]),
    ],
)
def test_everything_wrong_with_rules_is_told_at_once(given_rules: list[Rule], kinds: list[str]):
    assert [flaw.kind for flaw in check(given_rules)] == kinds
    with pytest.raises(PolicyError) as caught:
        Policy(given_rules)
    assert [flaw.kind for flaw in caught.value.flaws] == kinds


@pytest.mark.parametrize(
    ("earlier", "later", "covered"),
    [
        ({}, {"tools": ["x"]}, True),
        ({"tools": ["*"]}, {"tools": ["x"]}, True),
        ({"tools": ["x", "y"]}, {"tools": ["y"]}, True),
        ({"tools": ["x"]}, {"tools": ["x", "y"]}, False),
        ({"tools": ["x"]}, {}, False),
        ({"hop": "tool"}, {"tools": ["x"]}, True),
        ({"hop": "tool"}, {}, False),
        ({"when": "true"}, {}, False),
        ({"shadow": True}, {}, False),
        ({"hook": "m:f"}, {}, False),
        ({"do": "warn"}, {}, False),
    ],
)
def test_a_rule_that_can_never_decide_is_told(earlier: dict[str, object], later: dict[str, object], covered: bool):
    given_rules = rules(rule(**{"do": "allow", **earlier}), rule("deny", **later))  # type: ignore[arg-type]
    found = check(given_rules)
    assert [(flaw.index, flaw.kind) for flaw in found] == ([(1, "no effect")] if covered else [])
    Policy(given_rules)
