"""Outgoing: everything a client publishes, numbered and in one order; what is published and when is decided elsewhere.

Theory of operation. `send` is synchronous: it numbers, encodes and checks a message and appends it to a queue, so a
change of the client's state and the note that tells of it are one step that nothing can interleave with or cancel.
One writer empties the queue into the transport. Hence the order of the numbers is the order on the wire and has no
gaps, and a heartbeat describes exactly the state after everything numbered before it.
"""

import secrets
from collections import deque
from typing import Any, Final

import anyio
import anyio.lowlevel
import structlog

from crewkeeper_bus import codec
from crewkeeper_bus.errors import CodecError, ConnectionLost
from crewkeeper_bus.messages import Sent
from crewkeeper_bus.outgoing_redaction import NONE, OutgoingRedaction
from crewkeeper_bus.subjects import SUPERVISOR, Kind, build
from crewkeeper_bus.transport import Transport

PENDING_MAX: Final = 1024
"""Messages waiting for the transport beyond which authors' sends hold; the client's own notes still pass."""
PUBLISH_LIMIT_S: Final = 30.0
RETRY_S: Final = 0.1

log = structlog.get_logger()


def new_id() -> str:
    """A fresh subject token of almost 96 random bits.

    It does not begin with `-`: people hand ids of questions to commands, which would take it for an option.
    """
    token = secrets.token_urlsafe(12)
    return f"m{token[1:]}" if token.startswith("-") else token


def clip(text: str, limit_chars: int = 2000) -> str:
    """`text`, cut to what a message takes."""
    return text if len(text) <= limit_chars else text[: limit_chars - 1] + "…"


class Outgoing:
    """The one way out of a client."""

    def __init__(self, run: str, me: str, limit_bytes: int, redaction: OutgoingRedaction | None = None) -> None:
        self.inc = new_id()
        self.redaction = redaction or OutgoingRedaction((NONE,))
        self._run = run
        self._me = me
        self._limit_bytes = limit_bytes
        self._seq = 0
        self._pending: deque[tuple[str, bytes]] = deque()
        self._transport: Transport | None = None
        self._closed = False
        self._holding = False
        self._changed = anyio.Event()
        self._writing = anyio.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more may be sent."""
        return self._closed

    @property
    def is_full(self) -> bool:
        """Whether authors' sends hold."""
        return len(self._pending) >= PENDING_MAX

    @property
    def body_limit_bytes(self) -> int:
        """Largest payload this client may send."""
        return self._limit_bytes

    def attach(self, transport: Transport) -> None:
        """Say where to publish."""
        self._transport = transport
        self._limit_bytes = min(self._limit_bytes, transport.max_payload_bytes)

    def send(self, kind: Kind, to: str, id_: str, type_: type[Sent], **fields: Any) -> None:
        """Redact and number one message and put it in line. Never waits.

        Raises:
            ConnectionLost: The client is closed.
            CodecError: A receiver would drop the message: too large, too deep, or a field out of range. It takes no
                number then.
        """
        if self._closed:
            raise ConnectionLost(f"{self._me} has left run {self._run}: nothing can be sent")
        subject = build(self._run, kind, self._me, to, id_)
        fields = self.redaction.clean(type_, fields)
        payload = codec.encode(type_(inc=self.inc, seq=self._seq + 1, **fields))
        codec.decode_agent(kind, payload, self._limit_bytes)
        self._seq += 1
        self._pending.append((subject, payload))
        self._notify()

    def note(self, type_: type[Sent], **fields: Any) -> None:
        """Tell the supervisor one fact. Raises as `send`."""
        self.send(Kind.NOTE, SUPERVISOR, new_id(), type_, **fields)

    async def room(self) -> None:
        """Hold while too much waits for the transport; always lets other tasks run.

        Raises:
            ConnectionLost: The client was closed meanwhile.
        """
        await anyio.lowlevel.checkpoint()
        while self.is_full and not self._closed:
            await self._changed.wait()
        if self._closed:
            raise ConnectionLost(f"{self._me} has left run {self._run}: nothing can be sent")

    async def write(self) -> None:
        """Hand messages to the transport for ever; the one writer."""
        while True:
            await self.flush()
            changed = self._changed
            if not self._pending:
                await changed.wait()

    async def drained(self) -> None:
        """Return when the writer has handed everything over. The caller sets a limit."""
        while self._pending:
            await self._changed.wait()

    async def flush(self) -> None:
        """Hand everything in line to the transport, as the writer or when it has ended.

        Waits while the transport refuses, so the caller sets a limit.
        """
        assert self._transport is not None
        async with self._writing:
            while self._pending:
                subject, payload = self._pending[0]
                # A half-done publish must not be repeated under the same number, so it is not interrupted.
                taken = False
                with anyio.move_on_after(PUBLISH_LIMIT_S, shield=True):
                    try:
                        await self._transport.publish(subject, payload)
                        taken = True
                    except ConnectionLost:
                        pass  # it is tried again below
                    except CodecError as error:  # the server takes less than it did when the message was made
                        log.warning("bus.publish_refused", agent=self._me, subject=subject, error=str(error))
                        taken = True
                if not taken:
                    if not self._holding:
                        log.warning("bus.publish_held", agent=self._me, pending=len(self._pending))
                    self._holding = True
                    await anyio.sleep(RETRY_S)
                    continue
                self._holding = False
                self._pending.popleft()
                if not self.is_full:
                    self._notify()

    def close(self) -> None:
        """Take nothing more. Idempotent."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
