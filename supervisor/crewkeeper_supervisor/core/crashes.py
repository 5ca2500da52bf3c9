"""Crashes: when the crash of an agent is over, and when one that follows belongs to a loop of them.

Theory of operation. The first crash is over when the agent is back. One that follows within the window in which its
restarts are counted is no event of its own but a loop: an incident that counts every further crash and is over only
when the agent has stayed up for that window. So people are told once of a loop, and once of its end.
"""

from typing import Final

import msgspec

from crewkeeper_supervisor.core.confinement import NEVER
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.response import note, resolve
from crewkeeper_supervisor.core.roster import AgentView, Recovery
from crewkeeper_supervisor.core.state import RunState

STEADY_MAX_S: Final = 600.0
"""Whoever stays up for so long is not in a loop, however long its restarts are counted."""
NEED: Final = "steady"
_NOTED_MAX: Final = 20
"""Crashes of one loop up to which its history says that the agent is back."""


def before(state: RunState, view: AgentView) -> dict[str, str]:
    """What the report of a crash says of the one before it: nothing, unless they are a loop."""
    back = view.recovery
    if back is None or state.now_s - back.at_s > _steady_s(view):
        return {}
    return {"again": back.incident}


def fell(view: AgentView) -> None:
    """An agent has crashed: what it was to stay up for begins anew."""
    if view.recovery is not None:
        view.recovery = msgspec.structs.replace(view.recovery, due_s=NEVER)


def is_back(state: RunState, view: AgentView) -> None:
    """An agent has joined: what was reported of its crash is over, or will be if it stays up, once all are there."""
    for incident in state.incidents.values():
        finding = incident.finding
        if finding.kind != "crash" or incident.state == "resolved" or view.name not in finding.agents:
            continue
        if not all(state.agents[name].present for name in finding.agents):
            continue
        own = finding.evidence.get("key") == view.name
        if own and "again" in finding.evidence:
            steady_s = _steady_s(view)
            view.recovery = Recovery(incident=incident.id, at_s=state.now_s, due_s=state.now_s + steady_s)
            state.due_s.arm(NEED, view.recovery.due_s)
            if incident.count <= _NOTED_MAX:
                note(state, incident, f"{view.name} has joined; this is over if it stays up for {steady_s:g} s")
            continue
        if own:
            view.recovery = Recovery(incident=incident.id, at_s=state.now_s)
        resolve(state, incident, f"{view.name} has joined and is up")


def watch(state: RunState) -> None:
    """What only time brings: who has stayed up for long enough is in no loop any more."""
    del state.due_s[NEED]
    for view in state.agents.values():
        back = view.recovery
        if back is None or back.due_s == NEVER:
            continue
        if back.due_s > state.now_s:
            state.due_s.arm(NEED, back.due_s)
            continue
        fell(view)
        incident = state.incidents.get(back.incident)
        if incident is not None and incident.state != "resolved":
            resolve(state, incident, _ended(view, incident))


def _steady_s(view: AgentView) -> float:
    return min(view.spec.restart.period_s, STEADY_MAX_S)


def _ended(view: AgentView, incident: Incident) -> str:
    crashes = f"it had crashed {incident.count + 1} times in a row"  # the first one is an incident of its own
    if not view.present:
        return f"{view.name} has ended and is not up any more; {crashes}"
    return f"{view.name} has stayed up for {_steady_s(view):g} s; {crashes}"
