"""Reduction: what follows from the wait-for graph — which tasks can still move, and by whose help.

Theory of operation. Every waiting task gets a class by the help it needs: live (nobody's), timer (time passing),
external (somebody outside), dead (an agent that is gone), stuck (nothing but an intervention). The class of ALL is the
gravest of its parts, of ANY the mildest, of k-of-n the k-th mildest. The classes are the least fixpoint of these rules,
computed by reduction in order of gravity (Knuth 1977, generalising Dijkstra; four buckets): linear in what is explored.
What the reduction never reaches is stuck. Cycle and knot tests are both wrong for such waits: an ALL-wait in a cycle
can be dead without a knot, an ANY-wait in a cycle can be fine.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import networkx as nx

from crewkeeper_bus.messages import Condition, OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer
from crewkeeper_supervisor.core.tickets import Ticket
from crewkeeper_supervisor.core.wait_graph import AgentNode, Call, Task, WaitGraph

WALK_LIMIT: Final = 64
"""How many single supporters the quick test follows before the full reduction is asked."""


class Verdict(IntEnum):
    """The help that a task needs, mildest first."""

    LIVE = 0
    TIMER = 1
    EXTERNAL = 2
    DEAD = 3
    STUCK = 4


class _Gate:
    """A node of the reduction: satisfied once parts of weight `need` are."""

    __slots__ = ("need", "parents", "verdict")

    def __init__(self, need: int) -> None:
        self.need = need
        self.parents: list[tuple[_Gate, int]] = []
        self.verdict = Verdict.STUCK


class Reduction:
    """Classes of tasks at one moment. Valid until the graph changes.

    Args:
        graph: The facts.
        timers: Whether deadlines and leases count as help. Without, what only one of them would free is stuck too.
    """

    def __init__(self, graph: WaitGraph, *, timers: bool = True) -> None:
        self._graph = graph
        self._timers = timers
        self._tasks: dict[str, _Gate] = {}
        self._slots: dict[str, _Gate] = {}
        self._constant = [_Gate(0) for _ in Verdict]
        for verdict, gate in zip(Verdict, self._constant, strict=True):
            gate.verdict = verdict
        self._open: list[Task] = []
        self._explored: list[Task] = []

    def of(self, tasks: Iterable[Task]) -> dict[str, Verdict]:
        """The verdicts of these tasks, by key. Explores only what they depend on."""
        roots = list(tasks)
        for task in roots:
            self._task(task)
        while self._open:
            task = self._open.pop()
            self._explored.append(task)
            self._wait(self._tasks[task.key], task)
        self._settle()
        return {task.key: self._tasks[task.key].verdict for task in roots}

    def stuck(self) -> dict[str, Task]:
        """Every stuck task that was explored, by key: closed, for all that a stuck task depends on was explored."""
        return {task.key: task for task in self._explored if self._tasks[task.key].verdict is Verdict.STUCK}

    # --- building ---

    def _task(self, task: Task) -> _Gate:
        gate = self._tasks.get(task.key)
        if gate is None:
            gate = self._tasks[task.key] = _Gate(1)
            if task.wait is None or task.agent.unsure:
                self._feed(self._constant[Verdict.LIVE], gate)
            else:
                self._open.append(task)
        return gate

    def _wait(self, gate: _Gate, task: Task) -> None:
        wait = task.wait
        if wait is None:
            raise AssertionError(f"{task.key} left its wait during a reduction")
        self._feed(self._condition(wait.condition, task), gate)
        if wait.deadline_s is not None and self._timers:
            self._feed(self._constant[Verdict.TIMER], gate)

    def _condition(self, condition: Condition, task: Task) -> _Gate:
        match condition:
            case OnCall():
                call = self._graph.calls.get(condition.call)
                gate = self._call(call, task)
                if call is not None and call.timed and self._timers:
                    gate = self._any([gate, self._constant[Verdict.TIMER]])
                return gate
            case OnMessage():
                return self._message(condition, task)
            case OnResource():
                return self._resource(condition, task)
            case OnHuman():
                return self._constant[Verdict.EXTERNAL]
            case OnTimer():
                return self._constant[Verdict.TIMER]
            case OnAll() | OnSome():
                need = len(condition.of) if isinstance(condition, OnAll) else condition.k
                parts = [part for part in self._parts(condition, need) if not self._failed(part)]
                if need == 0 or len(parts) < need:
                    return self._constant[Verdict.LIVE]  # what can no longer be met fails at once
                gate = _Gate(need)
                for part in parts:
                    self._feed(self._condition(part, task), gate)
                return gate

    def _parts(self, condition: OnAll | OnSome, need: int) -> tuple[Condition, ...]:
        """A timer beside enough alternatives is a deadline by another name; else time is what the task waits for."""
        if self._timers:
            return condition.of
        others = tuple(part for part in condition.of if not isinstance(part, OnTimer))
        return others if len(others) >= need else condition.of

    def _failed(self, part: Condition) -> bool:
        call = self._graph.calls.get(part.call) if isinstance(part, OnCall) else None
        return call is not None and call.failed

    def _call(self, call: Call | None, task: Task) -> _Gate:
        if call is None or call.state == "answered" or call.caller not in ("", task.agent.name):
            return self._constant[Verdict.LIVE]  # what is not known can hide a deadlock, never make one
        if call.state == "lost":
            return self._constant[Verdict.DEAD]
        if call.handler is not None:
            return self._task(call.handler)
        parts = [self._slot(node, call) for node in self._graph.live_instances(call.to)]
        if parts and call.to not in self._graph.agents and self._graph.returning(call.to):
            parts.append(self._constant[Verdict.EXTERNAL])  # who comes back may be the one to get it
        return self._any(parts)

    def _slot(self, node: AgentNode, call: Call) -> _Gate:
        if node.reentrant == "full" or node.free_slots > 0:
            return self._constant[Verdict.LIVE]
        if node.reentrant == "chain" and descends(call, node):
            return self._constant[Verdict.LIVE]
        gate = self._slots.get(node.name)
        if gate is None:
            gate = self._slots[node.name] = _Gate(1 - node.free_slots)
            for occupant in node.tasks.values():
                if occupant.slot:
                    self._feed(self._task(occupant), gate)
        return gate

    def _message(self, condition: OnMessage, task: Task) -> _Gate:
        unread = task.agent.unread
        if not condition.senders:
            return self._constant[Verdict.LIVE if unread else Verdict.EXTERNAL]
        if any(sender in unread for sender in condition.senders):
            return self._constant[Verdict.LIVE]
        parts = []
        for sender in condition.senders:
            nodes = self._graph.live_instances(sender)
            if self._graph.returning(sender):
                parts.append(self._constant[Verdict.EXTERNAL])
            elif not nodes:
                parts.append(self._constant[Verdict.DEAD])
            for node in nodes:
                parts += [self._task(each) for each in node.tasks.values() if each is not task]
                if node.may_begin:
                    parts.append(self._constant[Verdict.EXTERNAL])
        return self._any(parts) if parts else self._constant[Verdict.STUCK]  # it alone could send, and it waits

    def _resource(self, condition: OnResource, task: Task) -> _Gate:
        resource = self._graph.resources.get(condition.resource)
        ticket = resource.queue.get(condition.ticket) if resource is not None else None
        if resource is None or ticket is None or ticket.granted or ticket.task is not task:
            return self._constant[Verdict.LIVE]
        if ticket.units > resource.capacity:
            return self._constant[Verdict.STUCK]
        before = [other for side in blockers_of(ticket) for other in side]
        if resource.capacity == 1:
            missing = len(before)
        else:  # whoever is ahead may be served beside it, and what it has itself counts against it
            missing = ticket.units + sum(t.units for t in _counted(ticket)) - resource.capacity
        if missing <= 0:
            return self._constant[Verdict.LIVE]
        gate = _Gate(missing)
        for other in before:
            self._feed(self._holder(other), gate, 1 if resource.capacity == 1 else other.units)
        return gate

    def _holder(self, ticket: Ticket) -> _Gate:
        task, agent = ticket.task, ticket.task.agent
        if task.id in agent.tasks:
            gate = self._task(task)
        elif not agent.alive:
            gate = self._constant[Verdict.DEAD]
        else:  # left behind by a task that ended: another of its agent may give it back
            parts = [self._task(other) for other in agent.tasks.values()]
            gate = self._any([*parts, self._constant[Verdict.EXTERNAL]] if agent.may_begin else parts)
        if ticket.leased and self._timers:
            gate = self._any([gate, self._constant[Verdict.TIMER]])
        return gate

    def _any(self, parts: list[_Gate]) -> _Gate:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._constant[Verdict.DEAD]
        gate = _Gate(1)
        for part in parts:
            self._feed(part, gate)
        return gate

    @staticmethod
    def _feed(part: _Gate, whole: _Gate, weight: int = 1) -> None:
        part.parents.append((whole, weight))

    # --- solving ---

    def _settle(self) -> None:
        for verdict in (Verdict.LIVE, Verdict.TIMER, Verdict.EXTERNAL, Verdict.DEAD):
            ready = [self._constant[verdict]]
            while ready:
                part = ready.pop()
                for whole, weight in part.parents:
                    if whole.need > 0:
                        whole.need -= weight
                        if whole.need <= 0:
                            whole.verdict = verdict
                            ready.append(whole)


def blockers_of(ticket: Ticket) -> tuple[list[Ticket], list[Ticket]]:
    """Who stands before a waiting ticket: those ahead in the queue, and the holders in its way."""
    ahead: list[Ticket] = []
    for other in ticket.resource.queue.values():
        if other is ticket or ticket.resource.barging:
            break
        if not other.granted and ticket.conflicts(other):
            ahead.append(other)
    return ahead, [other for other in ticket.resource.queue.values() if other.granted and ticket.conflicts(other)]


def _counted(ticket: Ticket) -> list[Ticket]:
    """Tickets of a semaphore whose units are taken when this one's turn comes, unless their tasks end before."""
    counted = [other for other in ticket.resource.queue.values() if other.granted]
    for other in ticket.resource.queue.values():
        if other is ticket or ticket.resource.barging:
            break
        if not other.granted:
            counted.append(other)
    return counted


def descends(call: Call, node: AgentNode) -> bool:
    """Whether a call was made, however many hops ago, on behalf of an active task of this agent."""
    task: Task | None = call.task
    for _ in range(WALK_LIMIT):
        if task is None:
            return False
        if task.agent is node and task.id in node.tasks:
            return True
        task = task.call.task if task.call is not None else None
    return False


def closes_nothing(task: Task, graph: WaitGraph) -> bool:
    """A quick test whether a new wait can be no link of a ring: it hangs on others, and nothing hangs on its task.

    Such a wait can join the tail of a deadlock, never make one. False means: not known.
    """
    condition = task.wait.condition if task.wait is not None else None
    if type(condition) is OnCall:
        call = graph.calls.get(condition.call)
        if call is not None and (call.state == "lost" or call.failed or call.to not in graph.agents):
            return False
    elif type(condition) is OnResource:
        resource = graph.resources.get(condition.resource)
        ticket = resource.queue.get(condition.ticket) if resource is not None else None
        if ticket is not None and ticket.units > ticket.resource.capacity:
            return False
    else:
        return task.wait is None
    return not graph.is_needed(task)


def surely_live(task: Task, graph: WaitGraph) -> bool:
    """A quick test that follows one supporter at a time to somebody who runs. False means: not known.

    It decides single waits on calls and on exclusive locks, and waits for all or any of few such; the cost is the
    length of the way, which is a step or two unless what waits is a long chain.
    """
    wait = task.wait
    if wait is None:
        return True
    condition = wait.condition
    if isinstance(condition, OnAll | OnSome):
        need = len(condition.of) if isinstance(condition, OnAll) else condition.k
        for part in condition.of:
            need -= _leads_to_a_runner(part, task, graph)
        return need <= 0
    return _leads_to_a_runner(condition, task, graph)


def _leads_to_a_runner(condition: Condition, task: Task, graph: WaitGraph) -> bool:
    calls, waiter = graph.calls, task
    for _ in range(len(graph.waiting) + 1):
        if type(condition) is OnCall:
            call = calls.get(condition.call)
            if call is None or call.state == "answered":
                return not (call is not None and call.failed)
            supporter = call.handler or _occupant(call, graph)
        elif type(condition) is OnResource:
            supporter = _sole_holder(condition, waiter, graph)
        else:
            return False
        if supporter is None or supporter is task:
            return False
        wait = supporter.wait
        if wait is None or supporter.agent.unsure:
            return True
        condition, waiter = wait.condition, supporter
    return False


_FREE: Final = Task(AgentNode("_", "_"), "_", slot=False, began_s=0.0)
"""Stands for a supporter that is no task: a free slot, a grant already made. It runs."""


def _occupant(call: Call, graph: WaitGraph) -> Task | None:
    """Who has to end for a call that has not started to start: one that runs if any, else any; None: not known."""
    node = graph.agents.get(call.to)
    if call.state == "lost" or node is None or not node.alive:
        return None
    free = node.concurrency - node.slot_tasks
    if free > 0 or node.reentrant == "full":
        return _FREE
    if free < 0:
        return None
    found = None
    for occupant in node.tasks.values():
        if occupant.slot:
            if occupant.wait is None:
                return occupant
            found = occupant
    return found


def _sole_holder(condition: OnResource, task: Task, graph: WaitGraph) -> Task | None:
    """Who alone stands between a task and an exclusive lock; None: not known, or more than one."""
    resource = graph.resources.get(condition.resource)
    if resource is None:
        return _FREE
    ticket = resource.queue.get(condition.ticket)
    if ticket is None or ticket.granted or ticket.task is not task:
        return _FREE
    if resource.capacity != 1 or len(resource.queue) > 2:
        return None
    holder = next(iter(resource.queue.values()))
    return holder.task if holder.granted and holder.task.id in holder.task.agent.tasks else None


def blockers(task: Task, graph: WaitGraph) -> list[tuple[str, str, list[Task]]]:
    """What a waiting task hangs on: for every unsatisfied leaf its kind, the id it names, and the tasks in its way."""
    found: list[tuple[str, str, list[Task]]] = []
    if task.wait is not None:
        _collect(task.wait.condition, task, graph, found)
    return found


def _collect(condition: Condition, task: Task, graph: WaitGraph, found: list[tuple[str, str, list[Task]]]) -> None:
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
        case OnHuman():
            found.append(("human", condition.who, []))
        case OnTimer():
            found.append(("timer", "", []))
        case OnAll() | OnSome():
            for part in condition.of:
                _collect(part, task, graph, found)


def _keepers(ticket: Ticket) -> list[Task]:
    """Who could give a ticket back: its task, or any other of the agent once that one has ended."""
    tasks = ticket.task.agent.tasks
    return [ticket.task] if ticket.task.id in tasks else list(tasks.values()) or [ticket.task]


def anatomy(stuck: dict[str, Task], graph: WaitGraph) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The groups to blame, each with the tasks that hang on it.

    A core is a bottom strongly connected set of the blocker graph among stuck tasks: closed, so that it stays stuck
    even if everything else is freed. A task that waits for what cannot exist is stuck without any core. Sorted.
    """
    web: nx.DiGraph[str] = nx.DiGraph()
    web.add_nodes_from(stuck)
    for key, task in stuck.items():
        for kind, name, tasks in blockers(task, graph):
            if kind != "queued_call" or not _lets_in(graph.calls[name], stuck, graph):
                web.add_edges_from((key, other.key) for other in tasks if other.key in stuck)
    groups = []
    for component in nx.strongly_connected_components(web):
        first = next(iter(component))
        if len(component) == 1 and not web.has_edge(first, first):
            continue
        if all(target in component for source in component for target in web.successors(source)):
            tail = nx.ancestors(web, first) - component
            groups.append((tuple(sorted(component)), tuple(sorted(tail))))
    return sorted(groups)


def _lets_in(call: Call, stuck: dict[str, Task], graph: WaitGraph) -> bool:
    """Whether a queued call will be started all the same: it is not what its caller is stuck for."""
    for node in graph.live_instances(call.to):
        leaving = sum(task.slot and task.key not in stuck for task in node.tasks.values())
        if node.reentrant == "full" or leaving > -node.free_slots:
            return True
        if node.reentrant == "chain" and descends(call, node):
            return True
    return False
