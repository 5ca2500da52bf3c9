"""Snapshots: the state of a fold as frozen structs, the stable shape behind `-o json` and every table.

Times are UTC (ISO-8601 in JSON), money is exact dollars (a decimal string in JSON), spans are seconds. A change that
is not a pure addition raises `SCHEMA_VERSION`.
"""

from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct, field

from crewkeeper_supervisor.core.findings import Edge, Finding, Incident
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.wording import moment, money

SCHEMA_VERSION: Final = 1


class UsageRow(Struct, frozen=True, kw_only=True):
    """What was spent, as the agents reported it, and what they published."""

    messages: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal


class AgentRow(Struct, frozen=True, kw_only=True):
    """One agent now."""

    name: str
    role: str
    status: str
    external: bool
    pid: int
    restarts: int
    last_seen: datetime | None
    concurrency: int
    tasks: int
    """Tasks alive."""
    queued: int
    """Calls it has received and not started."""
    waits_for: tuple[str, ...]
    """Agents that block it, each once."""
    wait_kinds: tuple[str, ...]
    """Kinds of its open waits, each once: they tell what it waits for where that is no agent."""
    waiting_since: datetime | None
    """When the oldest of its open waits began."""
    progress: str
    usage: UsageRow
    confinement: str = ""
    """`pausing`, `held` (by the server), `resuming`, `ending`, or what is known of its end: `terminated`,
    `still talking`, `end unknown`; empty: nothing of it."""
    throttled: int = 0
    """Entries of it that were counted and not read."""


class EdgeRow(Struct, frozen=True, kw_only=True):
    """One open wait."""

    task: str
    agent: str
    waits_for: tuple[str, ...]
    agents: tuple[str, ...]
    kind: str
    message: str
    epoch: int
    since: datetime
    text: str
    deadlocked: bool
    """Whether it belongs to a deadlock that is not resolved."""


class StepRow(Struct, frozen=True, kw_only=True):
    """One line of an incident's timeline."""

    at: datetime
    seq: int
    text: str


class VictimRow(Struct, frozen=True, kw_only=True):
    """The one wait that was failed, and why that one."""

    task: str
    agent: str
    epoch: int
    why: str
    policy: str
    price: int
    """What failing it was reckoned to cost, in tokens."""
    candidates: int
    spared: tuple[str, ...]
    """Tasks that were to be chosen last."""


class IncidentRow(Struct, frozen=True, kw_only=True):
    """One incident, whole."""

    run: str
    id: str
    kind: str
    state: str
    summary: str
    at: datetime
    resolved_at: datetime | None
    agents: tuple[str, ...]
    ring: tuple[str, ...]
    """Deadlock: agents in waiting order, the first repeated at the end; empty where the waits are not one ring."""
    count: int
    shadow: bool
    timed: bool
    suspected: bool
    """Not confirmed: somebody does not answer. Nothing is failed on that."""
    closed: int
    """Deadlock: how often its ring has closed lately, this time included."""
    actions: tuple[str, ...]
    victim: VictimRow | None
    edges: tuple[EdgeRow, ...]
    core: tuple[tuple[str, ...], ...]
    tail: tuple[str, ...]
    evidence: dict[str, str]
    steps: tuple[StepRow, ...]
    seq: int
    schema_version: int = SCHEMA_VERSION


class QuestionRow(Struct, frozen=True, kw_only=True):
    """One open question to people."""

    run: str
    id: str
    agent: str
    who: str
    text: str
    asked_at: datetime
    schema_version: int = SCHEMA_VERSION


class ApprovalRow(Struct, frozen=True, kw_only=True):
    """One approval."""

    name: str
    """`<run>.<approval>`: unique among runs."""
    run: str
    id: str
    state: str
    """`pending`, `approved`, `denied`, `expired` or `cancelled`; each is one thing alone."""
    agent: str
    tool: str
    who: str
    asked_at: datetime
    expires_at: datetime
    cost_usd: Decimal
    by: str
    reason: str
    decided_at: datetime | None
    schema_version: int = SCHEMA_VERSION


class BudgetRow(Struct, frozen=True, kw_only=True):
    """One limit of the crew and how much of it is used, in the unit that `what` names."""

    what: str
    used: Decimal
    limit: Decimal


class RunView(Struct, frozen=True, kw_only=True):
    """One run now."""

    run: str
    crew: str
    objective: str
    state: str
    seq: int
    """Journal sequence it stands at."""
    term: int
    began_at: datetime | None
    last_at: datetime | None
    """Journal time of the newest entry."""
    agents: tuple[AgentRow, ...]
    waits: tuple[EdgeRow, ...]
    incidents: tuple[IncidentRow, ...]
    questions: tuple[QuestionRow, ...]
    approvals: tuple[ApprovalRow, ...]
    usage: UsageRow
    budget: tuple[BudgetRow, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.state in ("done", "failed", "stopped")

    @property
    def open_incidents(self) -> tuple[IncidentRow, ...]:
        """Incidents that are not resolved."""
        return tuple(row for row in self.incidents if row.state != "resolved")


class Listing(Struct, frozen=True, kw_only=True):
    """A list of rows as one JSON document."""

    items: list[Struct] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION


def ring(finding: Finding) -> tuple[str, ...]:
    """Agents of a deadlock in waiting order, the first repeated at the end; empty where it is not one plain ring.

    It begins with the victim where there is one.
    """
    if not finding.core:
        return ()
    members = finding.core[0]
    targets: dict[str, dict[str, None]] = {}
    for edge in finding.edges:
        targets.setdefault(edge.task, {}).update(dict.fromkeys(task for task in edge.waits_for if task in members))
    start = finding.victim.task if finding.victim is not None and finding.victim.task in members else members[0]
    path, task = [start], start
    while True:
        onward = targets.get(task, {})
        if len(onward) != 1:
            return ()
        task = next(iter(onward))
        if task == start:
            break
        if task in path:
            return ()
        path.append(task)
    if len(path) != len(members):
        return ()
    names = [
        name for step, name in enumerate(_agent(task) for task in path) if step == 0 or name != _agent(path[step - 1])
    ]
    if len(names) > 1 and names[-1] == names[0]:
        names.pop()
    return (*names, names[0])


def _agent(task: str) -> str:
    return task.partition("/")[0]


def _edge_row(edge: Edge, deadlocked: bool) -> EdgeRow:
    return EdgeRow(
        task=edge.task,
        agent=edge.agent,
        waits_for=edge.waits_for,
        agents=edge.agents,
        kind=edge.kind,
        message=edge.message,
        epoch=edge.epoch,
        since=moment(edge.since_s),
        text=edge.text,
        deadlocked=deadlocked,
    )


def incident_row(run: str, incident: Incident) -> IncidentRow:
    """One incident as it stands."""
    finding = incident.finding
    victim = finding.victim
    blamed = {task for group in finding.core for task in group}
    return IncidentRow(
        run=run,
        id=incident.id,
        kind=finding.kind,
        state=incident.state,
        summary=finding.summary,
        at=moment(finding.at_s),
        resolved_at=None if incident.resolved_at_s is None else moment(incident.resolved_at_s),
        agents=finding.agents,
        ring=ring(finding),
        count=incident.count,
        shadow=incident.shadow,
        timed=finding.timed,
        suspected=finding.suspected,
        closed=incident.closed,
        actions=tuple(incident.actions),
        victim=None if victim is None else VictimRow(**msgspec.structs.asdict(victim)),
        edges=tuple(_edge_row(edge, edge.task in blamed) for edge in finding.edges),
        core=finding.core,
        tail=finding.tail,
        evidence=finding.evidence,
        steps=tuple(StepRow(at=moment(step.at_s), seq=step.seq, text=step.text) for step in incident.steps),
        seq=finding.seq,
    )


def deadlocked_waits(supervisor: Supervisor) -> set[tuple[str, int]]:
    """The waits (task, epoch) of every deadlock that is not resolved."""
    return {
        (edge.task, edge.epoch)
        for incident in supervisor.incidents.values()
        if incident.finding.kind == "deadlock" and incident.state != "resolved" and not incident.finding.suspected
        for edge in incident.finding.edges
        if any(edge.task in group for group in incident.finding.core)
    }


def _usage_row(usage: object) -> UsageRow:
    def number(name: str) -> int:
        return int(getattr(usage, name))

    return UsageRow(
        messages=number("messages"),
        calls=number("calls"),
        input_tokens=number("input_tokens"),
        output_tokens=number("output_tokens"),
        cost_usd=money(number("cost_microusd")),
    )


def _agent_row(agent: AgentView, waits: list[EdgeRow]) -> AgentRow:
    mine = [edge for edge in waits if edge.agent == agent.name]
    return AgentRow(
        name=agent.name,
        role=agent.role,
        status=str(agent.status),
        external=agent.external,
        pid=agent.pid,
        restarts=agent.restarts,
        last_seen=moment(agent.last_seen_s) if agent.last_seen_s else None,
        concurrency=agent.concurrency,
        tasks=len(agent.tasks),
        queued=agent.queued,
        waits_for=tuple(dict.fromkeys(name for edge in mine for name in edge.agents)),
        wait_kinds=tuple(dict.fromkeys(edge.kind for edge in mine)),
        waiting_since=min((edge.since for edge in mine), default=None),
        progress=agent.progress,
        usage=_usage_row(agent.usage),
        confinement=_confinement(agent),
        throttled=agent.throttled,
    )


def _confinement(agent: AgentView) -> str:
    if agent.ending is not None:
        known = {"": "ending", "still_talking": "still talking", "unknown": "end unknown"}
        return known.get(agent.ending.outcome, agent.ending.outcome)
    if agent.hold is None or (agent.hold.step == "asked" and agent.status == "paused"):
        return ""
    return {"held": "held", "freeing": "resuming"}.get(agent.hold.step, "pausing")


def _budget_rows(fold: Fold, usage: UsageRow, now_s: float) -> tuple[BudgetRow, ...]:
    crew = fold.supervisor.crew
    if crew is None:
        return ()
    limits, wall_s = fold.supervisor.gate.accounts.crew.limit, fold.supervisor.limit_of("", "wall_s")
    rows = []
    if (microusd := limits.get("microusd")) is not None:
        rows.append(BudgetRow(what="usd", used=usage.cost_usd, limit=money(microusd)))
    if (tokens := limits.get("tokens")) is not None:
        used = usage.input_tokens + usage.output_tokens
        rows.append(BudgetRow(what="tokens", used=Decimal(used), limit=Decimal(tokens)))
    if (messages := limits.get("messages")) is not None:
        rows.append(BudgetRow(what="messages", used=Decimal(usage.messages), limit=Decimal(messages)))
    if wall_s is not None:
        spent_s = 0.0 if fold.began_at_s is None else max(0.0, now_s - fold.began_at_s)
        rows.append(BudgetRow(what="wall_s", used=Decimal(f"{spent_s:.1f}"), limit=Decimal(str(wall_s))))
    return tuple(rows)


def approval_row(run: str, approval: Approval, now_s: float) -> ApprovalRow:
    """One approval as it stands at a time, seconds since the Unix epoch."""
    expired = approval.state == "pending" and now_s >= approval.expires_at_s
    decided_at_s = approval.decided_at_s
    return ApprovalRow(
        name=f"{run}.{approval.id}",
        run=run,
        id=approval.id,
        # Without a controller nobody writes into the journal that its time is over.
        state="expired" if expired else approval.state,
        agent=approval.agent,
        tool=approval.tool,
        who=approval.who,
        asked_at=moment(approval.asked_at_s),
        expires_at=moment(approval.expires_at_s),
        cost_usd=money(approval.cost_microusd),
        by=approval.by,
        reason=approval.reason,
        decided_at=None if decided_at_s is None else moment(decided_at_s),
    )


def snapshot(fold: Fold, now_s: float | None = None) -> RunView:
    """The run as it stands.

    Args:
        fold: The folded journal.
        now_s: Seconds since the Unix epoch, for the wall-time budget; None: the newest entry's time. A run that is
            over is always measured at its newest entry.
    """
    supervisor = fold.supervisor
    blocked = deadlocked_waits(supervisor)
    waits = [_edge_row(edge, (edge.task, edge.epoch) in blocked) for edge in supervisor.waits()]
    usage = _usage_row(supervisor.usage)
    crew = supervisor.crew
    measured_s = fold.measured_s(now_s)
    return RunView(
        run=fold.run,
        crew="" if crew is None else crew.name,
        objective="" if crew is None else crew.objective,
        state=str(supervisor.state),
        seq=supervisor.seq,
        term=supervisor.term,
        began_at=None if fold.began_at_s is None else moment(fold.began_at_s),
        last_at=None if fold.began_at_s is None else moment(fold.last_at_s),
        agents=tuple(_agent_row(agent, waits) for agent in supervisor.agents.values()),
        waits=tuple(waits),
        incidents=tuple(incident_row(fold.run, incident) for incident in supervisor.incidents.values()),
        questions=tuple(
            QuestionRow(
                run=fold.run,
                id=question.id,
                agent=question.agent,
                who=question.who,
                text=question.text,
                asked_at=moment(question.asked_at_s),
            )
            for question in supervisor.questions.values()
        ),
        approvals=tuple(approval_row(fold.run, each, measured_s) for each in supervisor.gate.approvals.values()),
        usage=usage,
        budget=_budget_rows(fold, usage, measured_s),
    )
