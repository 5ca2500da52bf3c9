"""Ending: one agent is ended, whether it obeys or not.

Theory of operation. The agent is asked to stop, and its host is told to end the process when the grace is over. At that
time, or as soon as the process has ended, the server is told to shut it out: no login, no connection. What follows from
the answers is `enforcement`'s, which calls an agent terminated only when the server has shut it out, its process is
reported to have ended, and nothing has been heard since for a while. Every step is a command with a trace, so a new
owner of the run goes on where the last one was; asking again for what was done changes nothing.
"""

from typing import Final

from crewkeeper_bus.messages import Stop, StopProcess
from crewkeeper_supervisor.core.confinement import NEVER, Ending
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

SILENT_S: Final = 0.3
"""How long nothing must have been heard of an ended agent, journal time."""
LIMIT_S: Final = 10.0
"""An end that is not proven this long after the agent was to be shut out is reported as unknown."""


def kill(state: RunState, agent: str, why: str, grace_s: float | None = None, incident: str = "") -> None:
    """End one agent, and those that it let in. Repeating it is harmless: it only makes the end come sooner."""
    view = state.agents[agent]
    grace = view.spec.restart.shutdown_s if grace_s is None else grace_s
    waits = view.present or view.status == "starting"
    due_s = state.now_s + grace if waits else state.now_s
    if view.ending is None:
        state.gate.shut[agent] = None
        state.stirred = True
        _begin(state, view, why[:2000], grace, due_s, incident)
    else:
        _hasten(state, view, view.ending, grace, due_s)
    for helper in state.helping.pop(agent, {}):
        kill(state, helper, f"{agent}, which let it in, is ended: {why}", grace, incident)


def shut_out(state: RunState, view: AgentView, ending: Ending) -> None:
    """Have the server shut an agent out now."""
    ending.tries += 1
    ending.shut_due_s = ending.retry_due_s = NEVER
    ending.limit_s = min(ending.limit_s, state.now_s + LIMIT_S)
    state.set_access(view.name, "killed", ending.why)
    arm(state, state.now_s + LIMIT_S)


def incarnation_over(state: RunState, view: AgentView) -> None:
    """What an ending agent did last is over: there is no grace left to wait for."""
    ending = view.ending
    if ending is not None and ending.tries == 0:
        shut_out(state, view, ending)


def arm(state: RunState, due_s: float) -> None:
    """Have the clock looked at then."""
    state.due_s["confinement"] = min(state.due_s.get("confinement", NEVER), due_s)


def _begin(state: RunState, view: AgentView, why: str, grace_s: float, due_s: float, incident: str) -> None:
    ending = view.ending = Ending(
        why=why,
        asked_at_s=state.now_s,
        asked_seq=state.seq,
        shut_due_s=due_s,
        grace_s=grace_s,
        incident=incident,
        limit_s=due_s + LIMIT_S,
    )
    view.hold = None
    if view.present:
        state.tell(view.name, Stop, durable=True, why=why, grace_s=grace_s)
    if not view.external:
        state.ask_host(StopProcess, agent=view.name, grace_s=grace_s)
        view.told_to_stop, view.cut_short = True, view.name in state.mains
    if view.status in ("starting", "up", "paused"):
        view.status = "stopping"
    if due_s <= state.now_s:
        shut_out(state, view, ending)
    else:
        arm(state, due_s)


def _hasten(state: RunState, view: AgentView, ending: Ending, grace_s: float, due_s: float) -> None:
    if ending.outcome == "terminated":
        return
    if ending.tries == 0:
        if due_s >= ending.shut_due_s:
            return
        ending.grace_s, ending.shut_due_s = grace_s, due_s
        ending.limit_s = due_s + LIMIT_S
        if due_s > state.now_s:
            arm(state, due_s)
            return
    if not view.external and not ending.exited_seq:
        state.ask_host(StopProcess, agent=view.name, grace_s=0.0)
    shut_out(state, view, ending)
