"""State of one run: everything the core remembers, and the pen with which its parts write commands.

The parts of the core (`lifecycle`, `detection`, `response`) read and change this; nobody else does.
"""

import hashlib
from collections import UserDict
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from crewkeeper_bus.messages import Ctl, Fault, HostCtl
from crewkeeper_bus.subjects import OWED_KINDS, REPORTED_KINDS, Address, Kind
from crewkeeper_supervisor.core.booking import Booking
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
from crewkeeper_supervisor.core.confinement import CrewHold
from crewkeeper_supervisor.core.crew import Crew, Rate
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.gate_rules import MakeGateRules
from crewkeeper_supervisor.core.gate_state import GateState
from crewkeeper_supervisor.core.hosting_state import End, Hosting
from crewkeeper_supervisor.core.ladder_state import LadderState
from crewkeeper_supervisor.core.rates import Bucket
from crewkeeper_supervisor.core.roster import AgentView, Usage
from crewkeeper_supervisor.core.wait_graph import WaitGraph

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.watch import Watch

_NEVER: Final = float("inf")


_BEGINNING: Final = frozenset({Kind.REQ, Kind.MSG})
_HEARTBEAT: Final = Kind.HB
HEARTBEAT_WEIGHT: Final = 16
"""As how many bytes one of a heartbeat counts: all of it is read; bodies of other messages are passed over."""
_ANSWERING: Final = frozenset({*OWED_KINDS, *REPORTED_KINDS})

ESCALATIONS_MAX: Final = 1000
"""Escalations whose incidents are remembered for late outcomes; the oldest is forgotten first."""


class Question(Struct, frozen=True, kw_only=True):
    """An open question to a person."""

    id: str
    agent: str
    task: str
    who: str
    text: str
    asked_at_s: float


class Admission(Struct, frozen=True, kw_only=True):
    """A helper that an agent asked for."""

    agent: str
    parent: str
    task: str
    note: str
    """Id of the note that asked: where the answer goes."""


class Withdrawals(Struct, kw_only=True):
    """Calls that are given up, or about to be; see `withdrawal`."""

    broken: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    """Waits told to fail, as (task, epoch), with the calls they are for."""
    overdue_s: dict[str, float] = field(default_factory=dict)
    """Calls of waits that have failed: when their caller must have given them up, journal time."""
    fenced: dict[str, str] = field(default_factory=dict)
    """Calls given up, with the caller to name to whoever starts one all the same; empty once that was done."""

    @property
    def are_due(self) -> bool:
        """Whether anything is under way."""
        return bool(self.broken or self.overdue_s)


class Dues(UserDict[str, float]):
    """When each part next needs the clock, journal time, by the name of the need.

    It is asked after every event and changes now and then: what is asked is kept ready.

    Attributes:
        soonest_s: The earliest of all; infinite if there is none.
        restless: Whether a need stands that any event may settle before its time.
        sweeps: Whether the next look at all waits is arranged.
    """

    soonest_s = _NEVER
    restless = False
    sweeps = False

    def __setitem__(self, need: str, at_s: float) -> None:
        super().__setitem__(need, at_s)
        self._keep_ready()

    def __delitem__(self, need: str) -> None:
        super().__delitem__(need)
        self._keep_ready()

    def arm(self, need: str, at_s: float) -> None:
        """Have the clock looked at then, if not sooner."""
        self[need] = min(self.data.get(need, _NEVER), at_s)

    def _keep_ready(self) -> None:
        self.soonest_s = min(self.data.values(), default=_NEVER)
        self.sweeps = "sweep" in self.data
        self.restless = "quiet" in self.data or "withdrawal" in self.data


class RunState:
    """What is known of one run after the last event handled."""

    def __init__(self, run: str, gate: MakeGateRules | None = None) -> None:
        self.run = run
        self.gate = GateState(gate)
        self.watch: Watch | None = None
        """The detectors of conduct, once the crew is known."""
        self.crew: Crew | None = None
        self.host = ""
        self.seq = 0
        self.now_s = 0.0
        self.term = 0
        self.phase = "starting"
        self.graph = WaitGraph()
        self.agents: dict[str, AgentView] = {}
        self.awaited: list[str] = []
        """Agents without whom the crew does not begin: those who were missing when all were last looked at."""
        self.replicas: dict[str, int] = {}
        """How many instances each role has that has several; fixed by the crew file."""
        self.incidents: dict[str, Incident] = {}
        self.questions: dict[str, Question] = {}
        self.usage = Usage()
        self.ladder = LadderState()
        self.pending: dict[str, Command] = {}
        self.withdrawals = Withdrawals()
        self.escalations: dict[str, str] = {}
        """Escalations of late, with their incidents: every receiver has an outcome of its own."""
        self.buckets: dict[str, Bucket] = {}
        """What each sender may still send; those who are not in the crew share one."""
        self.helpers: dict[str, Admission] = {}
        """Helpers that agents asked for and that are not let in yet, by the command that lets them in."""
        self.helping: dict[str, dict[str, AgentView]] = {}
        """Helpers that are in, or may come, by whom they help."""
        self.crew_hold: CrewHold | None = None
        """The crew is paused as a whole."""
        self.apart: dict[tuple[str, str], str] = {}
        """Pairs of agents that are held apart, the smaller name first: `holding`, `held`, `failed` or `freeing`."""
        self.victims: dict[str, int] = {}
        """How often a wait in the chain of a root task was failed, by the root's key."""
        self.mains: dict[str, str] = {}
        """Agents whose activity named `main` runs, with its task."""
        self.mains_over: dict[str, bool] = {}
        """Agents whose main activity is over, with whether it came to its end."""
        self.confines = False
        """Whether anybody may call some agents only."""
        self.hosting: Hosting | None = None
        """Where the agents are, if they are spread over hosts."""
        self.due_s = Dues()
        self.stirred = True
        """Whether `has_chores` may be true: set by whoever makes it so, which costs less than asking every time."""
        self.written: list[Command] = []
        """Commands written while this event is handled."""
        self._ids = (0, -1)
        """The last id that was derived."""
        self._names: dict[str, tuple[int, int]] = {}
        """The last name that was derived, by its prefix."""

    def admits(self, sender: str, at_s: float, size_bytes: int, address: Address | None = None) -> bool:
        """Whether a sender may put so much into the journal now; see `rates`.

        `address` is where it goes: whoever is sent something is given room to say what becomes of it. That goes for
        what is not read, too, since it is delivered all the same.
        """
        rate = self.crew.rate if self.crew is not None else Rate()
        if address is None:
            return self._bucket(sender, rate, at_s).take(rate, at_s, size_bytes)
        kind, to = address.kind, address.to
        if kind is _HEARTBEAT:
            # However little may be sent at once, after a pause any heartbeat is read.
            size_bytes = max(size_bytes, min(size_bytes * HEARTBEAT_WEIGHT, int(rate.burst_bytes)))
        if kind in _BEGINNING and to != sender:
            for name in (to,) if to in self.agents else self._receivers(to):
                self._bucket(name, rate, at_s).owe(rate)
        return self._bucket(sender, rate, at_s).take(rate, at_s, size_bytes, answers=kind in _ANSWERING)

    def _bucket(self, agent: str, rate: Rate, at_s: float) -> Bucket:
        name = agent if agent in self.agents else ""
        bucket = self.buckets.get(name)
        if bucket is None:
            bucket = self.buckets[name] = Bucket(rate, at_s)
        return bucket

    def tools_of(self, view: AgentView) -> tuple[str, ...]:
        """The tools that an agent may use: those that it is left, and a helper those that who let it in is left."""
        own, above = view.spec.tools, view
        while above.parent:
            above = self.agents[above.parent]
            own = self.gate.tools_left(above.name, own)
        return self.gate.tools_left(view.name, own)

    def _receivers(self, to: str) -> tuple[str, ...]:
        """The agents that hear what is sent to an agent or a role, as far as they are known."""
        if to in self.agents:
            return (to,)
        return tuple(f"{to}-{number}" for number in range(1, self.replicas.get(to, 0) + 1))

    # --- time ---

    def has_chores(self) -> bool:
        """Whether any event may give the parts beside detection something to do, whatever the time."""
        due, withdrawals = self.due_s, self.withdrawals
        return bool(
            due.restless
            or self.phase != "running"
            or self.helping
            or (self.mains_over and not self.mains)
            or withdrawals.broken
            or withdrawals.overdue_s
            or self.gate.shut
            or self.gate.released
        )

    def needs_watching(self) -> bool:
        """Whether the lifecycle could have anything to do."""
        if self.phase != "running" or (self.mains_over and not self.mains):
            return True
        due = self.due_s
        return "quiet" in due or due.get("silence", _NEVER) <= self.now_s

    def is_due(self, need: str) -> bool:
        """Whether the time of this need has come."""
        due = self.due_s
        return due.soonest_s <= self.now_s and due.get(need, _NEVER) <= self.now_s

    def main_over(self, agent: str, *, done: bool) -> None:
        """An agent's main activity is over: it came to its end, or never will."""
        self.mains.pop(agent, None)
        self.mains_over[agent] = done
        self.stirred = True

    # --- writing commands ---

    def next_id(self) -> str:
        """The next command id, derived from the journal: `<sequence>-<index>`."""
        seq, given = self._ids
        given = given + 1 if seq == self.seq else 0
        self._ids = (self.seq, given)
        return f"{self.seq}-{given}"

    def next_name(self, prefix: Literal["F", "N", "n"]) -> str:
        """The next name of something that is no command: `<prefix><sequence>-<index>`.

        Each prefix counts for itself, so that one finding more leaves the ids of all commands as they are.

        Args:
            prefix: `F` of findings, `N` of nudges, `n` of probes.
        """
        seq, given = self._names.get(prefix, (0, -1))
        given = given + 1 if seq == self.seq else 0
        self._names[prefix] = (self.seq, given)
        return f"{prefix}{self.seq}-{given}"

    def take_commands(self) -> list[Command]:
        """The commands written while this event was handled."""
        written, self.written = self.written, []
        return written

    def _write(self, command: Command) -> None:
        self.written.append(command)
        self.pending[command.id] = command

    def tell(self, agent: str, message: type[Any], *, durable: bool = False, **fields: Any) -> str:
        """Tell an agent: `message` is one of the control structs, without id and term."""
        id_ = self.next_id()
        told: Ctl = message(id=id_, term=self.term, **fields)
        self._write(TellAgent(id=id_, agent=agent, message=told, durable=durable))
        return id_

    def ask_host(self, message: type[Any], **fields: Any) -> str:
        """Ask the run's host: `message` is one of the host control structs, without id and term."""
        id_ = self.next_id()
        asked: HostCtl = message(id=id_, term=self.term, **fields)
        self._write(AskHost(id=id_, message=asked))
        return id_

    def answer(
        self,
        agent: str,
        call: str,
        *,
        error: Fault | None = None,
        body: Raw | None = None,
        final: bool = True,
        booking: Booking | None = None,
        inc: str = "",
        durable: bool = True,
    ) -> str:
        """Answer a call or question in the supervisor's name, whichever incarnation has asked or only `inc`."""
        id_ = self.next_id()
        self._write(
            AnswerCall(
                id=id_,
                agent=agent,
                call=call,
                error=error,
                body=body,
                final=final,
                booking=booking,
                inc=inc,
                durable=durable,
            )
        )
        return id_

    def tell_service(
        self, to: Literal["_tools", "_model"], message: type[Any], *, booking: Booking | None = None, **fields: Any
    ) -> str:
        """Tell the tool host or the model proxy: `message` is one of their control structs, without id and term."""
        id_ = self.next_id()
        told = message(id=id_, term=self.term, **fields)
        self._write(TellService(id=id_, to=to, message=told, booking=booking))
        return id_

    def ask_approval(self, **fields: Any) -> str:
        """Let a person decide: the fields of `AskApproval` without its ids; returns the approval's."""
        id_ = self.next_id()
        self._write(AskApproval(id=id_, approval=f"A{id_}", **fields))
        return f"A{id_}"

    def ask_hook(self, **fields: Any) -> str:
        """Ask a hook: the fields of `AskHook` without its id."""
        id_ = self.next_id()
        self._write(AskHook(id=id_, **fields))
        return id_

    def order_share(self, **fields: Any) -> str:
        """Order a share of what all crews may spend: the fields of `OrderShare` without its id."""
        id_ = self.next_id()
        self._write(OrderShare(id=id_, **fields))
        return id_

    def cancel(self, agent: str, call: str, caller: str, why: str) -> str:
        """Give up a call at its callee, in its caller's stead."""
        id_ = self.next_id()
        self._write(CancelCall(id=id_, agent=agent, call=call, caller=caller, why=why[:2000]))
        return id_

    def set_access(
        self,
        agent: str,
        state: Literal["running", "paused", "killed", "revoked"],
        why: str,
        *,
        peer: str = "",
        keep: bool = True,
        place: str | UnsetType = UNSET,
    ) -> str:
        """Have the server let an agent in, hold it, or shut it out; or hold it apart from one other.

        Or make void what one process of it logs in with, the one that was started by the order `place`.
        """
        id_ = self.next_id()
        self._write(SetAccess(id=id_, agent=agent, state=state, why=why[:2000], peer=peer, keep=keep, place=place))
        return id_

    def admit(self, agent: str, **fields: Any) -> str:
        """Let in a helper: the fields of `Admit` without its id."""
        id_ = self.next_id()
        self._write(Admit(id=id_, agent=agent, **fields))
        return id_

    def escalate(self, incident: str, kind: str, body: dict[str, Any]) -> str:
        """Tell people."""
        id_ = self.next_id()
        self._write(Escalate(id=id_, incident=incident, kind=kind, body=body))
        self.escalations[id_] = incident
        if len(self.escalations) > ESCALATIONS_MAX:
            del self.escalations[next(iter(self.escalations))]
        return id_

    def end_run(self, state: End, why: str) -> str:
        """State that the run is over."""
        id_ = self.next_id()
        self._write(EndRun(id=id_, state=state, why=why))
        return id_

    def traced(self, command: str) -> None:
        """A command has left its trace in the journal: it was carried out."""
        self.pending.pop(command, None)

    # --- comparing ---

    def digest(self) -> str:
        """SHA-256 over the state: equal for equal folds of the same journal."""
        graph = self.graph
        facts = {
            "seq": self.seq,
            "now": self.now_s,
            "phase": self.phase,
            "term": self.term,
            "agents": [
                [
                    a.name,
                    a.status,
                    a.inc,
                    a.last_seq,
                    a.restarts,
                    a.progress,
                    {name: getattr(a, name) for name in Usage.__struct_fields__},
                    [a.runs, a.throttled, a.parent, a.ending, a.hold, a.flood, *filter(None, [a.recovery])],
                ]
                for a in self.agents.values()
            ],
            "tasks": [[n.name, n.concurrency, n.slot_tasks, list(n.tasks)] for n in graph.agents.values()],
            "waits": [[t.key, t.wait.epoch, t.wait.since_s] for t in graph.waiting.values() if t.wait],
            "calls": [[c.id, c.caller, c.to, c.state] for c in graph.calls.values()],
            "tickets": [[r.name, [[t.id, t.granted] for t in r.queue.values()]] for r in graph.resources.values()],
            "incidents": [msgspec.to_builtins(incident) for incident in self.incidents.values()],
            "questions": list(self.questions),
            "mains": [self.mains, self.mains_over],
            "pending": list(self.pending),
            "escalations": self.escalations,
            "victims": self.victims,
            "withdrawn": [
                [[key, epoch] for key, epoch in self.withdrawals.broken],
                self.withdrawals.overdue_s,
                self.withdrawals.fenced,
            ],
            "apart": [[*pair, step] for pair, step in self.apart.items()],
            "due": self.due_s.data,
            "gate": self.gate.facts(),
            "watch": self.watch.facts() if self.watch is not None else [],
            "ladder": self.ladder.facts(),
        }
        if self.hosting is not None:
            facts["hosting"] = self.hosting.facts()
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()
