"""Loads: journals of large fleets as typed events, ready to be handed to the core one by one."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Raw, to_builtins

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.events import Recorded

NULL = Raw(b"null")


class Journal:
    """Writes well-formed events: journal order, each agent's own numbering."""

    def __init__(self, agents: int, concurrency: int = 1) -> None:
        self.agents = agents
        self.events: list[Recorded] = []
        """What was written and not drained."""
        self._written = 0
        self._seqs = [0] * agents
        self._epochs = [0] * agents
        self._ids = 0
        crew = Crew(name="load", agents=tuple(Agent(name=f"a{n}", external=True) for n in range(agents)))
        self._write("_", "_", m.RunDeclared(crew=to_builtins(crew)))
        for n in range(agents):
            self._say(n, m.Joined, role=f"a{n}", concurrency=concurrency)
        self.setup = len(self.events)

    def _write(self, sender: str, to: str, message: Any, id_: str = "x") -> None:
        self._written = seq = self._written + 1
        self.events.append(Recorded(seq=seq, at_s=1e9 + seq * 1e-6, sender=sender, to=to, id=id_, message=message))

    def _say(self, agent: int, kind: Any, to: str = "_", id_: str = "x", **fields: Any) -> None:
        self._seqs[agent] += 1
        self._write(f"a{agent}", to, kind(inc=f"i{agent}", seq=self._seqs[agent], **fields), id_)

    def wrote(self, sender: str, message: Any, to: str = "_", id_: str = "x") -> None:
        """The supervisor side says something."""
        self._write(sender, to, message, id_)

    def affirmed(self, agent: int, **state: Any) -> None:
        """An answer to a probe."""
        self._say(agent, m.Heartbeat, **state)

    def cancelled(self, agent: int, to: int, call: str) -> None:
        """A call is given up."""
        self._say(agent, m.Cancel, to=f"a{to}", id_=call)

    def drain(self) -> list[Recorded]:
        """What was written since the last time: for journals too long to keep."""
        drained, self.events = self.events, []
        return drained

    def sent(self, agent: int, task: str, to: int) -> None:
        """A one-way message, taken at once."""
        message = self.new("m")
        self._say(agent, m.Message, to=f"a{to}", id_=message, task=task, body=NULL)
        self._say(to, m.Taken, sender=f"a{agent}", message=message, task="")

    def new(self, letter: str) -> str:
        """A fresh id."""
        self._ids += 1
        return f"{letter}{self._ids}"

    def began(self, agent: int) -> str:
        """An activity that holds a slot."""
        task = self.new("t")
        self._say(agent, m.TaskBegan, task=task)
        return task

    def ended(self, agent: int, task: str) -> None:
        """Its end."""
        self._say(agent, m.TaskEnded, task=task)

    def asked(self, agent: int, task: str, to: int) -> str:
        """A call, and nobody waits for it yet."""
        call = self.new("c")
        self._say(agent, m.Request, to=f"a{to}", id_=call, task=task, body=NULL)
        return call

    def waits(self, agent: int, task: str, condition: m.Condition) -> int:
        """A wait begins."""
        self._epochs[agent] += 1
        self._say(agent, m.WaitBegan, task=task, epoch=self._epochs[agent], condition=condition)
        return self._epochs[agent]

    def woke(self, agent: int, task: str, outcome: str = "met") -> None:
        """It is over."""
        self._say(agent, m.WaitEnded, task=task, epoch=self._epochs[agent], outcome=outcome)

    def called(self, agent: int, task: str, to: int) -> str:
        """A call, and the wait for its answer."""
        call = self.asked(agent, task, to)
        self.waits(agent, task, m.OnCall(call=call))
        return call

    def started(self, agent: int, call: str, caller: int) -> str:
        """A handler begins."""
        task = self.new("h")
        self._say(agent, m.CallStarted, call=call, caller=f"a{caller}", task=task)
        return task

    def replied(self, agent: int, call: str, to: int) -> None:
        """And ends."""
        self._say(agent, m.Reply, to=f"a{to}", id_=call, body=NULL)

    def acquired(self, agent: int, task: str, resource: str) -> str:
        """Asks for a lock; who is first has it."""
        ticket = self.new("k")
        self._say(agent, m.Acquire, task=task, resource=resource, ticket=ticket)
        return ticket

    def released(self, agent: int, task: str, resource: str, ticket: str) -> None:
        """Gives a lock back, or no longer asks for it."""
        self._say(agent, m.Release, task=task, resource=resource, ticket=ticket)

    def granted(self, agent: int, resource: str, ticket: str) -> None:
        """The trace of the grant in the journal."""
        id_ = f"{self._written}-0"
        self._write("_", f"a{agent}", m.Granted(id=id_, resource=resource, ticket=ticket, revision=1), id_)


def trees(agents: int, events: int) -> list[Recorded]:
    """Request trees of depth three and fan-out two, many at once, over agents with two slots."""
    journal, rnd = Journal(agents, concurrency=8), random.Random(1)

    def call(me: int, task: str, depth: int) -> Iterator[None]:
        peer = rnd.randrange(agents)
        id_ = journal.called(me, task, peer)
        yield
        handler = journal.started(peer, id_, me)
        yield
        for _ in range(2 if depth else 0):
            yield from call(peer, handler, depth - 1)
        journal.replied(peer, id_, me)
        yield
        journal.woke(me, task)
        yield

    def root() -> Iterator[None]:
        me = rnd.randrange(agents)
        task = journal.began(me)
        yield
        yield from call(me, task, 3)
        journal.ended(me, task)

    return _interleaved(journal, rnd, root, max(1, agents // 4), events)


def _interleaved(
    journal: Journal, rnd: random.Random, root: Callable[[], Iterator[None]], at_a_time: int, events: int
) -> list[Recorded]:
    """What so many roots at a time write, a step of one of them after the other, by chance."""
    active = [root() for _ in range(at_a_time)]
    while len(journal.events) < journal.setup + events:
        slot = rnd.randrange(len(active))
        if next(active[slot], 0) == 0:
            active[slot] = root()
    return journal.events


def chain(agents: int, events: int) -> list[Recorded]:
    """One call chain through every agent, built and unwound again and again."""
    journal = Journal(agents)
    while len(journal.events) < journal.setup + events:
        task = journal.began(0)
        held = [(0, task, "")]
        for n in range(1, agents):
            call = journal.called(n - 1, held[-1][1], n)
            held.append((n, journal.started(n, call, n - 1), call))
        for n, _, call in reversed(held[1:]):
            journal.replied(n, call, n - 1)
            journal.woke(n - 1, held[n - 1][1])
        journal.ended(0, task)
    return journal.events


def hub(agents: int, events: int) -> list[Recorded]:
    """Everybody queues at one agent, which asks a worker for each of them."""
    journal = Journal(agents)
    callers = range(2, agents)
    while len(journal.events) < journal.setup + events:
        queue = []
        for n in callers:
            task = journal.began(n)
            queue.append((n, task, journal.called(n, task, 0)))
        for n, task, call in queue:
            handler = journal.started(0, call, n)
            inner = journal.called(0, handler, 1)
            journal.started(1, inner, 0)
            journal.replied(1, inner, 0)
            journal.woke(0, handler)
            journal.replied(0, call, n)
            journal.woke(n, task)
            journal.ended(n, task)
    return journal.events


def lock_chain(agents: int, events: int) -> list[Recorded]:
    """A chain of locks built from the far end; then its head waits and gives up, again and again: nearly a cycle."""
    journal = Journal(agents)
    tasks = []
    for n in range(agents):
        tasks.append(journal.began(n))
        ticket = journal.acquired(n, tasks[n], f"l{n}")
        journal.granted(n, f"l{n}", ticket)
        if 0 < n < agents - 1:
            ticket = journal.acquired(n, tasks[n], f"l{n - 1}")
            journal.waits(n, tasks[n], m.OnResource(resource=f"l{n - 1}", ticket=ticket))
    head = agents - 1
    for _ in range(300):
        if len(journal.events) > journal.setup + max(events, 5 * agents):
            break
        ticket = journal.acquired(head, tasks[head], f"l{head - 1}")
        journal.waits(head, tasks[head], m.OnResource(resource=f"l{head - 1}", ticket=ticket))
        journal.woke(head, tasks[head], "timeout")
        journal.released(head, tasks[head], f"l{head - 1}", ticket)
    return journal.events


def spare_ring(agents: int, events: int) -> list[Recorded]:
    """A ring of queued calls that one spare slot keeps from being a deadlock; closed and opened at its middle."""
    journal = Journal(agents)
    tasks = [journal.began(n) for n in range(agents)]
    for n in range(agents):
        if n != agents // 2:
            journal.called(n, tasks[n], (n + 1) % agents) if n + 1 < agents else None
    middle = agents // 2
    while len(journal.events) < journal.setup + events:
        call = journal.called(middle, tasks[middle], (middle + 1) % agents)
        journal._say(middle, m.Cancel, to=f"a{(middle + 1) % agents}", id_=call)
        journal.woke(middle, tasks[middle], "timeout")
    return journal.events


def mix(agents: int, events: int) -> list[Recorded]:
    """Trees, waits for all and for any, messages and locks at random, few slots: the worst mix."""
    journal, rnd = Journal(agents, concurrency=2), random.Random(2)

    def root() -> Iterator[None]:
        me = rnd.randrange(agents)
        task = journal.began(me)
        yield
        peers = [rnd.randrange(agents) for _ in range(rnd.choice((1, 1, 2, 4)))]
        calls = [journal.asked(me, task, peer) for peer in peers]
        parts = tuple(m.OnCall(call=call) for call in calls)
        whole: m.Condition = m.OnAll(of=parts) if rnd.random() < 0.7 else m.OnSome(k=1, of=parts)
        journal.waits(me, task, parts[0] if len(parts) == 1 else whole)
        yield
        for peer, call in zip(peers, calls, strict=True):
            handler = journal.started(peer, call, me)
            yield
            if rnd.random() < 0.3:
                lock = f"l{rnd.randrange(max(1, agents // 10))}"
                ticket = journal.acquired(peer, handler, lock)
                journal.waits(peer, handler, m.OnResource(resource=lock, ticket=ticket))
                yield
                journal.woke(peer, handler)
                journal.released(peer, handler, lock, ticket)
                yield
            journal.replied(peer, call, me)
            yield
        journal.woke(me, task)
        journal.ended(me, task)

    return _interleaved(journal, rnd, root, max(1, agents // 4), events)


LOADS = {"trees": trees, "chain": chain, "hub": hub, "lock chain": lock_chain, "spare ring": spare_ring, "mix": mix}
"""Every load by name: agents and events wanted in, typed events out."""
