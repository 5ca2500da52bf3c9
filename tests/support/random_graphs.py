"""Random wait graphs: honest agents do random things to a production wait graph, fact by fact."""

import random
from collections.abc import Iterator

from crewkeeper_bus.messages import Condition, OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.wait_graph import WaitGraph

LOCKS = ("disk", "desk")
SEMAPHORES = {"gpu": 2, "seats": 3}


class RandomCrew:
    """A crew of a few agents; every `step` tells the graph one fact that could really come next.

    Args:
        rnd: The source of chance.
    """

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.graph = WaitGraph()
        self.names: list[str] = []
        self.ids = 0
        self.said: list[str] = []
        """The steps done, in words."""
        for number in range(rnd.randint(2, 4)):
            role = "pool" if number >= 2 and rnd.random() < 0.3 else f"a{number}"
            name = f"pool-{number}" if role == "pool" else role
            self.names.append(name)
            self.graph.declare(name, role, rnd.choice((1, 1, 1, 2)), rnd.choice(("none", "none", "chain", "full")))
        self.targets = list(dict.fromkeys([self.graph.agents[n].role for n in self.names]))

    def steps(self, count: int) -> Iterator[str]:
        """Do this many steps (fewer if nobody can do anything any more); yields a word on each, after it."""
        tries = 20 * count
        while count and tries:
            tries -= 1
            word = self._step()
            if word:
                count -= 1
                self.said.append(word)
                yield word

    def _step(self) -> str:
        runners = [t for n in self.graph.agents.values() for t in n.tasks.values() if t.wait is None]
        choices = ["begin", "start", "start", "wait", "wait", "wait", "call", "call", "call", "ask", "ask", "ask"]
        choices += ["acquire", "acquire", "send", "take", "end", "reply", "wake", "death", "doubt", "release"]
        choices += ["limit"]
        kind = self.rnd.choice(choices)
        if kind in ("wait", "call", "ask", "acquire", "send", "end", "reply", "release"):
            if not runners:
                return ""
            return str(getattr(self, f"_{kind}")(self.rnd.choice(runners)))
        return str(getattr(self, f"_{kind}")())

    def _new(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}{self.ids}"

    def _begin(self) -> str:
        node = self.graph.agents[self.rnd.choice(self.names)]
        slot = node.free_slots > 0 and self.rnd.random() < 0.8
        if not node.alive or (node.free_slots <= 0 and self.rnd.random() < 0.7):
            return ""
        task = self._new("t")
        self.graph.task_began(node, task, 0.0, slot=slot)
        return f"{node.name} begins {task}"

    def _call(self, task: Task) -> str:
        call, to = self._new("c"), self.rnd.choice(self.targets)
        made = self.graph.call_opened(task.agent, task.id, call, to, 0.0)
        assert made is not None
        made.timed = self.rnd.random() < 0.1
        if not self.graph.live_instances(to):
            self.graph.call_lost(call)
        return f"{task.key} calls {to} with {call}"

    def _start(self) -> str:
        queued = [c for c in self.graph.calls.values() if c.state == "open"]
        if not queued:
            return ""
        call = self.rnd.choice(queued)
        nodes = [n for n in self.graph.live_instances(call.to) if n.free_slots > 0 or n.reentrant == "full"]
        if not nodes:
            return ""
        node, task = self.rnd.choice(nodes), self._new("h")
        self.graph.call_started(node, call.id, call.caller, task, 0.0)
        return f"{node.name} starts {call.id} as {task}"

    def _ask(self, task: Task) -> str:
        said = self._call(task)
        call = next(reversed(task.calls))
        deadline_s = 5.0 if self.rnd.random() < 0.1 else None
        self.graph.wait_began(task.agent, task.id, self._epoch(), OnCall(call=call), 0.0, deadline_s)
        return f"{said} and waits"

    def _wait(self, task: Task) -> str:
        condition = self._condition(task, 0)
        deadline_s = 5.0 if self.rnd.random() < 0.1 else None
        self.graph.wait_began(task.agent, task.id, self._epoch(), condition, 0.0, deadline_s)
        return f"{task.key} waits for {condition}"

    def _epoch(self) -> int:
        self.ids += 1
        return self.ids

    def _condition(self, task: Task, depth: int) -> Condition:
        rnd = self.rnd
        leaves: list[Condition] = [OnCall(call=c) for c in task.calls]
        leaves += [OnResource(resource=t.resource.name, ticket=t.id) for t in task.holds.values() if not t.granted]
        kind = rnd.random()
        if depth < 2 and kind < 0.35:
            parts = tuple(self._condition(task, depth + 1) for _ in range(rnd.randint(1, 3)))
            return OnAll(of=parts) if rnd.random() < 0.5 else OnSome(k=rnd.randint(1, len(parts)), of=parts)
        if leaves and kind < 0.8:
            return rnd.choice(leaves)
        if kind < 0.93:
            return OnMessage(senders=tuple(rnd.sample(self.names, rnd.randint(1, 2))))
        return rnd.choice([OnHuman(who="ops"), OnTimer(after_s=1.0), OnMessage()])

    def _acquire(self, task: Task) -> str:
        ticket = self._new("k")
        if self.rnd.random() < 0.7:
            name, mode, units, capacity = self.rnd.choice(LOCKS), self.rnd.choice("xxs"), 1, 1
        else:
            name = self.rnd.choice(list(SEMAPHORES))
            mode, units, capacity = "x", self.rnd.randint(1, 3), SEMAPHORES[name]
        self.graph.requested(task.agent, task.id, name, ticket, mode, units, capacity, 0.0)
        return f"{task.key} asks for {units} of {name} ({mode}) with {ticket}"

    def _release(self, task: Task) -> str:
        if not task.holds:
            return ""
        ticket = self.rnd.choice(list(task.holds.values()))
        self.graph.released(ticket.resource.name, ticket.id)
        return f"{task.key} releases {ticket.id}"

    def _send(self, task: Task) -> str:
        to, message = self.rnd.choice(self.names), self._new("m")
        self.graph.message_sent(task.agent.name, to, message, 0.0)
        return f"{task.key} sends {message} to {to}"

    def _take(self) -> str:
        node = self.graph.agents[self.rnd.choice(self.names)]
        if not node.unread:
            return ""
        sender = self.rnd.choice(list(node.unread))
        message = next(iter(node.unread[sender]))
        self.graph.message_taken(node, sender, message)
        return f"{node.name} takes {message}"

    def _end(self, task: Task) -> str:
        self.graph.task_ended(task.agent, task.id)
        return f"{task.key} ends"

    def _reply(self, task: Task) -> str:
        if task.call is None:
            return ""
        self.graph.call_answered(task.call.id, early=self.rnd.random() < 0.2)
        return f"{task.key} answers"

    def _wake(self) -> str:
        if not self.graph.waiting or self.rnd.random() < 0.7:
            return ""
        task = self.rnd.choice(list(self.graph.waiting.values()))
        self.graph.wait_ended(task.agent, task.id)
        return f"{task.key} wakes"

    def _death(self) -> str:
        if self.rnd.random() < 0.9:
            return ""
        name = self.rnd.choice(self.names)
        self.graph.died(name, returning=self.rnd.random() < 0.3)
        if self.rnd.random() < 0.3:
            self.graph.agents[name].alive = True
        return f"{name} dies"

    def _doubt(self) -> str:
        node = self.graph.agents[self.rnd.choice(self.names)]
        if node.unsure:
            self.graph.assured(node)
            return f"{node.name} is sure again"
        if self.rnd.random() < 0.95:
            return ""
        node.unsure = True
        return f"{node.name} is unsure"

    def _limit(self) -> str:
        if self.rnd.random() < 0.9:
            return ""
        node, slots = self.graph.agents[self.rnd.choice(self.names)], self.rnd.randint(1, 3)
        if not node.alive:
            return ""
        self.graph.declare(node.name, node.role, slots, self.rnd.choice((node.reentrant, "none", "chain")))
        return f"{node.name} has {slots} slots, {node.reentrant}"
