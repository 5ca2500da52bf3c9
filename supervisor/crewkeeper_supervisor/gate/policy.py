"""The policy: rules compiled once, and the one function from a call to a decision; it does not read files.

Theory of operation. Rules are considered in their order. A rule that does not name the call's hop, tool, caller or
recipient is passed over. `allow`, `deny` and `approve` decide: the first whose condition holds wins, and without one
the default does. `redact` and `warn` add to the decision wherever they stand, so a permission above cannot switch them
off. A condition that cannot be evaluated denies; that of a warning warns. A rule in shadow mode is reported, and has no
effect whatever it says. A denied call is not considered further.

Deciding reads nothing but the call and the rules, so it is the same everywhere and at any time, except for hooks, whose
code is the operator's.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

from crewkeeper_bus.redaction import CLASSES, KINDS
from crewkeeper_supervisor.core.rules import REDACT_ALL, Rule
from crewkeeper_supervisor.gate.call import (
    Call,
    Considered,
    Decision,
    Explanation,
    Outcome,
    Redaction,
    Shadow,
    Warned,
)
from crewkeeper_supervisor.gate.condition import Condition, ConditionError, ConditionFailed, Facts, Flaw
from crewkeeper_supervisor.gate.name_pattern import matches_any, near
from crewkeeper_supervisor.gate.resource_uri import normal_pattern, plain

VERSION_FORMAT: Final = 1
"""Of what the digest is made of; changes when equal rules would mean something else."""
_DECIDING: Final = frozenset(("allow", "deny", "approve"))
_SCOPES_KEPT: Final = 4096
_BY_ERROR: Final = "a policy rule could not be evaluated"


class HookFailed(Exception):  # noqa: N818 - what happened, not a defect
    """A hook gave no answer: it raised, took too long, or said neither yes nor no."""


class Hooks(Protocol):
    """Who runs Python hooks. An implementation must cut a hook at its deadline, whatever it is doing."""

    def ask(self, hook: str, call: Call, deadline_s: float) -> bool | str:
        """Whether the rule applies; a text is yes, and the reason.

        Raises:
            HookFailed: There is no answer.
        """
        ...


class RuleFlaw(Struct, frozen=True, kw_only=True):
    """Something wrong with a rule: at `key`, for `when` at line and column (from 1) within its text."""

    index: int
    key: str
    message: str
    remedy: str
    kind: Literal["condition", "name", "contradiction", "no effect"]
    line: int = 1
    column: int = 1


class PolicyError(ValueError):
    """Rules do not compile; their author must act.

    Attributes:
        flaws: Everything wrong, in the order of the rules; at least one.
    """

    def __init__(self, flaws: tuple[RuleFlaw, ...]) -> None:
        """Hold them."""
        super().__init__("; ".join(f"rule {flaw.index + 1}: {flaw.key}: {flaw.message}" for flaw in flaws))
        self.flaws = flaws


class _Compiled:
    """A rule with its condition."""

    __slots__ = ("condition", "decides", "resources", "rule")

    def __init__(self, rule: Rule, condition: Condition | None) -> None:
        self.rule = rule
        self.condition = condition
        self.decides = rule.do in _DECIDING
        self.resources = None if rule.to is None else tuple(normal_pattern(each) for each in rule.to)

    def other(self, call: Call) -> str:
        """Why the rule is not about this call; empty when it is. Resources are in the form of `resource_uri.plain`."""
        rule, to = self.rule, self.resources if call.hop == "resource" else self.rule.to
        if rule.hop is not None and rule.hop != call.hop:
            return f"hop is {call.hop}"
        if rule.tools is not None and not (call.hop == "tool" and matches_any(rule.tools, call.tool)):
            return f"tool is {call.tool}" if call.hop == "tool" else f"hop is {call.hop}"
        if rule.agents is not None and not matches_any(rule.agents, call.agent, call.role):
            return f"agent is {call.agent}"
        if to is not None and not (call.hop != "tool" and matches_any(to, call.to, call.to_role)):
            return f"to is {call.to}" if call.hop != "tool" else "hop is tool"
        return ""


class Policy:
    """Compiled rules. Safe to use from several threads; replaced as a whole when the file changes.

    Args:
        rules: In their order.
        default: The decision when no rule makes one.
        hooks: Who runs hooks; without, a rule that has one denies.

    Raises:
        PolicyError: A rule contradicts itself or its condition does not compile.

    Attributes:
        rules: As given.
        version: Digest of rules and default, 32 hexadecimal digits: equal exactly when both are. What a hook does is
            not in it.
    """

    def __init__(
        self, rules: Sequence[Rule], *, default: Literal["allow", "deny"] = "allow", hooks: Hooks | None = None
    ) -> None:
        """Compile."""
        self.rules = tuple(rules)
        self.default: Literal["allow", "deny"] = default
        self.version = _version(self.rules, default)
        self._hooks = hooks
        self._compiled, flaws = _compile(self.rules)
        fatal = tuple(flaw for flaw in flaws if flaw.kind != "no effect")
        if fatal:
            raise PolicyError(fatal)
        self._names = frozenset(name for each in self._compiled if each.condition for name in each.condition.names)
        # Who calls what hardly varies, what they say does: the first is remembered, the second evaluated.
        self._scope = lru_cache(maxsize=_SCOPES_KEPT)(self._select)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook that a rule names, once."""
        return tuple(dict.fromkeys(rule.hook for rule in self.rules if rule.hook))

    def decide(self, call: Call) -> Decision:
        """What becomes of `call`. Never raises for what a call holds: what cannot be evaluated is denied.

        A policy with hooks may block for the sum of their deadlines: call it from a worker thread then.
        """
        call = plain(call)
        selected = self._scope(call.hop, call.tool, call.agent, call.role, call.to, call.to_role)
        return _Deciding(self, call).run(selected, None)

    def never(self, call: Call) -> str:
        """Why no call like this can be allowed, whatever its arguments, its cost and the time; empty: one may be."""
        call = plain(call)
        for each in self._scope(call.hop, call.tool, call.agent, call.role, call.to, call.to_role):
            if not each.decides or each.rule.shadow:
                continue
            if each.rule.do != "deny":
                return ""
            if each.condition is None and not each.rule.hook:
                return each.rule.because or f"rule {each.rule.id} denies it"
        return _unless(self.default)

    def explain(self, call: Call) -> Explanation:
        """The decision on `call`, and what every rule had to do with it."""
        told: list[Considered] = []
        decision = _Deciding(self, plain(call)).run(self._compiled, told)
        return Explanation(decision=decision, rules=tuple(told))

    def _select(self, hop: str, tool: str, agent: str, role: str, to: str, to_role: str) -> tuple[_Compiled, ...]:
        call = Call(hop=hop, tool=tool, agent=agent, role=role, to=to, to_role=to_role)  # type: ignore[arg-type]
        return tuple(each for each in self._compiled if not each.other(call))


class _Deciding:
    """One decision being made."""

    def __init__(self, policy: Policy, call: Call) -> None:
        self.policy = policy
        self.call = call
        self.facts: Facts | None = None
        self.decided: Decision | None = None
        self.redactions: list[Redaction] = []
        self.warnings: list[Warned] = []
        self.shadow: list[Shadow] = []

    def run(self, rules: Sequence[_Compiled], told: list[Considered] | None) -> Decision:
        for each in rules:
            detail: str = ""
            value: bool | None = None
            outcome: Outcome
            if told is not None and (other := each.other(self.call)):
                outcome, detail = "other call", other
            elif self._is_over(each):
                if told is None and self.decided is not None and self.decided.effect == "deny":
                    break
                outcome = "not reached"
            else:
                outcome, value, detail = self._consider(each)
            if told is not None:
                rule = each.rule
                told.append(Considered(rule=rule.id, do=rule.do, outcome=outcome, detail=detail, value=value))
        return self._result()

    def _is_over(self, each: _Compiled) -> bool:
        return self.decided is not None and (each.decides or self.decided.effect == "deny")

    def _consider(self, each: _Compiled) -> tuple[Outcome, bool | None, str]:
        rule, has_condition = each.rule, bool(each.rule.when or each.rule.hook)
        try:
            applies = self._applies(each)
        except (ConditionFailed, HookFailed) as error:
            return self._failed(rule, str(error))
        value = bool(applies) if has_condition else None
        if applies is False:
            return "not so", value, ""
        because = applies if isinstance(applies, str) else rule.because
        if rule.shadow:
            self.shadow.append(Shadow(rule=rule.id, do=rule.do))
            return "shadow", value, f"would {rule.do}"
        if rule.do == "warn":
            self.warnings.append(Warned(rule=rule.id, because=because))
            return "warns", value, because
        if rule.do == "redact":
            what = rule.redact or REDACT_ALL
            self.redactions.append(Redaction(rule=rule.id, what=what))
            return "redacts", value, ", ".join(what)
        self.decided = Decision(effect=rule.do, version=self.policy.version, rule=rule.id, because=because)
        return "decides", value, because

    def _applies(self, each: _Compiled) -> bool | str:
        """Whether the rule's condition and hook hold; a text is yes with a reason."""
        if each.condition is not None:
            if self.facts is None:
                self.facts = Facts(self.call, self.policy._names)
            if not each.condition.holds(self.facts):
                return False
        if not each.rule.hook:
            return True
        if self.policy._hooks is None:
            raise HookFailed(f"nothing runs the hook {each.rule.hook}")
        return self.policy._hooks.ask(each.rule.hook, self.call, each.rule.deadline_s)

    def _failed(self, rule: Rule, error: str) -> tuple[Outcome, bool | None, str]:
        if rule.shadow:
            self.shadow.append(Shadow(rule=rule.id, do=rule.do, error=error))
            return "shadow", None, f"error: {error}"
        if rule.do == "warn":
            self.warnings.append(Warned(rule=rule.id, because=rule.because, error=error))
            return "warns", None, f"error: {error}"
        self.decided = Decision(
            effect="deny", version=self.policy.version, rule=rule.id, because=rule.because or _BY_ERROR, error=error
        )
        return "denies by error", None, error

    def _result(self) -> Decision:
        policy = self.policy
        made = self.decided or Decision(effect=policy.default, version=policy.version, because=_unless(policy.default))
        if not (self.redactions or self.warnings or self.shadow):
            return made
        return msgspec.structs.replace(
            made,
            redactions=() if made.effect == "deny" else tuple(self.redactions),
            warnings=tuple(self.warnings),
            shadow=tuple(self.shadow),
        )


def check(rules: Sequence[Rule]) -> tuple[RuleFlaw, ...]:
    """Everything wrong with the rules, and what is without effect, in their order; empty when they are good."""
    return tuple(_compile(rules)[1])


def _unless(default: str) -> str:
    return "" if default == "allow" else "no rule allows it"


def _version(rules: tuple[Rule, ...], default: str) -> str:
    """Digest of what decides; the order of rules counts, that of keys does not."""
    data = {"format": VERSION_FORMAT, "default": default, "rules": [msgspec.to_builtins(rule) for rule in rules]}
    return hashlib.sha256(msgspec.json.encode(data, order="deterministic")).hexdigest()[:32]


def _compile(rules: Sequence[Rule]) -> tuple[tuple[_Compiled, ...], list[RuleFlaw]]:
    compiled: list[_Compiled] = []
    flaws: list[RuleFlaw] = []
    ids: dict[str, int] = {}
    for index, rule in enumerate(rules):
        flaws += _shape(index, rule)
        first = ids.setdefault(rule.id, index)
        if first != index:
            message = f"rule {first + 1} is named {rule.id!r}, too"
            flaws.append(RuleFlaw(index=index, key="id", message=message, remedy="name it otherwise", kind="name"))
        condition = None
        if rule.when:
            try:
                condition = Condition(rule.when)
            except ConditionError as error:
                flaws += [_at_when(index, flaw) for flaw in error.flaws]
        compiled.append(_Compiled(rule, condition))
    flaws += _unreachable(rules)
    return tuple(compiled), sorted(flaws, key=lambda flaw: flaw.index)


def _at_when(index: int, flaw: Flaw) -> RuleFlaw:
    return RuleFlaw(
        index=index,
        key="when",
        message=flaw.message,
        remedy=flaw.remedy,
        kind="condition",
        line=flaw.line,
        column=flaw.column,
    )


def _shape(index: int, rule: Rule) -> list[RuleFlaw]:
    """Keys of one rule that contradict each other, or that nothing understands."""
    found: list[RuleFlaw] = []

    def add(key: str, message: str, remedy: str, kind: Literal["name", "contradiction", "no effect"]) -> None:
        found.append(RuleFlaw(index=index, key=key, message=message, remedy=remedy, kind=kind))

    if rule.tools is not None and rule.hop not in (None, "tool"):
        add("tools", f"no call on hop {rule.hop} has a tool", "remove tools or hop", "contradiction")
    if rule.to is not None and rule.hop == "tool":
        add(
            "to",
            "a call of a tool goes to no agent or model",
            "remove to, or name the tool under tools",
            "contradiction",
        )
    elif rule.to is not None and rule.tools is not None:
        add("to", "no call has both a tool and a recipient", "make two rules of it", "contradiction")
    if rule.redact and rule.do != "redact":
        add(
            "redact",
            f"a rule that does {rule.do} redacts nothing",
            "write do: redact, in a rule of its own",
            "contradiction",
        )
    for word in rule.redact:
        if not (word in CLASSES or word in KINDS or (word.startswith("args.") and len(word) > len("args."))):
            alike = near(word, (*CLASSES, *KINDS), 1)
            hint = f" (did you mean {alike[0]!r}?)" if alike else ""
            add(
                "redact",
                f"{word!r} is nothing to redact{hint}",
                f"use {', '.join(CLASSES)}, {', '.join(KINDS)}, or args.<path>",
                "name",
            )
    return found


def _unreachable(rules: Sequence[Rule]) -> list[RuleFlaw]:
    """Deciding rules that an earlier one without a condition decides before, for every call they are about."""
    found = []
    certain: list[tuple[int, Rule]] = []
    for index, rule in enumerate(rules):
        if rule.do not in _DECIDING or rule.shadow:
            continue
        before = next((number for number, earlier in certain if _covers(earlier, rule)), None)
        if before is not None:
            message = f"rule {before + 1} ({rules[before].id}) decides every call that this one is about"
            found.append(
                RuleFlaw(index=index, key="do", message=message, remedy="move it up, or remove it", kind="no effect")
            )
        if not rule.when and not rule.hook:
            certain.append((index, rule))
    return found


def _covers(earlier: Rule, later: Rule) -> bool:
    """Whether every call that `later` is about is certainly one that `earlier` is about."""
    later_hop = later.hop or ("tool" if later.tools is not None else None)
    if earlier.hop is not None and earlier.hop != later_hop:
        return False
    for mine, theirs in ((earlier.tools, later.tools), (earlier.agents, later.agents), (earlier.to, later.to)):
        if mine is None:
            continue
        if theirs is None or not all("*" in mine or name in mine for name in theirs):
            return False
    return True
