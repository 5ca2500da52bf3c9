"""Escalation: people are told of incidents, one by one while they are few, and of the others in one digest.

So many a minute of journal time are told of one by one. From the first beyond that on, every further one joins the
digest, which is sent when one more may be told: nobody is woken a hundred times, and none is left out. Warnings have
half of the places in a minute at most, so that any number of them leaves room for what is severe; while a digest is
due, one place is its own. A digest is over when all that it names is, and that is told as quietly as of an incident.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

from msgspec import to_builtins

from crewkeeper_supervisor.core import pace
from crewkeeper_supervisor.core.acts import Act
from crewkeeper_supervisor.core.findings import SEVERE, Incident
from crewkeeper_supervisor.core.ladder_state import DIGESTS_MAX, Digest, Event
from crewkeeper_supervisor.core.state import RunState

MINUTE_S: Final = 60.0
SHOWN_MAX: Final = 40
"""Incidents of a digest that are described; the others are named."""
SUMMARY_MAX_CHARS: Final = 160
DIGEST_MAX: Final = 900
"""Incidents in one digest: with so many it is sent at once, so that it fits into a request."""
DIGESTED_MAX: Final = 1000

Severity = Literal["critical", "error", "warning", "info"]
_WORST_FIRST: Final[tuple[Severity, ...]] = ("critical", "error", "warning", "info")


def severity_of(kind: str, event: str) -> Severity:
    """How bad it is, what people are told.

    Args:
        kind: What was found.
        event: What is told of it: that nobody is left whose wait may be failed is the worst, that it is over the least.
    """
    if event in ("unresolved", "resolved"):
        return "critical" if event == "unresolved" else "info"
    return "error" if kind in SEVERE else "warning"


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
    severity = severity_of(incident.finding.kind, kind)
    waits = incident.id in told.withheld
    if waits and severity != "critical":
        return "digest"  # it has not been sent, and will say how it stands
    if not _has_room(state, severity):
        if first:
            told.digested[incident.id] = None
        _withhold(state, incident, kind)
        return "digest"
    for known in (told.withheld, told.digested):
        known.pop(incident.id, None)  # from here on it is told alone
    told.sent_s.append(state.now_s)
    if severity == "warning":
        told.minor_s.append(state.now_s)
    state.escalate(incident.id, kind, body)
    return "told"


def _tell_the_end(state: RunState, incident: Incident, body: dict[str, Any]) -> Literal["told", "digest"]:
    told = state.ladder.escalations
    if not was_told_alone(state, incident.id):
        if incident.id not in told.withheld:  # otherwise it has not been sent, and will say so
            _withhold(state, incident, "resolved")
        return "digest"
    told.withheld.pop(incident.id, None)
    state.escalate(incident.id, "resolved", body)
    return "told"


def was_told_alone(state: RunState, incident: str) -> bool:
    """Whether people were told of an incident by a message of its own, and not only, or yet, by a digest."""
    return incident not in state.ladder.escalations.digested


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
    for id_ in withheld:
        if not _stands(state, id_):
            told.digested.pop(id_, None)
    while len(told.digested) > DIGESTED_MAX:
        del told.digested[next(iter(told.digested))]
    body = _digest(state, withheld)
    sent = state.escalate("", "digest", body)
    told.digests[sent] = Digest(incidents=tuple(withheld), severity=body["severity"], at_s=state.now_s)
    if len(told.digests) > DIGESTS_MAX:
        over = (id_ for id_, each in told.digests.items() if not _any_stands(state, each.incidents))
        del told.digests[next(over, next(iter(told.digests)))]


def incident_over(state: RunState, incident: Incident) -> None:
    """An incident has just been resolved: tell of every digest whose last one it was that it is over, too."""
    told = state.ladder.escalations
    for id_, digest in told.digests.items():
        if incident.id not in digest.incidents or _any_stands(state, digest.incidents):
            continue
        for each in digest.incidents:
            if told.withheld.get(each) == "resolved":
                del told.withheld[each]  # this says so
                told.digested.pop(each, None)
        if not told.withheld:
            told.due_s = None
        state.escalate("", "resolved", _digest_over(state, id_, digest))


def _any_stands(state: RunState, ids: Iterable[str]) -> bool:
    return any(_stands(state, id_) for id_ in ids)


def _stands(state: RunState, id_: str) -> bool:
    incident = state.incidents.get(id_)
    return incident is not None and incident.state != "resolved"


def _has_room(state: RunState, severity: Severity) -> bool:
    """Whether one more may be told of by itself."""
    _forget_old(state)
    told = state.ladder.escalations
    if severity == "warning" and (told.due_s is not None or len(told.minor_s) >= _minor_per_minute(state)):
        return False
    return len(told.sent_s) < _per_minute(state) - (told.due_s is not None)


def _forget_old(state: RunState) -> None:
    told = state.ladder.escalations
    for sent_s in (told.sent_s, told.minor_s):
        while sent_s and (sent_s[0] <= state.now_s - MINUTE_S or len(sent_s) > _per_minute(state)):
            sent_s.popleft()


def _per_minute(state: RunState) -> int:
    assert state.crew is not None
    return state.crew.escalations_per_minute


def _minor_per_minute(state: RunState) -> int:
    """How many of them may tell of warnings: half, or the only one."""
    return (_per_minute(state) + 1) // 2


def _withhold(state: RunState, incident: Incident, kind: Event) -> None:
    told = state.ladder.escalations
    told.withheld[incident.id] = kind
    if told.due_s is None:
        told.due_s = _next_place_s(state)
        state.due_s.arm("ladder", told.due_s)
    if len(told.withheld) >= DIGEST_MAX:
        flush(state)


def _next_place_s(state: RunState) -> float:
    """When one more may be told: once the oldest of those in its way is a minute old."""
    _forget_old(state)
    told = state.ladder.escalations
    if len(told.sent_s) >= _per_minute(state):
        return told.sent_s[0] + MINUTE_S
    return (told.minor_s[0] if len(told.minor_s) >= _minor_per_minute(state) else state.now_s) + MINUTE_S


def _digest(state: RunState, withheld: dict[str, Event]) -> dict[str, Any]:
    """Every incident by kind, the worst first; the first of them with their summaries."""
    crew = state.crew
    held = {severity: _kinds_of(state, withheld, severity) for severity in _WORST_FIRST}
    counts = {severity: sum(map(len, kinds.values())) for severity, kinds in held.items() if kinds}
    said = "; ".join(f"{severity}: {_counted(held[severity])}" for severity in counts)
    ids: dict[str, list[str]] = {}
    for kinds in held.values():
        for kind, names in kinds.items():
            ids.setdefault(kind, []).extend(names)
    stand = sum(_stands(state, id_) for id_ in withheld)
    return {
        "kind": "incidents",
        "run": state.run,
        "crew": crew.name if crew is not None else "",
        "objective": crew.objective[:500] if crew is not None else "",
        "summary": _digest_summary(state, withheld, said, stand),
        "began_s": state.now_s,
        "severity": next(iter(counts)),
        "severities": counts,
        "count": len(withheld),
        "open": stand,
        "ids": ids,
        "incidents": _shown(state, {id_: withheld[id_] for names in _worst_first(held) for id_ in names}),
        "cost": pace.told(state),
        "can": [to_builtins(Act(do="acknowledge"))] if stand else [],
        "look": f"supervisor incidents ls {state.run}",
    }


def _digest_summary(state: RunState, withheld: dict[str, Event], said: str, stand: int) -> str:
    """What a digest says first; of one incident alone, what that is."""
    most = _per_minute(state)
    beyond = f"beyond {most} escalation{'s' * (most > 1)} a minute"
    alone = state.incidents.get(next(iter(withheld))) if len(withheld) == 1 else None
    if alone is not None:
        unresolved = "NOT RESOLVED: " if stand and "unresolved" in withheld.values() else ""
        over = "" if stand else ", which is over"
        return f"{unresolved}{alone.finding.summary[:SUMMARY_MAX_CHARS]} (told late, {beyond}{over})"
    return f"{len(withheld)} incidents {beyond}{'' if stand else ', all over'}: {said}"


def _digest_over(state: RunState, id_: str, digest: Digest) -> dict[str, Any]:
    """What is told of a digest when all that it names is over."""
    ids: dict[str, list[str]] = {}
    for name in digest.incidents:
        ids.setdefault(_kind_of(state, name), []).append(name)
    count = len(digest.incidents)
    alone = state.incidents.get(digest.incidents[0]) if count == 1 else None
    said = f"all {count} incidents of a digest are over: {_counted(ids)}"
    return {
        "kind": "incidents",
        "digest": id_,
        "run": state.run,
        "crew": state.crew.name if state.crew is not None else "",
        "summary": said if alone is None else alone.finding.summary,
        "began_s": digest.at_s,
        "severity": digest.severity,
        "count": count,
        "open": 0,
        "ids": ids,
        "look": f"supervisor incidents ls {state.run}",
    }


def _kinds_of(state: RunState, withheld: dict[str, Event], severity: Severity) -> dict[str, list[str]]:
    """Those of one severity, by kind."""
    kinds: dict[str, list[str]] = {}
    for id_, event in withheld.items():
        kind = _kind_of(state, id_)
        if severity_of(kind, event) == severity:
            kinds.setdefault(kind, []).append(id_)
    return kinds


def _kind_of(state: RunState, id_: str) -> str:
    incident = state.incidents.get(id_)
    return incident.finding.kind if incident is not None else "forgotten"


def _counted(kinds: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())


def _worst_first(held: dict[Severity, dict[str, list[str]]]) -> Iterator[list[str]]:
    for kinds in held.values():
        yield from kinds.values()


def _shown(state: RunState, withheld: dict[str, Event]) -> list[dict[str, str]]:
    """The first of them, described."""
    shown: list[dict[str, str]] = []
    for id_, event in withheld.items():
        incident = state.incidents.get(id_)
        if incident is None:
            continue
        told = {
            "incident": id_,
            "kind": incident.finding.kind,
            "event": event,
            "severity": severity_of(incident.finding.kind, event),
            "state": incident.state,
            "summary": incident.finding.summary[:SUMMARY_MAX_CHARS],
        }
        shown.append(told)
        if len(shown) >= SHOWN_MAX:
            break
    return shown
