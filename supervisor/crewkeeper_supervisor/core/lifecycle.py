"""Lifecycle: agents come and go, the crew begins and ends, people intervene.

What processes do is the host's; what that means for the crew is here.
"""

from itertools import islice
from typing import Final

import msgspec
from msgspec import Raw

from crewkeeper_bus.field_types import NAMES_MAX
from crewkeeper_bus.messages import (
    Begin,
    Fault,
    Heartbeat,
    Joined,
    OperatorAsked,
    ProcessExited,
    ProcessStarted,
    RestartsExhausted,
    RunDeclared,
    RunEnded,
    StopProcess,
)
from crewkeeper_supervisor.core import acknowledgement, crashes, escalation, gate_holds, holding, nudges
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.ending import SILENT_S, arm, incarnation_over, kill
from crewkeeper_supervisor.core.evidence import edges_of
from crewkeeper_supervisor.core.findings import Edge, Finding, FindingKind, Incident
from crewkeeper_supervisor.core.locks import grant
from crewkeeper_supervisor.core.nodes import Call
from crewkeeper_supervisor.core.response import breaks_orphans, note, open_incident, resolve, stop_crew
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.withdrawal import give_up

QUIET_S: Final = 1.0
"""A crew whose main activities have all ended is done when nothing has been open for this long."""
SILENCE_S: Final = 30.0
"""An agent started elsewhere that says nothing for this long (or ten heartbeats, if that is longer) is gone."""
ALIKE_MAX: Final = 50
"""Incidents of one kind about the same agents that are told apart."""


def declare(state: RunState, message: RunDeclared) -> None:
    """The run's first entry: the crew."""
    if state.crew is not None:
        return
    try:
        state.crew = msgspec.convert(message.crew, Crew)
    except msgspec.ValidationError:
        return  # written by a newer version; the run is folded without its policy
    state.host = message.host
    state.gate.declare(state.crew, state.now_s)
    state.replicas = {spec.name: spec.replicas for spec in state.crew.agents if spec.replicas > 1}
    for spec in state.crew.agents:
        for name in spec.instances:
            state.graph.declare(name, spec.name, spec.concurrency, spec.reentrant)
            node = state.graph.agent(name)
            state.agents[name] = AgentView(name=name, role=spec.name, spec=spec, node=node)
        state.confines = state.confines or spec.may_call is not None
    state.due_s["begin"] = state.now_s + state.crew.start_timeout_s


def joined(state: RunState, view: AgentView, message: Joined | Heartbeat) -> None:
    """A new incarnation of an agent."""
    if view.present:
        gone(state, view, "crashed", "it was replaced by a new incarnation", returning=True)
    view.incarnate(message.inc, message.seq)
    if state.watch is not None:
        state.watch.rejoined(view)
    view.status = "up"
    state.mains_over.pop(view.name, None)
    if view.external:
        state.due_s.setdefault("silence", state.now_s + _silence_limit_s(state))
    view.node.unsure = isinstance(message, Heartbeat)
    state.graph.declare(view.name, view.role, message.concurrency, message.reentrant)
    if state.phase == "running":
        _begin(state, view)
    holding.again(state, view)
    nudges.joined(state, view.name)
    crashes.is_back(state, view)
    begin_if_complete(state)


def begin_if_complete(state: RunState) -> None:
    """Tell the crew to begin once all who were declared are there, or the time for that is up."""
    if state.phase != "starting" or state.crew is None:
        return
    if not state.is_due("begin") and _somebody_missing(state):
        return
    state.phase = "running"
    state.due_s.pop("begin", None)
    for view in state.agents.values():
        if view.present:
            _begin(state, view)
        elif not view.external and view.status in ("expected", "starting"):
            late = f"{view.name} has not joined within {state.crew.start_timeout_s:g} s; the crew begins without it"
            report(state, "crash", late, [view.name], key=f"{view.name}:late")
        elif view.status == "gone" and view.name not in state.mains_over and _is_missed(state, view):
            _never_came(state, view)


def _somebody_missing(state: RunState) -> bool:
    """Whether an agent of ours that should come is not there.

    Asked after every entry until the crew begins, so the whole crew is gone through only when nobody is left of those
    who were missing the last time.
    """
    awaited = state.awaited
    while awaited and not _is_missing(state.agents[awaited[-1]]):
        awaited.pop()
    if not awaited:
        awaited.extend(view.name for view in state.agents.values() if _is_missing(view))
    return bool(awaited)


def _is_missing(view: AgentView) -> bool:
    """Whether it is to be waited for; not so if its process has ended for good."""
    return view.status in ("expected", "starting") and not view.external and view.ending is None


def _begin(state: RunState, view: AgentView) -> None:
    if not view.began:
        view.began = True
        spec = view.spec
        few = spec.may_call is not None and len(spec.may_call) + len(spec.may_tell) <= NAMES_MAX
        state.tell(
            view.name,
            Begin,
            peers=tuple(islice(state.agents, NAMES_MAX)),
            replicas=state.replicas,
            may_call=spec.may_call if few else None,
            may_tell=spec.may_tell if few else (),
        )


def process_started(state: RunState, message: ProcessStarted) -> None:
    """The host started a process."""
    view = state.agents.get(message.agent)
    if view is not None:
        view.pid, view.restarts = message.pid, message.restarts
        view.runs = True
        if view.ending is not None:
            view.ending.exited_seq = 0
            state.ask_host(StopProcess, agent=view.name, grace_s=0.0)
            return
        view.told_to_stop = view.cut_short = False
        if not view.present:
            view.status = "starting"


def process_exited(state: RunState, message: ProcessExited) -> None:
    """A process ended; what that is depends on how, and on whether it comes back."""
    view = state.agents.get(message.agent)
    if view is None or (view.pid not in (0, message.pid)):
        return
    view.runs = False
    if view.ending is not None:
        view.ending.exited_seq, view.ending.exited_at_s = state.seq, state.now_s
        arm(state, state.now_s + SILENT_S)
    stopping = view.told_to_stop or view.status == "stopping" or state.phase not in ("starting", "running")
    orderly = message.code == 0 or stopping
    how = f"exit status {message.code}" if message.code >= 0 else f"signal {-message.code}"
    gone(state, view, "gone" if orderly else "crashed", f"its process ended with {how}", returning=message.restart)
    if not orderly:
        again = "its host starts it again" if message.restart else "it is not started again"
        _crashed(state, view, f"{view.name} crashed: {how}; {again}")
    if orderly and not stopping and not message.restart and _is_missed(state, view):
        _never_came(state, view)
    if not message.restart and (not orderly or view.cut_short):
        state.main_over(view.name, done=False)
    if message.restart:
        view.status = "starting"
        if not orderly and view.name in state.mains_over:
            state.mains_over[view.name] = False
        state.due_s.pop("quiet", None)  # it takes as long as it takes


def _crashed(state: RunState, view: AgentView, said: str) -> None:
    before = crashes.before(state, view)
    if view.recovery is not None and before:
        said += f"; it had come back from a crash only {state.now_s - view.recovery.at_s:.0f} s before"
    report(state, "crash", said, [view.name], key=view.name, evidence=before)
    crashes.fell(view)


def _is_missed(state: RunState, view: AgentView) -> bool:
    """Whether an agent that has ended by itself ought to have joined: others have. Programs alone are no crew."""
    if view.inc or view.told_to_stop or view.ending is not None:
        return False
    return any(each.present for each in state.agents.values())


def _never_came(state: RunState, view: AgentView) -> None:
    said = f"the process of {view.name} has ended, with exit status 0, and never joined the crew"
    report(state, "crash", said, [view.name], key=view.name)
    state.main_over(view.name, done=False)


def restarts_exhausted(state: RunState, message: RestartsExhausted) -> None:
    """The host has given up on an agent."""
    view = state.agents.get(message.agent)
    if view is None:
        return
    gone(state, view, "gave_up", "it crashed too often")
    state.main_over(view.name, done=False)
    summary = (
        f"{view.name} crashed more than {message.intensity} times within {message.period_s:g} s; "
        "its host has stopped restarting it"
    )
    report(state, "restart_intensity", summary, [view.name], key=view.name)


def gone(state: RunState, view: AgentView, status: str, why: str, *, returning: bool = False) -> None:
    """An incarnation is over, with all it was doing; whoever waits for it is told at once."""
    view.status = "gone" if status == "gone" else "gave_up" if status == "gave_up" else "crashed"
    state.mains.pop(view.name, None)
    state.stirred = True
    for question in [q.id for q in state.questions.values() if q.agent == view.name]:
        del state.questions[question]
    asked = [call for task in view.tasks.values() for call in task.calls.values()]
    lost = state.graph.died(view.name, returning=returning)
    if state.phase in ("starting", "running"):
        for call in sorted(
            asked, key=lambda call: call.state == "started"
        ):  # a slot set free starts nothing of its own
            give_up(state, call, f"{view.name}, which made it, is gone")
    for ticket in state.graph.tickets_of(view.name):  # the dead hold nothing
        grant(state, state.graph.released(ticket.resource.name, ticket.id))
    orphaned(state, lost, f"{view.name} is gone: {why}")
    for helper in state.helping.pop(view.name, {}):
        kill(state, helper, f"{view.name}, which let it in, is gone", 0.0)
    incarnation_over(state, view)


def orphaned(state: RunState, lost: list[Call], why: str) -> None:
    """Calls that nobody will answer: fail them with `PeerGone`, and report the waits that hung on them.

    Where policy does not fail them, they stay open, and detection reports who waits for them.
    """
    if not breaks_orphans(state):
        return
    edges: list[Edge] = []
    for call in lost:
        if call.task.wait is not None:
            edges += [edge for edge in edges_of(call.task, state.graph) if edge.message == call.id]
    if edges and state.phase == "running":
        agents = tuple(dict.fromkeys([edge.agent for edge in edges] + [call.to for call in lost]))
        finding = _finding(state, "orphan", f"{', '.join(dict.fromkeys(e.agent for e in edges))}: {why}", agents)
        finding = msgspec.structs.replace(finding, edges=tuple(edges))
        incident = open_incident(state, finding)
        note(state, incident, f"failed {len(lost)} call(s) with PeerGone")
        resolve(state, incident, "the callers can go on")
    for call in lost:
        state.answer(call.caller, call.id, error=Fault(code="peer_gone", text=why[:2000]))


def left(state: RunState, view: AgentView, why: str) -> None:
    """An agent says that it goes; how its process ends tells whether it comes back."""
    if view.ending is not None:
        view.ending.left_seq = state.seq
    elif view.runs:
        state.due_s.pop("quiet", None)  # how its process ends says whether its main activity did
    gone(state, view, "gone", why or "it left")


def operator_asked(state: RunState, message: OperatorAsked) -> None:
    """A person intervenes."""
    reason = (message.why or f"asked by {message.by or 'an operator'}")[:2000]
    views = list(state.agents.values()) if not message.agent else [state.agents.get(message.agent)]
    present = [view for view in views if view is not None]
    match message.action:
        case "pause" | "resume" if message.peer:
            _pair_asked(state, message, reason)
        case "pause" if not message.agent:
            holding.pause_all(state, reason, message.grace_s)
        case "resume" if not message.agent:
            holding.resume_all(state)
            _let_go(state, present, message.by)
        case "pause":
            for view in present:
                holding.pause(state, view, reason, message.grace_s)
        case "resume":
            for view in present:
                holding.resume_one(state, view)
            _let_go(state, present, message.by)
        case "kill":
            for view in present:
                kill(state, view.name, reason, message.grace_s)
        case "stop_run":
            stop_crew(state, "stopped", reason)
        case "goal" | "answer":
            _told(state, message)
        case "acknowledge" | "resolve" as about:
            (acknowledgement.taken if about == "acknowledge" else acknowledgement.closed)(state, message)
            return
    incident = state.incidents.get(message.incident)
    if incident is not None:
        whom = message.agent or "the crew"
        because = f": {message.why}" if message.why else ""
        note(state, incident, f"{message.by or 'an operator'} asked to {message.action} {whom}{because}")


def _told(state: RunState, message: OperatorAsked) -> None:
    """A person says what the run is for from now on, or answers a question."""
    if message.action == "goal":
        if state.crew is not None:
            state.crew = msgspec.structs.replace(state.crew, objective=message.answer)
        if state.watch is not None:
            state.watch.goal_changed(message.answer)
        return
    question = state.questions.pop(message.question, None)
    if question is not None:
        if state.watch is not None:
            state.watch.people_said(message.answer, question.agent)
        state.answer(question.agent, question.id, body=Raw(msgspec.json.encode(message.answer)))


def _let_go(state: RunState, views: list[AgentView], by: str) -> None:
    """A person lets agents go on, also those whose new calls wait at the gate."""
    for view in views:
        for id_ in gate_holds.resume(state, view.name):
            incident = state.incidents.get(id_)
            if incident is not None:
                incident.let_go = True
                note(state, incident, f"{view.name} was let go on by {by or 'an operator'}")


def _pair_asked(state: RunState, message: OperatorAsked, why: str) -> None:
    one, other = state.agents.get(message.agent), state.agents.get(message.peer)
    if one is None or other is None or one is other:
        return
    if message.action == "pause":
        holding.hold_apart(state, one, other, why)
    else:
        holding.let_together(state, one, other)


def run_ended(state: RunState, message: RunEnded) -> None:
    """The host has nothing left of the run."""
    state.phase = message.state
    state.stirred = True
    for incident in state.incidents.values():
        if incident.state != "resolved":
            resolve(state, incident, "the run has ended")
    escalation.flush(state)
    for need in [need for need in state.due_s if need != "confinement"]:
        del state.due_s[need]
    for view in state.agents.values():
        if view.present or view.status == "starting":
            gone(state, view, "gone", "the run has ended")


def watch_clock(state: RunState) -> None:
    """What only time brings: beginning without the missing, noticing silence, the end of the work."""
    begin_if_complete(state)
    if state.phase not in ("starting", "running"):
        for need in ("begin", "silence", "quiet"):
            state.due_s.pop(need, None)
        return
    _watch_silence(state)
    if state.phase == "running":
        _watch_quiet(state)


def _silence_limit_s(state: RunState) -> float:
    return max(SILENCE_S, 10 * state.crew.heartbeat_s) if state.crew is not None else SILENCE_S


def _watch_silence(state: RunState) -> None:
    if not state.is_due("silence"):
        return
    limit_s = _silence_limit_s(state)
    outside = [view for view in state.agents.values() if view.external and view.present and not _is_held(view)]
    for view in outside:
        if state.now_s - view.last_seen_s >= limit_s:
            gone(state, view, "crashed", f"it has said nothing for {limit_s:g} s")
            _crashed(state, view, f"{view.name} has said nothing for {limit_s:g} s")
    del state.due_s["silence"]
    seen = [view.last_seen_s + limit_s for view in outside if view.present]
    if seen:
        state.due_s["silence"] = min(seen)


def _is_held(view: AgentView) -> bool:
    """Whether the server keeps it from saying anything."""
    return view.hold is not None and view.hold.step != "asked"


def _watch_quiet(state: RunState) -> None:
    if state.mains or not state.mains_over or (state.hosting is not None and state.hosting.owes):
        state.due_s.pop("quiet", None)
        return
    views = state.agents.values()
    if state.graph.calls or any(task.slot for view in views for task in view.tasks.values()):
        state.due_s.pop("quiet", None)
        return
    coming = any(
        not view.external and (view.status in ("expected", "starting") or (view.runs and view.status == "gone"))
        for view in views
    )
    patience_s = state.crew.start_timeout_s if coming and state.crew is not None else QUIET_S
    due_s = state.due_s["quiet"] = min(state.due_s.get("quiet", float("inf")), state.now_s + patience_s)
    if state.now_s < due_s:
        return
    del state.due_s["quiet"]
    missing = [view.name for view in views if not view.external and not view.inc]
    failed = [name for name, came_to_its_end in state.mains_over.items() if not came_to_its_end and name not in missing]
    if failed or missing:
        said = [f"{', '.join(failed)} did not finish"] if failed else []
        said += [f"{', '.join(missing)} never joined"] if missing else []
        stop_crew(state, "failed", "; ".join(said))
    else:
        if state.watch is not None and state.watch.answer is not None:
            state.watch.answer.finished()
        stop_crew(state, "done", "the work is done")


def report(
    state: RunState,
    kind: FindingKind,
    summary: str,
    agents: list[str],
    *,
    key: str,
    evidence: dict[str, str] | None = None,
    times: int = 1,
) -> Incident:
    """Report a finding that needs no confirmation; the same kind and key while open only counts up, by `times`.

    Beyond `ALIKE_MAX` open ones of a kind about the same agents, the last of them counts up: nobody crowds out other
    findings. What is resolved crowds out none, and hides nothing that comes after it.
    """
    known = _known(state, kind, agents, key)
    if known is not None:
        known.count += times
        if known.count <= 20:
            note(state, known, summary)
        return known
    finding = _finding(state, kind, summary, tuple(agents))
    incident = open_incident(state, msgspec.structs.replace(finding, evidence={"key": key, **(evidence or {})}))
    incident.count = times
    return incident


def _known(state: RunState, kind: FindingKind, agents: list[str], key: str) -> Incident | None:
    """The incident that a finding counts up: mostly the newest of its kind, so that one is looked at first."""
    alike = []
    for incident in reversed(state.incidents.values()):
        if incident.finding.kind != kind or incident.state == "resolved":
            continue
        if incident.finding.evidence.get("key") == key:
            return incident
        if incident.finding.agents == tuple(agents):
            alike.append(incident)
    return alike[0] if len(alike) >= ALIKE_MAX else None


def _finding(state: RunState, kind: FindingKind, summary: str, agents: tuple[str, ...]) -> Finding:
    return Finding(
        id=state.next_name("F"), kind=kind, at_s=state.now_s, seq=state.seq, summary=summary[:2000], agents=agents
    )
