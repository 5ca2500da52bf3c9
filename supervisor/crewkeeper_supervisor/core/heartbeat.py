"""Heartbeat: an agent's account of its whole state, set against the wait graph.

A heartbeat stands in the agent's own stream, after everything it said before, so where the two differ about the agent's
own tasks and waits, a note was lost and the heartbeat is right. About what others send to it the journal may be ahead
of the agent; there only lasting differences count.
"""

from collections.abc import Iterator
from typing import Final

from crewkeeper_bus.messages import (
    Break,
    Condition,
    Fault,
    Heartbeat,
    OnAll,
    OnCall,
    OnHuman,
    OnResource,
    OnSome,
    OnTool,
    TaskState,
)
from crewkeeper_supervisor.core import repeats, settlement
from crewkeeper_supervisor.core.commands import AnswerCall
from crewkeeper_supervisor.core.holding import stands
from crewkeeper_supervisor.core.locks import grant
from crewkeeper_supervisor.core.nodes import AgentNode, Call
from crewkeeper_supervisor.core.quotas import CALLS_MAX
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.wait_graph import WaitGraph
from crewkeeper_supervisor.core.withdrawal import give_up, started_late

LOST_AFTER_S: Final = 3.0
"""What an agent has not received this long after the journal stored it (and two heartbeats) will not come."""


def reconcile(state: RunState, view: AgentView, heartbeat: Heartbeat) -> list[Call]:
    """Take over what the agent says of itself.

    Returns:
        Calls addressed to it that it never received, or ended without an answer: they are lost now.
    """
    graph, node = state.graph, view.node
    graph.declare(view.name, view.role, heartbeat.concurrency, heartbeat.reentrant)
    if view.status in ("up", "paused"):
        stands(state, view, heartbeat.state)
    unanswered = _tasks(state, node, heartbeat)
    if state.mains.get(view.name, "") not in ("", *node.tasks):  # the note of its end was lost
        state.main_over(view.name, done=True)
    _calls(state, node, heartbeat)
    graph.assured(node)
    limit_s = state.now_s - LOST_AFTER_S - 2 * heartbeat.heartbeat_s
    _tickets(state, node, heartbeat, limit_s)
    _mailbox(graph, node, heartbeat, limit_s)
    _heal(state, node, heartbeat, limit_s)
    return unanswered + _undelivered(graph, node, heartbeat, limit_s)


def claims_of_others(graph: WaitGraph, node: AgentNode, heartbeat: Heartbeat) -> list[tuple[TaskState, Call]]:
    """The tasks that an agent says handle a call which was made to somebody else, with that call."""
    claimed = [(told, graph.calls.get(told.call)) for told in heartbeat.tasks if told.call]
    return [(told, call) for told, call in claimed if call is not None and call.to not in (node.name, node.role)]


def _tasks(state: RunState, node: AgentNode, heartbeat: Heartbeat) -> list[Call]:
    graph, now_s = state.graph, state.now_s
    alive = {task.task for task in heartbeat.tasks}
    stolen = {task.task for task, _ in claims_of_others(graph, node, heartbeat)}
    ended = [graph.task_ended(node, id_) for id_ in [id_ for id_ in node.tasks if id_ not in alive]]
    for told in heartbeat.tasks:
        known = node.tasks.get(told.task)
        works_for = told.call if (known is None or known.call is None) and told.task not in stolen else ""
        if works_for and not started_late(state, node, works_for, told.task):
            graph.call_started(node, told.call, told.caller, told.task, now_s)
        elif known is None or known.slot != told.slot:
            graph.task_began(node, told.task, now_s, slot=told.slot)
        known = node.tasks[told.task]
        if told.wait is None:
            graph.wait_ended(node, told.task)
        elif known.wait is None or known.wait.epoch != told.wait.epoch:
            left_s = told.wait.deadline_s
            graph.wait_began(
                node,
                told.task,
                told.wait.epoch,
                told.wait.condition,
                now_s - told.wait.for_s,
                None if left_s is None else now_s + left_s,
            )
        elif known.wait.condition != told.wait.condition:
            graph.wait_narrowed(known, told.wait.condition)
    return [call for call in ended if call is not None]


def _calls(state: RunState, node: AgentNode, heartbeat: Heartbeat) -> None:
    graph = state.graph
    told = {call.call for call in heartbeat.calls}
    for task in list(node.tasks.values()):
        for call in [call for call in task.calls.values() if call.id not in told and call.state != "answered"]:
            give_up(state, call, f"{node.name} does not wait for it any more")  # its own word may have been lost
            graph.call_closed(call.id)
    for made in heartbeat.calls[:CALLS_MAX]:
        if made.call not in graph.calls and node.unsure:
            graph.call_opened(node, made.task, made.call, made.to, state.now_s)
    for id_ in heartbeat.queued:
        queued = graph.calls.get(id_)
        if queued is not None and queued.state == "open" and queued.to == node.role:
            graph.pin(queued, node)


def _tickets(state: RunState, node: AgentNode, heartbeat: Heartbeat, limit_s: float) -> None:
    """Give back what the agent does not claim, of a task that is over or granted long ago: its note was lost."""
    claimed = {held.ticket for held in heartbeat.held}
    claimed.update(leaf.ticket for _, leaf in _leaves(heartbeat) if isinstance(leaf, OnResource))
    for resource in list(state.graph.resources.values()):
        for ticket in list(resource.queue.values()):
            over = ticket.task.id not in node.tasks or (ticket.granted and ticket.granted_s < limit_s)
            if ticket.task.agent is node and over and ticket.id not in claimed:
                grant(state, state.graph.released(resource.name, ticket.id))


def _mailbox(graph: WaitGraph, node: AgentNode, heartbeat: Heartbeat, limit_s: float) -> None:
    unread = set(heartbeat.unread)
    for sender, box in list(node.unread.items()):
        for message, sent_s in list(box.items()):
            if sent_s < limit_s and (sender, message) not in unread:
                graph.message_taken(node, sender, message)


def _undelivered(graph: WaitGraph, node: AgentNode, heartbeat: Heartbeat, limit_s: float) -> list[Call]:
    queued = set(heartbeat.queued)
    found = [
        call
        for call in list(node.inbound.values())
        if call.state == "open" and call.opened_s < limit_s and call.id not in queued
    ]
    for call in graph.role_inbound.get(node.role, {}).values():  # at one of the instances, nobody knows which
        if call.opened_s < limit_s and call.id not in queued:
            call.missed |= {node.name}
            if all(instance.name in call.missed for instance in graph.live_instances(node.role)):
                found.append(call)
    return [call for call in found if graph.call_lost(call.id) is not None]


def _heal(state: RunState, node: AgentNode, heartbeat: Heartbeat, limit_s: float) -> None:
    """Help on waits for what the journal has had for long, or never had: it was lost on the way."""
    unanswered = {call.call for call in heartbeat.calls}
    answered: set[str] | None = None
    for told, leaf in _leaves(heartbeat):
        wait = node.tasks[told.task].wait
        if wait is None or max(wait.healed_s, wait.since_s) > limit_s:
            continue
        if isinstance(leaf, OnResource):
            healed = _heal_grant(state, node, told, leaf, limit_s)
        elif isinstance(leaf, OnCall) and leaf.call in unanswered:
            healed = _heal_answer(state, node, leaf, limit_s)
        elif isinstance(leaf, OnHuman) and leaf.question:
            if answered is None:  # gathered once, and only where somebody waits for a person
                answered = {command.call for command in state.pending.values() if isinstance(command, AnswerCall)}
            healed = leaf.question not in answered and _heal_question(state, node, leaf.question)
            answered.add(leaf.question)
        elif isinstance(leaf, OnTool):
            healed = settlement.remind(state, node.name, leaf.call)
        else:
            continue
        if healed:
            wait.healed_s = state.now_s


def _heal_grant(state: RunState, node: AgentNode, told: TaskState, leaf: OnResource, limit_s: float) -> bool:
    resource = state.graph.resources.get(leaf.resource)
    ticket = resource.queue.get(leaf.ticket) if resource is not None else None
    if ticket is None and told.wait is not None:
        # The request never came, or was given back in the agent's stead.
        lost = f"the request for {leaf.resource!r} was lost on its way, or refused; ask again"
        state.tell(node.name, Break, task=told.task, epoch=told.wait.epoch, code="peer_gone", finding="", why=lost)
        return True
    if ticket is not None and ticket.granted and ticket.granted_s < limit_s:
        ticket.granted_s = float("inf")  # until its holder has been told again
        grant(state, [ticket])
        return True
    return False


def _heal_answer(state: RunState, node: AgentNode, leaf: OnCall, limit_s: float) -> bool:
    call = state.graph.calls.get(leaf.call)
    if call is not None and not (call.state == "answered" and call.answered_s < limit_s):
        return False
    # Known and answered long ago: the answer was lost. Unknown: answered before the wait began, or never asked.
    fault = Fault(code="peer_gone", text="the call or its answer was lost on the way; ask again")
    return repeats.tell(state, node.name, leaf.call, error=fault)


def _heal_question(state: RunState, node: AgentNode, question: str) -> bool:
    if question in state.questions:
        return False
    fault = Fault(code="peer_gone", text="the question or its answer was lost on the way; ask again")
    return repeats.tell(state, node.name, question, error=fault)


def _leaves(heartbeat: Heartbeat) -> Iterator[tuple[TaskState, Condition]]:
    """What the agent's tasks wait for, taken apart."""
    for told in heartbeat.tasks:
        rest = [told.wait.condition] if told.wait is not None else []
        while rest:
            condition = rest.pop()
            if isinstance(condition, OnAll | OnSome):
                rest.extend(condition.of)
            else:
                yield told, condition
