"""A moment of a run: crew, waits, budgets and open findings as they stood at one entry of the journal; two compared."""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from crewkeeper_supervisor.views.budget import BudgetView, budget_table, budgets
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.graph import sentences, wait_graph
from crewkeeper_supervisor.views.incident import ring_text
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, IncidentRow, RunView, snapshot
from crewkeeper_supervisor.views.tables import agents_table, plain_lines
from crewkeeper_supervisor.views.wording import duration, safe


class Moment(Struct, frozen=True, kw_only=True):
    """Everything a view knows of a run at one entry."""

    view: RunView
    budgets: BudgetView
    policy: str
    """Version of the policy in force; empty: none was needed yet."""
    digest: str
    """Of the core's state."""
    schema_version: int = SCHEMA_VERSION

    @property
    def at(self) -> datetime | None:
        """Journal time."""
        return self.view.last_at


class Change(Struct, frozen=True, kw_only=True):
    """One thing that is different at a later moment."""

    what: str
    """`run`, `policy`, `agent`, `wait`, `finding`, `approval`, `budget`."""
    name: str
    before: str
    """Empty: it was not there."""
    after: str
    """Empty: it is not there any more."""


def moment_of(fold: Fold) -> Moment:
    """The moment that a fold has reached."""
    rules = fold.supervisor.gate.rules
    return Moment(
        view=snapshot(fold),
        budgets=budgets(fold),
        policy="" if rules is None else rules.version,
        digest=fold.supervisor.digest(),
    )


def page(moment: Moment) -> list[str]:
    """A moment as lines of safe text."""
    view, at = moment.view, moment.at
    if at is None or view.began_at is None:
        return [f"run {safe(view.run)}: nothing was recorded yet"]
    since = duration((at - view.began_at).total_seconds())
    where = f"at entry {view.seq}, {since} after its start ({at.isoformat(timespec='milliseconds')})"
    lines = [
        f"run {safe(view.run)} of crew {safe(view.crew)} {where}: {view.state}",
        "",
        *plain_lines(agents_table(view.agents, at)),
        "",
        "Waits",
        *(f"  {line}" for line in sentences(wait_graph(view), at)),
        "",
        "Budgets",
        *_indented(plain_lines(budget_table(moment.budgets)), budget_table(moment.budgets).empty),
        "",
        "Open findings",
        *_indented([_finding(row) for row in view.open_incidents], "none"),
    ]
    pending = [row for row in view.approvals if row.state == "pending"]
    if pending or view.questions:
        lines += ["", "People are asked"]
        lines += [
            f"  {safe(row.who)}: may {safe(row.agent)} call {safe(row.tool)!r}? ({safe(row.id)})" for row in pending
        ]
        lines += [f"  {safe(row.who)}: {safe(row.text)} ({safe(row.id)})" for row in view.questions]
    if moment.policy:
        lines += ["", f"policy {moment.policy}"]
    return lines


def _indented(lines: list[str], empty: str) -> list[str]:
    return [f"  {line}" for line in lines or [empty]]


def _finding(row: IncidentRow) -> str:
    what = ring_text(row) if row.kind == "deadlock" else safe(row.summary, 160)
    return f"{row.kind.replace('_', ' ')} {row.id}: {what}"


def changes(before: Moment, after: Moment) -> list[Change]:
    """What is different at the later moment, in the order of the page."""
    was, now = before.view, after.view
    found = [
        *_compared("run", {now.run: was.state}, {now.run: now.state}),
        *_compared("policy", {"version": before.policy}, {"version": after.policy}),
        *_compared("agent", _agents(was), _agents(now)),
        *_compared("wait", _waits(was), _waits(now)),
        *_compared("finding", _findings(was), _findings(now)),
        *_compared("approval", *({row.id: row.state for row in each.approvals} for each in (was, now))),
        *_compared("budget", _spent(before.budgets), _spent(after.budgets)),
    ]
    return [change for change in found if change.before != change.after]


def _compared(what: str, before: dict[str, str], after: dict[str, str]) -> Iterable[Change]:
    for name in dict.fromkeys([*before, *after]):
        yield Change(what=what, name=name, before=before.get(name, ""), after=after.get(name, ""))


def _agents(view: RunView) -> dict[str, str]:
    return {
        row.name: ", ".join(
            part
            for part in (
                row.status,
                row.confinement,
                f"{row.tasks} tasks",
                f"{row.queued} queued",
                f"{row.usage.messages} messages",
                safe(row.progress, 60),
            )
            if part
        )
        for row in view.agents
    }


def _waits(view: RunView) -> dict[str, str]:
    return {f"{row.task}#{row.epoch}": safe(row.text) + (" (deadlock)" if row.deadlocked else "") for row in view.waits}


def _findings(view: RunView) -> dict[str, str]:
    return {row.id: f"{row.state}: {_finding(row)}" for row in view.incidents}


def _spent(view: BudgetView) -> dict[str, str]:
    accounts = {"crew": view.crew, **view.agents, **view.tasks}
    return {
        f"{who} {dimension}": f"{row.settled + row.over} spent, {row.held} held"
        + (f", limit {row.limit}" if row.limit is not None else "")
        for who, dimensions in accounts.items()
        for dimension, row in dimensions.items()
    }


def change_lines(before: Moment, after: Moment) -> list[str]:
    """The differences as lines of safe text."""
    found = changes(before, after)
    lines = [f"from entry {before.view.seq} to entry {after.view.seq} of run {safe(after.view.run)}"]
    if not found:
        return [*lines, "  nothing that is shown has changed"]
    for change in found:
        name = f"{change.what} {safe(change.name)}"
        if not change.before:
            lines.append(f"  + {name}: {change.after}")
        elif not change.after:
            lines.append(f"  - {name}: {change.before}")
        else:
            lines.append(f"  ~ {name}: {change.before} -> {change.after}")
    return lines
