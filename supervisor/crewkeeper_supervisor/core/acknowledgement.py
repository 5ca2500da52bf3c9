"""Acknowledgement: a person says that they know of something people were told of; whom that spares is the outbox's.

The first one in the journal counts. It ends nothing: the incident stays open, and what is done about agents goes on.
People who are not told yet are spared, and those who were told hear who has taken it on.
"""

from typing import Any

from crewkeeper_bus.messages import OperatorAsked
from crewkeeper_supervisor.core import escalation
from crewkeeper_supervisor.core.ladder_state import Acknowledged
from crewkeeper_supervisor.core.response import note
from crewkeeper_supervisor.core.state import RunState


def taken(state: RunState, message: OperatorAsked) -> None:
    """A person acknowledges an incident, an approval, or by the id of its command a digest with all that it names."""
    by = message.by or "somebody"
    told = state.ladder.escalations
    about = state.escalations.get(message.incident) or message.incident
    if about in told.digests:
        fresh = [id_ for id_ in told.digests[about] if _acknowledge(state, id_, by, message.why)]
        if fresh:
            _tell(state, "", by, message.why, {"kind": "incidents", "digest": about, "count": len(fresh)})
        return
    if not _acknowledge(state, about, by, message.why):
        return
    incident, approval = state.incidents.get(about), state.gate.approvals.get(about)
    if incident is not None and incident.told and escalation.was_told_alone(state, about):
        _tell(state, about, by, message.why, {"kind": incident.finding.kind, "summary": incident.finding.summary})
    elif approval is not None and approval.told:
        wants = f"{approval.agent} wants to call {approval.tool!r}"
        _tell(state, about, by, message.why, {"kind": "approval", "approval": approval.id, "summary": wants})


def _acknowledge(state: RunState, id_: str, by: str, why: str) -> bool:
    """Take it down, if it stands and nobody was first."""
    incident, approval = state.incidents.get(id_), state.gate.approvals.get(id_)
    stands = (incident is not None and incident.state != "resolved") or (
        approval is not None and approval.state == "pending"
    )
    if not stands or id_ in state.ladder.acknowledged:
        return False
    state.ladder.acknowledge(id_, Acknowledged(by=by, at_s=state.now_s, why=why))
    if incident is not None:
        note(state, incident, f"acknowledged by {by}{f': {why}' if why else ''}")
    return True


def _tell(state: RunState, about: str, by: str, why: str, facts: dict[str, Any]) -> None:
    if not escalation.has_receivers(state):
        return
    crew = state.crew
    body = {
        "run": state.run,
        "crew": crew.name if crew is not None else "",
        "summary": f"{facts.get('count', 0)} incidents of a digest",
        **facts,
        "by": by,
        "why": why,
        "look": f"supervisor why {about} --run {state.run}" if about else f"supervisor incidents ls {state.run}",
    }
    state.escalate(about, "acknowledged", body)
