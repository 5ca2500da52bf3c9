"""Memory transport: a bus inside one event loop, held to the same contract tests as the real one.

It records what is published on `crew.…`, then delivers it on `out.crew.…`, asynchronously and in one order. It has
wildcards, queue groups, the server's permission rules, and connections that a test can cut and restore.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import anyio
import structlog

from crewkeeper_bus.errors import CodecError, ConnectionLost, Refused
from crewkeeper_bus.pattern import check_subject, matches
from crewkeeper_bus.subjects import OUT, Permissions
from crewkeeper_bus.transport import Deliver

log = structlog.get_logger(__name__)

PAYLOAD_MAX_BYTES: Final = 1024 * 1024
"""As the embedded server."""
HELD_MAX_BYTES: Final = 8 * 1024 * 1024
"""How much a cut connection keeps for its return."""


class Record(NamedTuple):
    """One recorded message."""

    seq: int
    at_s: float
    subject: str
    payload: bytes


class _Subscription(NamedTuple):
    transport: "MemoryTransport"
    subject: str
    queue: str
    deliver: Deliver


class MemoryBus:
    """A bus in memory with a journal.

    Args:
        clock: Source of the records' stamps, unix seconds.
        records_max: Records that are kept; the oldest go first. Sequence numbers go on.

    Attributes:
        records: What was published on `crew.…`, oldest first.
    """

    def __init__(self, clock: Callable[[], float] = time.time, records_max: int = 1_000_000) -> None:
        self.records: deque[Record] = deque(maxlen=records_max)
        self._clock = clock
        self._seq = 0
        self._subscriptions: list[_Subscription] = []
        self._turns: dict[str, int] = {}

    def connect(self, name: str = "", permissions: Permissions | None = None) -> "MemoryTransport":
        """A new connection; without `permissions` it may do everything."""
        return MemoryTransport(self, name, permissions)

    def _publish(self, subject: str, payload: bytes) -> None:
        self._route(subject, payload)
        if subject.startswith("crew."):
            self._seq += 1
            self.records.append(Record(self._seq, self._clock(), subject, payload))
            self._route(f"{OUT}.{subject}", payload)

    def _route(self, subject: str, payload: bytes) -> None:
        groups: dict[str, list[_Subscription]] = {}
        for subscription in self._subscriptions:
            if not matches(subscription.subject, subject) or not subscription.transport.is_connected:
                continue
            if subscription.queue:
                groups.setdefault(subscription.queue, []).append(subscription)
            else:
                subscription.transport._enqueue(subscription.deliver, subject, payload)
        for queue, members in groups.items():
            turn = self._turns.get(queue, 0)
            self._turns[queue] = turn + 1
            member = members[turn % len(members)]
            member.transport._enqueue(member.deliver, subject, payload)


class MemoryTransport:
    """One connection to a `MemoryBus`; implements `transport.Transport`.

    Attributes:
        name: Who it is, for messages.
        refused: How many publishes and subscriptions its permissions refused.
    """

    def __init__(self, bus: MemoryBus, name: str = "", permissions: Permissions | None = None) -> None:
        self.name = name
        self.refused = 0
        self._bus = bus
        self._permissions = permissions
        self._closed = False
        self._connected = anyio.Event()
        self._connected.set()
        self._listeners: list[Callable[[bool], None]] = []
        self._end_listeners: list[Callable[[Refused], None]] = []
        self._inbox: deque[tuple[Deliver, str, bytes]] = deque()
        self._context: contextvars.Context | None = None
        self._held: deque[tuple[str, bytes]] = deque()
        self._held_bytes = 0

    @property
    def is_connected(self) -> bool:
        """Whether a publish would leave now."""
        return self._connected.is_set() and not self._closed

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload that it takes."""
        return PAYLOAD_MAX_BYTES

    async def publish(self, subject: str, payload: bytes) -> None:
        """Publish one message; what the permissions refuse vanishes and is counted.

        Raises:
            CodecError: The payload is larger than `max_payload_bytes`.
            ConnectionLost: Closed, or cut and the buffer for the time after is full.
            SubjectError: Not a subject to publish on.
        """
        check_subject(subject)
        if len(payload) > PAYLOAD_MAX_BYTES:
            raise CodecError(f"payload has {len(payload)} bytes; the bus takes {PAYLOAD_MAX_BYTES}: send a reference")
        if self._closed:
            raise ConnectionLost(f"{self.name or 'transport'}: closed; connect again")
        if not self.is_connected:
            self._held_bytes += len(subject) + len(payload)
            if self._held_bytes > HELD_MAX_BYTES:
                self._held_bytes -= len(subject) + len(payload)
                raise ConnectionLost(f"cut, and {HELD_MAX_BYTES} bytes wait already: publish again once connected")
            self._held.append((subject, bytes(payload)))
            return
        self._send(subject, bytes(payload))

    async def subscribe(self, subject: str, deliver: Deliver, queue: str = "") -> None:
        """Deliver what matches `subject`; a subscription that the permissions refuse stays silent and is counted.

        Raises:
            ConnectionLost: Closed.
            SubjectError: Not a subject or pattern.
        """
        check_subject(subject, wildcards=True)
        if self._closed:
            raise ConnectionLost(f"{self.name or 'transport'}: closed; connect again")
        if not self._may_subscribe(subject, queue):
            self.refused += 1
            return
        self._context = contextvars.copy_context()  # what is delivered runs as the subscriber's, not as the sender's
        self._bus._subscriptions.append(_Subscription(self, subject, queue, deliver))

    async def barrier(self, limit_s: float = 10.0) -> None:
        """Return when everything sent before is processed.

        Raises:
            ConnectionLost: Closed, or still cut after `limit_s`.
        """
        with anyio.move_on_after(limit_s):
            await self._connected.wait()
        if not self.is_connected:
            raise ConnectionLost(f"{self.name or 'transport'}: no connection within {limit_s} s")
        await anyio.lowlevel.checkpoint()

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(is_connected)` at every cut and every restore."""
        self._listeners.append(changed)

    def on_end(self, ended: Callable[[Refused], None]) -> None:
        """Call `ended(error)` at `refuse`."""
        self._end_listeners.append(ended)

    async def renew(self) -> None:
        """There are no credentials to renew here: only checks that it is open.

        Raises:
            ConnectionLost: Closed.
        """
        if self._closed:
            raise ConnectionLost(f"{self.name or 'transport'}: closed; connect again")
        await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Deliver nothing more. Idempotent."""
        self._closed = True
        self._connected.set()
        self._inbox.clear()
        self._held.clear()
        self._bus._subscriptions = [each for each in self._bus._subscriptions if each.transport is not self]

    def cut(self) -> None:
        """Lose the connection: nothing is delivered, publishes are held, what is on its way here is lost."""
        if self.is_connected:
            self._connected = anyio.Event()
            self._inbox.clear()
            self._tell(False)

    def restore(self) -> None:
        """Bring the connection back: what was held leaves, in order, before listeners are told."""
        if self._closed or self.is_connected:
            return
        self._connected.set()
        while self._held:
            self._send(*self._held.popleft())
        self._held_bytes = 0
        self._tell(True)

    def refuse(self) -> None:
        """Be refused for good, as an identity is whose credentials were revoked."""
        self.cut()
        self._closed = True
        self._connected.set()
        for listener in self._end_listeners:
            listener(Refused(f"the bus refuses {self.name or 'this transport'}: connect as another", reason="login"))

    def _tell(self, connected: bool) -> None:
        for listener in self._listeners:
            listener(connected)

    def _send(self, subject: str, payload: bytes) -> None:
        if self._permissions and not any(matches(allowed, subject) for allowed in self._permissions.publish):
            self.refused += 1
            return
        self._bus._publish(subject, payload)

    def _may_subscribe(self, subject: str, queue: str) -> bool:
        if self._permissions is None:
            return True
        plain = False
        for allowed in self._permissions.subscribe:
            pattern, _, group = allowed.partition(" ")
            if matches(pattern, subject):
                if group and queue:  # a rule that names a group decides alone, as on the server
                    return group == queue
                plain = plain or not group
        return plain

    def _enqueue(self, deliver: Deliver, subject: str, payload: bytes) -> None:
        self._inbox.append((deliver, subject, payload))
        asyncio.get_running_loop().call_soon(self._deliver_next, context=self._context)

    def _deliver_next(self) -> None:
        if not self._inbox:  # cut or closed after it was scheduled
            return
        deliver, subject, payload = self._inbox.popleft()
        try:
            deliver(subject, payload)
        except Exception:
            log.exception("bus.deliver_failed", subject=subject)
