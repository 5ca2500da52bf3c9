"""Responses of a run as stable data: what was found, what was done about it, what shadow mode left undone."""

from msgspec import Struct

from crewkeeper_supervisor.core.crew import Response, Responses
from crewkeeper_supervisor.core.ladder_state import Counts
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.tables import Table
from crewkeeper_supervisor.views.wording import counted, duration, safe


class ResponseRow(Struct, frozen=True, kw_only=True):
    """One kind of finding: its policy, and what came of it."""

    kind: str
    do: tuple[str, ...]
    climb_s: float
    """0: all of `do` at once."""
    cool_down_s: float
    hold_s: float
    shadow: bool
    found: int
    """Incidents so far."""
    open: int
    did: dict[str, int]
    """How often each action was carried out."""
    would: dict[str, int]
    """How often each action would have been, were it not for shadow mode."""


class HeldRow(Struct, frozen=True, kw_only=True):
    """One agent whose new tool and model calls wait."""

    agent: str
    incident: str
    for_s: float
    """How long still, at most."""
    why: str


class TellingRow(Struct, frozen=True, kw_only=True):
    """How people are told."""

    per_minute: int
    last_minute: int
    withheld: tuple[str, ...]
    """Incidents that the next digest tells of."""


class ResponsesView(Struct, frozen=True, kw_only=True):
    """The responses of one run."""

    run: str
    responses: tuple[ResponseRow, ...]
    held: tuple[HeldRow, ...]
    nudges: dict[str, int]
    """Agents with nudges that their models have not been given yet, as far as is known."""
    escalation: TellingRow
    schema_version: int = SCHEMA_VERSION


def responses(fold: Fold) -> ResponsesView:
    """What was done so far."""
    core = fold.supervisor
    policy = core.crew.responses if core.crew is not None else Responses()
    ladder, now_s = core.ladder, core.now_s
    standing: dict[str, int] = {}
    for incident in core.incidents.values():
        if incident.state != "resolved":
            standing[incident.finding.kind] = standing.get(incident.finding.kind, 0) + 1
    nudges: dict[str, int] = {}
    for owed in ladder.owed.values():
        nudges[owed.agent] = nudges.get(owed.agent, 0) + 1
    told = ladder.escalations
    return ResponsesView(
        run=fold.run,
        responses=tuple(
            _row(kind, getattr(policy, kind), ladder.counts.get(kind, Counts()), standing.get(kind, 0))  # type: ignore[call-overload]
            for kind in policy.__struct_fields__
        ),
        held=tuple(
            HeldRow(agent=agent, incident=each.incident, for_s=round(max(0.0, each.until_s - now_s), 3), why=each.why)
            for agent, holds in core.gate.holds.items()
            for each in holds.values()
        ),
        nudges=nudges,
        escalation=TellingRow(
            per_minute=core.crew.escalations_per_minute if core.crew is not None else 0,
            last_minute=sum(at_s > now_s - 60 for at_s in told.sent_s),
            withheld=tuple(told.withheld),
        ),
    )


def responses_table(view: ResponsesView, *, wide: bool = False) -> Table:
    """Kinds of findings that there were; `wide` has all kinds, with their policy."""
    rows = []
    for row in view.responses:
        if not (wide or row.found):
            continue
        cells = (row.kind, str(row.found), str(row.open), "shadow" if row.shadow else "live")
        more = (
            (" ".join(row.do), duration(row.climb_s) if row.climb_s else "at once", duration(row.cool_down_s))
            if wide
            else ()
        )
        rows.append((*cells, _counted(row.did), _counted(row.would), *more))
    columns = ("KIND", "FOUND", "OPEN", "MODE", "DID", "WOULD HAVE")
    return Table(
        columns=(*columns, "LADDER", "CLIMB", "COOL-DOWN") if wide else columns,
        rows=tuple(rows),
        empty="nothing was found",
    )


def notices(view: ResponsesView) -> list[str]:
    """What stands beside the table: who is held, whose model has yet to read something, who has yet to be told."""
    said = [
        f"{safe(row.agent)} is held by {row.incident} for {duration(row.for_s)} more; "
        f"`supervisor agent resume {view.run} {safe(row.agent)}` lets it go on"
        for row in view.held
    ]
    said += [
        f"{safe(agent)} has {counted(count, 'nudge')} that its model has not read"
        for agent, count in view.nudges.items()
    ]
    if view.escalation.withheld:
        waiting = len(view.escalation.withheld)
        said.append(f"{counted(waiting, 'incident')} wait{'s' * (waiting == 1)} for the next digest")
    return said


def _row(kind: str, policy: Response, counts: Counts, standing: int) -> ResponseRow:
    return ResponseRow(
        kind=kind,
        do=policy.do,
        climb_s=policy.climb_s,
        cool_down_s=policy.cool_down_s,
        hold_s=policy.hold_s,
        shadow=policy.shadow,
        found=counts.found,
        open=standing,
        did=counts.did,
        would=counts.would,
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{action} {count}" for action, count in counts.items()) or "-"
