"""Supervisor: the pure fold. Events of one run in, commands out; the same journal gives the same commands.

Every event goes through three steps: its fact is written into the state (`intake` for agents), the clock's dues are
met, and detection examines what the fact touched.
"""

from typing import Any, Final

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import SIDE, TOOLS
from crewkeeper_bus.tool_messages import GateOp, ToolsNarrowed
from crewkeeper_supervisor.core import (
    acknowledgement,
    allowance,
    crashes,
    delegation,
    enforcement,
    events,
    fleet,
    gate_facts,
    hosting,
    ladder,
    lifecycle,
    limits,
    locks,
    pace,
    snapshot,
    withdrawal,
)
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.detection import Detector
from crewkeeper_supervisor.core.events import Event, Recorded, Rejected, Throttled
from crewkeeper_supervisor.core.evidence import edges_of
from crewkeeper_supervisor.core.findings import Edge, Incident
from crewkeeper_supervisor.core.gate_rules import MakeGateRules, RulesMemory
from crewkeeper_supervisor.core.gate_state import GateState
from crewkeeper_supervisor.core.hosting_state import Hosting
from crewkeeper_supervisor.core.intake import TEXT_SHOWN_CHARS, Intake
from crewkeeper_supervisor.core.ladder_state import LadderState
from crewkeeper_supervisor.core.response import note
from crewkeeper_supervisor.core.roster import AgentView, Usage
from crewkeeper_supervisor.core.snapshot import SnapshotError
from crewkeeper_supervisor.core.state import Question, RunState
from crewkeeper_supervisor.core.watch import Watch

_OUR_SIDE: Final = frozenset(SIDE)


class Supervisor:
    """The core of one run.

    Args:
        run: The run's id.
        gate: Makes the rules of the gate from the crew. Without, the gate lets nothing through.
    """

    def __init__(self, run: str, gate: MakeGateRules | None = None) -> None:
        self._gate = gate
        self._state = RunState(run, gate)
        self._detector = Detector(self._state)
        self._intake = Intake(self._state, self._detector)

    # --- the fold ---

    def read(self, seq: int, at_s: float, subject: str, payload: bytes) -> Event:
        """Read the journal's next entry as the event that `handle` is to be given next; once for each entry, in order.

        What a sender adds beyond the crew's rate is counted and not decoded.
        """
        crew = self._state.crew
        if crew is None:
            return events.read(seq, at_s, subject, payload)
        if seq <= self._state.seq:  # read before: it is not counted twice
            return events.read(seq, at_s, subject, payload, crew.payload_bytes)
        return events.read(seq, at_s, subject, payload, crew.payload_bytes, self._state.admits)

    def handle(self, event: Event) -> list[Command]:
        """Take the journal's next entry; return what is to be done about it, in order.

        Deterministic, and never raises whatever the event holds. Entries already handled are ignored.
        """
        state = self._state
        if event.seq <= state.seq:
            return []
        state.seq = event.seq
        if event.at_s > state.now_s:
            state.now_s = event.at_s  # time never steps back
        if state.now_s >= state.ladder.pace.due_s:
            pace.note(state)
        if isinstance(event, Recorded):
            if event.sender in _OUR_SIDE:
                self._supervisor_side(event)
            else:
                self._intake.heard(event)
        else:
            self._unread(event)
        if state.stirred or state.due_s.soonest_s <= state.now_s:
            self._do_chores(event.sender)
            state.stirred = state.has_chores()
        self._detector.check()
        return state.take_commands() if state.written else []

    def _unread(self, event: Rejected | Throttled) -> None:
        if isinstance(event, Rejected):
            self._intake.rejected(event)
        else:
            self._intake.throttled(event)

    def _do_chores(self, sender: str) -> None:
        state = self._state
        if state.watch is not None and state.is_due("watch"):
            state.watch.look()
        if state.is_due("ladder"):
            ladder.watch(state)
        if state.gate.released:
            gate_facts.released(state)
        if state.is_due("gate"):
            gate_facts.watch(state)
        if state.is_due("fleet"):
            gate_facts.rested(state)
        if state.is_due("wall"):
            allowance.watch_clock(state)
        if state.is_due("confinement"):
            enforcement.watch(state)
        if state.gate.shut:
            gate_facts.shut_out(state)
        if state.hosting is not None:
            hosting.watch(state)
        if state.helping and sender in state.helping:
            delegation.watch(state, sender)
        if state.is_due(crashes.NEED):
            crashes.watch(state)
        if state.needs_watching():
            lifecycle.watch_clock(state)
        if state.withdrawals.are_due or "withdrawal" in state.due_s:
            withdrawal.enforce(state)

    def next_tick_at_s(self) -> float | None:
        """Journal time, seconds since the epoch, at which the owner should publish one `Tick`; None: no need."""
        return min(self._state.due_s.values(), default=None)

    def digest(self) -> str:
        """SHA-256 over the state: equal for equal folds of the same journal."""
        return self._state.digest()

    # --- snapshots ---

    def snapshot(self) -> bytes:
        """The whole state, to be given to `restore` of a new core of the same run and the same code.

        Equal for equal folds of the same journal. Takes some 2 µs for each thing in it.

        Raises:
            SnapshotError: It is too large.
        """
        return _written(self._state, self._detector)

    def restore(self, data: bytes, digest: str = "") -> None:
        """Take over a state in place of this one, which is left as it is if that cannot be done.

        To be called before anything is folded. That the same code has written it is for the caller to know. What was
        read is written once more, which must give the same bytes.

        Args:
            data: What `snapshot` gave.
            digest: What `digest` gave then; empty: it is not known.

        Raises:
            SnapshotError: It is no snapshot of this code, or of another run, or another state than it was.
        """
        state, detector, makes_rules, memory = _parts(snapshot.decode(data))
        if state.run != self.run:
            raise SnapshotError(f"it is of run {state.run[:100]}, not of {self.run}")
        try:
            state.gate.resume(self._gate if makes_rules else None, memory)
        except (ValueError, LookupError) as error:
            raise SnapshotError(f"the rules of the gate cannot be made again: {str(error)[:200]}") from None
        if (digest and state.digest() != digest) or _written(state, detector) != data:
            raise SnapshotError("what was read from it is another state than was written")
        self._state, self._detector = state, detector
        self._intake = Intake(state, detector)

    # --- reading the state ---

    @property
    def run(self) -> str:
        """The run's id."""
        return self._state.run

    @property
    def crew(self) -> Crew | None:
        """The crew as declared; None before the first entry."""
        return self._state.crew

    @property
    def host(self) -> str:
        """Who hosts the run's processes, as declared."""
        return self._state.host

    @property
    def seq(self) -> int:
        """Journal sequence of the last event handled."""
        return self._state.seq

    @property
    def now_s(self) -> float:
        """Journal time, seconds since the epoch; never steps back."""
        return self._state.now_s

    @property
    def term(self) -> int:
        """Term of the supervisor that owns the run."""
        return self._state.term

    @property
    def state(self) -> str:
        """`starting`, `running`, `stopping`, `done`, `failed` or `stopped`."""
        return self._state.phase

    @property
    def agents(self) -> dict[str, AgentView]:
        """Every instance by name."""
        return self._state.agents

    @property
    def incidents(self) -> dict[str, Incident]:
        """Findings and what became of them, in order."""
        return self._state.incidents

    @property
    def apart(self) -> dict[tuple[str, str], str]:
        """Pairs of agents that are held apart, the smaller name first: `holding`, `held`, `failed` or `freeing`."""
        return self._state.apart

    @property
    def questions(self) -> dict[str, Question]:
        """Open questions to people."""
        return self._state.questions

    @property
    def gate(self) -> GateState:
        """Calls of tools and models, budgets, approvals."""
        return self._state.gate

    @property
    def hosting(self) -> Hosting | None:
        """Where the agents are, if they are spread over hosts."""
        return self._state.hosting

    def limit_of(self, who: str, dimension: str) -> float | None:
        """How deep, how far fanned out, or how many seconds long: `limits.limit_of`."""
        return limits.limit_of(self._state, who, dimension)

    @property
    def ladder(self) -> LadderState:
        """What was done about findings, and who has yet to be told."""
        return self._state.ladder

    def told_of(self, name: str) -> tuple[str, ...]:
        """What stands under a name that people know: `acknowledgement.named`."""
        return acknowledgement.named(self._state, name)

    @property
    def cost(self) -> pace.Cost:
        """What the crew has spent, and what it spends a minute."""
        return pace.cost(self._state)

    @property
    def usage(self) -> Usage:
        """What the crew spent."""
        return self._state.usage

    @property
    def pending(self) -> dict[str, Command]:
        """Decided, and no trace of it in the journal yet."""
        return self._state.pending

    def waits(self) -> list[Edge]:
        """Every open wait: who, for whom, for what, since when."""
        graph = self._state.graph
        return [edge for task in graph.waiting.values() for edge in edges_of(task, graph)]

    # --- from the supervisor side ---

    def _supervisor_side(self, event: Recorded) -> None:
        state, message = self._state, event.message
        match message:
            case m.SupervisorCancel():
                state.traced(message.id)
            case m.SupervisorReply():
                state.traced(message.id)
                if message.final:
                    self._answered(event, message)
            case m.Control():
                state.traced(message.id)
                locks.told(state, message)
            case m.RunDeclared():
                lifecycle.declare(state, message)
                hosting.declare(state, message)
                if state.crew is not None and state.watch is None:
                    state.watch = Watch(state)
                allowance.set_clock(state)
                fleet.declare(state)
            case m.OwnerChanged():
                state.term = max(state.term, message.term)
            case m.ProcessStarted() if hosting.started(state, message):
                lifecycle.process_started(state, message)
            case m.ProcessExited() if hosting.exited(state, message):
                lifecycle.process_exited(state, message)
            case m.RestartsExhausted() if hosting.exhausted(state, message):
                given_up = gate_facts.tools_given_up if message.agent == TOOLS else lifecycle.restarts_exhausted
                given_up(state, message)
            case m.OperatorAsked():
                lifecycle.operator_asked(state, message)
            case m.Outcome():
                self._outcome(message)
            case m.RunEnded():
                state.traced(message.command)
                lifecycle.run_ended(state, message)
                gate_facts.run_over(state)
            case _:
                self._access(message)

    def _answered(self, event: Recorded, message: m.SupervisorReply) -> None:
        state = self._state
        question, call = state.questions.get(event.id), state.graph.calls.get(event.id)
        if question is not None and question.agent == event.to:
            del state.questions[event.id]
        if call is not None and call.caller == event.to:
            call.answered_s = state.now_s
            if message.error is not None and state.watch is not None:
                state.watch.unanswered(call, message.error)
            state.graph.call_answered(event.id, failed=message.error is not None)

    def _access(self, message: m.Op | GateOp) -> None:
        match message:
            case m.AccessSet():
                enforcement.access_set(self._state, message)
            case m.Violation():
                enforcement.violated(self._state, message)
            case m.Delegated():
                delegation.admitted(self._state, message)
            case ToolsNarrowed():
                gate_facts.tools_narrowed(self._state, message)
            case m.HostsSeen() | m.HostLeaving() | m.HostLost() | m.StartRefused():
                hosting.stated(self._state, message)
            case m.Tick() | m.Revoked() | m.ProcessStarted() | m.ProcessExited() | m.RestartsExhausted():
                return  # it only brings the time
            case _:
                gate_facts.stated(self._state, message)

    def _outcome(self, message: m.Outcome) -> None:
        self._state.traced(message.command)
        delegation.failed(self._state, message)
        incident = self._state.incidents.get(self._state.escalations.get(message.command, ""))
        if incident is not None:
            said = "people were told" if message.ok else "people could NOT be told"
            note(self._state, incident, f"{said}: {message.detail[:TEXT_SHOWN_CHARS]}")


def _written(state: RunState, detector: Detector) -> bytes:
    rules = state.gate.rules
    memory = rules.memory() if rules is not None else None
    return snapshot.encode((state, detector, state.gate.makes_rules, memory))


def _parts(read: Any) -> tuple[RunState, Detector, bool, RulesMemory | None]:
    match read:
        case (RunState() as state, Detector() as detector, bool() as makes_rules, (RulesMemory() | None) as memory):
            return state, detector, makes_rules, memory
    raise SnapshotError("it is no snapshot of a run")
