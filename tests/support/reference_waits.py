"""Reference for waits: plays on, step by step, what could still happen in a wait graph.

It shares nothing with the production reduction but the facts: no gates and no buckets. Whoever runs ends, whoever ends
answers, frees its slot and gives back its grants, whoever has what it waits for runs. None of these steps ever takes a
possibility away from another (a started queue is served at once, an unread message is enough for all), so playing on
until nothing moves, in any order, finds everything that can happen at all.
"""

import random
from collections.abc import Collection

from crewkeeper_bus.messages import Condition, OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer
from crewkeeper_supervisor.core.nodes import AgentNode, Call, Task
from crewkeeper_supervisor.core.reduction import Verdict
from crewkeeper_supervisor.core.tickets import Ticket
from crewkeeper_supervisor.core.wait_graph import WaitGraph


class Playing:
    """One way on from a state of the graph, with help up to a class.

    Args:
        graph: The facts; they are not changed.
        help_: The gravest help that comes: nothing, timers, people and outsiders, the dead back to life.
        timers: Whether time rescues anybody: deadlines, leases, and timers beside something else that would do.
        freed: Tasks that end by themselves, whatever they wait for.
        order: Shuffles the order of the steps.
    """

    def __init__(
        self,
        graph: WaitGraph,
        help_: Verdict,
        *,
        timers: bool = True,
        freed: Collection[str] = (),
        order: random.Random | None = None,
    ) -> None:
        self.graph = graph
        self.help = help_
        self.rescue = timers
        self.timers = timers and help_ >= Verdict.TIMER
        self.all = [task for node in graph.agents.values() for task in node.tasks.values()]
        if order is not None:
            order.shuffle(self.all)
        self.awake = {t.key for t in self.all if t.wait is None or t.agent.unsure or t.key in freed}
        self.ended: set[str] = set()
        self.granted = {t.id for r in graph.resources.values() for t in r.queue.values() if t.granted}
        self.let_in = {c.id for c in graph.calls.values() if c.state == "open" and self._descends(c)}

    def play(self) -> set[str]:
        """Play on until nothing moves; the keys of the tasks that get out of their waits."""
        moved = True
        while moved:
            moved = False
            for task in self.all:
                if task.key not in self.awake and self._ready(task):
                    self.awake.add(task.key)
                    moved = True
                if task.key in self.awake and task.key not in self.ended:
                    self.ended.add(task.key)
                    moved = True
            moved |= self._grant()
        return self.awake

    def _ready(self, task: Task) -> bool:
        wait = task.wait
        assert wait is not None
        return self._met(wait.condition, task) or (wait.deadline_s is not None and self.timers)

    def _met(self, condition: Condition, task: Task) -> bool:
        match condition:
            case OnCall():
                return self._answered(condition.call, task)
            case OnMessage():
                return self._message(condition, task)
            case OnResource():
                resource = self.graph.resources.get(condition.resource)
                ticket = None if resource is None else resource.queue.get(condition.ticket)
                return ticket is None or ticket.task is not task or ticket.id in self.granted
            case OnHuman():
                return self.help >= Verdict.EXTERNAL
            case OnTimer():
                return self.help >= Verdict.TIMER
            case OnAll():
                return all(self._met(part, task) for part in condition.of)
            case OnSome():
                parts = condition.of
                if not self.rescue:
                    others = tuple(part for part in parts if not isinstance(part, OnTimer))
                    parts = others if len(others) >= condition.k else parts
                return sum(self._met(part, task) for part in parts) >= condition.k

    def _answered(self, id_: str, task: Task) -> bool:
        call = self.graph.calls.get(id_)
        if call is None or call.state == "answered" or call.caller not in ("", task.agent.name):
            return True
        if call.timed and self.timers:
            return True
        if call.state == "lost":
            return self.help >= Verdict.DEAD
        if call.handler is not None:
            return call.handler.key in self.ended
        return self._starts(call)

    def _starts(self, call: Call) -> bool:
        nodes = self._living(call.to)
        if not nodes:
            return self.help >= Verdict.DEAD
        if call.to not in self.graph.agents and self._returns(call.to) and self.help >= Verdict.EXTERNAL:
            return True
        return call.id in self.let_in or any(n.reentrant == "full" or self._has_room(n) for n in nodes)

    def _has_room(self, node: AgentNode) -> bool:
        return sum(t.slot and t.key not in self.ended for t in node.tasks.values()) < node.concurrency

    def _descends(self, call: Call) -> bool:
        return any(self._works_for(call.task, n) for n in self._living(call.to) if n.reentrant == "chain")

    def _works_for(self, task: Task | None, node: AgentNode) -> bool:
        while task is not None:
            if task.agent is node and node.tasks.get(task.id) is task:
                return True
            task = None if task.call is None else task.call.task
        return False

    def _living(self, name: str) -> list[AgentNode]:
        found = [n for n in self.graph.agents.values() if n.alive and n.role == name]
        return found or [n for n in self.graph.agents.values() if n.alive and n.name == name]

    def _returns(self, name: str) -> bool:
        return any(n.returning and not n.alive for n in self.graph.agents.values() if name in (n.role, n.name))

    def _message(self, condition: OnMessage, task: Task) -> bool:
        box = task.agent.unread
        if not condition.senders:
            return bool(box) or self.help >= Verdict.EXTERNAL
        for sender in condition.senders:
            nodes = self._living(sender)
            if sender in box or any(t.key in self.ended for n in nodes for t in n.tasks.values() if t is not task):
                return True
            idle = any(self._may_begin(n) for n in nodes)
            if self.help >= Verdict.EXTERNAL and (idle or self._returns(sender)):
                return True
            if self.help >= Verdict.DEAD and not nodes:
                return True
        return False

    def _grant(self) -> bool:
        moved = False
        for resource in self.graph.resources.values():
            here = [t for t in resource.queue.values() if not self._given_back(t)]
            for place, ticket in enumerate(here):
                if ticket.id in self.granted:
                    continue
                before = [t for t in here[:place] if t.id not in self.granted and ticket.conflicts(t)]
                if before and not resource.barging:
                    continue
                holders = [t for t in here if t.id in self.granted]
                if resource.capacity == 1:
                    fits = ticket.units <= 1 and not any(ticket.conflicts(t) for t in holders)
                else:
                    fits = sum(t.units for t in holders) + ticket.units <= resource.capacity
                if fits:
                    self.granted.add(ticket.id)
                    moved = True
        return moved

    def _given_back(self, ticket: Ticket) -> bool:
        task, node = ticket.task, ticket.task.agent
        if ticket.leased and self.timers:
            return True
        if task.id in node.tasks:
            return task.key in self.ended
        if not node.alive:
            return self.help >= Verdict.DEAD
        if any(other.key in self.ended for other in node.tasks.values()):
            return True
        return self.help >= Verdict.EXTERNAL and self._may_begin(node)

    def _may_begin(self, node: AgentNode) -> bool:
        if node.reentrant == "full" or sum(task.slot for task in node.tasks.values()) < node.concurrency:
            return True
        if node.reentrant != "chain":
            return False
        queued = [c for c in self.graph.calls.values() if c.state == "open" and self._works_for(c.task, node)]
        others = [t for t in self.all if t.agent is not node and self._works_for(t, node)]
        return any(t.key in self.ended for t in others) or any(self._starts(c) for c in queued)


def verdicts(graph: WaitGraph, *, timers: bool = True, order: random.Random | None = None) -> dict[str, Verdict]:
    """The verdict of every waiting task: the mildest help with which it gets out."""
    found = dict.fromkeys(graph.waiting, Verdict.STUCK)
    for help_ in (Verdict.DEAD, Verdict.EXTERNAL, Verdict.TIMER, Verdict.LIVE):
        out = Playing(graph, help_, timers=timers, order=order).play()
        found.update({key: help_ for key in found if key in out})
    return found
