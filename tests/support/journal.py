"""A journal in memory: the messages of a run as they would be stored, put through the core as it reads them.

Agents here are honest mirrors: they remember what they said and what reached them, so that a heartbeat or the answer to
a probe says what a real client would say. Every command the core gives is carried out at once: it is encoded, stored
and read back like any other message.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.conditions import still_open
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.core.commands import (
    Admit,
    AnswerCall,
    AskApproval,
    AskHook,
    AskHost,
    CancelCall,
    Command,
    EndRun,
    Escalate,
    OrderShare,
    SetAccess,
    TellAgent,
    TellService,
)
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell.effects import asked, unanswered

RUN = "r1"
START_S = 1000.0
BODY = msgspec.Raw(b"{}")

_KINDS: dict[type[Any], Kind] = {
    m.Request: Kind.REQ,
    m.Reply: Kind.REP,
    m.Cancel: Kind.CANCEL,
    m.Message: Kind.MSG,
    m.CallProgress: Kind.PROG,
    m.Heartbeat: Kind.HB,
    t.ToolCall: Kind.TOOL,
    t.ModelCall: Kind.TOOL,
    t.Settled: Kind.TOOL,
    t.CallGivenUp: Kind.TOOL,
    t.Proposed: Kind.TOOL,
    t.Survey: Kind.TOOL,
}


@dataclass
class Doing:
    """One task of a mirror."""

    call: str = ""
    caller: str = ""
    slot: bool = True
    wait: m.OpenWait | None = None


@dataclass
class Mirror:
    """An agent as its own client sees it."""

    name: str
    spec: Agent
    inc: str = ""
    seq: int = 0
    epoch: int = 0
    tasks: dict[str, Doing] = field(default_factory=dict)
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Calls without an answer: id to (callee, task)."""
    queued: dict[str, str] = field(default_factory=dict)
    """Calls not started: id to caller."""
    unread: dict[str, str] = field(default_factory=dict)
    """Messages not taken: id to sender."""
    tickets: dict[str, tuple[str, str]] = field(default_factory=dict)
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Grants: ticket to (resource, task)."""
    nonces: list[str] = field(default_factory=list)
    """Probes not answered yet."""
    breaks: list[m.Break] = field(default_factory=list)
    """Breaks received and not obeyed yet."""
    cancelled: list[str] = field(default_factory=list)
    """Tasks whose caller has given up."""
    inbox: deque[events.Recorded] = field(default_factory=deque)
    """Stored, and not received yet; used only while the journal holds deliveries back."""
    began: bool = False
    alive: bool = False

    def restart(self, inc: str) -> None:
        """A new incarnation remembers nothing."""
        self.__init__(self.name, self.spec, inc=inc, alive=True)  # type: ignore[misc]

    def answered(self, call: str, *, failed: bool) -> None:
        """A call is over: what waited for it among others waits for the others."""
        over, none = {call}, frozenset[str]()
        for doing in self.tasks.values():
            if doing.wait is not None:
                left = still_open(doing.wait.condition, none if failed else over, over if failed else none)
                doing.wait = msgspec.structs.replace(doing.wait, condition=left)

    def heartbeat(self, nonce: str = "") -> dict[str, Any]:
        """The fields of a heartbeat that tells its whole state."""
        return {
            "nonce": nonce,
            "role": self.spec.name,
            "concurrency": self.spec.concurrency,
            "reentrant": self.spec.reentrant,
            "tasks": tuple(
                m.TaskState(task=task, call=doing.call, caller=doing.caller, slot=doing.slot, wait=doing.wait)
                for task, doing in self.tasks.items()
            ),
            "queued": tuple(self.queued),
            "calls": tuple(m.OpenCall(call=call, to=to, task=task) for call, (to, task) in self.calls.items()),
            "unread": tuple((sender, message) for message, sender in self.unread.items()),
            "held": tuple(m.Held(resource=r, ticket=ticket, task=t) for ticket, (r, t) in self.held.items()),
        }


class Journal:
    """A run's journal, its core, and a mirror of every agent.

    Args:
        crew: The crew; declared as the first entry.
        obey: Whether commands are carried out, each leaving its trace.
        core: Makes the core.
        spread: Whether the agents are to be given to hosts; then a test says what hosts do.
    """

    def __init__(
        self, crew: Crew, *, obey: bool = True, core: Callable[[str], Supervisor] = make_fold, spread: bool = False
    ) -> None:
        self.crew = crew
        self.core = core(RUN)
        self.obey = obey
        self.now_s = START_S
        self.entries: list[tuple[float, str, bytes]] = []
        self.commands: list[Command] = []
        """Every command the core gave, in order."""
        self.mirrors = {name: Mirror(name, spec) for spec in crew.agents for name in spec.instances}
        self.server = "obeys"
        """What comes of asking the server: it `obeys`, `fails`, is `silent`, or `absent`: nobody has power over it."""
        self.hold = False
        """Whether deliveries wait in the inboxes until they are received."""
        self.orders: list[OrderShare] = []
        """Orders to the fleet's account, for a test to answer."""
        self._incs = 0
        host = "" if spread else "here"
        self.op(m.RunDeclared(crew=msgspec.to_builtins(crew), host=host, spread=spread))

    def _by_the_server(self, command: SetAccess | Admit) -> tuple[str, bytes] | None:
        """What comes of asking the server, as far as it obeys."""
        if self.server == "silent":
            return None
        if self.server == "obeys":
            return wire(command)
        detail = "no servers available"
        fact: m.Op = m.Outcome(command=command.id, ok=False, detail=detail)
        if isinstance(command, SetAccess):
            powerless = self.server == "absent"
            fact = m.AccessSet(
                command=command.id,
                agent=command.agent,
                peer=command.peer,
                state=command.state,
                ok=False,
                enforced=not powerless,
                detail="" if powerless else detail,
            )
        return subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id), codec.encode(fact)

    # --- storing ---

    def store(self, subject: str, payload: bytes) -> list[Command]:
        """Store one entry, hand it to the core and to whom it is addressed; carry out what the core then asks for."""
        given: list[Command] = []
        waiting = deque([(subject, payload)])
        while waiting:
            subject, payload = waiting.popleft()
            self.entries.append((self.now_s, subject, payload))
            event = self.core.read(len(self.entries), self.now_s, subject, payload)
            self._deliver(event)
            for command in self.core.handle(event):
                given.append(command)
                encoded: tuple[str, bytes] | None = wire(command)
                if isinstance(command, SetAccess | Admit):
                    encoded = self._by_the_server(command)
                elif isinstance(command, OrderShare):
                    self.orders.append(command)
                    encoded = None
                if self.obey and encoded is not None:
                    waiting.append(encoded)
        self.commands += given
        return given

    def op(self, message: Any, *, sender: str = SUPERVISOR, to: str = "_") -> list[Command]:
        """The supervisor side states a fact."""
        id_ = f"o{len(self.entries) + 1}"
        return self.store(subjects.build(RUN, Kind.OP, sender, to, id_), codec.encode(message))

    def tick(self, after_s: float) -> list[Command]:
        """Time passes, and the owner says so."""
        self.now_s = round(self.now_s + after_s, 6)
        return self.op(m.Tick())

    def say(
        self, agent: str, type_: type[Any], /, *, to: str = "_", id_: str = "", lost: bool = False, **fields: Any
    ) -> list[Command]:
        """An agent says something in its own stream; `lost`: it never reaches the journal."""
        mirror = self.mirrors[agent]
        mirror.seq += 1
        message = type_(inc=mirror.inc, seq=mirror.seq, **fields)
        if lost:
            return []
        kind = _KINDS.get(type_, Kind.NOTE)
        id_ = id_ or f"x{len(self.entries) + 1}"
        return self.store(subjects.build(RUN, kind, agent, to, id_), codec.encode(message))

    # --- what agents do ---

    def start(self, agents: Iterable[str] | None = None) -> list[Command]:
        """Processes start and agents join."""
        given = []
        for number, name in enumerate(self.mirrors if agents is None else agents, start=1):
            if not self.mirrors[name].spec.external:
                given += self.op(m.ProcessStarted(agent=name, pid=100 + number), sender=HOST)
            given += self.join(name)
        return given

    def join(self, agent: str) -> list[Command]:
        """A new incarnation of an agent joins."""
        self._incs += 1
        mirror = self.mirrors[agent]
        mirror.restart(f"i{self._incs}")
        spec = mirror.spec
        return self.say(agent, m.Joined, role=spec.name, concurrency=spec.concurrency, reentrant=spec.reentrant)

    def task(self, agent: str, task: str, *, name: str = "", slot: bool = True, lost: bool = False) -> list[Command]:
        """An activity begins."""
        self.mirrors[agent].tasks[task] = Doing(slot=slot)
        return self.say(agent, m.TaskBegan, task=task, name=name, slot=slot, lost=lost)

    def end(self, agent: str, task: str, *, lost: bool = False) -> list[Command]:
        """A task is over."""
        mirror = self.mirrors[agent]
        mirror.tasks.pop(task, None)
        mirror.calls = {call: (to, by) for call, (to, by) in mirror.calls.items() if by != task}
        return self.say(agent, m.TaskEnded, task=task, lost=lost)

    def call(
        self, agent: str, task: str, call: str, to: str, *, deadline_s: float | None = None, lost: bool = False
    ) -> list[Command]:
        """A task makes a call."""
        self.mirrors[agent].calls[call] = (to, task)
        return self.say(
            agent, m.Request, to=to, id_=call, task=task, verb="ask", body=BODY, deadline_s=deadline_s, lost=lost
        )

    def begin_call(self, agent: str, call: str, task: str, *, lost: bool = False) -> list[Command]:
        """A handler begins to work on a call."""
        mirror = self.mirrors[agent]
        caller = mirror.queued.pop(call, "")
        mirror.tasks[task] = Doing(call=call, caller=caller)
        return self.say(agent, m.CallStarted, call=call, caller=caller or "nobody", task=task, lost=lost)

    def reply(self, agent: str, task: str, *, early: bool = False, lost: bool = False) -> list[Command]:
        """A handler answers, and is over unless the answer is early."""
        mirror = self.mirrors[agent]
        doing = mirror.tasks[task]
        call, doing.call = doing.call, ""
        if not early:
            del mirror.tasks[task]
        return self.say(agent, m.Reply, to=doing.caller, id_=call, early=early, body=BODY, lost=lost)

    def cancel(self, agent: str, call: str, *, lost: bool = False) -> list[Command]:
        """A caller gives up a call."""
        to, _ = self.mirrors[agent].calls.pop(call)
        return self.say(agent, m.Cancel, to=to, id_=call, lost=lost)

    def wait(
        self, agent: str, task: str, condition: m.Condition, *, deadline_s: float | None = None, lost: bool = False
    ) -> list[Command]:
        """A task begins to wait."""
        mirror = self.mirrors[agent]
        mirror.epoch += 1
        doing = mirror.tasks.setdefault(task, Doing(slot=False))
        doing.wait = m.OpenWait(epoch=mirror.epoch, condition=condition, deadline_s=deadline_s)
        return self.say(
            agent, m.WaitBegan, task=task, epoch=mirror.epoch, condition=condition, deadline_s=deadline_s, lost=lost
        )

    def wake(self, agent: str, task: str, outcome: str = "met", *, lost: bool = False) -> list[Command]:
        """A wait is over; calls it waited for and that have no answer are cancelled, as the client does."""
        mirror = self.mirrors[agent]
        wait = mirror.tasks[task].wait
        assert wait is not None, f"{agent}/{task} does not wait"
        mirror.tasks[task].wait = None
        given: list[Command] = []
        if outcome != "met":
            for call in [c for c in _calls(wait.condition) if c in mirror.calls]:
                given += self.cancel(agent, call, lost=lost)
            for ticket in [t for t in _tickets(wait.condition) if t in mirror.tickets and t not in mirror.held]:
                given += self.release(agent, ticket, lost=lost)
        return given + self.say(agent, m.WaitEnded, task=task, epoch=wait.epoch, outcome=outcome, lost=lost)

    def acquire(
        self, agent: str, task: str, resource: str, ticket: str, *, lost: bool = False, **fields: Any
    ) -> list[Command]:
        """A task asks for a lock or for units."""
        self.mirrors[agent].tickets[ticket] = (resource, task)
        return self.say(agent, m.Acquire, task=task, resource=resource, ticket=ticket, lost=lost, **fields)

    def release(self, agent: str, ticket: str, *, lost: bool = False) -> list[Command]:
        """A task gives a ticket back."""
        mirror = self.mirrors[agent]
        mirror.held.pop(ticket, None)
        resource, task = mirror.tickets.pop(ticket)
        return self.say(agent, m.Release, task=task, resource=resource, ticket=ticket, lost=lost)

    def send(self, agent: str, task: str, to: str, message: str, *, lost: bool = False) -> list[Command]:
        """A one-way message."""
        return self.say(agent, m.Message, to=to, id_=message, task=task, body=BODY, lost=lost)

    def take(self, agent: str, task: str, message: str, *, lost: bool = False) -> list[Command]:
        """A task takes a message out of the mailbox."""
        sender = self.mirrors[agent].unread.pop(message)
        return self.say(agent, m.Taken, task=task, sender=sender, message=message, lost=lost)

    def heartbeat(self, agent: str, *, lost: bool = False) -> list[Command]:
        """An agent tells its whole state."""
        return self.say(agent, m.Heartbeat, lost=lost, **self.mirrors[agent].heartbeat())

    def affirm(self, agent: str) -> list[Command]:
        """An agent answers the probes it received."""
        mirror, given = self.mirrors[agent], []
        nonces, mirror.nonces = mirror.nonces, []
        for nonce in nonces:
            given += self.say(agent, m.Heartbeat, **mirror.heartbeat(nonce))
        return given

    def obey_breaks(self, agent: str) -> list[Command]:
        """An agent fails the waits it was told to fail, where they are still open."""
        mirror, given = self.mirrors[agent], []
        breaks, mirror.breaks = mirror.breaks, []
        for each in breaks:
            doing = mirror.tasks.get(each.task)
            if doing is not None and doing.wait is not None and doing.wait.epoch == each.epoch:
                given += self.wake(agent, each.task, "broken")
        return given

    def exited(self, agent: str, code: int = -9, *, restart: bool = False) -> list[Command]:
        """An agent's process ends, and its host says so."""
        mirror = self.mirrors[agent]
        mirror.alive = False
        pid = self.core.agents[agent].pid
        return self.op(m.ProcessExited(agent=agent, pid=pid, code=code, restart=restart), sender=HOST)

    # --- receiving ---

    def _deliver(self, event: events.Event) -> None:
        if not isinstance(event, events.Recorded):
            return
        mirror = self.mirrors.get(event.to) or next((x for x in self.mirrors.values() if x.spec.name == event.to), None)
        if mirror is None or not mirror.alive:
            return
        mirror.inbox.append(event)
        if not self.hold:
            self.receive(mirror.name)

    def receive(self, agent: str, count: int | None = None) -> None:
        """An agent receives what is in its inbox, or only the first `count`."""
        mirror = self.mirrors[agent]
        for _ in range(len(mirror.inbox) if count is None else min(count, len(mirror.inbox))):
            self._receive(mirror, mirror.inbox.popleft())

    def _receive(self, mirror: Mirror, event: events.Recorded) -> None:
        message = event.message
        match message:
            case m.Request() if event.sender in self.mirrors:
                mirror.queued.setdefault(event.id, event.sender)
            case m.Reply() | m.SupervisorReply():
                if mirror.calls.pop(event.id, None) is not None:
                    mirror.answered(event.id, failed=message.error is not None)
            case m.Cancel() | m.SupervisorCancel():
                caller = message.caller if isinstance(message, m.SupervisorCancel) else event.sender
                if mirror.queued.get(event.id) == caller:
                    del mirror.queued[event.id]
                for task, doing in mirror.tasks.items():
                    if doing.call == event.id and doing.caller == caller:
                        doing.call = ""
                        mirror.cancelled.append(task)
            case m.Message():
                mirror.unread.setdefault(event.id, event.sender)
            case m.Probe():
                mirror.nonces.append(message.nonce)
            case m.Granted():
                if message.ticket in mirror.tickets:
                    mirror.held[message.ticket] = mirror.tickets[message.ticket]
            case m.Break():
                mirror.breaks.append(message)
            case m.Begin():
                mirror.began = True
            case _:
                pass


def wire(command: Command) -> tuple[str, bytes]:
    """A command as it is published, checked by reading it back as its receiver would."""
    match command:
        case TellAgent():
            subject = subjects.build(RUN, Kind.CTL, SUPERVISOR, command.agent, command.id)
            payload = codec.encode(command.message)
        case AnswerCall():
            subject = subjects.build(RUN, Kind.REP, SUPERVISOR, command.agent, command.call)
            body = msgspec.UNSET if command.body is None else command.body
            payload = codec.encode(
                m.SupervisorReply(id=command.id, error=command.error, body=body, final=command.final)
            )
        case CancelCall():
            subject = subjects.build(RUN, Kind.CANCEL, SUPERVISOR, command.agent, command.call)
            payload = codec.encode(m.SupervisorCancel(id=command.id, caller=command.caller, why=command.why))
        case AskHost():
            subject = subjects.build(RUN, Kind.CTL, SUPERVISOR, HOST, command.id)
            payload = codec.encode(command.message)
        case Escalate():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            msgspec.json.encode(command.body)
            payload = codec.encode(m.Outcome(command=command.id, ok=True, detail="delivered"))
        case SetAccess():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            cut = 0 if command.state == "running" else 1
            payload = codec.encode(
                m.AccessSet(
                    command=command.id,
                    agent=command.agent,
                    peer=command.peer,
                    state=command.state,
                    ok=True,
                    connections=cut,
                )
            )
        case Admit():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            payload = codec.encode(
                m.Delegated(
                    command=command.id,
                    agent=command.agent,
                    parent=command.parent,
                    task=command.task,
                    role=command.role,
                    peers=command.peers,
                    tools=command.tools,
                    expires_s=60.0,
                )
            )
        case TellService():
            subject = subjects.build(RUN, Kind.CTL, SUPERVISOR, command.to, command.id)
            payload = codec.encode(command.message)
        case AskApproval():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            payload = codec.encode(asked(command))
        case AskHook():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            payload = codec.encode(unanswered(command))
        case OrderShare():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            payload = codec.encode(t.ShareLeased(command=command.id, n=command.n, leased=command.kept))
        case EndRun():
            subject = subjects.build(RUN, Kind.OP, SUPERVISOR, "_", command.id)
            payload = codec.encode(m.RunEnded(state=command.state, why=command.why, command=command.id))
    codec.decode_supervisor(subjects.parse(subject).kind, payload)
    return subject, payload


def fold(entries: Iterable[tuple[float, str, bytes]], *, peek: bool = False) -> tuple[Supervisor, list[Command]]:
    """Fold a journal anew; `peek`: look at everything after every entry, which must change nothing."""
    core, given = make_fold(RUN), []
    for seq, (at_s, subject, payload) in enumerate(entries, start=1):
        given += core.handle(core.read(seq, at_s, subject, payload))
        if peek:
            core.digest()
            core.waits()
            core.next_tick_at_s()
            core.handle(core.read(seq, at_s, subject, payload))
    return core, given


def _calls(condition: m.Condition) -> list[str]:
    if isinstance(condition, m.OnCall):
        return [condition.call]
    return [call for part in getattr(condition, "of", ()) for call in _calls(part)]


def _tickets(condition: m.Condition) -> list[str]:
    if isinstance(condition, m.OnResource):
        return [condition.ticket]
    return [ticket for part in getattr(condition, "of", ()) for ticket in _tickets(part)]
