"""Tests of a policy: a call and what must become of it, tried without running anything."""

from typing import Any

from msgspec import Struct

from crewkeeper_supervisor.core.rules import Verdict
from crewkeeper_supervisor.gate.call import Call, Decision
from crewkeeper_supervisor.gate.cleaning import clean
from crewkeeper_supervisor.gate.policy import Policy


class Trial(Struct, frozen=True, kw_only=True):
    """One test. None is not checked."""

    name: str
    call: Call
    expect: Verdict
    rule: str | None = None
    warns: tuple[str, ...] | None = None
    redacted: dict[str, Any] | None = None
    """The arguments after redaction without a key, so that placeholders are `[redacted:kind]`."""
    line: int = 0
    """Where it stands in its file, from 1."""


class TrialResult(Struct, frozen=True, kw_only=True):
    """What a test gave: passed when there are no `problems`."""

    name: str
    decision: Decision
    problems: tuple[str, ...] = ()
    line: int = 0


def try_out(policy: Policy, trial: Trial) -> TrialResult:
    """Decide on the test's call and compare."""
    decision = policy.decide(trial.call)
    problems = []
    if decision.effect != trial.expect:
        by = f"rule {decision.rule}" if decision.rule else "the default"
        why = f": {decision.error}" if decision.error else ""
        problems.append(f"expected {trial.expect}, got {decision.effect} by {by}{why}")
    if trial.rule is not None and decision.rule != trial.rule:
        problems.append(f"expected rule {trial.rule} to decide, not {decision.rule or 'the default'}")
    warned = tuple(each.rule for each in decision.warnings)
    if trial.warns is not None and sorted(warned) != sorted(trial.warns):
        problems.append(f"expected warnings of {_names(trial.warns)}, got {_names(warned)}")
    if trial.redacted is not None:
        after, _ = clean(trial.call.args, decision.redactions)
        if after != trial.redacted:
            problems.append(f"expected the arguments {trial.redacted} after redaction, got {after}")
    return TrialResult(name=trial.name, decision=decision, problems=tuple(problems), line=trial.line)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nobody"
