"""The page of an explanation: what led to it, by which rule, upon what, what was decided, and what followed."""

from typing import Any, Final

import msgspec

from crewkeeper_supervisor.views.budget import budget_table
from crewkeeper_supervisor.views.graph import sentences, wait_graph
from crewkeeper_supervisor.views.incident import ring_text
from crewkeeper_supervisor.views.snapshot import IncidentRow
from crewkeeper_supervisor.views.tables import plain_lines
from crewkeeper_supervisor.views.why import Decided, Told, Why
from crewkeeper_supervisor.views.wording import duration, safe

SHOWN_MAX: Final = 12
VALUE_CHARS: Final = 160


def page(why: Why) -> list[str]:
    """The page as lines of safe text."""
    began = why.then.view.began_at
    since = "" if began is None else f", {duration((why.at - began).total_seconds())} after the start"
    lines = [f"{_title(why)}: {safe(why.state)}", f"  entry {why.seq} of run {safe(why.run)}{since}"]
    if why.finding is not None:
        lines.append(f"  {safe(why.finding.summary, None)}")
        if why.finding.victim is not None:
            lines.append(f"  victim {safe(why.finding.victim.task)}: {safe(why.finding.victim.why, None)}")
    if why.causes:
        lines += ["", "What led to it", *_told(why.causes, why)]
    lines += _rule(why)
    if why.inputs:
        width = max(len(safe(name)) for name in why.inputs)
        lines += ["", "Decided upon"]
        lines += [f"  {safe(name).ljust(width)}  {_value(value)}" for name, value in why.inputs.items()]
    lines += _findings(why)
    lines += _decisions(why)
    lines += _then(why)
    if why.followed:
        lines += ["", "What followed", *_told(why.followed, why)]
        if why.more:
            lines.append(f"  … and {why.more} entries more")
    return lines


def _title(why: Why) -> str:
    if why.kind == "finding" and why.finding is not None:
        return f"{why.finding.kind.replace('_', ' ').upper()} {safe(why.target)}"
    return f"{why.kind} {safe(why.target)}"


def _told(told: list[Told], why: Why) -> list[str]:
    began = why.then.view.began_at
    shown = told if len(told) <= 2 * SHOWN_MAX else [*told[:SHOWN_MAX], *told[-SHOWN_MAX:]]
    lines = []
    for each in shown:
        after = "" if began is None else f" +{duration((each.at - began).total_seconds())}"
        lines.append(f"  #{each.seq}{after}  {safe(each.text)}")
    if len(shown) < len(told):
        lines.insert(SHOWN_MAX, f"  … {len(told) - len(shown)} entries")
    return lines


def _rule(why: Why) -> list[str]:
    if not why.rule and not why.policy:
        return []
    lines = ["", "By what rule"]
    if why.rule:
        lines.append(f"  {safe(why.rule, None)}")
    if why.policy:
        lines.append(f"  policy version {safe(why.policy)}")
    return lines


def _value(value: Any) -> str:
    return safe(value if isinstance(value, str) else msgspec.json.encode(value).decode(), VALUE_CHARS)


def _findings(why: Why) -> list[str]:
    if not why.findings:
        return []
    return ["", "Findings", *(f"  {_finding(row)}" for row in why.findings[-SHOWN_MAX:])]


def _finding(row: IncidentRow) -> str:
    what = ring_text(row) if row.kind == "deadlock" else safe(row.summary, VALUE_CHARS)
    return f"{row.state:8}  {row.kind.replace('_', ' ')} {row.id}: {what}"


def _decisions(why: Why) -> list[str]:
    if not why.decisions:
        return ["", "Decided", "  nothing"]
    total = sum(why.counts.values())
    lines = ["", f"Decided ({total})" if total > 1 else "Decided"]
    shown = why.decisions[-SHOWN_MAX:] if why.kind in ("agent", "run") else why.decisions[: 2 * SHOWN_MAX]
    if total > len(shown):
        counted = ", ".join(f"{count} {safe(kind)}" for kind, count in why.counts.items())
        lines.append(f"  in all {counted}; {'the last' if why.kind in ('agent', 'run') else 'the first'} {len(shown)}:")
    for each in shown:
        lines += _decision(each)
    return lines


def _decision(decided: Decided) -> list[str]:
    record = f"record {decided.record} of the ledger" if decided.record else "not in the ledger"
    durable = record if decided.decision.durable else "not one to be recorded"
    lines = [f"  #{decided.seq}  {decided.decision.text()} ({durable})"]
    if decided.because:
        lines.append(f"      {safe(decided.because)}")
    if decided.rule:
        lines.append(f"      rule {safe(decided.rule)}, policy {safe(decided.policy[:12])}")
    if decided.by:
        lines.append(f"      approved by {safe(decided.by)} ({safe(decided.approval)})")
    return lines


def _then(why: Why) -> list[str]:
    then = why.then
    at = then.at or why.at
    when = "Now" if why.kind in ("agent", "run") else "At that moment"
    lines = ["", f"{when}: waits", *(f"  {line}" for line in sentences(wait_graph(then.view), at))]
    table = budget_table(then.budgets)
    if table.rows:
        lines += ["", f"{when}: budgets", *(f"  {line}" for line in plain_lines(table))]
    return lines
