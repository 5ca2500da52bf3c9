"""Fleet: the account of all runs of a server, in KV bucket FLEET, changed by compare-and-set; carries orders to it.

What an order means for the account is in `core.fleet_account`; a change that was made before changes nothing, so
whoever is not sure whether it was made makes it again. An order is placed only when its record is in the ledger, and
answered in the run's journal only when the account is stored: what a run gives back is booked before another run can
have it, and what it is told it has is taken from the others before.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import anyio
import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import RePublish

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.tool_messages import FleetTold
from crewkeeper_supervisor.core import fleet_account
from crewkeeper_supervisor.core.commands import OrderShare
from crewkeeper_supervisor.core.fleet_account import FleetAccount
from crewkeeper_supervisor.core.gate_state import FleetShare
from crewkeeper_supervisor.shell import fail_points, journal
from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link

BUCKET: Final = "FLEET"
_STREAM: Final = f"KV_{BUCKET}"
_KEY: Final = f"$KV.{BUCKET}.account"
_STORED: Final = f"out.kv.{BUCKET}.account"
SWEEP_S: Final = 5.0
"""The account is read again this often even if no change was seen: a lost wake-up heals."""
LATE_S: Final = 8.0
"""How long an order waits for other runs to give back what they do not need: longer than replacing an owner takes."""
POLL_S: Final = 0.25
"""How often an order that waits is looked at, whatever was seen of the account."""
RETELL_S: Final = 1.0

_DECODER: Final = msgspec.json.Decoder(FleetAccount)


class Fleet:
    """The account of one server.

    Attributes:
        account: As it was last read or seen.
    """

    def __init__(self, link: Link) -> None:
        self.account = FleetAccount()
        self._link = link
        self._seq = 0
        self._listeners: set[Callable[[], None]] = set()

    async def open(self) -> None:
        """Create the bucket if it is not there, and read the account.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_bucket(
            BUCKET, "What all crews may spend together", republish=RePublish(src=_KEY, dest=_STORED)
        )
        await self.read()

    async def read(self) -> FleetAccount:
        """The account as it is stored now; an empty one where there is none.

        Raises:
            StoreUnavailable: The server did not answer, or what it has cannot be read.
        """
        last = await self._link.last(_STREAM, _KEY)
        if last is None:
            return self.account
        self._see(int(last.seq or 0), last.data or b"")
        return self.account

    async def change(self, change: Callable[[FleetAccount], FleetAccount]) -> FleetAccount:
        """Change the account in one step that nobody else's change comes between; returns what is stored then.

        Args:
            change: From the account to what it is to be; called again when somebody else was faster.

        Raises:
            StoreUnavailable: The server did not answer, so the change may be made or not; or others were always faster.
        """

        async def attempt() -> FleetAccount:
            before, seq = await self.read(), self._seq
            after = change(before)
            if after != before:
                payload = msgspec.json.encode(after)
                self._see(await self._link.store(_KEY, payload, expected_last=seq), payload)
            return after

        return await contend(f"bucket {BUCKET}, the account", attempt)

    async def work(self) -> None:
        """Keep `account` as it is stored, and wake whoever listens, until cancelled."""

        async def saw(_: Msg) -> None:
            changed.set()

        changed = anyio.Event()
        subscription = await self._link.nc.subscribe(_STORED, cb=saw)
        try:
            while True:
                changed = anyio.Event()
                with contextlib.suppress(StoreUnavailable):
                    await self.read()
                with anyio.move_on_after(SWEEP_S):
                    await changed.wait()
        finally:
            with anyio.move_on_after(1, shield=True), contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    @contextlib.contextmanager
    def listening(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` whenever the account has changed."""
        self._listeners.add(wake)
        try:
            yield
        finally:
            self._listeners.discard(wake)

    def _see(self, seq: int, payload: bytes) -> None:
        if seq <= self._seq:
            return
        try:
            self.account = _DECODER.decode(payload)
        except msgspec.MsgspecError as error:
            raise StoreUnavailable(f"bucket {BUCKET}: the account cannot be read: {str(error)[:200]}") from None
        self._seq = seq
        for wake in list(self._listeners):
            wake()


class FleetDesk:
    """Carries the orders of one run to the account, and the answers and other news to its journal.

    Args:
        fleet: The account.
        link: A connection to the same server.
        run: The run.
        known: What the run's core knows; None while that is not known.
    """

    def __init__(self, fleet: Fleet, link: Link, run: str, known: Callable[[], FleetShare | None]) -> None:
        self._fleet = fleet
        self._link = link
        self._run = run
        self._known = known
        self._orders: dict[str, tuple[OrderShare, float]] = {}
        self._told: tuple[int, int] = (0, 0)
        self._told_s = 0.0
        self._changed = anyio.Event()

    def give(self, order: OrderShare) -> None:
        """Take an order over whose record is in the ledger. Giving it again does no harm."""
        self._orders.setdefault(order.id, (order, time.monotonic()))
        self._wake()

    async def work(self) -> None:
        """Carry orders until cancelled; outages of the server are waited out."""
        with self._fleet.listening(self._wake):
            while True:
                self._changed = anyio.Event()
                pause_s = SWEEP_S
                try:
                    pause_s = RETELL_S if await self._tell() else SWEEP_S
                    for order, since_s in list(self._orders.values()):
                        await self._carry(order, since_s)
                except (StoreUnavailable, ConnectionLost) as error:
                    logger().warning("fleet.later", crew=self._run, cause=type(error).__name__, error=str(error)[:200])
                    await anyio.sleep(POLL_S)
                with anyio.move_on_after(POLL_S if self._orders else pause_s):
                    await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()

    async def _carry(self, order: OrderShare, since_s: float) -> None:
        late = time.monotonic() - since_s > LATE_S

        def carried(account: FleetAccount) -> FleetAccount:
            return fleet_account.answer(fleet_account.place(account, self._run, order), self._run, late=late)

        said = fleet_account.said(await self._fleet.change(carried), self._run, order)
        if said is not None:
            fail_points.passed("share-booked")
            await journal.publish_op(self._link, self._run, said)
            self._orders.pop(order.id, None)

    async def _tell(self) -> bool:
        """Tell the run of limits it does not know, and of others who lack what it may not need. False: it knows all."""
        account, known = self._fleet.account, self._known()
        if known is None or known.is_over:
            return False
        share = account.shares.get(self._run)
        is_wanted = share is not None and account.round > max(share.swept, known.round)
        if not is_wanted and account.revision <= known.revision:
            return False
        news = (account.revision, account.round)
        if news == self._told and time.monotonic() - self._told_s < RETELL_S:
            return True
        told = FleetTold(limits=account.limit, revision=account.revision, round=account.round, by=account.by)
        await journal.publish_op(self._link, self._run, told)
        self._told, self._told_s = news, time.monotonic()
        return True
