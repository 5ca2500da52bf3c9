"""Acknowledgement: a person says that they know of something people were told of, or that it is over for them.

The first one in the journal counts. To know of it ends nothing: the incident stays open, and what is done about agents
goes on. Who is not told yet is spared, which is the outbox's, and those who were told hear who has taken it on.
To close an incident ends what is said and done about it from then on; what was done to agents stays as it is.
"""

from typing import Any

from crewkeeper_bus.messages import OperatorAsked
from crewkeeper_supervisor.core import escalation, nudges
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.ladder_state import Acknowledged
from crewkeeper_supervisor.core.response import note, resolve
from crewkeeper_supervisor.core.state import RunState


def taken(state: RunState, message: OperatorAsked) -> None:
    """A person acknowledges an incident, an approval, or by the id of its command a digest with all that it names."""
    by = message.by or "somebody"
    names = named(state, message.incident)
    fresh = [id_ for id_ in names if _acknowledge(state, id_, by, message.why)]
    if not fresh:
        return
    if message.incident in state.ladder.escalations.digests:
        digest = state.ladder.escalations.digests[message.incident]
        facts = {"kind": "incidents", "digest": message.incident, "count": len(fresh), "severity": digest.severity}
        facts["began_s"] = digest.at_s
        _tell(state, "", by, message.why, facts)
        return
    about = fresh[0]
    incident, approval = state.incidents.get(about), state.gate.approvals.get(about)
    if incident is not None and incident.told and escalation.was_told_alone(state, about):
        finding = incident.finding
        facts = {"kind": finding.kind, "summary": finding.summary, "began_s": finding.at_s}
        _tell(state, about, by, message.why, facts)
    elif approval is not None and approval.told:
        wants = f"{approval.agent} wants to call {approval.tool!r}"
        facts = {"kind": "approval", "approval": approval.id, "summary": wants, "began_s": approval.asked_at_s}
        _tell(state, about, by, message.why, facts)


def closed(state: RunState, message: OperatorAsked) -> None:
    """A person closes an incident, or by the id of its command all that a digest names; see `may_be_closed`.

    It is not found again before its condition was over and has come back. Whom it holds stays held until the time for
    that is over, or a person lets them go on.
    """
    because = f": {message.why}" if message.why else ""
    for id_ in named(state, message.incident):
        incident = state.incidents.get(id_)
        if incident is not None and may_be_closed(incident):
            nudges.over(state, id_)
            resolve(state, incident, f"closed by {message.by or 'somebody'}{because}")


def may_be_closed(incident: Incident) -> bool:
    """Whether people judge when it is over: a deadlock that is certain is over when one of its waits is."""
    return incident.state != "resolved" and (incident.finding.kind != "deadlock" or incident.finding.suspected)


def named(state: RunState, name: str) -> tuple[str, ...]:
    """Incidents and approvals that stand, by what people call them: an id, or the command by which they were told."""
    digest = state.ladder.escalations.digests.get(name)
    ids = digest.incidents if digest is not None else (state.escalations.get(name) or name,)
    return tuple(id_ for id_ in ids if _stands(state, id_))


def _stands(state: RunState, id_: str) -> bool:
    incident, approval = state.incidents.get(id_), state.gate.approvals.get(id_)
    if incident is not None:
        return incident.state != "resolved"
    return approval is not None and approval.state == "pending"


def _acknowledge(state: RunState, id_: str, by: str, why: str) -> bool:
    """Take it down, if nobody was first."""
    if id_ in state.ladder.acknowledged:
        return False
    state.ladder.acknowledge(id_, Acknowledged(by=by, at_s=state.now_s, why=why))
    incident = state.incidents.get(id_)
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
