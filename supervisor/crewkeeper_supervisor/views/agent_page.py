"""The full page of one agent: what it is, what it does, whom it waits for and who waits for it."""

from datetime import datetime

from msgspec import Struct

from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, AgentRow, EdgeRow, IncidentRow, snapshot
from crewkeeper_supervisor.views.wording import ago, count, dollars, duration, safe


class AgentPage(Struct, frozen=True, kw_only=True):
    """One agent, whole."""

    run: str
    agent: AgentRow
    command: tuple[str, ...]
    why: str
    """Why it is held or was ended, and what the server said; empty if it is neither."""
    may_call: tuple[str, ...] | None
    """Roles it may call; none: any."""
    may_tell: tuple[str, ...]
    """Roles it may send one-way messages to besides."""
    reentrant: str
    mailbox: int
    restart: str
    """`transient, at most 3 restarts in 60 s, 5 s to stop`."""
    log: str
    """Path of its log on the machine of its host."""
    waits: tuple[EdgeRow, ...]
    waited_for_by: tuple[EdgeRow, ...]
    incidents: tuple[IncidentRow, ...]
    at: datetime | None
    schema_version: int = SCHEMA_VERSION


def agent_page(fold: Fold, agent: AgentView, log: str) -> AgentPage:
    """The page of one of the fold's agents."""
    view = snapshot(fold)
    spec = agent.spec
    policy = spec.restart
    return AgentPage(
        run=fold.run,
        agent=next(row for row in view.agents if row.name == agent.name),
        command=spec.run,
        why=_why(agent),
        may_call=spec.may_call,
        may_tell=spec.may_tell,
        reentrant=spec.reentrant,
        mailbox=spec.mailbox,
        restart=f"{policy.policy}, at most {policy.intensity} restarts in {policy.period_s:g} s, "
        f"{policy.shutdown_s:g} s to stop",
        log=log,
        waits=tuple(edge for edge in view.waits if edge.agent == agent.name),
        waited_for_by=tuple(edge for edge in view.waits if agent.name in edge.agents and edge.agent != agent.name),
        incidents=tuple(row for row in view.incidents if agent.name in row.agents),
        at=view.last_at,
    )


def _why(agent: AgentView) -> str:
    if agent.ending is not None:
        return "; ".join(text for text in (agent.ending.why, agent.ending.why_so) if text)
    if agent.hold is not None:
        return "; ".join(text for text in (agent.hold.why, agent.hold.detail) if text)
    return ""


def page_lines(page: AgentPage, now: datetime) -> list[str]:
    """The page as lines of safe text."""
    row = page.agent
    usage = row.usage
    role = f" ({safe(row.role)})" if row.role != row.name else ""
    command = safe(" ".join(page.command)) or ("started elsewhere" if row.external else "-")
    spent = (
        f"{count(usage.messages)} messages, {count(usage.calls)} calls, {count(usage.input_tokens)} tokens in, "
        f"{count(usage.output_tokens)} out, {dollars(usage.cost_usd)}"
    )
    facts = [
        ("status", f"{row.status}, {f'{row.confinement}, ' if row.confinement else ''}seen {ago(row.last_seen, now)}"),
        *([("because", safe(page.why))] if page.why else []),
        *([("ignored", f"{count(row.throttled)} entries: more than it may send")] if row.throttled else []),
        ("process", f"{row.pid or '-'}, {row.restarts} restarts"),
        ("command", command),
        ("restart", page.restart),
        ("slots", f"{row.concurrency}, reentrant: {page.reentrant}, mailbox {page.mailbox}"),
        ("may call", _reach(page)),
        ("work", f"{row.tasks} tasks, {row.queued} calls queued"),
        ("progress", safe(row.progress) or "-"),
        ("usage", spent),
        ("log", safe(page.log)),
    ]
    lines = [f"{safe(row.name)}{role} in run {safe(page.run)}", ""]
    lines += [f"  {name.ljust(9)} {value}" for name, value in facts]
    for title, edges in (("Waits", page.waits), ("Waited for by", page.waited_for_by)):
        if edges:
            lines += ["", title]
            lines += [
                f"  {'✗ ' if edge.deadlocked else ''}{safe(edge.text)}, "
                f"for {duration((now - edge.since).total_seconds())}"
                for edge in edges
            ]
    if page.incidents:
        lines += ["", "Incidents"]
        lines += [f"  {each.id} {each.kind} {each.state}: {safe(each.summary)}" for each in page.incidents]
    return lines


def _reach(page: AgentPage) -> str:
    if page.may_call is None:
        return "anybody"
    told = f", and tell {safe(', '.join(page.may_tell))}" if page.may_tell else ""
    return (safe(", ".join(page.may_call)) or "nobody") + told
