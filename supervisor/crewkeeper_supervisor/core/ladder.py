"""Ladder: what is done about conduct that goes on, one rung after the other, until it is over.

Theory of operation. Detectors say that a condition has begun, goes on, or is over; policy says what the rungs are. The
first rung is taken when the condition begins. Each further one is taken by new evidence, once `climb_s` have passed
since the last: an agent is given time to do better before more is done. Only while a rung holds its agents, so that
there can be no evidence, does the clock take a rung, and only one that tells people. What comes back within the
cool-down begins where it had ended. How a single action is carried out is `response`'s.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from crewkeeper_supervisor.core import escalation, gate_holds, nudges
from crewkeeper_supervisor.core.crew import Response
from crewkeeper_supervisor.core.findings import Edge, Finding, FindingKind, Incident
from crewkeeper_supervisor.core.ladder_state import Key, Rested
from crewkeeper_supervisor.core.response import act, act_on, note, open_incident, policy_of, resolve
from crewkeeper_supervisor.core.state import RunState

NOTED_MAX: Final = 20
"""Pieces of evidence that an incident shows."""
DETAIL_MAX_CHARS: Final = 300
_AGAIN: Final = ("nudge", "hold", "pause")
"""Lower rungs that are taken again when a condition comes back further up."""
_RUNNING: Final = ("starting", "running")


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
        evidence: Facts of the journal, as words. A nudge quotes `what` (is repeated) and `came_back` (each time), and
            names `times`.
        edges: Waits that belong to it: the first that is still open is what `break` fails.

    Returns:
        The new incident; None if the condition was open already.
    """
    incident = _open(state, (kind, key))
    if incident is not None:
        incident.count += 1
        return None
    finding = Finding(
        id=state.next_name("F"),
        kind=kind,
        at_s=state.now_s,
        seq=state.seq,
        summary=summary[:2000],
        agents=tuple(dict.fromkeys(agents)),
        edges=tuple(edges),
        evidence={"key": key, **evidence},
    )
    incident = open_incident(state, finding, act=False)
    state.ladder.open[kind, key] = incident.id
    policy = policy_of(state, kind)
    if policy.climb_s <= 0:
        incident.rung, incident.rung_at_s = len(incident.actions), state.now_s
        act_on(state, incident)
    else:
        _begin(state, incident, policy, (kind, key))
    return incident


def goes_on(state: RunState, kind: FindingKind, key: str, detail: str = "", *, times: str = "") -> None:
    """A condition that is open was seen again, or still stands: one call for each new piece of evidence.

    Args:
        state: The run.
        kind: What was found.
        key: Which of that kind.
        detail: What is new, for people; of agents' words no more than is shown here.
        times: How often it was by now, for a nudge to say; empty if that is not counted.
    """
    incident = _open(state, (kind, key))
    if incident is None:
        return
    incident.count += 1
    if times:
        finding = incident.finding
        incident.finding = msgspec.structs.replace(finding, evidence={**finding.evidence, "times": times})
    if detail and incident.count <= NOTED_MAX:
        note(state, incident, detail[:DETAIL_MAX_CHARS])
    policy = policy_of(state, kind)
    if 0 < policy.climb_s <= state.now_s - incident.rung_at_s and state.phase in _RUNNING:
        _climb(state, incident, policy)


def cleared(state: RunState, kind: FindingKind, key: str, why: str) -> None:
    """A condition is over: its incident is resolved, and whom it held goes on."""
    incident = _open(state, (kind, key))
    if incident is None:
        return
    del state.ladder.open[kind, key]
    if policy_of(state, kind).cool_down_s > 0 and incident.rung:
        state.ladder.rest((kind, key), Rested(rung=incident.rung - 1, cleared_s=state.now_s))
    for agent in gate_holds.release(state, incident.id):
        note(state, incident, f"{agent} goes on")
    nudges.over(state, incident.id)
    resolve(state, incident, why[:DETAIL_MAX_CHARS])


def watch(state: RunState) -> None:
    """What only time brings: holds end, people are told of what is held, nudges and digests are sent."""
    del state.due_s["ladder"]
    for id_, agent in gate_holds.expire(state):
        incident = state.incidents.get(id_)
        if incident is not None:
            note(state, incident, f"{agent} was held long enough and goes on")
    for incident in _held(state):
        if _escalates_next(incident) and incident.rung_at_s + policy_of(state, incident.finding.kind).climb_s <= (
            state.now_s
        ):
            _take(state, incident, incident.rung)
    nudges.watch(state)
    escalation.watch(state)
    _schedule(state)


# --- rungs ---


def _begin(state: RunState, incident: Incident, policy: Response, key: Key) -> None:
    rested = state.ladder.rested.pop(key, None)
    if rested is None or state.now_s - rested.cleared_s > policy.cool_down_s:
        _take(state, incident, 0)
        return
    rung = min(rested.rung, len(incident.actions) - 1)
    ago_s = state.now_s - rested.cleared_s
    note(state, incident, f"it is back after {ago_s:.0f} s: the ladder goes on at {incident.actions[rung]}")
    for lower in incident.actions[:rung]:
        if lower in _AGAIN:
            act(state, incident, lower)
    _take(state, incident, rung)


def _climb(state: RunState, incident: Incident, policy: Response) -> None:
    """Take the next rung. On the last one, whom time has let go on is held again, unless a person did."""
    if incident.rung < len(incident.actions):
        _take(state, incident, incident.rung)
    elif incident.shadow or incident.let_go or "hold" not in incident.actions:
        return
    elif not gate_holds.holds(state, incident.id):
        _take(state, incident, incident.actions.index("hold"))
        incident.rung = len(incident.actions)


def _take(state: RunState, incident: Incident, rung: int) -> None:
    incident.rung, incident.rung_at_s = rung + 1, state.now_s
    act(state, incident, incident.actions[rung])
    _arm(state, incident)


def _arm(state: RunState, incident: Incident) -> None:
    if _escalates_next(incident) and gate_holds.holds(state, incident.id):
        climb_s = policy_of(state, incident.finding.kind).climb_s
        state.due_s.arm("ladder", incident.rung_at_s + climb_s)


def _escalates_next(incident: Incident) -> bool:
    return incident.rung < len(incident.actions) and incident.actions[incident.rung] == "escalate"


def _held(state: RunState) -> list[Incident]:
    """Open incidents that hold somebody."""
    ids = dict.fromkeys(id_ for holds in state.gate.holds.values() for id_ in holds)
    return [state.incidents[id_] for id_ in ids if id_ in state.incidents and state.incidents[id_].state != "resolved"]


def _schedule(state: RunState) -> None:
    dues = [each.until_s for holds in state.gate.holds.values() for each in holds.values()]
    dues += [due_s for due_s in (nudges.next_due_s(state), state.ladder.escalations.due_s) if due_s is not None]
    for due_s in dues:
        state.due_s.arm("ladder", due_s)
    for incident in _held(state):
        _arm(state, incident)


def _open(state: RunState, key: Key) -> Incident | None:
    id_ = state.ladder.open.get(key)
    incident = state.incidents.get(id_) if id_ is not None else None
    if incident is None or incident.state == "resolved":
        state.ladder.open.pop(key, None)
        return None
    return incident
