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

from crewkeeper_bus.messages import OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer, OnTool
from crewkeeper_supervisor.core.conditions import AnyCondition, OnRoom, OnTopic
from crewkeeper_supervisor.core.nodes import AgentNode, Call, Task
from crewkeeper_supervisor.core.tickets import Ticket
from crewkeeper_supervisor.core.wait_graph import WaitGraph

_SEVERAL: Final = (OnAll, OnSome)
WALK_LIMIT: Final = 64
"""How many single supporters the quick test follows before the full reduction is asked."""


class Verdict(IntEnum):
    """The help that a task needs, mildest first."""

    LIVE = 0
    TIMER = 1
    EXTERNAL = 2
    DEAD = 3
    STUCK = 4


class Gate:
    """A node of the reduction: satisfied once parts of weight `need` are."""

    __slots__ = ("need", "parents", "verdict")

    def __init__(self, need: int) -> None:
        self.need = need
        self.parents: list[tuple[Gate, int]] = []
        self.verdict = Verdict.STUCK


class Reduction:
    """Classes of tasks at one moment. Valid until the graph changes.

    Args:
        graph: The facts.
        timers: Whether deadlines and leases count as help. Without, what only one of them would free is stuck too.
        sleeps: Whether time passes for those who wait for nothing but that. Without, and without `timers`, no timer
            ever fires.
        helped: Whether calls that nobody will answer count as about to be failed, so that their callers can go on.
    """

    def __init__(self, graph: WaitGraph, *, timers: bool = True, sleeps: bool = True, helped: bool = False) -> None:
        self._graph = graph
        self._timers = timers
        self._sleeps = sleeps
        self._helped = helped
        self._tasks: dict[str, Gate] = {}
        self._slots: dict[str, Gate] = {}
        self._callbacks: dict[str, list[Gate]] = {}
        self._speakers: dict[str, Gate] = {}
        self._constant = [Gate(0) for _ in Verdict]
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

    def _task(self, task: Task) -> Gate:
        gate = self._tasks.get(task.key)
        if gate is None:
            gate = self._tasks[task.key] = Gate(1)
            if task.wait is None or task.agent.unsure:
                self._feed(self._constant[Verdict.LIVE], gate)
            else:
                self._open.append(task)
        return gate

    def _wait(self, gate: Gate, task: Task) -> None:
        wait = task.wait
        if wait is None:
            raise AssertionError(f"{task.key} left its wait during a reduction")
        self._feed(self._condition(wait.condition, task), gate)
        if wait.deadline_s is not None and self._timers:
            self._feed(self._constant[Verdict.TIMER], gate)

    def _condition(self, condition: AnyCondition, task: Task) -> Gate:
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
            case OnTopic():
                return self._topic(condition, task)
            case OnRoom():
                return self._room(condition, task)
            case OnHuman() | OnTool():
                return self._constant[Verdict.EXTERNAL]
            case OnTimer():
                return self._constant[Verdict.TIMER if self._sleeps else Verdict.STUCK]
            case OnAll() | OnSome():
                need = len(condition.of) if isinstance(condition, OnAll) else condition.k
                parts = [part for part in self._parts(condition, need) if not self._failed(part)]
                if need == 0 or len(parts) < need:
                    return self._constant[Verdict.LIVE]  # what can no longer be met fails at once
                gate = Gate(need)
                for part in parts:
                    self._feed(self._condition(part, task), gate)
                return gate

    def _parts(self, condition: OnAll | OnSome, need: int) -> tuple[AnyCondition, ...]:
        """A timer beside enough alternatives is a deadline by another name; else time is what the task waits for."""
        if self._timers or not self._sleeps:
            return condition.of
        others = tuple(part for part in condition.of if not isinstance(part, OnTimer))
        return others if len(others) >= need else condition.of

    def _failed(self, part: AnyCondition) -> bool:
        call = self._graph.calls.get(part.call) if isinstance(part, OnCall) else None
        return call is not None and call.failed

    def _call(self, call: Call | None, task: Task) -> Gate:
        if call is None or call.state == "answered" or call.caller not in ("", task.agent.name):
            return self._constant[Verdict.LIVE]  # what is not known can hide a deadlock, never make one
        if call.state == "lost":
            return self._constant[Verdict.LIVE if self._helped else Verdict.DEAD]
        if call.handler is not None:
            return self._task(call.handler)
        return self._unstarted(call)

    def _unstarted(self, call: Call) -> Gate:
        parts = [self._slot(node, call) for node in self._graph.live_instances(call.to)]
        if parts and call.to not in self._graph.agents and self._graph.returning(call.to):
            parts.append(self._constant[Verdict.EXTERNAL])  # who comes back may be the one to get it
        return self._any(parts)

    def _slot(self, node: AgentNode, call: Call) -> Gate:
        if node.reentrant == "chain" and descends(call.task, node):
            return self._constant[Verdict.LIVE]
        return self._free_slot(node)

    def _free_slot(self, node: AgentNode) -> Gate:
        if node.reentrant == "full" or node.free_slots > 0:
            return self._constant[Verdict.LIVE]
        gate = self._slots.get(node.name)
        if gate is None:
            gate = self._slots[node.name] = Gate(1 - node.free_slots)
            for occupant in node.tasks.values():
                if occupant.slot:
                    self._feed(self._task(occupant), gate)
        return gate

    def _message(self, condition: OnMessage, task: Task) -> Gate:
        unread = task.agent.unread
        if not condition.senders:
            return self._constant[Verdict.LIVE if unread else Verdict.EXTERNAL]
        if any(sender in unread for sender in condition.senders):
            return self._constant[Verdict.LIVE]
        return self._senders(condition.senders)

    def _senders(self, senders: Iterable[str]) -> Gate:
        parts = []
        for sender in senders:
            nodes = self._graph.live_instances(sender)
            if self._graph.returning(sender):
                parts.append(self._constant[Verdict.EXTERNAL])
            elif not nodes:
                parts.append(self._constant[Verdict.DEAD])
            parts += [self._speaker(node) for node in nodes]
        return self._any(parts)

    def _speaker(self, node: AgentNode) -> Gate:
        """Anything that could make an agent act; one gate for all who count on it, however many there are.

        An agent that lives, does nothing and has no slot to begin with does nothing ever: that is no death.
        """
        gate = self._speakers.get(node.name)
        if gate is None:
            parts = [self._task(each) for each in node.tasks.values()]
            gate = self._speakers[node.name] = self._any(parts + self._beginners(node), nobody=Verdict.STUCK)
        return gate

    def _beginners(self, node: AgentNode) -> list[Gate]:
        """Who could make an agent begin something: anybody outside, or whoever can still call it back."""
        if node.free_slots > 0 or node.reentrant == "full":
            return [self._constant[Verdict.EXTERNAL]]
        if node.reentrant != "chain":
            return []
        if node.name in self._callbacks:
            return self._callbacks[node.name]
        callers = [
            self._task(task)
            for other in self._graph.agents.values()
            for task in other.tasks.values()
            if other is not node and descends(task, node)
        ]
        callers += [
            self._unstarted(call)
            for call in self._graph.calls.values()
            if call.state == "open" and descends(call.task, node)
        ]
        found = self._callbacks[node.name] = [Gate(2)] if callers else []
        for gate in found:
            self._feed(self._constant[Verdict.EXTERNAL], gate)
            self._feed(self._any(callers), gate)
        return found

    def _topic(self, condition: OnTopic, task: Task) -> Gate:
        published = self._graph.published.get(task.agent.name, {}).get(condition.topic, {})
        if condition.publishers is None:
            return self._constant[Verdict.LIVE if published else Verdict.EXTERNAL]
        if any(sender in condition.publishers for sender in published.values()):
            return self._constant[Verdict.LIVE]
        return self._senders(condition.publishers)

    def _room(self, condition: OnRoom, task: Task) -> Gate:
        parts = []
        for node in self._graph.live_instances(condition.agent):
            queued = (call for call in node.inbound.values() if call.state == "open")
            let_in = node.reentrant == "chain"
            waiting = sum(not (let_in and descends(call.task, node)) for call in queued)
            has_room = node.mailbox is None or waiting < node.mailbox
            parts.append(self._constant[Verdict.LIVE] if has_room else self._free_slot(node))
        return self._any(parts)

    def _resource(self, condition: OnResource, task: Task) -> Gate:
        resource = self._graph.resources.get(condition.resource)
        ticket = resource.queue.get(condition.ticket) if resource is not None else None
        if resource is None or ticket is None or ticket.granted or ticket.task is not task:
            return self._constant[Verdict.LIVE]
        if ticket.units > resource.capacity:
            return self._constant[Verdict.STUCK]
        before = [other for side in blockers_of(ticket) for other in side]
        if not resource.counting:
            missing = len(before)
        else:  # whoever is ahead may be served beside it, and what it has itself counts against it
            missing = ticket.units + sum(t.units for t in _counted(ticket)) - resource.capacity
        if missing <= 0:
            return self._constant[Verdict.LIVE]
        gate = Gate(missing)
        for other in before:
            self._feed(self._holder(other), gate, other.units if resource.counting else 1)
        for own in task.holds.values() if resource.counting and self._timers else ():
            if own.granted and own.leased and own.resource is resource:
                self._feed(self._constant[Verdict.TIMER], gate, own.units)
        return gate

    def _holder(self, ticket: Ticket) -> Gate:
        task, agent = ticket.task, ticket.task.agent
        if task.id in agent.tasks:
            gate = self._task(task)
        elif not agent.alive:
            gate = self._constant[Verdict.DEAD]
        else:  # left behind by a task that ended: another of its agent may give it back
            gate = self._speaker(agent)
        if ticket.leased and self._timers:
            gate = self._any([gate, self._constant[Verdict.TIMER]])
        return gate

    def _any(self, parts: list[Gate], nobody: Verdict = Verdict.DEAD) -> Gate:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._constant[nobody]
        gate = Gate(1)
        for part in parts:
            self._feed(part, gate)
        return gate

    def _feed(self, part: Gate, whole: Gate, weight: int = 1) -> None:
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
    """Tickets of a semaphore whose units are taken when this one's turn comes, unless their tasks end before.

    A larger one of the same task ahead is among them only if the task needs both: units can come free that suffice
    for this one alone.
    """
    counted = [other for other in ticket.resource.queue.values() if other.granted]
    for other in ticket.resource.queue.values():
        if other is ticket or ticket.resource.barging:
            break
        if other.granted:
            continue
        if other.task is not ticket.task or other.units <= ticket.units or _needs(other):
            counted.append(other)
    return counted


def _needs(ticket: Ticket) -> bool:
    """Whether its task cannot go on without what it asks for."""
    wait = ticket.task.wait
    return wait is not None and ticket.id in _needed(wait.condition)


def _needed(condition: AnyCondition) -> set[str]:
    """Tickets without which a condition cannot come true."""
    if isinstance(condition, OnResource):
        return {condition.ticket}
    if isinstance(condition, OnAll) or (isinstance(condition, OnSome) and condition.k == len(condition.of)):
        return {ticket for part in condition.of for ticket in _needed(part)}
    return set()


def descends(task: Task, node: AgentNode) -> bool:
    """Whether a task is an active one of this agent, or works, however many hops down, on behalf of one."""
    ancestor: Task | None = task
    for _ in range(WALK_LIMIT):
        if ancestor is None:
            return False
        if ancestor.agent is node and ancestor.id in node.tasks:
            return True
        ancestor = ancestor.call.task if ancestor.call is not None else ancestor.parent
    return False


def closes_nothing(task: Task, graph: WaitGraph) -> bool:
    """A quick test whether a new wait can be no link of a ring: it hangs on others, and nothing hangs on its task.

    Such a wait can join the tail of a deadlock, never make one. False means: not known.
    """
    if task.call is not None:
        return False  # whoever made that call hangs on it: no need to look any further
    condition = task.wait.condition if task.wait is not None else None
    if type(condition) is OnCall:
        call = graph.calls.get(condition.call)
        if call is not None and (call.state == "lost" or call.failed or call.callee is None):
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
    if type(condition) is OnCall or not isinstance(condition, _SEVERAL):
        return _leads_to_a_runner(condition, task, graph)
    need = len(condition.of) if isinstance(condition, OnAll) else condition.k
    for part in condition.of:
        need -= _leads_to_a_runner(part, task, graph)
    return need <= 0


def _leads_to_a_runner(condition: AnyCondition, task: Task, graph: WaitGraph) -> bool:
    calls, waiter = graph.calls, task
    for _ in range(len(graph.waiting) + 1):
        if type(condition) is OnCall:
            call = calls.get(condition.call)
            if call is None or call.state == "answered":
                return not (call is not None and call.failed)
            supporter = call.handler or _occupant(call)
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


_FREE: Final = Task(AgentNode("_", "_"), "_", "_/_", False, 0.0)
"""Stands for a supporter that is no task: a free slot, a grant already made. It runs."""


def _occupant(call: Call) -> Task | None:
    """Who has to end for a call that has not started to start: one that runs if any, else any; None: not known."""
    node = call.callee
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
