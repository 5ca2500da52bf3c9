"""Flood: an agent that sends more than it may is first not read, then held, then ended.

Entries over the limit (`rates`) are counted. When they keep coming for `LASTING_S`, and are more than a tenth of what
may come at once, that is a finding, and policy acts in two steps: everything but `kill` and `stop` at once, these two
only if the pressure goes on although the agent is held.
"""

from typing import Final

from crewkeeper_supervisor.core import holding
from crewkeeper_supervisor.core.confinement import NEVER, Flood
from crewkeeper_supervisor.core.crew import Rate
from crewkeeper_supervisor.core.ending import kill
from crewkeeper_supervisor.core.findings import Finding
from crewkeeper_supervisor.core.response import carry_out, note, open_incident, resolve, would
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

LASTING_S: Final = 1.0
"""How long an agent must have sent more than it may."""
QUIET_S: Final = 5.0
"""After so long without another entry over the limit it counts as a new beginning."""
_LAST_RESORTS: Final = ("kill", "stop")


def throttled(state: RunState, view: AgentView, size_bytes: int) -> None:
    """An entry of an agent was over the limit, and not read."""
    flood = view.flood
    if flood is None or (not flood.incident and state.now_s - flood.last_s > QUIET_S):
        flood = view.flood = Flood(since_s=state.now_s, last_s=state.now_s)
    flood.entries += 1
    flood.size_bytes += size_bytes
    flood.last_s = state.now_s
    view.node.unsure = True  # what it said is not known
    if view.hold is not None and view.hold.step == "freeing":
        return  # what it said while it was held comes all at once
    if flood.incident:
        pressed(state, view, 1)
    elif view.ending is None and state.now_s - flood.since_s >= LASTING_S and flood.entries >= _rate(state).burst / 10:
        _found(state, view, flood)


def pressed(state: RunState, view: AgentView, count: int) -> None:
    """An agent that is held for it goes on all the same, be it in the journal or against the server."""
    flood = view.flood
    if flood is None or flood.cut or state.now_s < flood.held_s:
        return
    flood.pressure += count
    incident = state.incidents.get(flood.incident)
    if incident is None or incident.shadow or flood.pressure < _rate(state).burst:
        return
    flood.cut = True
    for action in incident.actions:
        if action == "kill":
            state.ladder.count("flood", action, shadow=False)
            note(state, incident, f"it went on ({flood.pressure} more): kill {view.name}")
            kill(state, view.name, incident.finding.summary, 0.0, incident.id)
        elif action == "stop":
            carry_out(state, incident, action)


def seen(state: RunState, view: AgentView, count: int, detail: str) -> None:
    """The server itself suffered from an agent, and was made to hold it before anything of it was read."""
    flood = view.flood
    if view.ending is not None:
        return
    if flood is not None and flood.incident:
        pressed(state, view, count)
        return
    view.flood = flood = Flood(since_s=state.now_s, last_s=state.now_s)
    _found(state, view, flood, detail)
    if view.hold is None:
        holding.pause(state, view, detail, 0.0, keep=False)


def held(state: RunState, view: AgentView) -> None:
    """The server has been told to hold it: what it sends from now on it sends in spite of that."""
    if view.flood is not None and view.flood.incident and view.flood.held_s == NEVER:
        view.flood.held_s = state.now_s


def freed(state: RunState, view: AgentView) -> None:
    """It has been let go on."""
    state.buckets.pop(view.name, None)
    flood, view.flood = view.flood, None
    incident = state.incidents.get(flood.incident) if flood is not None else None
    if incident is not None and incident.state != "resolved":
        resolve(state, incident, f"{view.name} was let go on")


def _found(state: RunState, view: AgentView, flood: Flood, detail: str = "") -> None:
    rate = _rate(state)
    summary = (
        f"{view.name} floods the server: {detail[:300]}"
        if detail
        else (
            f"{view.name} sends more than {rate.messages_per_s} messages or {rate.bytes_per_s} bytes a second: "
            f"{flood.entries} were counted and not read"
        )
    )
    finding = Finding(
        id=state.next_name("F"),
        kind="flood",
        at_s=state.now_s,
        seq=state.seq,
        summary=summary,
        agents=(view.name,),
        evidence={"key": view.name, "bytes": str(flood.size_bytes)},
    )
    incident = open_incident(state, finding, act=False)
    flood.incident = incident.id
    if incident.shadow:
        would(state, incident, incident.actions)
        return
    holds = "pause" in incident.actions
    if not holds:
        flood.held_s = state.now_s
    for action in incident.actions:
        if action == "pause":
            note(state, incident, f"hold {view.name}")
            state.ladder.count("flood", action, shadow=False)
            holding.pause(state, view, summary, 0.0, keep=False)
        elif action not in _LAST_RESORTS or not holds:
            carry_out(state, incident, action)


def _rate(state: RunState) -> Rate:
    return state.crew.rate if state.crew is not None else Rate()
