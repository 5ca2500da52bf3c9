"""World: the agents of a run, their host, the people, and the faults that befall them.

The host starts processes, notices their ends and starts them again; people answer questions; once a second of virtual
time fate is asked for every agent and for the owner.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.bus import Bus, Envelope
from crewkeeper_supervisor.chaos.chance import Faults, Stream
from crewkeeper_supervisor.chaos.clock import Clock
from crewkeeper_supervisor.chaos.doing import Task, Wait
from crewkeeper_supervisor.chaos.options import Options, crew
from crewkeeper_supervisor.chaos.owner import Owner
from crewkeeper_supervisor.chaos.program import Programs
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.core.commands import Command, TellAgent
from crewkeeper_supervisor.core.crew import Agent, Crew

FATE_S: Final = 1.0


class Member:
    """One declared instance: its process now, and its connection.

    Attributes:
        actor: Its incarnation; one that died until the next is started.
        troubled_s: When it was last seen dead, cut off or paused.
    """

    def __init__(self, name: str, spec: Agent) -> None:
        self.name = name
        self.spec = spec
        self.actor: Actor | None = None
        self.connected = True
        self.kept: list[Envelope] = []
        """What it publishes while it is cut off."""
        self.starts = 0
        self.troubled_s = 0.0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.actor is not None and self.actor.alive

    @property
    def listens(self) -> bool:
        """Whether its process has subscribed: the moment it says that it is there."""
        return self.actor is not None and self.actor.alive and self.actor.seq > 0


class Grant:
    """A ticket as the simulation knows it, in the order of the journal."""

    __slots__ = ("actor", "granted", "mode", "task", "units")

    def __init__(self, actor: Actor, task: str, mode: str, units: int) -> None:
        self.actor = actor
        self.task = task
        self.mode = mode
        self.units = units
        self.granted = False


class World:
    """Everything outside the core.

    Args:
        options: How it is made.
        seed: Of every choice.
        kept: Names of the faults that may strike; None: all.
        declared: The crew; None: one of the seed's.

    Attributes:
        body: Makes what a task does.
        tickets: Per resource its capacity and its tickets, in the order of their requests in the journal.
        stopped: No activity begins any more.
    """

    def __init__(self, options: Options, seed: int, kept: frozenset[str] | None, declared: Crew | None = None) -> None:
        self.options = options
        self.crew = crew(options, seed) if declared is None else declared
        self.clock = Clock()
        self.faults = Faults(seed, options.rates, kept)
        self.bus = Bus(self.clock, seed, self.faults, self, wire=bool(options.wire))
        self.owner = self._make_owner(seed)
        self._agents = Stream(seed, "agents")
        self._network = Stream(seed, "routes")
        names = tuple(spec.name for spec in self.crew.agents)
        self.body = Programs(options, seed, names).body
        self.members = {name: Member(name, spec) for spec in self.crew.agents for name in spec.instances}
        self.tickets: dict[str, tuple[int, dict[str, Grant]]] = {}
        self.counts: Counter[str] = Counter()
        self.stopped = False
        self.on_start: Callable[[Member], None] = lambda _: None
        self._restarts: dict[str, float] = {}
        self._activities: Counter[str] = Counter()
        self.bus.on_stored += [self._note_tickets, self.owner.stored, self._answer_people, self._start_again]

    def _make_owner(self, seed: int) -> Owner:
        return Owner(self.clock, self.bus, seed, self.faults)

    # --- beginning ---

    def begin(self) -> None:
        """Declare the run and start everybody."""
        self.owner.state_fact(m.RunDeclared(crew=msgspec.to_builtins(self.crew), host="here"))
        self.owner.state_fact(m.OwnerChanged(term=1, owner="owner-1"))
        for member in self.members.values():
            self.clock.after(1.0 + 0.3 * self._agents.fraction(f"start {member.name}"), self._start, member)
        self.clock.after(FATE_S, self._ask_fate)

    def _start(self, member: Member) -> None:
        member.starts += 1
        member.connected, member.kept = True, []
        pid = 100 * len(member.name) + member.starts
        self.owner.state_fact(m.ProcessStarted(agent=member.name, pid=pid, restarts=member.starts - 1), HOST)
        inc = f"{member.name}i{member.starts}"
        actor = Actor(member.name, member.spec, inc, self.clock, self._sender(member), self.body)
        actor.heartbeat_s = self.crew.heartbeat_s
        member.actor = actor
        self.on_start(member)
        self.clock.after(0.02, actor.join_run)
        self.clock.after(0.1, self._live, member, actor)

    def _sender(self, member: Member) -> "_Sender":
        return _Sender(self, member)

    def _live(self, member: Member, actor: Actor) -> None:
        """Activities, one after the other, for as long as this incarnation lives."""
        if not actor.alive or self.stopped:
            return
        self._activities[member.name] += 1
        label = f"activity {member.name} {self._activities[member.name]}"
        if actor.began and len(actor.line) < 3:
            actor.begin_activity(label)
        self.clock.after(self._agents.spread(label, self.options.activity_s, 20.0), self._live, member, actor)

    # --- the bus's receivers ---

    def resolve(self, envelope: Envelope) -> str:
        """The instance that a stored message goes to."""
        if envelope.to in self.members:
            return envelope.to
        if envelope.kind is not Kind.REQ:
            return ""
        there = [x for x in self.members.values() if x.spec.name == envelope.to and x.listens and x.connected]
        if not there:
            return ""
        return there[int(self._network.fraction(envelope.id) * len(there))].name

    def deliver(self, agent: str, envelope: Envelope) -> bool:
        """Hand a message to a living, connected agent. False if it is alive and cut off."""
        member = self.members[agent]
        if not member.listens or member.actor is None:
            return True
        if not member.connected:
            return False
        member.actor.deliver(envelope)
        return True

    # --- fate ---

    def _ask_fate(self) -> None:
        self.clock.after(FATE_S, self._ask_fate)
        faults = self.faults
        for member in self.members.values():
            name = member.name
            if not member.alive or not member.connected or (member.actor is not None and member.actor.paused):
                member.troubled_s = self.clock.now_s
            if member.alive and faults.strikes("crash", name):
                self._crash(member, faults.size("crash", name, 0.2, 3.0))
            elif member.alive and member.connected and faults.strikes("disconnect", name):
                member.connected = False
                self.clock.after(faults.size("disconnect", name, 0.3, 6.0), self.reconnect, member, member.actor)
            elif member.alive and faults.strikes("pause", name):
                self.owner.state_fact(m.OperatorAsked(action="pause", agent=name))
                resume = m.OperatorAsked(action="resume", agent=name)
                self.clock.after(faults.size("pause", name, 1.0, 5.0), self.owner.state_fact, resume)
        if faults.strikes("owner_crash", "owner"):
            self.owner.die(faults.size("owner_crash", "owner", 0.3, 9.0))

    def _crash(self, member: Member, away_s: float) -> None:
        assert member.actor is not None
        member.actor.alive = False
        for envelope in member.kept:
            self.bus.flying.pop(id(envelope), None)  # it dies with whoever kept it
        self.counts["crashes"] += 1
        pid = 100 * len(member.name) + member.starts
        exited = m.ProcessExited(agent=member.name, pid=pid, code=-9, restart=True)
        self._restarts[member.name] = away_s
        self.clock.after(0.02, self.owner.state_fact, exited, HOST)

    def reconnect(self, member: Member, actor: Actor | None) -> None:
        """The connection is back: what was kept goes out, then the whole state."""
        if member.actor is not actor or actor is None or member.connected:
            return
        member.connected = True
        kept, member.kept = member.kept, []
        for envelope in kept:
            self.bus.flying.pop(id(envelope), None)
            self.bus.publish(member.name, envelope)
        actor.beat()

    def calm_down(self) -> None:
        """From now on nothing goes wrong, and nobody begins anything new."""
        self.faults.frozen = True
        self.stopped = True
        for member in self.members.values():
            self.reconnect(member, member.actor)
            if member.actor is not None and member.actor.paused:
                self.owner.state_fact(m.OperatorAsked(action="resume", agent=member.name))

    # --- what is noted of the journal ---

    def _start_again(self, event: events.Event, _envelope: Envelope) -> None:
        """The host starts a process again only once its end is in the journal."""
        if isinstance(event, events.Recorded) and isinstance(event.message, m.ProcessExited):
            away_s = self._restarts.pop(event.message.agent, None)
            if away_s is not None:
                self.clock.after(away_s, self._start, self.members[event.message.agent])

    def _answer_people(self, event: events.Event, _envelope: Envelope) -> None:
        if isinstance(event, events.Recorded) and isinstance(event.message, m.AskHuman):
            asked = m.OperatorAsked(action="answer", question=event.message.question, answer="yes")
            wait_s = 0.5 + self._agents.spread(f"answer {event.message.question}", 3.0, 15.0)
            self.clock.after(wait_s, self.owner.state_fact, asked)

    def _note_tickets(self, event: events.Event, _envelope: Envelope) -> None:
        if not isinstance(event, events.Recorded) or event.sender not in self.members:
            return
        message, member = event.message, self.members[event.sender]
        actor = member.actor
        if isinstance(message, m.Acquire) and actor is not None and actor.inc == message.inc:
            _, queue = self.tickets.setdefault(message.resource, (message.capacity, {}))
            queue.setdefault(message.ticket, Grant(actor, message.task, message.mode, message.units))
        elif isinstance(message, m.Release) and message.resource in self.tickets:
            self.tickets[message.resource][1].pop(message.ticket, None)

    def note_granted(self, command: Command) -> None:
        """The core has decided to grant a ticket."""
        if isinstance(command, TellAgent) and isinstance(command.message, m.Granted):
            _, queue = self.tickets.get(command.message.resource, (1, {}))
            if command.message.ticket in queue:
                queue[command.message.ticket].granted = True

    # --- looking ---

    def moment(self) -> tuple[int, ...]:
        """Something that differs whenever anything that decides who is stuck may differ."""
        bus = self.bus
        return (len(bus.journal), len(bus.flying), len(bus.lost), *(actor.seq for actor in self.actors()))

    def actors(self) -> list[Actor]:
        """Every living incarnation."""
        return [x.actor for x in self.members.values() if x.actor is not None and x.actor.alive]

    def tasks(self) -> dict[str, tuple[Actor, Task]]:
        """Every task that is alive, by key."""
        return {task.key: (actor, task) for actor in self.actors() for task in actor.tasks.values()}

    def waits(self) -> dict[str, Wait]:
        """Every open wait, by its task's key."""
        return {key: task.wait for key, (_, task) in self.tasks().items() if task.wait is not None}


class _Sender:
    """What an actor publishes through; keeps it while the connection is gone."""

    def __init__(self, world: World, member: Member) -> None:
        self._world = world
        self._member = member

    def __call__(self, envelope: Envelope) -> None:
        if self._member.connected:
            self._world.bus.publish(self._member.name, envelope)
        else:
            self._world.bus.flying[id(envelope)] = envelope
            self._member.kept.append(envelope)
