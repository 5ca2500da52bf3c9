"""Orders: what the owner of a run asks of the run's host, read from the journal, each once and in order.

The journal is the truth and a subscription only the wake-up: after each wake-up, and now and again without one, the
next entry addressed to the host is fetched by sequence until there is none. So an order survives a lost connection,
and the host does not have to read the traffic of the agents.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import anyio
import nats.js.errors
from nats.aio.msg import Msg

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.errors import CodecError
from crewkeeper_bus.messages import HostCtl, StartProcess, StopProcess, StopRun
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

SWEEP_S: Final = 2.0
"""The journal is asked again this often even without a wake-up."""


class Orders:
    """The orders of one run; one reader.

    Attributes:
        seq: Journal sequence up to which orders were looked for and found.
    """

    def __init__(self, link: Link, run: str) -> None:
        """Read the orders of `run` over `link`, from the journal's beginning."""
        self.seq = 0
        self._link = link
        self._run = run
        self._term = 0
        self._wake = anyio.Event()

    async def follow(self) -> AsyncGenerator[HostCtl, None]:
        """Yield every order, for ever; outages are waited out. Close it (`contextlib.aclosing`) when leaving early."""

        async def wake(_: Msg) -> None:
            self._wake.set()

        delivered = f"{subjects.OUT}.crew.{self._run}.{Kind.CTL}.{SUPERVISOR}.{HOST}.*"
        subscription = await self._link.nc.subscribe(delivered, cb=wake)
        try:
            while True:
                self._wake = anyio.Event()
                while (order := await self._next()) is not None:
                    yield order
                with anyio.move_on_after(SWEEP_S):
                    await self._wake.wait()
        finally:
            with anyio.move_on_after(1, shield=True), contextlib.suppress(*LINK_ERRORS):
                await subscription.unsubscribe()

    async def _next(self) -> HostCtl | None:
        """The next order that is to be obeyed; None when there is none now, or the server does not answer."""
        wanted = f"crew.{self._run}.{Kind.CTL}.{SUPERVISOR}.{HOST}.*"
        while True:
            try:
                entry = await self._link.js.get_msg(
                    subjects.stream_name(self._run), seq=self.seq + 1, subject=wanted, next=True
                )
            except nats.js.errors.NotFoundError:
                return None
            except LINK_ERRORS as error:
                logger().warning("orders.retry", crew=self._run, seq=self.seq, error=type(error).__name__)
                return None
            assert entry.seq is not None
            self.seq = entry.seq
            order = self._read(entry.data or b"")
            if order is not None:
                return order

    def _read(self, payload: bytes) -> HostCtl | None:
        try:
            order = codec.decode_supervisor(Kind.CTL, payload)
        except CodecError as error:
            logger().warning("orders.malformed", crew=self._run, seq=self.seq, error=str(error)[:200])
            return None
        if not isinstance(order, StartProcess | StopProcess | StopRun) or order.term < self._term:
            logger().warning("orders.ignored", crew=self._run, seq=self.seq, kind=type(order).__name__)
            return None
        self._term = order.term
        return order
