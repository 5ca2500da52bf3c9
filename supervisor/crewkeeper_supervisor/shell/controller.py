"""Controller: watches the registry and owns runs, each by itself; delivers what is in the outbox.

Several controllers share the runs of a server: whoever has a run's lease owns it, the others stand by. A controller
with more than its share hands some over (`sharing`), one that is told to drain hands over all of them, and both do it
between two turns of a run. One run's failure is logged, given up and tried again after a pause, here or by another
controller; it never touches other runs.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Collection
from typing import Final, Literal

import anyio
import anyio.abc
from msgspec import Struct

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell import (
    fail_points,
    heads,
    lease,
    ledger,
    liveness,
    members,
    outbox,
    powers,
    safety,
    sharing,
    snapshots,
)
from crewkeeper_supervisor.shell.code_version import code_version
from crewkeeper_supervisor.shell.errors import LeaseLost, RunNotFound, RunStalled, StoreUnavailable
from crewkeeper_supervisor.shell.fleet import Fleet
from crewkeeper_supervisor.shell.folding import MakeFold
from crewkeeper_supervisor.shell.lease import Lease, Leases
from crewkeeper_supervisor.shell.liveness import Liveness
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.members import Member, Members, Owned
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, connect, insist
from crewkeeper_supervisor.shell.observing import Observer, Standing
from crewkeeper_supervisor.shell.outbox import Outbox
from crewkeeper_supervisor.shell.owner import Owner, Timing
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.powers import Powers
from crewkeeper_supervisor.shell.registry import ENDED, Registry, RunInfo
from crewkeeper_supervisor.shell.retention import Retention
from crewkeeper_supervisor.shell.sharing import Sharing
from crewkeeper_supervisor.shell.trouble import RETRY_S, Trouble

DRAIN_LOOK_S: Final = 0.05


class Settings(Struct, frozen=True, kw_only=True):
    """Knobs of a controller; the defaults are for production."""

    lease_ttl_s: float = lease.TTL_S
    retries_s: tuple[float, ...] = outbox.RETRIES_S
    timing: Timing = Timing()
    sharing: Sharing = Sharing()
    drain_s: float = 20.0
    """How long draining lasts at most; what is still owned then is given up at once."""


async def serve(
    place: Place,
    name: str = "",
    *,
    runs: Collection[str] | None = None,
    make_fold: MakeFold = make_fold,
    settings: Settings | None = None,
    observer: Observer | None = None,
    standing: Standing | None = None,
    drain: anyio.Event | None = None,
    alive: Liveness | None = None,
) -> None:
    """Run a controller until it is drained or cancelled; give up owned runs at once when it is cancelled.

    Args:
        place: The server.
        name: Who this is, in the journal and for people; by default host name, process id and a random part.
        runs: Own only these runs; None: every run that is registered and has not ended.
        make_fold: Makes the core of a run.
        settings: Timing.
        observer: Hears of runs and webhooks, for metrics and traces.
        standing: Kept up to date with what this controller can do.
        drain: When this is set, or when `members.ask_to_drain` is called, take no more runs, hand over all, and end.
        alive: What is done about an event loop that hangs; None: it is told of.

    Raises:
        ConnectionLost: The server cannot be reached at the start, or has closed the connection for good.
        ServerError: The keys in the state directory are readable by others, or damaged.
        StoreUnavailable: The server has no JetStream, or does not answer.
    """
    name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    authority = place.authority()
    async with (
        connect(place, name=f"controller {name}") as link,
        # An answer about a lease must not wait behind a backlog of some journal.
        connect(place, name=f"leases {name}") as lease_link,
        powers.held(link, authority) as power,
        liveness.watching(alive or Liveness()) as watched,
    ):
        told = standing or Standing()
        controller = _Controller(
            link, lease_link, name, runs, make_fold, settings or Settings(), power, observer, watched, told
        )
        told.link = link
        await controller.open()
        await safety.check(link, authority.system if authority.system.url else None)
        told.opened = True
        logger().info("controller.serving", server=place.host, owner=name, mode=authority.mode)
        await controller.work(drain or anyio.Event())


class _Owned(Struct):
    """A run that is owned here."""

    owner: Owner
    lease: Lease
    since_s: float
    leaving: bool = False


class _Controller:
    def __init__(
        self,
        link: Link,
        lease_link: Link,
        name: str,
        runs: Collection[str] | None,
        make_fold: MakeFold,
        settings: Settings,
        power: Powers,
        observer: Observer | None,
        alive: Liveness,
        standing: Standing,
    ) -> None:
        self._observer = observer
        self._link = link
        self._name = name
        self._wanted = None if runs is None else frozenset(runs)
        self._make_fold = make_fold
        self._settings = settings
        self._power = power
        self._registry = Registry(link)
        self._leases = Leases(lease_link, name, settings.lease_ttl_s, self._hold_back_s)
        self._fleet = Fleet(link)
        self._outbox = Outbox(link, settings.retries_s, observer)
        self._minded: set[str] = set()
        self._owned: dict[str, _Owned] = {}
        self._given: dict[str, float] = {}
        """Runs that were handed over or given up: until when they are left to others."""
        self._told_to_drain = anyio.Event()
        self._alive = alive
        self._standing = standing
        self._began_at_s = time.time()
        self._members = Members(lease_link, self._describe, settings.sharing.every_s)

    async def open(self) -> None:
        """Create what is shared. A server that has just started may need a moment."""
        await insist(self._open)

    async def _open(self) -> None:
        await self._registry.open()
        await ledger.open_stream(self._link)
        await heads.open_stream(self._link)
        await snapshots.open_stream(self._link)
        await self._outbox.open()
        await self._leases.open()
        await self._fleet.open()
        await self._power.open()
        await self._members.open()

    async def work(self, drain: anyio.Event) -> None:
        """Own what can be owned, until told to drain, and then until that is done.

        Raises:
            ConnectionLost: The server has closed the connection for good.
        """
        told = anyio.Event()

        async def hear(event: anyio.Event | asyncio.Event) -> None:
            await event.wait()
            told.set()

        async with anyio.create_task_group() as group:
            group.start_soon(self._power.work)
            group.start_soon(self._outbox.work)
            group.start_soon(self._fleet.work)
            group.start_soon(self._members.work)
            group.start_soon(Retention(self._link, self._registry, self._is_needed).work)
            group.start_soon(self._share)
            group.start_soon(self._watch, group)
            for event in (drain, self._members.asked_to_drain, self._link.closed):
                group.start_soon(hear, event)
            await told.wait()
            if not self._link.closed.is_set():
                await self._drain()
            group.cancel_scope.cancel()
        # The client gives up for good only when told; then this process has no use and ends, to be started anew.
        if self._link.closed.is_set():
            raise ConnectionLost(f"{self._link.place.host} has closed the connection")

    # --- sharing with others ---

    @property
    def _draining(self) -> bool:
        return self._told_to_drain.is_set()

    def _describe(self, id_: str) -> Member:
        machine, pid = members.process()
        now_s = time.monotonic()
        listed = list(self._owned.items())[: members.LISTED_MAX]
        return Member(
            id=id_,
            name=self._name,
            machine=machine,
            pid=pid,
            code=code_version(),
            began_at_s=self._began_at_s,
            state="draining" if self._draining else "serving",
            count=len(self._owned),
            runs=tuple(
                Owned(
                    run=run,
                    term=each.lease.term,
                    seq=each.owner.seq,
                    behind=each.owner.behind,
                    age_s=round(now_s - each.since_s, 1),
                )
                for run, each in listed
            ),
            only=tuple(sorted(self._wanted or ())),
            late_ms=self._alive.take_late_ms(),
        )

    def _loads(self) -> dict[str, int]:
        """Runs of each controller that takes any run, this one included if it does."""
        loads = {each.id: each.count for each in self._members.others() if each.state == "serving" and not each.only}
        if self._wanted is None:
            loads[self._members.id] = sum(not each.leaving for each in self._owned.values())
        return loads

    def _hold_back_s(self, run: str) -> float:
        left_s = self._given.get(run, 0.0) - time.monotonic()
        return max(left_s, sharing.hold_back_s(run, self._members.id, self._loads()))

    async def _share(self) -> None:
        """Hand runs over while this controller has more than its share."""
        how = self._settings.sharing
        while not self._draining:
            await anyio.sleep(how.every_s)
            now_s = time.monotonic()
            taken = {each.run for member in self._members.others() for each in member.runs}
            self._given = {run: until_s for run, until_s in self._given.items() if until_s > now_s and run not in taken}
            if self._given or self._draining:
                continue  # where the last ones went is not known yet
            movable = [
                (each.owner.seq, run)
                for run, each in self._owned.items()
                if now_s - each.since_s >= how.tenure_s and each.owner.seq <= how.entries_max and not each.leaving
            ]
            for _, run in sorted(movable)[: sharing.surplus(self._members.id, self._loads(), how.moves_max)]:
                logger().info("run.handed_over", crew=run, term=self._owned[run].lease.term, cause="others have less")
                self._given[run] = now_s + how.patience_s
                self._leave(run)

    def _leave(self, run: str) -> None:
        self._owned[run].leaving = True
        self._owned[run].owner.leave()

    async def _drain(self) -> None:
        """Take no more runs, and give up those that are owned, in order, within a limit."""
        self._told_to_drain.set()
        self._standing.draining = True
        self._leases.stop_waiting()
        logger().info("controller.draining", owner=self._name, runs=len(self._owned))
        for run in self._owned:
            self._leave(run)
        with anyio.move_on_after(self._settings.drain_s):
            while self._owned or self._minded:  # noqa: ASYNC110 - bounded, and once in a lifetime
                await anyio.sleep(DRAIN_LOOK_S)
        logger().info("controller.drained", owner=self._name, runs=len(self._owned))

    # --- runs ---

    async def _watch(self, group: anyio.abc.TaskGroup) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._registry.watch()) as lists:
                    async for infos in lists:
                        for info in infos:
                            if self._is_ours(info):
                                self._minded.add(info.run)
                                group.start_soon(self._mind, info.run)
            except LINK_ERRORS as error:
                logger().warning("registry.retry", cause=type(error).__name__)
                await anyio.sleep(RETRY_S)

    def _is_ours(self, info: RunInfo) -> bool:
        wanted = self._wanted is None or info.run in self._wanted
        return wanted and not self._draining and not self._is_done_with(info) and info.run not in self._minded

    def _is_done_with(self, info: RunInfo) -> bool:
        """Whether a run has ended, and has given back what it had of the fleet's."""
        return info.is_over and info.run not in self._fleet.account.shares

    def _is_needed(self, run: str) -> bool:
        return run in self._fleet.account.shares or run in self._minded

    async def _mind(self, run: str) -> None:
        """Stand by for a run and own it when it can be owned, until it has ended."""
        trouble = Trouble(run)
        try:
            while not self._draining and not await self._has_ended(run):
                held = await self._leases.wait(run)
                if held is None:
                    return
                if await self._has_ended(run):  # its last owner gave the lease back for that
                    await held.release()
                    return
                fail_points.passed("lease-taken")
                match await self._own(run, held, trouble):
                    case "over":
                        return
                    case "left":
                        trouble.over()
                    case "failed":
                        with anyio.move_on_after(trouble.pause_s(ended=await self._has_ended(run, by_host=True))):
                            await self._told_to_drain.wait()
        finally:
            self._minded.discard(run)

    async def _own(self, run: str, held: Lease, trouble: Trouble) -> Literal["over", "left", "failed"]:
        """Own a run until it is over, left or lost; gives the lease back, whatever happens."""
        log = logger().bind(crew=run, term=held.term)
        owner = Owner(
            self._link,
            held,
            self._outbox,
            self._make_fold,
            name=self._name,
            powers=self._power,
            fleet=self._fleet,
            timing=self._settings.timing,
            observer=self._observer,
        )
        self._power.guard(run, held.term)
        self._owned[run] = _Owned(owner, held, time.monotonic())
        if self._draining:
            owner.leave()
        try:
            if not await owner.own():
                return "left"
            await self._record_end(run, owner)
        except LeaseLost as error:
            log.warning("lease.lost", cause=type(error).__name__)
            return "left"
        except RunNotFound:
            log.warning("run.gone")
            return "over"
        except RunStalled as error:
            log.warning("run.stalled", cause=str(error))
            self._given[run] = time.monotonic() + self._settings.timing.stall_s  # somebody else's turn
            return "left"
        except Exception as error:  # noqa: BLE001 - one run's failure must not end the others
            trouble.failed(error, held.term)
            return "failed"
        else:
            return "over"
        finally:
            self._power.leave(run, held.term)
            await held.release()
            self._owned.pop(run, None)

    async def _has_ended(self, run: str, *, by_host: bool = False) -> bool:
        """Whether a run is over, or by its host's word alone."""
        with contextlib.suppress(StoreUnavailable):
            info = await self._registry.get(run)
            return info is None or self._is_done_with(info) or (by_host and info.state in ENDED)
        return False

    async def _record_end(self, run: str, owner: Owner) -> None:
        """Say that nothing is left to do, when nobody of the run is let in any more; the host records the end too.

        Raises:
            StoreUnavailable: The servers did not store it for long: the run is still to be owned.
        """
        state = owner.fold.state
        assert state in ("done", "failed", "stopped"), f"run {run} is over in state {state}"
        fail_points.passed("run-over")

        async def record() -> None:
            if self._power.enforcer is not None:
                await self._power.enforcer.end_run(run, closes=owner.fold.hosting is not None)
            with contextlib.suppress(RunNotFound):
                await self._registry.set_state(run, state)  # type: ignore[arg-type]

        await insist(record)
