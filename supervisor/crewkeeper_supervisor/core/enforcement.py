"""Enforcement: what follows from what the server did and saw, and whether an ended agent is really gone.

Theory of operation. An agent is terminated when three things stand in the journal: the server reports that it has shut
the agent out and that no connection is left; the host reports the end of the process, if a host runs one; and after
both, for `SILENT_S` of journal time, no entry of the agent. An entry after that report is proof of the contrary: the
outcome is `still_talking`, and the server is told again. Without the proof in time the outcome is `unknown`; it still
becomes `terminated` when the proof comes. Where nobody has power over the server only the end of a process is proof.
"""

from typing import Final

from crewkeeper_bus.messages import AccessSet, Violation
from crewkeeper_supervisor.core import flood, holding, hosting
from crewkeeper_supervisor.core.confinement import NEVER, Ended, Ending
from crewkeeper_supervisor.core.ending import SILENT_S, arm, kill, shut_out
from crewkeeper_supervisor.core.findings import FindingKind
from crewkeeper_supervisor.core.lifecycle import gone, report
from crewkeeper_supervisor.core.response import note, resolve
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

RETRY_S: Final = 0.5
"""Pause before the server is told again what could not be done; doubles each time."""
TRIES_MAX: Final = 10

_KINDS: Final[dict[str, tuple[FindingKind, str]]] = {
    "denied": ("forgery", "{} tried what the server does not let it do"),
    "login_refused": ("intrusion", "a login as {} was refused"),
    "revoked_login": ("intrusion", "a login as {} was refused: its credentials are no longer valid"),
    "second_connection": ("intrusion", "{} was connected twice, as if somebody else had its credentials"),
    "not_joined": ("intrusion", "{} is connected and has not joined"),
    "flood": ("flood", "{} sends more than the server takes"),
}


def access_set(state: RunState, message: AccessSet) -> None:
    """The server was told to let an agent in, hold it or shut it out: how that went."""
    state.traced(message.command)
    view = state.agents.get(message.agent)
    if message.peer:
        holding.kept_apart(state, message)
        return
    if message.state == "revoked":
        hosting.access_set(state, message)
        return
    if view is None:
        return
    if message.state == "killed":
        _shut_out(state, view, message)
    elif view.hold is not None:
        _held(state, view, message)


def heard(state: RunState, view: AgentView) -> None:
    """An entry of an agent that is being ended: after it was shut out that is proof that it was not."""
    ending = view.ending
    if ending is None or not ending.answered_seq or state.seq <= ending.answered_seq:
        return
    if not ending.enforced and ending.exited_seq == 0 and state.now_s < ending.asked_at_s + ending.grace_s:
        return
    ending.heard += 1
    ending.heard_seq, ending.heard_at_s = state.seq, state.now_s
    if ending.outcome != "still_talking":
        _decide(state, view, ending, "still_talking", f"entry {state.seq} is its, after it was to be shut out")
    elif ending.tries > 1:
        _cannot_end(state, view, ending)
    if ending.enforced and ending.retry_due_s == NEVER and ending.shut_seq:
        ending.shut_seq, ending.shut_at_s = 0, NEVER
        ending.retry_due_s = state.now_s + _pause_s(ending.tries)
        arm(state, ending.retry_due_s)
    arm(state, state.now_s + SILENT_S)


def violated(state: RunState, message: Violation) -> None:
    """The server refused something, or somebody logged in who should not have."""
    view = state.agents.get(message.agent)
    if view is not None and view.ending is not None and message.what != "second_connection":
        view.ending.refused += message.count  # what is to be expected of one that is shut out
        return
    if message.what == "revoked_login" and hosting.is_cut_off(state, message.agent):
        return  # the process that was lost with its host wants to come back
    if view is not None and message.what == "flood":
        flood.seen(state, view, message.count, message.detail)
        return
    if view is not None and message.what == "denied":
        flood.pressed(state, view, message.count)
    held = view is not None and view.hold is not None and view.hold.step != "asked"
    if view is not None and (view.ending is not None or (message.what == "denied" and held)):
        return  # of one that is held or shut out nothing else is to be expected
    kind, sentence = _KINDS[message.what]
    who = view.name if view is not None else message.agent or "nobody that is known"
    times = f" ({message.count} times)" if message.count > 1 else ""
    summary = sentence.format(who) + times + (f": {message.detail[:200]}" if message.detail else "")
    agents = [view.name] if view is not None else []
    report(state, kind, summary, agents, key=f"{message.agent} {message.what}", times=message.count)


def watch(state: RunState) -> None:
    """The clock has come to something that was due; arms the next."""
    state.due_s.pop("confinement", None)
    for view in state.agents.values():
        if view.ending is not None:
            _look(state, view, view.ending)
        elif view.hold is not None:
            holding.look(state, view, view.hold)
        if view.ending is None and view.expires_at_s <= state.now_s:
            kill(state, view.name, "its time is up", 0.0)
    dues = [due_s for view in state.agents.values() for due_s in _dues(view)]
    due_s = min((due_s for due_s in dues if due_s > state.now_s), default=NEVER)
    if due_s != NEVER:
        arm(state, due_s)


# --- an agent is shut out ---


def _shut_out(state: RunState, view: AgentView, message: AccessSet) -> None:
    ending = view.ending
    if ending is None:  # by somebody else's hand: its credentials were withdrawn
        if message.ok and view.present:
            gone(state, view, "gone", "the server shut it out")
        return
    ending.answered_seq = state.seq
    ending.enforced, ending.detail, ending.took_ms = message.enforced, message.detail, message.took_ms
    ending.connections += message.connections
    if message.ok:
        ending.shut_seq, ending.shut_at_s, ending.retry_due_s = state.seq, state.now_s, NEVER
        if view.cut_short and view.runs:
            state.main_over(view.name, done=False)
        if view.present:
            gone(state, view, "gone", "the server shut it out")
    elif message.enforced and ending.tries < TRIES_MAX:
        ending.retry_due_s = state.now_s + _pause_s(ending.tries)
    watch(state)


def _pause_s(tries: int) -> float:
    return float(min(32.0, RETRY_S * 2 ** max(0, tries - 1)))


def _proof_s(view: AgentView, ending: Ending) -> float:
    """Since when nothing is missing for the proof but silence; `NEVER`: something else is missing."""
    if view.runs:
        return NEVER
    if ending.enforced:
        return max(ending.shut_at_s, ending.exited_at_s, ending.heard_at_s) if ending.shut_seq else NEVER
    if not ending.answered_seq or view.external:
        return NEVER
    return max(ending.exited_at_s, ending.asked_at_s, ending.heard_at_s)


def _look(state: RunState, view: AgentView, ending: Ending) -> None:
    proved = _proof_s(view, ending) + SILENT_S <= state.now_s
    if proved:
        ending.retry_due_s = NEVER
    if min(ending.shut_due_s, ending.retry_due_s) <= state.now_s:
        shut_out(state, view, ending)
    if ending.outcome == "terminated":
        return
    if proved:
        _decide(state, view, ending, "terminated", _why_terminated(view, ending))
    elif ending.limit_s <= state.now_s:
        ending.limit_s = NEVER
        if ending.outcome == "":
            _decide(state, view, ending, "unknown", _why_unknown(view, ending))
        _cannot_end(state, view, ending)


def _dues(view: AgentView) -> list[float]:
    ending, hold = view.ending, view.hold
    if ending is None:
        return [view.expires_at_s, NEVER if hold is None else hold.due_s]
    dues = [ending.shut_due_s, ending.retry_due_s]
    return dues if ending.outcome == "terminated" else [*dues, ending.limit_s, _proof_s(view, ending) + SILENT_S]


def _decide(state: RunState, view: AgentView, ending: Ending, outcome: Ended, why: str) -> None:
    before, ending.outcome = ending.outcome, outcome
    ending.why_so, ending.decided_seq = why, state.seq
    incident = state.incidents.get(ending.incident)
    if incident is not None:
        note(state, incident, f"{view.name}: {outcome.replace('_', ' ')}: {why}")
    if outcome == "terminated":
        for id_ in (ending.reported, view.flood.incident if view.flood is not None else ""):
            over = state.incidents.get(id_)
            if over is not None and over.state != "resolved":
                resolve(state, over, f"{view.name} is terminated")
    elif before == "terminated" or (outcome == "still_talking" and ending.tries > 1):
        _cannot_end(state, view, ending)


def _cannot_end(state: RunState, view: AgentView, ending: Ending) -> None:
    if ending.reported in state.incidents and state.incidents[ending.reported].state != "resolved":
        return
    summary = f"{view.name} was to be ended and is not known to be: {ending.why_so}"
    ending.reported = report(state, "survivor", summary, [view.name], key=f"{view.name} {state.seq}").id


def _why_terminated(view: AgentView, ending: Ending) -> str:
    silence = f"nothing was heard of it for {SILENT_S:g} s"
    exited = "its host reports that its process has ended" if ending.exited_seq else "no host runs a process of it"
    if not ending.enforced:
        return f"{exited}, and {silence}; nobody here has power over the server, which would still let it in"
    return f"the server has shut it out, {exited}, and {silence}"


def _why_unknown(view: AgentView, ending: Ending) -> str:
    if view.runs:
        return "its host has not reported the end of its process"
    if not ending.answered_seq:
        return "the supervisor has not reported whether the server shut it out"
    if not ending.enforced:
        left = "it says that it left, but " if ending.left_seq else ""
        return f"{left}nobody here has power over the server, so it may still be connected"
    return f"the server could not be made to shut it out: {ending.detail[:200]}"


# --- an agent is held ---


def _held(state: RunState, view: AgentView, message: AccessSet) -> None:
    hold = view.hold
    assert hold is not None  # the caller has looked
    if (message.state == "running") != (hold.step == "freeing"):
        return  # of an order that was countermanded
    hold.enforced, hold.detail = message.enforced, message.detail
    again = not message.ok and message.enforced and hold.tries < TRIES_MAX
    if message.state == "paused":
        flood.held(state, view)
    if again:
        hold.due_s = state.now_s + _pause_s(hold.tries)
        arm(state, hold.due_s)
    elif message.state == "paused":
        if not message.ok:
            hold.step = "asked"
        else:
            hold.step = "held"
            if view.status == "up":
                view.status = "paused"
    else:
        view.last_seen_s = state.now_s
        if not hold.said and view.status == "paused":
            view.status = "up"
        view.hold = None
        if state.watch is not None:
            state.watch.lookout.patience.begins(view.name)
        flood.freed(state, view)
