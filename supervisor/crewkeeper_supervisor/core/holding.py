"""Holding: agents are paused and let go on, the willing by their word, the others by the server.

An agent is asked first, and holds at its next checkpoint without losing anything. One that does not say within the
grace that it stands paused, or says so and goes on, is held by the server: it can receive nothing but control messages
and publish nothing; what is addressed to it stays queued. While a whole crew is held, whoever joins it is held too.
"""

from typing import Final

from crewkeeper_bus.messages import AccessSet, CallStarted, Message, Pause, Request, Resume, TaskBegan
from crewkeeper_supervisor.core.confinement import NEVER, CrewHold, Hold
from crewkeeper_supervisor.core.ending import arm
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

GRACE_S: Final = 2.0
"""How long an agent may take to say that it stands paused."""
_WORK: Final = (Request, Message, TaskBegan, CallStarted)
"""What an agent that stands paused does not begin."""


def pause(state: RunState, view: AgentView, why: str, grace_s: float | None = None, *, keep: bool = True) -> None:
    """Hold an agent: it is asked, and after the grace the server sees to it.

    Args:
        state: The run.
        view: The agent.
        why: Reason, for people and for the agent.
        grace_s: How long it may take to say that it stands paused; 0: the server holds it at once.
        keep: Whether what it says while the server holds it is kept.
    """
    if view.ending is not None or not view.present:
        return
    grace = GRACE_S if grace_s is None else grace_s
    state.tell(view.name, Pause, durable=True, why=why[:2000])
    if view.hold is not None and view.hold.step in ("holding", "held"):
        return
    said = view.hold is not None and view.hold.said
    view.hold = Hold(why=why[:2000], due_s=state.now_s + grace, grace_s=grace, said=said, keep=keep)
    if grace <= 0:
        _hold(state, view, view.hold)
    elif said:
        view.hold.due_s = NEVER
    else:
        arm(state, view.hold.due_s)


def resume(state: RunState, view: AgentView) -> None:
    """Let an agent go on. One that is not there, too: while the server holds it, it cannot join again."""
    if view.ending is not None:
        return
    hold = view.hold
    if hold is not None and hold.step in ("holding", "held", "freeing"):
        if hold.step != "freeing":
            hold.step, hold.due_s, hold.tries = "freeing", NEVER, 0
            _free(state, view, hold)
    else:
        view.hold = None
    if view.present:
        state.tell(view.name, Resume, durable=True)


def pause_all(state: RunState, why: str, grace_s: float | None = None) -> None:
    """Hold every agent, and those that come while the crew is held."""
    state.crew_hold = CrewHold(why=why, grace_s=grace_s)
    for view in list(state.agents.values()):
        pause(state, view, why, grace_s)


def resume_all(state: RunState) -> None:
    """Let every agent go on."""
    state.crew_hold = None
    for view in list(state.agents.values()):
        resume(state, view)


def resume_one(state: RunState, view: AgentView) -> None:
    """Let one agent go on; should its crew be held, it is held no more."""
    if state.crew_hold is not None:
        state.crew_hold.freed[view.name] = None
    resume(state, view)


def hold_apart(state: RunState, one: AgentView, other: AgentView, why: str) -> None:
    """Hold what two agents say to each other; with everybody else both go on. Only the server can do that."""
    pair = _pair(one.name, other.name)
    if state.apart.get(pair) not in ("holding", "held"):
        state.apart[pair] = "holding"
        state.set_access(pair[0], "paused", why, peer=pair[1])


def let_together(state: RunState, one: AgentView, other: AgentView) -> None:
    """Let two agents that are held apart speak with each other again."""
    pair = _pair(one.name, other.name)
    if state.apart.get(pair, "freeing") != "freeing":
        state.apart[pair] = "freeing"
        state.set_access(pair[0], "running", "they are let go on", peer=pair[1])


def kept_apart(state: RunState, message: AccessSet) -> None:
    """The server was told to hold two agents apart, or no longer to: how that went."""
    pair = _pair(message.agent, message.peer)
    step = state.apart.get(pair)
    if step == "holding" and message.state == "paused":
        state.apart[pair] = "held" if message.ok else "failed"
    elif step == "freeing" and message.state == "running" and (message.ok or not message.enforced):
        del state.apart[pair]


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def stands(state: RunState, view: AgentView, where: str) -> None:
    """An agent says where it stands."""
    hold = view.hold
    before = view.status
    view.status = "paused" if where == "paused" or (hold is not None and hold.step == "held") else "up"
    if before == "paused" != view.status and state.watch is not None:
        state.watch.lookout.patience.begins(view.name)
    if hold is None:
        return
    hold.said = where == "paused"
    if hold.said and hold.step == "asked":
        hold.due_s, hold.said_at_s = NEVER, min(hold.said_at_s, state.now_s)


def spoke(state: RunState, view: AgentView, message: object) -> None:
    """An agent that stands paused says something. One that begins new work all the same is held by the server."""
    hold = view.hold
    if hold is None or hold.step != "asked" or not isinstance(message, _WORK):
        return
    if hold.said_at_s + max(hold.grace_s, GRACE_S) < state.now_s:
        hold.said = False
        _hold(state, view, hold)


def again(state: RunState, view: AgentView) -> None:
    """A new incarnation of an agent: a pause of it, or of its crew, holds for it too; what it missed is sent sooner."""
    hold = view.hold
    if hold is None:
        crew = state.crew_hold
        if crew is not None and view.name not in crew.freed:
            pause(state, view, crew.why, crew.grace_s)
    elif hold.step != "freeing":
        view.hold = None
        pause(state, view, hold.why, hold.grace_s, keep=hold.keep)
    elif hold.due_s != NEVER:  # it could not be given what waits for it, and now it is back
        hold.due_s = state.now_s
        arm(state, state.now_s)


def look(state: RunState, view: AgentView, hold: Hold) -> None:
    """The clock has come to what was due."""
    if hold.due_s > state.now_s:
        return
    hold.due_s = NEVER
    if hold.step == "freeing":
        _free(state, view, hold)
    else:
        _hold(state, view, hold)


def _hold(state: RunState, view: AgentView, hold: Hold) -> None:
    hold.step, hold.due_s = "holding", NEVER
    hold.tries += 1
    state.set_access(view.name, "paused", hold.why, keep=hold.keep)


def _free(state: RunState, view: AgentView, hold: Hold) -> None:
    hold.tries += 1
    state.set_access(view.name, "running", "it is let go on")
