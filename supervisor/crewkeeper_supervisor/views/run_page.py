"""The full page of one run: how it is, its agents, what they wait for, what was found, and what happened last."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.graph import sentences, wait_graph
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, IncidentRow, RunView, StepRow, snapshot
from crewkeeper_supervisor.views.story import Line
from crewkeeper_supervisor.views.tables import agents_table, budget_text, fitted_lines
from crewkeeper_supervisor.views.wording import ago, count, dollars, safe

LAST_MAX: Final = 10
"""Lines of the story at the end."""


class RunPage(Struct, frozen=True, kw_only=True):
    """One run, whole."""

    run: RunView
    host: str
    owner: str
    """The controller that owns it; empty: none."""
    last: tuple[StepRow, ...]
    """What happened last, oldest first."""
    schema_version: int = SCHEMA_VERSION


def run_page(fold: Fold, lines: Sequence[Line], host: str, owner: str, now_s: float) -> RunPage:
    """The page of a run.

    Args:
        fold: The run.
        lines: Its story, or the end of it.
        host: Where it was declared.
        owner: Who owns it, for people; empty: nobody.
        now_s: The time, for what depends on it.
    """
    told = [line for line in lines if line.weight != "detail"][-LAST_MAX:]
    last = tuple(StepRow(at=line.at, seq=line.seq, text=line.text) for line in told)
    return RunPage(run=snapshot(fold, now_s), host=host, owner=owner, last=last)


def page_lines(page: RunPage, now: datetime, width: int | None = None) -> list[str]:
    """The page as lines of safe text.

    Args:
        page: The page.
        now: The time.
        width: Cells there is room for in a table; None: as many as it takes. Prose is left to the terminal to wrap.
    """
    run = page.run
    usage = run.usage
    spent = f"{count(usage.messages)} messages, {count(usage.input_tokens + usage.output_tokens)} tokens"
    asked = [(each.who, each.asked_at, each.id) for each in run.questions]
    asked += [(each.who, each.asked_at, each.id) for each in run.approvals if each.state == "pending"]
    facts = [
        ("crew", safe(run.crew)),
        ("state", f"{run.state}, began {ago(run.began_at, now)}"),
        ("host", safe(page.host)),
        ("owner", f"{safe(page.owner) or 'nobody: it is not supervised'}, term {run.term}"),
        ("objective", safe(run.objective) or "-"),
        ("usage", f"{spent}, {dollars(usage.cost_usd)}"),
        *(("budget", safe(budget_text(row))) for row in run.budget),
        *(("waits for", f"{safe(who)}, asked {ago(at, now)}: {safe(id_)}") for who, at, id_ in asked),
    ]
    if run.ended:
        facts = [(name, value) for name, value in facts if name != "owner"]
    lines = [f"run {safe(run.run)}", ""]
    lines += [f"  {name.ljust(9)} {value}" for name, value in facts]
    room = None if width is None else max(20, width - 2)
    lines += ["", "Agents", *(f"  {line}" for line in fitted_lines(agents_table(run.agents, now), room))]
    if run.waits:
        lines += ["", "Waits", *(f"  {line}" for line in sentences(wait_graph(run), now))]
    if run.incidents:
        lines += ["", "Incidents"]
        lines += [_incident(each) for each in run.incidents]
    if page.last:
        lines += ["", "Events"]
        lines += [f"  {ago(each.at, now):>9}  #{each.seq} {each.text}" for each in page.last]
    return lines


def _incident(row: IncidentRow) -> str:
    often = f", {row.count} times" if row.count > 1 else ""
    return f"  {row.id} {row.kind} {row.state}{often}: {safe(row.summary)}"
