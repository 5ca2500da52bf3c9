"""Locks: the supervisor is the lock manager of a run; the journal's order is the order of requests.

The queue itself lives in the wait graph, where detection sees it. Here it meets the agents.
"""

from collections.abc import Iterable

from crewkeeper_bus.messages import Acquire, Control, Granted, Release
from crewkeeper_supervisor.core.nodes import AgentNode
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.tickets import Ticket


def acquire(state: RunState, node: AgentNode, message: Acquire) -> bool:
    """An agent asks for a lock or for units of a semaphore, and fits. False if the ticket is another's."""
    resource = state.graph.resources.get(message.resource)
    ticket = resource.queue.get(message.ticket) if resource is not None else None
    if ticket is not None and ticket.task.agent is not node:
        return False
    tickets = state.graph.requested(
        node,
        message.task,
        message.resource,
        message.ticket,
        message.mode,
        message.units,
        message.capacity,
        state.now_s,
    )
    grant(state, tickets)
    return True


def misfit(state: RunState, message: Acquire) -> str:
    """Why a request cannot join the queue: it reckons with another capacity than the one the first request fixed.

    Who asks for a lock must not get it shared because somebody made a semaphore of its name before, nor be found to
    wait for more than there is because somebody said that there is little. Empty: it can join.
    """
    resource = state.graph.resources.get(message.resource)
    if resource is None or message.ticket in resource.queue:
        return ""
    if message.capacity < resource.capacity or resource.capacity < message.units <= message.capacity:
        return f"of {message.capacity}, but it has been in use with {resource.capacity}"
    return ""


def release(state: RunState, agent: str, message: Release) -> bool:
    """An agent gives back its own ticket. False if the ticket is another's."""
    resource = state.graph.resources.get(message.resource)
    ticket = resource.queue.get(message.ticket) if resource is not None else None
    if ticket is None:
        return True
    if ticket.task.agent.name != agent:
        return False
    if not ticket.granted and state.watch is not None:
        state.watch.lookout.gave_up(agent, message.resource)
    grant(state, state.graph.released(message.resource, message.ticket))
    return True


def told(state: RunState, message: Control) -> None:
    """A command is in the journal: if it is a grant, its holder can know of it from now on."""
    if not isinstance(message, Granted):
        return
    resource = state.graph.resources.get(message.resource)
    ticket = resource.queue.get(message.ticket) if resource is not None else None
    if ticket is not None:
        ticket.granted_s = min(ticket.granted_s, state.now_s)


def grant(state: RunState, tickets: Iterable[Ticket]) -> None:
    """Tell the tasks whose turn it is; the journal sequence is their fencing token."""
    for ticket in tickets:
        if state.watch is not None and ticket.resource.name in state.watch.vain:
            state.watch.lookout.granted(ticket.task.agent.name, ticket.resource.name)
        state.tell(ticket.task.agent.name, Granted, resource=ticket.resource.name, ticket=ticket.id, revision=state.seq)
