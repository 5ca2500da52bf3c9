"""Owner: one run under one lease: fold its journal, record decisions, carry them out, keep its clock.

Theory of operation. A new owner publishes `OwnerChanged` and folds the journal, from its newest snapshot or from entry
1, until it meets that entry: by then it has seen all that was stored before its term. Then it opens the ledger, whole
or from where the snapshot says; that fences off earlier owners. It carries out what the fold left pending: decided,
with no trace. From there on it folds what comes and carries out what the core decides: first the ledger where the
command is durable, then the effect. Every effect leaves a trace in the journal, for an answer of the gate its copy
(`ahead`); one whose trace does not show is sent again under the same id. Before every effect the lease is checked, so
an owner that was stopped or cut off falls silent by itself. One that is asked to leave ends between two turns, when
what it has recorded is carried out and has reached the server; one that does not get on although it should is given
up, and the run is somebody else's turn.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import anyio
from msgspec import Struct

from crewkeeper_bus import codec
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import OwnerChanged, Tick
from crewkeeper_supervisor.core.commands import Command, Escalate
from crewkeeper_supervisor.core.crew import Retain
from crewkeeper_supervisor.core.gate_state import FleetShare
from crewkeeper_supervisor.core.hosting_state import Hosting
from crewkeeper_supervisor.shell import effects, fail_points, journal
from crewkeeper_supervisor.shell.access_orders import AccessOrders
from crewkeeper_supervisor.shell.ahead import Ahead
from crewkeeper_supervisor.shell.effects import Effects
from crewkeeper_supervisor.shell.errors import LeaseLost, RunNotFound, RunStalled, StoreUnavailable
from crewkeeper_supervisor.shell.fleet import Fleet, FleetDesk
from crewkeeper_supervisor.shell.folding import MakeFold
from crewkeeper_supervisor.shell.heads import Sealer
from crewkeeper_supervisor.shell.host_desk import HostDesk
from crewkeeper_supervisor.shell.journal import Entry, Follower
from crewkeeper_supervisor.shell.lease import Lease
from crewkeeper_supervisor.shell.ledger import Ledger
from crewkeeper_supervisor.shell.live_hooks import LiveHooks
from crewkeeper_supervisor.shell.liveness import Progress
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.observing import Let, Observer, Unseen
from crewkeeper_supervisor.shell.outbox import Outbox
from crewkeeper_supervisor.shell.powers import Powers
from crewkeeper_supervisor.shell.registry import ENDED
from crewkeeper_supervisor.shell.snapshots import Pace, Snapshots

WAIT_MAX_S: Final = 1.0
LOG_LATER_S: Final = 0.01
UNLOGGED_MAX: Final = 100
"""What was sent is written down when nothing has come for so long, or so many lines are due."""
TICK_LEAD_S: Final = 0.001
"""Ticks are sent this much late rather than early: an early one would only have to be sent again."""
FINISH_LOOK_S: Final = 0.05
TICK_GAP_S: Final = 0.005
"""Least pause between two ticks, whatever the core asks for."""


class Timing(Struct, frozen=True, kw_only=True):
    """Pauses of an owner, in seconds; tests shorten them."""

    resend_s: float = 1.0
    """After the first sending without a trace; doubles each time."""
    resend_max_s: float = 30.0
    ended_s: float = 10.0
    """How long an ended run is looked after for the sake of effects without a trace."""
    stall_s: float = 30.0
    """A run that did not get on for so long is given up."""
    leave_s: float = 5.0
    """How long orders to the servers are waited for when a run is left."""
    snapshots: Pace = Pace()


class Owner:
    """Owns one run for as long as its lease lasts.

    Attributes:
        fold: The core's state of the run.
    """

    def __init__(
        self,
        link: Link,
        lease: Lease,
        outbox: Outbox,
        make_fold: MakeFold,
        *,
        name: str,
        powers: Powers | None = None,
        fleet: Fleet | None = None,
        timing: Timing | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.fold = make_fold(lease.run)
        self._observed = None if observer is None else observer.run(lease.run, self.fold)
        self._link = link
        self._lease = lease
        self._run = lease.run
        self._name = name
        self._timing = timing or Timing()
        self._orders = AccessOrders(link, lease.run, lease.term, powers, self._journal_now_s)
        self._hooks = LiveHooks(link, lease.run)
        self._desk = FleetDesk(fleet or Fleet(link), link, lease.run, self._known_of_fleet)
        self._hosts = HostDesk(link, lease.run, self._known_of_hosts, lease.still_mine)
        self._effects = Effects(link, lease.run, lease.term, outbox, self._orders, self._hooks.give, self._desk.give)
        self._ledger: Ledger | None = None
        self._sealer = Sealer(link, lease.run, lease.term)
        self._snapshots = Snapshots(link, lease.run, lease.term, self._timing.snapshots)
        self._entry: Entry | None = None
        self._log = logger().bind(crew=lease.run, term=lease.term)
        self._seq = 0
        self._heard_s = time.monotonic()
        self._sent: dict[str, tuple[float, int]] = {}
        """By command without a trace: when to send it again, and how often it was sent."""
        self._unlogged: list[tuple[Command, int, str, float]] = []
        self._ahead = Ahead()
        self._unrecorded: dict[str, Command] = {}
        """Decided, and not in the ledger because that could not be written."""
        self._tick = ""
        """Id of the tick that is under way."""
        self._tick_again_s = 0.0
        self._ended_s = 0.0
        self._unseen = Unseen()
        self._progress = Progress(lease.run, self._timing.stall_s)
        self._leaving = self._ended = False
        self._entries: journal.Follower | None = None

    @property
    def seq(self) -> int:
        """The last journal entry that is folded."""
        return self._seq

    @property
    def behind(self) -> int:
        """Entries that have arrived and are not folded yet."""
        return 0 if self._entries is None else self._entries.behind

    def leave(self) -> None:
        """End in order, between two turns, within seconds; the run goes on elsewhere."""
        self._leaving = True

    async def own(self) -> bool:
        """Own the run until it has ended and nothing is left to do, or until it is left.

        Returns:
            Whether the run is over; False: it was left, and everything recorded has been carried out.

        Raises:
            LeaseLost: Somebody else owns it, or may.
            RunStalled: It does not get on here.
            RunNotFound: Its journal is gone.
            JournalGap: Its journal is damaged.
            StoreUnavailable: The ledger could not be opened or written.
        """
        lost: list[Exception] = []
        failures: list[Exception] = []
        how: Let = "ended"

        async def guard(watch: Callable[[], Awaitable[None]]) -> None:
            try:
                await watch()
            except (LeaseLost, RunStalled, RunNotFound) as error:
                lost.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(guard, self._lease.keep)
            group.start_soon(guard, self._watch)
            group.start_soon(self._orders.work)
            group.start_soon(self._hooks.work)
            group.start_soon(self._desk.work)
            group.start_soon(self._hosts.work)
            group.start_soon(self._snapshots.work)
            try:
                await self._work()
                how = "over" if self._ended else "ended"
            except Exception as error:  # noqa: BLE001 - raised below, out of the group, as itself
                failures.append(error)
                how = "lost" if isinstance(error, LeaseLost) else "failed"
            finally:
                self._log_effects()
                if self._observed is not None:
                    self._observed.left("lost" if lost else how)
            group.cancel_scope.cancel()
        for cause in (*lost, *failures):
            raise cause
        return self._ended

    async def _watch(self) -> None:
        """See that the run gets on.

        Raises:
            LeaseLost: The lease is over.
            RunNotFound: The journal is gone.
            RunStalled: It does not.
        """
        seen = -1
        while True:
            await anyio.sleep(self._timing.stall_s / 3)
            stored = self._seq
            if seen == self._seq:  # nothing came: is there nothing?
                with contextlib.suppress(StoreUnavailable):
                    stored = await journal.last_seq(self._link, self._run)
            seen = self._seq
            self._lease.check()
            self._progress.look(self._seq, stored)

    async def _work(self) -> None:
        begun = await self._snapshots.load(self.fold)
        known: set[str] = set()
        if begun is not None:
            known = {command.id for command in self.fold.pending.values() if command.durable}
            self._seq = begun.seq
            self._sealer.go_on(begun.seq, bytes.fromhex(begun.journal))
        async with journal.follow(self._link, self._run, self._seq + 1) as entries:
            self._entries = entries
            await self._catch_up(entries)
            if self._leaving:
                return
            self._hooks.warm(self.fold.crew)
            fail_points.passed("folded")
            self._lease.check()
            behind = None if begun is None else begun.ledger
            self._ledger = await Ledger.open(
                self._link, self._run, term=self._lease.term, owner=self._name, behind=behind, known=known
            )
            fail_points.passed("fenced")
            if self._observed is not None:
                self._observed.owned()
            left = list(self.fold.pending.values())
            self._log.info("run.owned", seq=self._seq, pending=len(left))
            await self._carry_out(left)
            while not self._is_over() and not self._leaving:
                self._progress.turned()
                batch = await entries.batch(self._wait_s())
                if len(self._unlogged) > UNLOGGED_MAX or (self._unlogged and not batch):
                    self._log_effects()
                await self._carry_out(self._take(batch), fresh=True)
                await self._carry_out(self._due())
                await self._keep_clock()
                await self._sealer.seal(self._ledger, self.fold)
                if not self._unrecorded and (ends := self._ledger.settled(self._seq)) is not None:
                    self._snapshots.look(self.fold, self._sealer.place, self._entry, ends)
                    self._ledger.forget_all_but(self.fold.pending)
            if not self._is_over():
                await self._finish()
                return
            retain = self.fold.crew.retain if self.fold.crew is not None else Retain()
            await self._sealer.seal_the_end(self._ledger, self.fold, retain)
            self._ended = True
        self._log.info("run.over", seq=self._seq, state=self.fold.state)

    async def _finish(self) -> None:
        """What was recorded is carried out and has reached the server; what takes too long is the successor's."""
        with anyio.move_on_after(self._timing.leave_s):
            while not self._orders.is_idle:  # noqa: ASYNC110 - bounded, and looked at rarely
                await anyio.sleep(FINISH_LOOK_S)
            with contextlib.suppress(ConnectionLost):
                await self._link.flush()
        self._log.info("run.left", seq=self._seq, pending=len(self.fold.pending))

    async def _catch_up(self, entries: Follower) -> None:
        """Fold everything up to our own `OwnerChanged`, which is published again until it shows."""
        subject, again_s = "", 0.0
        while not self._leaving:
            self._progress.turned()
            if time.monotonic() >= again_s:
                self._lease.check()
                subject = subject or journal.op_subject(self._run)
                message = OwnerChanged(term=self._lease.term, owner=self._name)
                try:
                    await self._link.publish(subject, codec.encode(message))
                except ConnectionLost:
                    self._log.warning("owner.unsaid", cause="not connected")
                again_s = time.monotonic() + self._timing.resend_s
            batch = await entries.batch(self._timing.resend_s)
            self._take(batch)
            if any(entry.subject == subject for entry in batch):
                return

    def _take(self, batch: list[Entry]) -> list[Command]:
        """Fold entries; return what they decided and has no trace yet."""
        commands: list[Command] = []
        for entry in batch:
            commands += self.fold.handle(self.fold.read(*entry))
            self._seq, self._entry = entry.seq, entry
            if self._tick and entry.subject.endswith("." + self._tick):
                self._tick = ""
                self._tick_again_s = time.monotonic() + TICK_GAP_S
        if batch:
            self._heard_s = time.monotonic()
            self._sealer.take(batch)
            if self._observed is not None:
                self._observed.took(batch)
            if self._ledger is not None:
                self._say_findings()
        pending = self.fold.pending
        return [command for command in commands if command.id in pending]

    def _say_findings(self) -> None:
        for incident in self._unseen.new(self.fold.incidents):
            found = incident.finding
            self._log.warning(f"finding.{found.kind}", finding=found.id, seq=found.seq, agents=list(found.agents)[:20])

    def _known_of_hosts(self) -> Hosting | None:
        return None if self._ledger is None else self.fold.hosting

    def _known_of_fleet(self) -> FleetShare | None:
        return None if self._ledger is None else self.fold.gate.fleet

    # --- effects ---

    async def _carry_out(self, commands: Iterable[Command], *, fresh: bool = False) -> None:
        """Record commands and have their effects; `fresh` ones were decided just now, by this owner."""
        wanted = list(commands)
        if not wanted:
            return
        assert self._ledger is not None
        self._lease.check()
        fail_points.passed("decided")
        # What could not be recorded goes first: the books are only right in the order of the decisions.
        durable = self._unrecorded | {command.id: command for command in wanted if command.durable}
        try:
            await self._ledger.commit(durable.values())
        except StoreUnavailable as error:
            self._log.error("ledger.unavailable", cause=type(error).__name__, commands=len(durable))
        else:
            if durable:
                fail_points.passed("recorded")
        self._unrecorded = {id_: command for id_, command in durable.items() if not self._ledger.has(id_)}
        sent: list[tuple[Command, int, str]] = []
        try:
            for command in wanted:
                if command.durable and not self._ledger.has(command.id):
                    self._send_later(command)  # fail closed
                    continue
                self._lease.check()
                self._progress.turned()
                fail_points.passed("effect-due")
                sent.append(await self._effect(command, fresh=fresh))
        finally:
            self._link.push()  # what is sent leaves before it is written down
        fail_points.passed("effects-sent")
        took_ms = round((time.monotonic() - self._heard_s) * 1000, 1)
        await anyio.lowlevel.checkpoint()  # the lease and the connection need their turns, too
        self._unlogged += [(*each, took_ms) for each in sent]

    def _log_effects(self) -> None:
        """Write down what was sent: not at once, for others wait then, and many lines cost little more than one."""
        for command, attempt, error, latency_ms in self._unlogged:
            self._log_effect(command, attempt, error, latency_ms)
            if self._observed is not None:
                self._observed.sent(command, attempt, error, latency_ms)
        self._unlogged.clear()

    async def _effect(self, command: Command, *, fresh: bool) -> tuple[Command, int, str]:
        """One effect; returns how often it was tried, and what went wrong."""
        attempt = self._send_later(command)
        try:
            ahead = self._ahead.admits(command, self.fold.pending, fresh=fresh and not self._link.is_clustered)
            await self._effects.carry_out(command, self.fold.crew, ahead=ahead)
        except (ConnectionLost, StoreUnavailable) as error:
            return command, attempt, type(error).__name__
        return command, attempt, ""

    def _log_effect(self, command: Command, attempt: int, error: str, latency_ms: float) -> None:
        """One line in the log."""
        about = {
            "command_id": command.id,
            "agent": effects.target(command),
            "finding": effects.finding(command),
            "cause": command.id.partition("-")[0],
            "kind": type(command).__name__,
            "attempt": attempt,
        }
        if error:
            self._log.warning("effect.failed", **about, error=error)
        else:
            self._log.info("effect.sent", **about, latency_ms=latency_ms)

    def _send_later(self, command: Command) -> int:
        attempts = self._sent.get(command.id, (0.0, 0))[1] + 1
        wait_s = min(self._timing.resend_max_s, self._timing.resend_s * 2 ** min(attempts - 1, 10))
        self._sent[command.id] = (time.monotonic() + wait_s, attempts)
        return attempts

    def _due(self) -> list[Command]:
        """Commands without a trace whose time to be sent again has come."""
        if not self._sent:
            return []
        pending, now_s = self.fold.pending, time.monotonic()
        for id_ in [id_ for id_ in self._sent if id_ not in pending]:
            del self._sent[id_]
        return [pending[id_] for id_, (again_s, _) in self._sent.items() if again_s <= now_s]

    # --- the clock ---

    def _tick_in_s(self) -> float | None:
        """Seconds until a tick should be sent; None: no need.

        Journal time goes on at the pace of our own clock from the last entry on; the wall clock here plays no part.
        """
        due_s = self.fold.next_tick_at_s()
        if due_s is None:
            return None
        return max(due_s + TICK_LEAD_S - self._journal_now_s(), self._tick_again_s - time.monotonic())

    def _journal_now_s(self) -> float:
        return self.fold.now_s + (time.monotonic() - self._heard_s)

    async def _keep_clock(self) -> None:
        wait_s = self._tick_in_s()
        if wait_s is None or wait_s > 0:
            return
        self._lease.check()
        subject = journal.op_subject(self._run)
        try:
            await self._link.publish(subject, codec.encode(Tick()))
        except ConnectionLost:
            self._tick_again_s = time.monotonic() + self._timing.resend_s
            return
        # At most one is under way: the next one waits for this one to show, or is taken to be lost.
        self._tick = subject.rpartition(".")[2]
        self._tick_again_s = time.monotonic() + self._timing.resend_s

    def _wait_s(self) -> float:
        waits = [LOG_LATER_S if self._unlogged else WAIT_MAX_S]
        if (tick_s := self._tick_in_s()) is not None:
            waits.append(tick_s)
        now_s = time.monotonic()
        waits += [again_s - now_s for again_s, _ in self._sent.values()]
        return max(0.0, min(waits))

    def _is_over(self) -> bool:
        """The run has ended, and every effect has its trace or is in the outbox."""
        if self.fold.state not in ENDED:
            self._ended_s = 0.0
            return False
        self._ended_s = self._ended_s or time.monotonic()
        open_ = [c for c in self.fold.pending.values() if not (isinstance(c, Escalate) and c.id in self._sent)]
        return not open_ or time.monotonic() - self._ended_s > self._timing.ended_s
