"""Anatomy: who among stuck tasks is to blame, and what each waiting task hangs on, for findings and evidence.

Which tasks are stuck is `reduction`'s. Blame follows its gates: one task hangs on another only through the parts of its
wait that are stuck themselves, so that an alternative that is met blames nobody.
"""

from collections.abc import Iterable

import networkx as nx

from crewkeeper_bus.messages import OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer, OnTool
from crewkeeper_supervisor.core.conditions import AnyCondition, OnRoom, OnTopic
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.reduction import Gate, Reduction, Verdict, blockers_of
from crewkeeper_supervisor.core.tickets import Ticket
from crewkeeper_supervisor.core.wait_graph import WaitGraph


def blockers(task: Task, graph: WaitGraph) -> list[tuple[str, str, list[Task]]]:
    """What a waiting task hangs on: for every unsatisfied leaf its kind, the id it names, and the tasks in its way."""
    found: list[tuple[str, str, list[Task]]] = []
    if task.wait is not None:
        _collect(task.wait.condition, task, graph, found)
    return found


def _collect(condition: AnyCondition, task: Task, graph: WaitGraph, found: list[tuple[str, str, list[Task]]]) -> None:
    match condition:
        case OnCall():
            call = graph.calls.get(condition.call)
            if call is None or call.state == "answered":
                return
            if call.handler is not None:
                found.append(("call", call.id, [call.handler]))
                return
            occupants = [t for node in graph.live_instances(call.to) for t in node.tasks.values() if t.slot]
            found.append(("queued_call", call.id, occupants))
        case OnMessage():
            if not any(sender in task.agent.unread for sender in condition.senders):
                nodes = [node for sender in condition.senders for node in graph.live_instances(sender)]
                tasks = [t for node in nodes for t in node.tasks.values() if t is not task]
                found.append(("message", ",".join(condition.senders), tasks))
        case OnResource():
            resource = graph.resources.get(condition.resource)
            ticket = resource.queue.get(condition.ticket) if resource is not None else None
            if ticket is not None and not ticket.granted:
                ahead, holders = blockers_of(ticket)
                tasks = [task for other in holders + ahead for task in _keepers(other)]
                found.append(("resource", condition.resource, tasks))
        case OnTopic():
            nodes = [node for sender in condition.publishers or () for node in graph.live_instances(sender)]
            found.append(("message", condition.topic, [t for node in nodes for t in node.tasks.values()]))
        case OnRoom():
            occupants = [t for node in graph.live_instances(condition.agent) for t in node.tasks.values() if t.slot]
            found.append(("queued_call", condition.agent, occupants))
        case OnHuman() | OnTool() | OnTimer():
            found.append((*_outside(condition, task, graph), []))
        case OnAll() | OnSome():
            for part in condition.of:
                _collect(part, task, graph, found)


def _outside(condition: OnHuman | OnTool | OnTimer, task: Task, graph: WaitGraph) -> tuple[str, str]:
    """What no task of the crew can do: an answer of a person, time, or the end of a call that the gate has let through.

    A call that is not let through yet may wait for a person, too.
    """
    if isinstance(condition, OnHuman):
        return "human", condition.who
    if isinstance(condition, OnTimer):
        return "timer", ""
    who = graph.asked_of.get(f"{task.agent.name}/{condition.call}")
    return ("tool", condition.tool or "a tool") if who is None else ("human", who)


def _keepers(ticket: Ticket) -> list[Task]:
    """Who could give a ticket back: its task, or any other of the agent once that one has ended."""
    tasks = ticket.task.agent.tasks
    return [ticket.task] if ticket.task.id in tasks else list(tasks.values()) or [ticket.task]


def anatomy(stuck: dict[str, Task], graph: WaitGraph) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The groups to blame, each with the tasks that hang on it.

    A core is a bottom strongly connected set of the blocker graph among stuck tasks: closed, so that it stays stuck
    even if everything else is freed. A task that waits for what cannot exist is stuck without any core. Sorted.
    """
    web: nx.DiGraph[str | Gate] = nx.DiGraph()
    web.add_nodes_from(stuck)
    web.add_edges_from(_blames(stuck, graph))
    groups = []
    for component in nx.strongly_connected_components(web):
        core = _tasks_among(component)
        first = next(iter(component))
        if not core or (len(component) == 1 and not web.has_edge(first, first)):
            continue
        if all(target in component for source in component for target in web.successors(source)):
            tail = _tasks_among(nx.ancestors(web, first) - component)
            groups.append((core, tail))
    return sorted(groups)


def impossible(stuck: dict[str, Task], graph: WaitGraph) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Stuck tasks that no core explains: those that wait for what cannot exist, and those that hang on them."""
    hanging = dict.fromkeys(
        key
        for key, task in stuck.items()
        if any(other.key in stuck and other is not task for _, _, tasks in blockers(task, graph) for other in tasks)
    )
    sources = sorted(key for key in stuck if key not in hanging)
    return [((key,), tuple(sorted(hanging)) if len(sources) == 1 else ()) for key in sources]


def _tasks_among(nodes: Iterable[str | Gate]) -> tuple[str, ...]:
    return tuple(sorted(node for node in nodes if isinstance(node, str)))


def _blames(stuck: dict[str, Task], graph: WaitGraph) -> list[tuple[str | Gate, str | Gate]]:
    """What hangs on what among stuck tasks and the gates between them, through the parts that are stuck themselves."""
    explained = _Explained(graph)
    if any(verdict is not Verdict.STUCK for verdict in explained.of(stuck.values()).values()):
        explained = _Explained(graph, timers=False)  # they are stuck but for timers
        explained.of(stuck.values())
    return explained.blames()


class _Explained(Reduction):
    """A reduction that remembers what each gate is made of."""

    def __init__(self, graph: WaitGraph, *, timers: bool = True) -> None:
        self._made_of: dict[Gate, list[Gate]] = {}
        super().__init__(graph, timers=timers)

    def _feed(self, part: Gate, whole: Gate, weight: int = 1) -> None:
        super()._feed(part, whole, weight)
        self._made_of.setdefault(whole, []).append(part)

    def blames(self) -> list[tuple[str | Gate, str | Gate]]:
        """Edges between what is stuck, as long as they lead to a task: linear in what was explored."""
        names = {gate: key for key, gate in self._tasks.items()}
        wholes: dict[Gate, list[Gate]] = {}
        for whole, parts in self._made_of.items():
            for part in parts if whole.verdict is Verdict.STUCK else ():
                if part.verdict is Verdict.STUCK:
                    wholes.setdefault(part, []).append(whole)
        leading = [gate for gate in names if gate.verdict is Verdict.STUCK]
        seen = set(leading)
        found: list[tuple[str | Gate, str | Gate]] = []
        while leading:
            part = leading.pop()
            for whole in wholes.get(part, ()):
                found.append((names.get(whole, whole), names.get(part, part)))
                if whole not in seen:
                    seen.add(whole)
                    leading.append(whole)
        return found
