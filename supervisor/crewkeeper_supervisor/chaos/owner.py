"""Owner: the simulated supervisor process around the production core: carries out commands, keeps the clock, dies.

Its successor rebuilds the core from the journal alone, which must give the state the dead one had, and carries out what
is pending by the same ids.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_bus.tool_messages import GateOp, ShareLeased
from crewkeeper_supervisor.chaos.bus import RUN, Bus, Envelope
from crewkeeper_supervisor.chaos.chance import Faults, Stream
from crewkeeper_supervisor.chaos.clock import Clock
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
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell.effects import asked as asked_of_people
from crewkeeper_supervisor.shell.effects import unanswered

RESEND_S: Final = 1.0
RESEND_MAX_S: Final = 8.0
_LEAD_S: Final = 0.0005


class Owner:
    """Whoever owns the run at the moment.

    Attributes:
        core: The core of the present owner, or of the last one.
        present: Whether anybody owns the run.
        absent_until_s: When the run was last without an owner.
        decided_s: When each command was first seen decided.
        last: What was decided on the last journal entry.
    """

    def __init__(self, clock: Clock, bus: Bus, seed: int, faults: Faults) -> None:
        self._clock = clock
        self._bus = bus
        self._faults = faults
        self._network = Stream(seed, "owner")
        self.core = make_fold(RUN)
        self.term = 1
        self.present = True
        self.absent_until_s = 0.0
        self._facts = 0
        self.decided_s: dict[str, float] = {}
        self.last: list[Command] = []
        self._attempts: dict[str, int] = {}
        self._unsent: dict[str, Command] = {}
        self._tick_s: float | None = None
        self.on_decided: Callable[[Command], None] = lambda _: None
        self.on_handled: Callable[[], None] = lambda: None
        self.on_folded: Callable[[Supervisor, Supervisor], None] = lambda *_: None
        self.on_takeover: Callable[[list[Command]], None] = lambda _: None

    # --- the fold ---

    def stored(self, event: events.Event, _envelope: Envelope) -> None:
        """Handle one journal entry."""
        if not self.present:
            return
        self.last = self.core.handle(event)
        for command in self.last:
            self._decide(command)
        self.on_handled()
        for command in self.last:
            if command.id in self.core.pending:
                self._send(command)
        self._keep_clock()

    def _decide(self, command: Command) -> None:
        if command.id not in self.decided_s:
            self.decided_s[command.id] = self._clock.now_s
            self.on_decided(command)

    def rebuilt(self) -> Supervisor:
        """A core made from the journal alone."""
        core = make_fold(RUN)
        for event in self._bus.journal:
            core.handle(event)
        return core

    # --- effects ---

    def _send(self, command: Command) -> None:
        attempt = self._attempts[command.id] = self._attempts.get(command.id, 0) + 1
        self._unsent[command.id] = command
        delay_s = self._network.spread(f"send {command.id} {attempt}", 0.001, 0.01)
        self._clock.after(delay_s, self._carry_out, command, self.term, attempt)

    def _carry_out(self, command: Command, term: int, attempt: int) -> None:
        self._unsent.pop(command.id, None)
        if term != self.term or not self.present:
            return  # its owner died before
        again_s = min(RESEND_MAX_S, RESEND_S * 2 ** (attempt - 1))
        self._clock.after(again_s, self._resend, command, term)
        if not self._faults.strikes("command_lost", "owner"):
            self._publish(command, term)

    def _resend(self, command: Command, term: int) -> None:
        if self.present and term == self.term and command.id in self.core.pending:
            self._send(command)

    def _publish(self, command: Command, term: int) -> None:
        match command:
            case TellAgent():
                told = msgspec.structs.replace(command.message, term=term)
                self._bus.publish(SUPERVISOR, Envelope(Kind.CTL, SUPERVISOR, command.agent, command.id, told))
            case AskHost():
                asked = msgspec.structs.replace(command.message, term=term)
                self._bus.publish(SUPERVISOR, Envelope(Kind.CTL, SUPERVISOR, HOST, command.id, asked))
            case AnswerCall():
                body = UNSET if command.body is None else command.body
                reply = m.SupervisorReply(id=command.id, error=command.error, body=body, final=command.final)
                self._bus.publish(SUPERVISOR, Envelope(Kind.REP, SUPERVISOR, command.agent, command.call, reply))
            case CancelCall():
                cancel = m.SupervisorCancel(id=command.id, caller=command.caller, why=command.why)
                self._bus.publish(SUPERVISOR, Envelope(Kind.CANCEL, SUPERVISOR, command.agent, command.call, cancel))
            case Escalate():
                self.state_fact(m.Outcome(command=command.id, ok=True))
            case SetAccess():  # agents here are honest, and their server lets everybody in
                self.state_fact(
                    m.AccessSet(command=command.id, agent=command.agent, state=command.state, ok=False, enforced=False)
                )
            case Admit():
                self.state_fact(m.Outcome(command=command.id, ok=False))
            case TellService():
                said = msgspec.structs.replace(command.message, term=term)
                self._bus.publish(SUPERVISOR, Envelope(Kind.CTL, SUPERVISOR, command.to, command.id, said))
            case AskApproval():
                self.state_fact(asked_of_people(command))
            case AskHook():
                self.state_fact(unanswered(command))
            case OrderShare():  # there is no other crew here, and no limit beside the crew's
                self.state_fact(ShareLeased(command=command.id, n=command.n, leased=command.kept))
            case EndRun():  # crews here have one host, which ends the run itself
                self.state_fact(m.RunEnded(state=command.state, why=command.why, command=command.id))

    def state_fact(self, fact: m.Op | GateOp, sender: str = SUPERVISOR) -> None:
        """Publish a fact of the supervisor's side."""
        self._facts += 1
        id_ = f"o{self._facts}"
        self._bus.publish(sender, Envelope(Kind.OP, sender, "_", id_, fact))

    # --- the clock ---

    def _keep_clock(self) -> None:
        due_s = self.core.next_tick_at_s()
        if due_s is None:
            return
        at_s = max(due_s, self._clock.now_s) + _LEAD_S
        if self._tick_s is None or self._tick_s <= self._clock.now_s or at_s < self._tick_s:
            self._tick_s = at_s
            self._clock.at(at_s, self._tick, at_s, self.term)

    def _tick(self, at_s: float, term: int) -> None:
        if not self.present or term != self.term or self._tick_s != at_s:
            return
        due_s = self.core.next_tick_at_s()
        if due_s is not None and due_s <= self._clock.now_s:
            self._tick_s = None
            self.state_fact(m.Tick())
            self._clock.after(0.5, self._keep_clock_again, term)
        else:
            self._tick_s = None
            self._keep_clock()

    def _keep_clock_again(self, term: int) -> None:
        if self.present and term == self.term and self._tick_s is None:
            self._keep_clock()

    # --- dying and taking over ---

    def die(self, away_s: float) -> None:
        """The owner is gone at once; what it had in hand may still go out, or not."""
        if not self.present:
            return
        for command in self._unsent.values():
            if self._faults.strikes("zombie", "owner"):
                self._publish(command, self.term)
        self._unsent = {}
        self._tick_s = None
        self.present = False
        self.on_folded(self.core, self.rebuilt())
        self._clock.after(away_s, self.take_over)

    def take_over(self) -> None:
        """A successor folds the journal and goes on from there."""
        self.core = self.rebuilt()
        self.term += 1
        self.present = True
        self.absent_until_s = self._clock.now_s
        self.state_fact(m.OwnerChanged(term=self.term, owner=f"owner-{self.term}"))
        self.on_handled()
        left = list(self.core.pending.values())
        self.on_takeover(left)
        for command in left:
            self._decide(command)
            self._send(command)
        self._keep_clock()
