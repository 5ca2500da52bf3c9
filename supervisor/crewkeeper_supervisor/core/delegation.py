"""Delegation: a task lets in a helper of its own, with part of what its agent may do and no longer than itself.

The asker makes the helper's secret and states only its digest. What the helper may do is narrowed here, and let in by
the server on the core's order; the helper is then an agent of the crew like one that was started elsewhere. It is ended
with the task, with its parent, at its deadline, and with the run.
"""

from typing import Final

from msgspec import Raw, json

from crewkeeper_bus.errors import SubjectError
from crewkeeper_bus.messages import Delegate, Delegated, Fault, Outcome
from crewkeeper_bus.subjects import check_agent
from crewkeeper_supervisor.core.confinement import NEVER
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.core.ending import arm, kill
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.scope import Scope, Wider, expand_peers, narrow
from crewkeeper_supervisor.core.state import Admission, RunState

HELPERS_MAX: Final = 16
"""Helpers of one agent at a time."""
HELPERS_MAX_IN_ALL: Final = 1000
"""Helpers of one run over its whole time: names are not used twice."""


def asked(state: RunState, view: AgentView, message: Delegate, note: str) -> None:
    """A task asks to let in a helper.

    Args:
        state: The run.
        view: Who asks.
        message: For what.
        note: Id of the note, on which the answer goes.
    """
    problem = _problem(state, view, message)
    wanted = Scope(
        peers=tuple(name for name in message.peers if name != view.name),
        tools=message.tools,
        until_s=state.now_s + message.limit_s,
    )
    scope = narrow(_scope_of(state, view), wanted)
    if problem or isinstance(scope, Wider):
        _refuse(state, view.name, note, problem or getattr(scope, "text", ""))
        return
    command = state.admit(
        message.agent,
        parent=view.name,
        task=message.task,
        role=message.agent,
        peers=(view.name, *_instances(state, scope.peers or ()))[:256],
        tools=scope.tools or (),
        expires_s=wanted.until_s,
        token=message.token,
        digest=message.digest,
    )
    state.helpers[command] = Admission(agent=message.agent, parent=view.name, task=message.task, note=note)


def admitted(state: RunState, message: Delegated) -> None:
    """The helper may log in: it is of the crew from now on."""
    state.traced(message.command)
    wish = state.helpers.pop(message.command, None)
    if wish is None or wish.agent in state.agents:
        return
    spec = Agent(name=wish.agent, external=True, may_call=message.peers, tools=message.tools)
    state.graph.declare(wish.agent, wish.agent, spec.concurrency, spec.reentrant)
    view = AgentView(
        name=wish.agent,
        role=wish.agent,
        spec=spec,
        node=state.graph.agent(wish.agent),
        parent=wish.parent,
        task=wish.task,
        expires_at_s=state.now_s + message.expires_s,
    )
    state.agents[view.name] = view
    state.helping.setdefault(wish.parent, {})[view.name] = view
    state.stirred = state.confines = True
    arm(state, view.expires_at_s)
    told = {"agent": view.name, "role": view.role, "expires_s": round(message.expires_s, 3)}
    state.answer(wish.parent, wish.note, body=Raw(json.encode(told)))
    watch(state, wish.parent)


def failed(state: RunState, message: Outcome) -> None:
    """An effect went wrong; if it was to let in a helper, whoever asked hears of it."""
    wish = state.helpers.pop(message.command, None)
    if wish is not None:
        _refuse(state, wish.parent, wish.note, message.detail or "it could not be let in")


def watch(state: RunState, parent: str) -> None:
    """End the helpers of an agent whose tasks are over. To be called after every event of an agent that has any."""
    helpers, view = state.helping.get(parent, {}), state.agents[parent]
    for helper in list(helpers.values()):
        if helper.ending is not None:
            del helpers[helper.name]
        elif helper.task not in view.tasks:
            kill(state, helper.name, f"the task of {parent} that let it in is over", 0.0)
            del helpers[helper.name]
    if not helpers:
        state.helping.pop(parent, None)


def _problem(state: RunState, view: AgentView, message: Delegate) -> str:
    """Why this agent cannot have a helper of this name for this task; empty: it can."""
    wishes = list(state.helpers.values())
    mine = [wish for wish in wishes if wish.parent == view.name]
    taken = message.agent in state.agents or message.agent in state.graph.roles
    try:
        check_agent(message.agent)
    except SubjectError as error:
        return str(error)
    if taken or any(wish.agent == message.agent for wish in wishes):
        return f"the name {message.agent!r} is taken in this crew; take one that was never used"
    if message.task not in view.tasks:
        return f"{view.name} has no task {message.task!r}; a helper lives and dies with a task of its asker"
    if len(state.helping.get(view.name, {})) + len(mine) >= HELPERS_MAX:
        return f"{view.name} has {HELPERS_MAX} helpers, which is all it may have at a time"
    if sum(1 for each in state.agents.values() if each.parent) + len(wishes) >= HELPERS_MAX_IN_ALL:
        return f"this run has had {HELPERS_MAX_IN_ALL} helpers, which is all it may have"
    if message.limit_s <= 0:
        return "its time must be more than 0 s"
    return ""


def _scope_of(state: RunState, view: AgentView) -> Scope:
    """What an agent may do itself, as far as the crew file or its own admission says."""
    peers = None if view.spec.may_call is None else _instances(state, view.spec.may_call)
    tools = state.tools_of(view)
    return Scope(peers=peers, tools=tools, until_s=None if view.expires_at_s == NEVER else view.expires_at_s)


def _instances(state: RunState, names: tuple[str, ...]) -> tuple[str, ...]:
    return expand_peers(names, {view.name: view.role for view in state.agents.values()})


def _refuse(state: RunState, agent: str, note: str, why: str) -> None:
    state.answer(agent, note, error=Fault(code="refused", text=why[:2000]))
