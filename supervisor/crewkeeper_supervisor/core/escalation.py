"""Escalation: people are told of incidents, one by one while they are few, and of the others in one digest.

So many a minute of journal time are told of one by one. From the first beyond that on, every further one joins the
digest, which is sent when one more may be told: nobody is woken a hundred times, and none is left out.
"""

from typing import Any, Final, Literal

from msgspec import to_builtins

from crewkeeper_supervisor.core import pace
from crewkeeper_supervisor.core.acts import Act
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.ladder_state import DIGESTS_MAX, Event
from crewkeeper_supervisor.core.state import RunState

MINUTE_S: Final = 60.0
SHOWN_MAX: Final = 40
"""Incidents of a digest that are described; the others are named."""
SUMMARY_MAX_CHARS: Final = 160
DIGEST_MAX: Final = 900
"""Incidents in one digest: with so many it is sent at once, so that it fits into a request."""
DIGESTED_MAX: Final = 1000


def has_receivers(state: RunState) -> bool:
    """Whether anybody is there to be told."""
    return state.crew is not None and bool(state.crew.escalate)


def tell(
    state: RunState, incident: Incident, kind: Event, body: dict[str, Any], *, first: bool = False
) -> Literal["told", "digest"]:
    """Tell people of an incident, now or in the next digest.

    Args:
        state: The run, which has receivers.
        incident: What they are told of.
        kind: What is told; all but that it is over counts against the cap.
        body: What they are told.
        first: Whether they have not been told of it before.
    """
    told = state.ladder.escalations
    if kind == "resolved":
        return _tell_the_end(state, incident, body)
    if incident.id in told.withheld:
        return "digest"  # it has not been sent, and will say how it stands
    if told.due_s is not None or not _has_room(state):
        _withhold(state, incident, "opened" if first else kind)
        return "digest"
    told.sent_s.append(state.now_s)
    state.escalate(incident.id, kind, body)
    return "told"


def _tell_the_end(state: RunState, incident: Incident, body: dict[str, Any]) -> Literal["told", "digest"]:
    told = state.ladder.escalations
    alone = was_told_alone(state, incident.id)
    if not alone and incident.id in told.withheld:
        told.digested.pop(incident.id, None)
        return "digest"  # it has not been sent, and will say so
    told.withheld.pop(incident.id, None)
    if not alone:
        del told.digested[incident.id]
        _withhold(state, incident, "resolved")
        return "digest"
    state.escalate(incident.id, "resolved", body)
    return "told"


def was_told_alone(state: RunState, incident: str) -> bool:
    """Whether people were told of an incident by a message of its own, and not only, or yet, by a digest."""
    told = state.ladder.escalations
    return told.withheld.get(incident, "unresolved") == "unresolved" and incident not in told.digested


def watch(state: RunState) -> None:
    """Send the digest if its time has come."""
    due_s = state.ladder.escalations.due_s
    if due_s is not None and due_s <= state.now_s:
        flush(state)


def flush(state: RunState) -> None:
    """Send what is withheld now, if anything is."""
    told = state.ladder.escalations
    withheld, told.withheld, told.due_s = told.withheld, {}, None
    if not withheld:
        return
    told.sent_s.append(state.now_s)
    _forget_old(state)
    for id_, kind in withheld.items():
        incident = state.incidents.get(id_)
        if kind == "opened" and (incident is None or incident.state != "resolved"):
            told.digested[id_] = None
    while len(told.digested) > DIGESTED_MAX:
        del told.digested[next(iter(told.digested))]
    sent = state.escalate("", "digest", _digest(state, withheld))
    told.digests[sent] = tuple(withheld)
    if len(told.digests) > DIGESTS_MAX:
        del told.digests[next(iter(told.digests))]


def _has_room(state: RunState) -> bool:
    _forget_old(state)
    return len(state.ladder.escalations.sent_s) < _per_minute(state)


def _forget_old(state: RunState) -> None:
    sent_s = state.ladder.escalations.sent_s
    while sent_s and (sent_s[0] <= state.now_s - MINUTE_S or len(sent_s) > _per_minute(state)):
        sent_s.popleft()


def _per_minute(state: RunState) -> int:
    assert state.crew is not None
    return state.crew.escalations_per_minute


def _withhold(state: RunState, incident: Incident, kind: Event) -> None:
    told = state.ladder.escalations
    told.withheld[incident.id] = kind
    if told.due_s is None:
        told.due_s = (state.now_s if _has_room(state) else told.sent_s[0]) + MINUTE_S
        state.due_s.arm("ladder", told.due_s)
    if len(told.withheld) >= DIGEST_MAX:
        flush(state)


def _digest(state: RunState, withheld: dict[str, Event]) -> dict[str, Any]:
    """Every incident by kind; the first of them with their summaries."""
    crew = state.crew
    by_kind: dict[str, list[str]] = {}
    shown: list[dict[str, str]] = []
    for id_, event in withheld.items():
        incident = state.incidents.get(id_)
        kind = incident.finding.kind if incident is not None else "forgotten"
        by_kind.setdefault(kind, []).append(id_)
        if incident is not None and len(shown) < SHOWN_MAX:
            summary = incident.finding.summary[:SUMMARY_MAX_CHARS]
            shown.append({"incident": id_, "kind": kind, "event": event, "state": incident.state, "summary": summary})
    kinds = ", ".join(f"{len(ids)} {kind}" for kind, ids in by_kind.items())
    return {
        "kind": "incidents",
        "run": state.run,
        "crew": crew.name if crew is not None else "",
        "objective": crew.objective[:500] if crew is not None else "",
        "summary": f"{len(withheld)} incidents beyond {_per_minute(state)} escalations a minute: {kinds}",
        "count": len(withheld),
        "ids": by_kind,
        "incidents": shown,
        "cost": pace.told(state),
        "can": [to_builtins(Act(do="acknowledge"))],
        "look": f"supervisor incidents ls {state.run}",
    }
