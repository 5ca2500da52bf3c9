"""Response: findings become incidents, and policy turns incidents into commands.

Policy alone acts: the crew file names for each kind of finding what is done, in order. In shadow mode everything is
reported and nothing is done.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from crewkeeper_bus.messages import Break, Stop, StopRun
from crewkeeper_supervisor.core import acts, conduct_break, escalation, gate_holds, nudges, pace
from crewkeeper_supervisor.core.crew import Action, Response, Responses
from crewkeeper_supervisor.core.ending import kill
from crewkeeper_supervisor.core.evidence import arrow, ring
from crewkeeper_supervisor.core.findings import Finding, FindingKind, Incident, Step
from crewkeeper_supervisor.core.holding import pause
from crewkeeper_supervisor.core.hosting_state import End, Ordered
from crewkeeper_supervisor.core.repetition import retry_after_s
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.victim import chosen, task_of
from crewkeeper_supervisor.core.withdrawal import told_to_fail

INCIDENTS_MAX: Final = 1000
"""Resolved incidents beyond this are forgotten, oldest first; the journal still has them."""


def open_incident(
    state: RunState, finding: Finding, *, act: bool = True, history: Iterable[Step] = (), closed: int = 1
) -> Incident:
    """Record a finding and, unless told to bide, do what policy says about it.

    Args:
        state: The run.
        finding: What was found.
        act: Whether policy acts on it now.
        history: What led to it.
        closed: Deadlock: how often its ring has closed lately.
    """
    policy = policy_of(state, finding.kind)
    state.ladder.of(finding.kind).found += 1
    incident = Incident(finding=finding, state="open", actions=policy.do, shadow=policy.shadow, closed=closed)
    incident.steps += history
    state.incidents[finding.id] = incident
    _forget_old(state)
    _record(state, incident, act)
    return incident


def confirm_incident(
    state: RunState, incident: Incident, finding: Finding, *, act: bool, history: Iterable[Step], closed: int
) -> None:
    """What an incident only suspected is certain now: as `open_incident`, under the id it has."""
    incident.finding = msgspec.structs.replace(finding, id=incident.id)
    incident.closed = closed
    incident.steps += history
    _record(state, incident, act)


def _record(state: RunState, incident: Incident, act: bool) -> None:
    note(state, incident, incident.finding.summary)
    if incident.closed > 1:
        note(state, incident, f"this ring has closed {incident.closed} times lately")
    if act:
        act_on(state, incident)


def policy_of(state: RunState, kind: FindingKind) -> Response:
    """What the crew file says about a kind of finding."""
    responses = state.crew.responses if state.crew is not None else Responses()
    policy: Response = getattr(responses, kind)
    return policy


def act_on(state: RunState, incident: Incident) -> None:
    """Do what policy says about an incident, in order; in shadow mode only say so."""
    if incident.shadow:
        would(state, incident, incident.actions)
        return
    for action in incident.actions:
        carry_out(state, incident, action)
    helpless = incident.finding.kind == "deadlock" and "break" in incident.actions and incident.finding.victim is None
    if helpless or incident.closed == policy_of(state, incident.finding.kind).repeat.times:
        _tell_people(state, incident, "opened")


def act(state: RunState, incident: Incident, action: Action) -> None:
    """Carry out one action of policy; in shadow mode only say so."""
    if incident.shadow:
        would(state, incident, [action])
    else:
        carry_out(state, incident, action)


def would(state: RunState, incident: Incident, actions: Iterable[Action]) -> None:
    """Say what would have been done, were it not for shadow mode."""
    actions = list(actions)
    note(state, incident, f"shadow mode: would {', '.join(actions)}")
    for action in actions:
        state.ladder.count(incident.finding.kind, action, shadow=True)


def warn(state: RunState, incident: Incident) -> None:
    """Nothing is done on a suspicion, but people are told where policy tells them of findings."""
    note(state, incident, "nothing is failed on a suspicion; it is asked again")
    if "escalate" in incident.actions and not incident.shadow:
        _tell_people(state, incident, "opened")


def give_up_on(state: RunState, incident: Incident) -> None:
    """Nobody is left whose wait may be failed: only people can help, so they are told whatever policy says."""
    if not incident.shadow:
        _tell_people(state, incident, "unresolved")


def breaks_orphans(state: RunState) -> bool:
    """Whether policy fails the calls that nobody is left to answer."""
    policy = state.crew.responses.orphan if state.crew is not None else Response(do=("break",))
    return "break" in policy.do and not policy.shadow


def note(state: RunState, incident: Incident, text: str) -> None:
    """Add a step to an incident's history."""
    incident.steps.append(Step(at_s=state.now_s, seq=state.seq, text=text))


def resolve(state: RunState, incident: Incident, text: str) -> None:
    """The condition is over; those who were told of it are told of that too. Once: a person may have been first."""
    if incident.state == "resolved":
        return
    incident.state = "resolved"
    incident.resolved_at_s = state.now_s
    note(state, incident, text)
    if incident.told and escalation.has_receivers(state):
        escalation.tell(state, incident, "resolved", describe(state, incident))
    escalation.incident_over(state, incident)


def break_wait(state: RunState, incident: Incident) -> None:
    """Fail the wait of the finding's victim with a typed error, so that the crew carries on by itself."""
    finding = incident.finding
    victim = finding.victim
    if victim is None:
        note(state, incident, "no member may be failed: every one is protected or has been tried; people must act")
        return
    path = ring(finding.core[0] if finding.core else (), list(finding.edges), victim.task)
    retry_s = retry_after_s(incident.closed, f"{incident.id} {victim.task}")
    state.tell(
        victim.agent,
        Break,
        durable=True,
        task=victim.task.partition("/")[2],
        epoch=victim.epoch,
        code="would_deadlock" if finding.kind == "deadlock" else "peer_gone",
        finding=finding.id,
        why=finding.summary[:2000],
        path=tuple(edge.text[:2000] for edge in path),
        retry_after_s=retry_s,
    )
    failed = task_of(state.graph, victim.task)
    if failed is not None:
        told_to_fail(state, failed)
    chosen(state, victim)
    incident.state = "acting"
    note(state, incident, f"fail {victim.agent}'s wait: {victim.why}")
    if incident.closed > 1:
        note(state, incident, f"{victim.agent} is asked to wait {retry_s:.0f} s before it tries again")


def carry_out(state: RunState, incident: Incident, action: Action) -> None:
    """Carry out one action of policy."""
    finding = incident.finding
    state.ladder.count(finding.kind, action, shadow=False)
    match action:
        case "nudge":
            for agent in nudges.nudge(state, finding):
                note(state, incident, f"nudge {agent}")
        case "hold":
            _hold(state, incident)
        case "break" if finding.kind == "deadlock" or finding.victim is not None:
            break_wait(state, incident)
        case "break" if finding.kind != "orphan":
            note(state, incident, conduct_break.fail(state, finding))
        case "pause":
            for agent in _present(state, finding):
                pause(state, state.agents[agent], finding.summary)
                note(state, incident, f"pause {agent}")
        case "kill":
            for agent in [finding.victim.agent] if finding.victim is not None else _present(state, finding):
                kill(state, agent, finding.summary, incident=incident.id)
                note(state, incident, f"kill {agent}")
        case "stop":
            stop_crew(state, "stopped", finding.summary)
            note(state, incident, "stop the crew")
        case "escalate":
            if incident.closed <= policy_of(state, finding.kind).repeat.times:
                _tell_people(state, incident, "opened")
            elif escalation.has_receivers(state):
                note(state, incident, "people know of this ring")
        case _:
            return


def _hold(state: RunState, incident: Incident) -> None:
    finding, hold_s = incident.finding, policy_of(state, incident.finding.kind).hold_s
    held = gate_holds.hold(state, incident.id, _present(state, finding), state.now_s + hold_s, finding.summary)
    for agent in held:
        note(state, incident, f"hold new tool and model calls of {agent} for up to {hold_s:g} s")


def _tell_people(state: RunState, incident: Incident, kind: Literal["opened", "unresolved"]) -> None:
    """One escalation of each kind for an incident, where anybody is there to be told."""
    if not escalation.has_receivers(state) or (kind == "opened" and incident.told):
        return
    known = state.ladder.acknowledged.get(incident.id)
    if known is not None and kind == "opened":
        note(state, incident, f"people are not told: {known.by} knows of it")
        return
    first, incident.told = not incident.told, True
    how = escalation.tell(state, incident, kind, describe(state, incident), first=first)
    note(state, incident, "tell people" if how == "told" else "tell people in the next digest: there are too many")


def _present(state: RunState, finding: Finding) -> list[str]:
    return [name for name in finding.agents if name in state.agents and state.agents[name].present]


def stop_crew(state: RunState, end: End, why: str) -> None:
    """End the whole crew: every agent told, the host asked to stop the processes and to end the run."""
    if state.phase == "stopping" or state.phase in ("done", "failed", "stopped"):
        return
    state.phase = "stopping"
    state.stirred = True
    escalation.flush(state)
    for view in state.agents.values():
        if view.present:
            state.tell(view.name, Stop, durable=True, why=why[:2000], grace_s=view.spec.restart.shutdown_s)
            view.status = "stopping"
    if state.hosting is not None:
        state.hosting.end = Ordered(state=end, why=why[:2000])
    state.ask_host(StopRun, why=why[:2000], state=end)


def describe(state: RunState, incident: Incident) -> dict[str, Any]:
    """What a person needs to know, as plain data: the body of an escalation."""
    finding = incident.finding
    edges = list(finding.edges)
    path = ring(finding.core[0] if finding.core else (), edges, finding.victim.task if finding.victim else "")
    return {
        "incident": incident.id,
        "kind": finding.kind,
        "state": incident.state,
        "run": state.run,
        "crew": state.crew.name if state.crew is not None else "",
        "objective": state.crew.objective if state.crew is not None else "",
        "summary": finding.summary,
        "agents": list(finding.agents[:50]),
        "began_s": finding.at_s,
        "ring": arrow([edge for edge in path if edge.task in {key for core in finding.core for key in core}]),
        "waits": [
            {
                "text": edge.text,
                "since_s": edge.since_s,
                "for_s": round(max(0.0, state.now_s - edge.since_s), 3),
                "message": edge.message,
            }
            for edge in path[:50]
        ],
        "tail": list(finding.tail[:50]),
        "victim": _victim(incident),
        "steps": [step.text for step in incident.steps[-20:]],
        "cost": pace.told(state),
        "can": acts.offered(state, incident),
        "look": f"supervisor incidents show {incident.id} --run {state.run}",
    }


def _victim(incident: Incident) -> dict[str, Any] | None:
    """Whose wait is failed, or would be if policy said so."""
    victim = incident.finding.victim
    if victim is None:
        return None
    failed = "break" in incident.actions and not incident.shadow and not incident.finding.suspected
    return {"agent": victim.agent, "why": victim.why, "failed": failed}


def _forget_old(state: RunState) -> None:
    if len(state.incidents) > INCIDENTS_MAX:
        old = next((id_ for id_, each in state.incidents.items() if each.state == "resolved"), None)
        old = old if old is not None else next(iter(state.incidents))
        del state.incidents[old]
