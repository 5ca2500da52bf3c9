"""Approvals for people: rows, one approval as a page, and what came of a decision; it looks and never decides.

Tools, arguments and reasons come from agents and strangers: they are shown made safe, and without what looks like a
secret. The digest is always that of the real action.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell.approval_desk import Taken
from crewkeeper_supervisor.shell.approval_form import arguments
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, ApprovalRow, approval_row
from crewkeeper_supervisor.views.tables import Table, build_table
from crewkeeper_supervisor.views.wording import ago, dollars, duration, safe

LINE_MAX_CHARS: Final = 2000
_ENDS: Final = {"approve": "approved", "deny": "denied"}


class ApprovalPage(Struct, frozen=True, kw_only=True):
    """One approval, whole."""

    approval: ApprovalRow
    call: str
    task: str
    """What of the agent asks; empty once the call is over."""
    arguments: str
    """Indented JSON, secrets replaced."""
    digest: str
    """SHA-256 over run, agent, call, tool, arguments and policy version."""
    policy: str
    rule: str
    because: str
    waiting: tuple[str, ...]
    """Who waits for the decision, directly or behind the agent; one sentence each."""
    schema_version: int = SCHEMA_VERSION


class DecisionResult(Struct, frozen=True, kw_only=True):
    """What came of a decision."""

    run: str
    approval: str
    decision: str
    outcome: str
    """`approved` or `denied`: this decision counted. `late`: another did, or none could. `unknown`: not known."""
    ok: bool
    """Whether it counted and was passed on."""
    why: str
    now: ApprovalPage
    schema_version: int = SCHEMA_VERSION


def approval_rows(fold: Fold, now_s: float) -> list[ApprovalRow]:
    """All approvals of a run that are remembered, oldest first."""
    return [approval_row(fold.run, each, now_s) for each in fold.supervisor.gate.approvals.values()]


def approvals_table(rows: Sequence[ApprovalRow], now: datetime, *, wide: bool = False) -> Table:
    """One line an approval."""
    heads = (
        ("APPROVAL", False),
        ("RUN", False),
        ("STATE", False),
        ("AGENT", False),
        ("TOOL", False),
        ("FOR", False),
        ("COST", False),
        ("ASKED", False),
        ("LEFT", False),
        ("BY", True),
        ("REASON", True),
    )
    cells = [
        (
            safe(row.id),
            safe(row.run),
            row.state,
            safe(row.agent),
            safe(row.tool, 60),
            safe(row.who, 60),
            dollars(row.cost_usd),
            ago(row.asked_at, now),
            duration((row.expires_at - now).total_seconds()) if row.state == "pending" else "",
            safe(row.by, 60),
            safe(row.reason, 120),
        )
        for row in rows
    ]
    return build_table(heads, cells, wide=wide, empty="nothing waits for a person's approval")


def approval_page(core: Supervisor, run: str, approval: Approval, now_s: float) -> ApprovalPage:
    """One approval with everything that there is to know before deciding."""
    call = core.gate.open.get((approval.agent, approval.call))
    waits = core.waits() if approval.state == "pending" else []
    own = [edge for edge in waits if edge.agent == approval.agent]
    behind = [edge for edge in waits if edge.agent != approval.agent and approval.agent in edge.agents]
    return ApprovalPage(
        approval=approval_row(run, approval, now_s),
        call=approval.call,
        task=call.task if call is not None else "",
        arguments=arguments(approval),
        digest=approval.digest,
        policy=approval.policy,
        rule=approval.rule,
        because=approval.because,
        waiting=tuple(dict.fromkeys(edge.text for edge in (*own, *behind)))[:50],
    )


def page_lines(page: ApprovalPage, now: datetime) -> list[str]:
    """The page in lines of text."""
    row = page.approval
    left = f", in {duration((row.expires_at - now).total_seconds())}" if row.state == "pending" else ""
    facts = [
        ("state", f"{row.state}{_by(row)}"),
        ("run", row.run),
        ("agent", f"{row.agent}{f', task {page.task}' if page.task else ''}, call {page.call}"),
        ("tool", row.tool),
        ("cost", dollars(row.cost_usd)),
        ("for", row.who),
        ("because", page.because or "-"),
        ("rule", page.rule or "-"),
        ("policy", page.policy or "-"),
        ("asked", f"{row.asked_at:%Y-%m-%d %H:%M:%S}Z, {ago(row.asked_at, now)}"),
        ("expires", f"{row.expires_at:%Y-%m-%d %H:%M:%S}Z{left}"),
        ("digest", page.digest),
    ]
    lines = [f"approval {safe(row.id)}", *(f"  {name:<8} {safe(value, LINE_MAX_CHARS)}" for name, value in facts)]
    lines.append("  arguments")
    lines += [f"    {safe(line, LINE_MAX_CHARS)}" for line in page.arguments.splitlines()]
    if page.waiting:
        lines += ["  waiting", *(f"    {safe(text)}" for text in page.waiting)]
    if row.state == "pending":
        lines.append(f"  decide   supervisor approvals approve|deny {safe(row.run)} {safe(row.id)} --reason TEXT")
    return lines


def _by(row: ApprovalRow) -> str:
    return f"{f' by {row.by}' if row.by else ''}{f': {row.reason}' if row.reason else ''}"


def decided(page: ApprovalPage, decision: str, taken: Taken) -> DecisionResult:
    """What came of a decision, with the approval as it stands now."""
    return DecisionResult(
        run=page.approval.run,
        approval=page.approval.id,
        decision=decision,
        outcome=_ENDS[decision] if taken.outcome == "decided" else taken.outcome,
        ok=taken.outcome == "decided" and taken.acted,
        why=taken.why,
        now=page,
    )


def decided_lines(result: DecisionResult) -> list[str]:
    """The result in lines of text."""
    row = result.now.approval
    what = f"{safe(row.agent)}'s call of {safe(row.tool)!r}"
    return [f"{safe(result.approval)}: {result.outcome}: {what}: {safe(result.why, LINE_MAX_CHARS)}"]
