"""Ladder: what is done about conduct that goes on, one rung after the other, until it is over.

Detectors say that a condition has begun, goes on, or is over; policy says what the rungs are. How a single action is
carried out is `response`'s.
"""

from collections.abc import Iterable, Mapping

from crewkeeper_supervisor.core.findings import Edge, Finding, FindingKind, Incident
from crewkeeper_supervisor.core.response import note, open_incident, resolve
from crewkeeper_supervisor.core.state import RunState


def found(
    state: RunState,
    kind: FindingKind,
    summary: str,
    agents: Iterable[str],
    *,
    key: str,
    evidence: Mapping[str, str],
    edges: Iterable[Edge] = (),
) -> Incident | None:
    """A condition has begun: an incident is opened and the ladder's first rung taken.

    Args:
        state: The run.
        kind: What was found.
        summary: One sentence for people.
        agents: Whom it is about, the one to act on first.
        key: Tells this condition from others of its kind; while it is open, the same kind and key only counts up.
        evidence: Facts of the journal, as words.
        edges: Waits that belong to it.

    Returns:
        The new incident; None if the condition was open already.
    """
    incident = _open(state, kind, key)
    if incident is not None:
        incident.count += 1
        return None
    finding = Finding(
        id=f"F{state.next_id()}",
        kind=kind,
        at_s=state.now_s,
        seq=state.seq,
        summary=summary[:2000],
        agents=tuple(dict.fromkeys(agents)),
        edges=tuple(edges),
        evidence={"key": key, **evidence},
    )
    return open_incident(state, finding)


def goes_on(state: RunState, kind: FindingKind, key: str, detail: str = "") -> None:
    """A condition that is open was seen again, or still stands: one call for each new piece of evidence.

    Args:
        state: The run.
        kind: What was found.
        key: Which of that kind.
        detail: What is new, for people.
    """
    incident = _open(state, kind, key)
    if incident is None:
        return
    incident.count += 1
    if detail:
        note(state, incident, detail[:300])


def cleared(state: RunState, kind: FindingKind, key: str, why: str) -> None:
    """A condition is over: its incident is resolved."""
    incident = _open(state, kind, key)
    if incident is not None:
        resolve(state, incident, why)


def _open(state: RunState, kind: FindingKind, key: str) -> Incident | None:
    for incident in reversed(state.incidents.values()):
        finding = incident.finding
        if finding.kind == kind and finding.evidence.get("key") == key and incident.state != "resolved":
            return incident
    return None
