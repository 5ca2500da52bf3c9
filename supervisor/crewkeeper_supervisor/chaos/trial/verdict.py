"""Verdict: what was seen against what was expected: pass, fail or vacuous, with a sentence for everything that is not.

A run proves nothing about an expectation whose anchor never happened, about a fault that had no effect, or about an
action that was never done: then it is vacuous, which is no pass.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct, field

from crewkeeper_supervisor.chaos.plan.scenario import Action, Expectation, Fault, Scenario
from crewkeeper_supervisor.chaos.trial.events import Sighting, Span, matches

Word = Literal["pass", "fail", "vacuous", "skipped", "unhealed"]
SLACK_S: Final = 1e-6


class Struck(Struct, kw_only=True):
    """One fault as it was injected. Times since the crew began."""

    index: int
    do: str
    target: str
    at_s: float
    end_s: float | None = None
    fired: int = 0
    why: str = ""
    """What kept it from being injected."""


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was checked, and what came of it."""

    what: str
    line: int
    word: Word
    detail: str = ""


class Observed(Struct, kw_only=True):
    """Everything that a played scenario left to judge. Times are since the crew began."""

    seen: list[Sighting]
    anchors: dict[str, float]
    struck: list[Struck]
    metrics: list[tuple[str, dict[str, Any], int]]
    """(metric, fields, how much), to be added up."""
    unsteady: list[str]
    """What did not hold before the first fault or after the last."""
    unhealed: list[str]
    """Faults that could not be undone."""
    left_out: list[int] = field(default_factory=list)
    """Faults that did not strike because the run was made small, by their numbers."""
    undone: dict[int, str] = field(default_factory=dict)
    """Why actions were not done, by their numbers."""
    spans: list[Span]
    last_words: dict[str, str] = field(default_factory=dict)
    """Of agents whose process failed: the last error in their log."""
    end_s: float


class Verdict(Struct, frozen=True, kw_only=True):
    """The outcome of one run."""

    word: Word
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> list[Check]:
        """Everything that is not a pass."""
        return [check for check in self.checks if check.word != "pass"]


def judge(scenario: Scenario, observed: Observed) -> Verdict:
    """The verdict of one run."""
    checks = [_steady(observed)]
    checks += [_fault(fault, observed) for fault in scenario.faults]
    checks += [_action(action, observed) for action in scenario.actions]
    checks += [_expected(each, scenario, observed) for each in scenario.expect]
    checks += [_never(each, observed) for each in scenario.never]
    checks += _invariants(observed)
    words = Counter(check.word for check in checks)
    word: Word = "pass"
    if words["fail"]:
        word = "fail"
    elif words["vacuous"]:
        word = "vacuous"
    if observed.unhealed:
        word = "unhealed"
        checks += [Check(what="rollback", line=0, word="unhealed", detail=text) for text in observed.unhealed]
    return Verdict(word=word, checks=tuple(checks))


def _steady(observed: Observed) -> Check:
    detail = "; ".join(observed.unsteady)
    return Check(what="steady state", line=0, word="fail" if detail else "pass", detail=detail)


def _fault(fault: Fault, observed: Observed) -> Check:
    struck = [each for each in observed.struck if each.index == fault.index]
    what = f"fault {fault.name}: {fault.do} {fault.target}"
    if not struck and fault.index in observed.left_out:
        return Check(what=what, line=0, word="pass", detail="left out: the run fails without it")
    if not struck:
        return Check(what=what, line=0, word="vacuous", detail=f"not injected: {_not_due(fault, observed)}")
    fired = sum(each.fired for each in struck)
    if not fired:
        where = ", ".join(dict.fromkeys(each.target for each in struck))
        why = "; ".join(dict.fromkeys(each.why for each in struck if each.why))
        detail = f"not injected: {why}" if why else f"injected into {where} and had no effect{beside(struck, observed)}"
        return Check(what=what, line=0, word="vacuous", detail=detail)
    return Check(what=what, line=0, word="pass", detail=f"fired {fired}")


def beside(struck: list[Struck], observed: Observed) -> str:
    """Which other faults worked on the same things at the same time, and may have left nothing to do; empty: none."""
    names = {
        f"fault {other.index} ({other.do})": None
        for each in struck
        for other in observed.struck
        if other.fired and other.index != each.index and other.target == each.target and _meet(each, other)
    }
    return f" beside {', '.join(names)}" if names else ""


def _meet(one: Struck, other: Struck) -> bool:
    end_s, other_end_s = (math.inf if each.end_s is None else each.end_s for each in (one, other))
    return one.at_s < other_end_s and other.at_s < end_s


def _action(action: Action, observed: Observed) -> Check:
    what = f"action {action.index}: {action.do} {action.agent}".rstrip()
    if f"action.{action.index}" in observed.anchors:
        return Check(what=what, line=0, word="pass")
    why = observed.undone.get(action.index) or _not_due(action, observed)
    return Check(what=what, line=0, word="vacuous", detail=f"not done: {why}")


def _not_due(planned: Fault | Action, observed: Observed) -> str:
    if planned.after not in observed.anchors:
        return f"{planned.after} never happened"
    return "the run was over before it was due"


def _invariants(observed: Observed) -> list[Check]:
    broken = [each for each in observed.seen if each.event == "violation"]
    return [
        Check(
            what=f"invariant: {each.fields['invariant']}", line=0, word="fail", detail=str(each.fields.get("text", ""))
        )
        for each in broken[:5]
    ]


def said(each: Expectation) -> str:
    """An expectation in a few words."""
    where = " ".join(f"{key}={_shown(value)}" for key, value in each.where.items())
    bounds = [
        text
        for value, text in (
            (each.count, f"exactly {each.count}"),
            (each.least, f"at least {each.least}"),
            (each.most, f"at most {each.most}"),
            (each.within_s, f"within {each.within_s:g} s of {each.after}" if each.within_s else ""),
        )
        if value is not None
    ]
    if each.within_s is None and each.after not in ("", "start"):
        bounds.append(f"after {each.after}")
    return " ".join(part for part in (each.event or each.metric, where, ", ".join(bounds)) if part)


def _shown(value: Any) -> str:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def _expected(each: Expectation, scenario: Scenario, observed: Observed) -> Check:
    what = said(each)
    if each.metric:
        amount = sum(
            much for name, fields, much in observed.metrics if name == each.metric and matches(fields, each.where)
        )
        return Check(what=what, line=each.line, word=_bounded(each, amount), detail=f"was {amount}")
    from_s = observed.anchors.get(each.after)
    if from_s is None:
        return Check(what=what, line=each.line, word="vacuous", detail=f"{each.after} never happened")
    if _had_no_effect(each.after, scenario, observed):
        return Check(what=what, line=each.line, word="vacuous", detail=f"{each.after} had no effect")
    matching = [one for one in observed.seen if one.event == each.event and matches(one.fields, each.where)]
    until_s = observed.end_s if each.within_s is None else from_s + each.within_s
    inside = [one for one in matching if from_s - SLACK_S <= one.at_s <= until_s + SLACK_S]
    word = _bounded(each, len(inside), least=1)
    return Check(what=what, line=each.line, word=word, detail=_told(inside, matching, from_s, observed))


def _had_no_effect(anchor: str, scenario: Scenario, observed: Observed) -> bool:
    """Whether an anchor is a fault that touched nothing: what comes after it then proves nothing."""
    if not anchor.startswith("fault."):
        return False
    name = anchor.split(".")[1]
    indexes = {fault.index for fault in scenario.faults if name in (fault.name, str(fault.index))}
    return not any(each.fired for each in observed.struck if each.index in indexes)


def _bounded(each: Expectation, amount: int, least: int | None = None) -> Word:
    if each.count is not None:
        return "pass" if amount == each.count else "fail"
    low = each.least if each.least is not None else (least if each.most is None else None)
    if low is not None and amount < low:
        return "fail"
    return "fail" if each.most is not None and amount > each.most else "pass"


def _told(inside: Sequence[Sighting], matching: Sequence[Sighting], from_s: float, observed: Observed) -> str:
    if inside:
        first = inside[0].at_s - from_s
        return (
            f"seen {len(inside)} times, first after {first:.3f} s" if len(inside) > 1 else f"seen after {first:.3f} s"
        )
    outside = [one for one in matching if one not in inside]
    if outside:
        return f"seen only outside of its time, at {outside[0].at_s - from_s:+.3f} s"
    return f"not seen in {observed.end_s:.1f} s"


def _never(each: Expectation, observed: Observed) -> Check:
    what = f"never {said(each)}"
    from_s = -1e9
    if each.after:
        if each.after not in observed.anchors:
            return Check(what=what, line=each.line, word="vacuous", detail=f"{each.after} never happened")
        from_s = observed.anchors[each.after] - SLACK_S
    found = [
        one
        for one in observed.seen
        if one.event == each.event and one.at_s >= from_s and matches(one.fields, each.where)
    ]
    if not found:
        return Check(what=what, line=each.line, word="pass")
    fields = " ".join(f"{key}={_shown(value)}" for key, value in found[0].fields.items())
    return Check(what=what, line=each.line, word="fail", detail=f"seen at {found[0].at_s:.3f} s: {fields}")
