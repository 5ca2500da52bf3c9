"""Reach: whom an agent may call and tell by the crew file; where a server holds it to that, nothing else arrives here.

`may_call` and `may_tell` name roles, which stand for all of their instances. The server is told the same names when an
agent logs in. Here they are checked once more, for servers that enforce nothing, for lists that are too long to be
signed, and for credentials that an operator has made wider.
"""

from typing import NamedTuple

from crewkeeper_bus.messages import Fault
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.nodes import Call
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.scope import expand_peers
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.withdrawal import give_up

Names = tuple[str, ...]


class Reach(NamedTuple):
    """Whom an agent may address: roles, and all of their instances."""

    peers: Names | None = None
    """Who may be called and told something; None: anybody."""
    tells: Names = ()
    """Besides those, who may be sent one-way messages."""


def reach_of(crew: Crew, agent: Agent) -> Reach:
    """Whom the instances of an agent may address by the crew file."""
    if agent.may_call is None:
        return Reach()
    roles = {instance: each.name for each in crew.agents for instance in each.instances}
    return Reach(expand_peers(agent.may_call, roles), expand_peers(agent.may_tell, roles))


def request_refused(state: RunState, view: AgentView, call: Call) -> bool:
    """Fail a call to somebody whom the agent may not call; returns whether it is one."""
    if view.spec.may_call is None or _is_among(state, call.to, view.spec.may_call):
        return False
    if _is_helper(state, view, call.to) or not _is_somebody(state, call.to):
        return False  # of nobody at all, its caller hears elsewhere
    named = ", ".join(view.spec.may_call[:20]) or "nobody"
    why = f"{view.name} may not call {call.to}; by may_call of the crew file it may call {named}"
    _told(state, view, call.to, why)
    give_up(state, call, why)
    state.graph.call_lost(call.id)
    state.answer(view.name, call.id, error=Fault(code="denied", text=why))
    return True


def message_looked_at(state: RunState, view: AgentView, to: str) -> None:
    """A one-way message has arrived: one to somebody whom the agent may not tell anything is a finding."""
    if view.spec.may_call is None or _is_among(state, to, (*view.spec.may_call, *view.spec.may_tell)):
        return
    if _is_somebody(state, to) and not _is_helper(state, view, to):
        _told(state, view, to, f"{view.name} may not send {to} anything, by may_call and may_tell of the crew file")


def _told(state: RunState, view: AgentView, to: str, why: str) -> None:
    report(state, "policy_denied", why[:300], [view.name], key=f"{view.name} {to}")


def _is_among(state: RunState, to: str, names: Names) -> bool:
    partner = state.agents.get(to)
    return to in names or (partner is not None and partner.role in names)


def _is_helper(state: RunState, view: AgentView, to: str) -> bool:
    """Whether this is a helper that the agent has let in itself."""
    helper = state.agents.get(to)
    return helper is not None and helper.parent == view.name


def _is_somebody(state: RunState, to: str) -> bool:
    return to in state.agents or to in state.replicas
