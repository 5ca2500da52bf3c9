"""Controller: watches the registry and owns runs, each by itself; delivers what is in the outbox.

Several controllers share the runs of a server: whoever has a run's lease owns it, the others stand by. One run's
failure is logged, given up and tried again after a pause, here or by another controller; it never touches other runs.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Collection
from typing import Final

import anyio
import anyio.abc
from msgspec import Struct

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell import fail_points, heads, lease, ledger, outbox, powers
from crewkeeper_supervisor.shell.errors import LeaseLost, RunNotFound, StoreUnavailable
from crewkeeper_supervisor.shell.fleet import Fleet
from crewkeeper_supervisor.shell.lease import Leases
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, connect
from crewkeeper_supervisor.shell.observing import Observer, Standing
from crewkeeper_supervisor.shell.outbox import Outbox
from crewkeeper_supervisor.shell.owner import MakeFold, Owner, Timing
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.powers import Powers
from crewkeeper_supervisor.shell.registry import ENDED, Registry, RunInfo

OPEN_TRIES: Final = 20
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 30.0


class Settings(Struct, frozen=True, kw_only=True):
    """Knobs of a controller; the defaults are for production."""

    lease_ttl_s: float = lease.TTL_S
    retries_s: tuple[float, ...] = outbox.RETRIES_S
    timing: Timing = Timing()


async def serve(
    place: Place,
    name: str = "",
    *,
    runs: Collection[str] | None = None,
    make_fold: MakeFold = make_fold,
    settings: Settings | None = None,
    observer: Observer | None = None,
    standing: Standing | None = None,
) -> None:
    """Run a controller until cancelled; give up owned runs at once when that happens.

    Args:
        place: The server.
        name: Who this is, in the journal and for people; by default host name, process id and a random part.
        runs: Own only these runs; None: every run that is registered and has not ended.
        make_fold: Makes the core of a run.
        settings: Timing.
        observer: Hears of runs and webhooks, for metrics and traces.
        standing: Kept up to date with what this controller can do.

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
    ):
        controller = _Controller(link, lease_link, name, runs, make_fold, settings or Settings(), power, observer)
        if standing is not None:
            standing.link = link
        await controller.open()
        if standing is not None:
            standing.opened = True
        logger().info("controller.serving", server=place.host, owner=name, mode=authority.mode)
        await controller.work()


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
    ) -> None:
        self._observer = observer
        self._link = link
        self._name = name
        self._wanted = None if runs is None else frozenset(runs)
        self._make_fold = make_fold
        self._settings = settings
        self._power = power
        self._registry = Registry(link)
        self._leases = Leases(lease_link, name, settings.lease_ttl_s)
        self._fleet = Fleet(link)
        self._outbox = Outbox(link, settings.retries_s, observer)
        self._minded: set[str] = set()

    async def open(self) -> None:
        """Create what is shared. A server that has just started may need a moment."""
        for left in reversed(range(OPEN_TRIES)):
            try:
                await self._registry.open()
                await ledger.open_stream(self._link)
                await heads.open_stream(self._link)
                await self._outbox.open()
                await self._leases.open()
                await self._fleet.open()
                await self._power.open()
            except StoreUnavailable:
                if not left:
                    raise
                await anyio.sleep(0.25)
            else:
                return

    async def work(self) -> None:
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:
            try:
                group.start_soon(self._power.work)
                group.start_soon(self._outbox.work)
                group.start_soon(self._fleet.work)
                group.start_soon(self._watch, group)
                await self._until_closed()
            except ConnectionLost as error:
                failures.append(error)
            group.cancel_scope.cancel()
        for cause in failures:
            raise cause

    async def _until_closed(self) -> None:
        """The client gives up for good only when told; then this process has no use and ends, to be started anew."""
        await self._link.closed.wait()
        raise ConnectionLost(f"{self._link.place.host} has closed the connection")

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
        return wanted and not self._is_done_with(info) and info.run not in self._minded

    def _is_done_with(self, info: RunInfo) -> bool:
        """Whether a run has ended, and has given back what it had of the fleet's."""
        return info.state in ENDED and info.run not in self._fleet.account.shares

    async def _mind(self, run: str) -> None:
        """Stand by for a run and own it when it can be owned, until it has ended."""
        pause_s = RETRY_S
        log = logger().bind(crew=run)
        try:
            while not await self._has_ended(run):
                held = await self._leases.wait(run)
                fail_points.passed("lease-taken")
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
                try:
                    await owner.own()
                    await self._record_end(run, owner)
                except LeaseLost as error:
                    log.warning("lease.lost", term=held.term, cause=type(error).__name__)
                    pause_s = RETRY_S
                    continue
                except RunNotFound:
                    log.warning("run.gone", term=held.term)
                    return
                except Exception:  # one run's failure must not end the others
                    log.exception("run.failed", term=held.term)
                else:
                    return
                finally:
                    self._power.leave(run, held.term)
                    await held.release()
                await anyio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
        finally:
            self._minded.discard(run)

    async def _has_ended(self, run: str) -> bool:
        with contextlib.suppress(StoreUnavailable):
            info = await self._registry.get(run)
            return info is None or self._is_done_with(info)
        return False

    async def _record_end(self, run: str, owner: Owner) -> None:
        """The host records the end too; whoever comes first."""
        state = owner.fold.state
        assert state in ("done", "failed", "stopped"), f"run {run} is over in state {state}"
        fail_points.passed("run-over")
        with contextlib.suppress(StoreUnavailable, RunNotFound):
            await self._registry.set_state(run, state)  # type: ignore[arg-type]
        if self._power.enforcer is not None:
            try:
                await self._power.access.end_run(run)
            except StoreUnavailable as error:
                logger().warning("access.not_ended", crew=run, cause=str(error)[:200])
