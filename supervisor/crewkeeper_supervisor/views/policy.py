"""The policy of a run as it is now: its rules, and how often each has done what."""

from typing import Any

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.wording import safe


class RuleView(Struct, frozen=True, kw_only=True):
    """One rule, and what it did; in shadow `would deny` and the like."""

    id: str
    do: str
    shadow: bool
    about: dict[str, Any]
    """What the rule says beside that."""
    applied: dict[str, int]


class PolicyView(Struct, frozen=True, kw_only=True):
    """The rules in force."""

    run: str
    version: str
    closed: str
    """Why no call is let through; empty: that is not so."""
    default: str
    rules: tuple[RuleView, ...]
    by_default: dict[str, int]
    """Calls on which no rule decided."""
    schema_version: int = SCHEMA_VERSION


def policy_view(fold: Fold) -> PolicyView:
    """The rules of a run at the end of its journal."""
    gate = fold.supervisor.gate
    in_force = gate.prepared()
    rows = []
    for rule in gate.in_force:
        about = {
            key: value
            for key, value in msgspec.to_builtins(rule).items()
            if key not in ("id", "do", "shadow", "deadline_s") and value not in (None, "", [], ())
        }
        done = {effect: count for (name, effect), count in gate.applied.items() if name == rule.id}
        rows.append(RuleView(id=rule.id, do=rule.do, shadow=rule.shadow, about=about, applied=done))
    return PolicyView(
        run=fold.run,
        version=in_force.version if in_force is not None else "",
        closed="" if in_force is not None else gate.closed,
        default=gate.default,
        rules=tuple(rows),
        by_default={effect: count for (name, effect), count in gate.applied.items() if name == "default"},
    )


def page(view: PolicyView) -> list[str]:
    """The view as lines of safe text."""
    lines = [f"{safe(view.run)}: policy version {view.version or 'none'}, otherwise {view.default}"]
    if view.closed:
        lines.append(f"the gate is shut: {safe(view.closed)}")
    width = max((len(safe(rule.id)) for rule in view.rules), default=0)
    for rule in view.rules:
        about = "; ".join(f"{key} {_shown(value)}" for key, value in rule.about.items())
        shadow = " in shadow" if rule.shadow else ""
        lines.append(f"  {safe(rule.id).ljust(width)}  {rule.do}{shadow}{f': {safe(about)}' if about else ''}")
        lines.append(f"  {' ' * width}  {_done(rule.applied)}")
    lines.append(f"  no rule: {_done(view.by_default)}")
    return lines


def _shown(value: Any) -> str:
    return ", ".join(str(each) for each in value) if isinstance(value, list | tuple) else str(value)


def _done(applied: dict[str, int]) -> str:
    return ", ".join(f"{effect} {count} times" for effect, count in applied.items()) or "not once"
