"""Wire: the nats-py client, hardened so that no frame another client sends can end or blind it.

What nats-py 2.16 does and this does not:

- It splits control lines at any whitespace and decodes what it finds; one foreign byte in a subject, reply or status
  ends its read loop in silence, while it still says it is connected. Here lines split at blanks only, a message whose
  headers cannot be read comes without them, and a read loop that ends is a lost connection.
- It sends a PING ahead of what is still buffered, so `flush` proves nothing. Here a PING keeps its place.
- A PONG that comes after its `flush` gave up ends the read loop; an error of the server other than a permission
  closes the client for good; a full flush queue swallows cancellation. None of that here.
- Its task that reconnects is cancelled once when the client is closed; where that is lost, as `asyncio.wait_for` loses
  one that comes together with a result before Python 3.12, it goes on for ever. Here it looks whether it is closed.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error, ProtocolError
from nats.protocol import command
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, PERMISSIONS_ERR, PING, PONG, Parser

from crewkeeper_bus.addresses import each_of

log = structlog.get_logger(__name__)

LINE_MAX_BYTES: Final = 1024 * 1024
"""Longest control line; the server's INFO is the longest that comes."""
DROPS_LOGGED_MAX: Final = 5
"""How many dropped frames a connection logs; it counts them all."""

RawDeliver = Callable[[str, bytes, bytes | None], None]
"""Called with (subject, payload, header block or None), from the read loop."""


class _Parser(Parser):
    """Splits the byte stream into operations, by the letter of the protocol."""

    nc: "WireClient"
    buf: bytearray

    async def parse(self, data: bytes = b"") -> None:
        """Take in bytes and act on every complete operation.

        Raises:
            ProtocolError: The server itself broke the protocol.
        """
        self.buf.extend(data)
        while self.buf:
            if self.state == AWAITING_CONTROL_LINE:
                end = self.buf.find(b"\r\n")
                if end < 0:
                    if len(self.buf) > LINE_MAX_BYTES:
                        raise ProtocolError("nats: control line without end")
                    return
                line = bytes(self.buf[:end])
                del self.buf[: end + 2]
                if line.startswith(b"MSG "):
                    self._expect(line[4:].split(b" "), sizes=1)
                elif line.startswith(b"HMSG "):
                    self._expect(line[5:].split(b" "), sizes=2)
                else:
                    await self._operate(line)
            else:
                total = self.needed
                if len(self.buf) < total + 2:
                    return
                headers = bytes(self.buf[: self.header_needed]) if self.header_needed else None
                payload = bytes(self.buf[self.header_needed : total])
                del self.buf[: total + 2]
                self.state, self.header_needed = AWAITING_CONTROL_LINE, 0
                arguments = self.msg_arg
                deliver = self.nc._raw.get(arguments["sid"])
                if deliver is not None:
                    self.nc._deliver_raw(deliver, arguments["subject"], payload, headers)
                    continue
                await self.nc._process_msg(arguments["sid"], arguments["subject"], arguments["reply"], payload, headers)

    async def _operate(self, line: bytes) -> None:
        if line.startswith(b"PING"):
            await self.nc._process_ping()
        elif line.startswith(b"PONG"):
            await self.nc._process_pong()
        elif line.startswith(b"-ERR"):
            await self.nc._process_err(line[4:].decode("utf-8", "replace").strip().lower())
        elif line.startswith(b"INFO "):
            await self.nc._process_info_line(line[5:])
        elif line and not line.startswith(b"+OK"):
            raise ProtocolError("nats: unknown protocol")

    def _expect(self, fields: list[bytes], sizes: int) -> None:
        """Fields are subject, sid, optionally reply, then one size or two."""
        try:
            has_reply = len(fields) == 3 + sizes
            if not has_reply and len(fields) != 2 + sizes:
                raise ProtocolError("nats: malformed message line")
            self.msg_arg = {"subject": fields[0], "sid": int(fields[1]), "reply": fields[2] if has_reply else b""}
            self.header_needed = int(fields[-2]) if sizes == 2 else 0
            self.needed = int(fields[-1])
        except ValueError:
            raise ProtocolError("nats: malformed message line") from None
        if not 0 <= self.header_needed <= self.needed:
            raise ProtocolError("nats: malformed message size")
        self.state = AWAITING_MSG_PAYLOAD


class WireClient(Client):
    """A `nats.aio.client.Client` that survives hostile frames; everything nats-py offers works on it.

    Attributes:
        dropped: How many received messages could not be read, or whose delivery failed, and were dropped.
        mended: How many received messages were delivered without their headers, which could not be read.
        refused: How many permission errors the server has reported.
        on_lost: If set, called once with the reason when the connection is lost, instead of closing or reconnecting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self.mended = 0
        self.refused = 0
        self.on_lost: Callable[[str], None] | None = None
        self._ps = _Parser(self)
        self._raw: dict[int, RawDeliver] = {}
        self._barriers: set[asyncio.Future[bool]] = set()
        self._is_left = False
        """Whether it was closed, whatever a task that did not hear of it has made of its status."""

    def _setup_server_pool(self, connect_url: str | list[str]) -> None:
        """Take an address for all servers that it stands for."""
        super()._setup_server_pool(each_of(connect_url) if isinstance(connect_url, str) else connect_url)

    # --- what the transport needs beyond nats-py ---

    def subscribe_raw(self, subject: str, queue: str, deliver: RawDeliver) -> int:
        """Subscribe without queue, task and header parsing; returns the subscription's id.

        Messages are delivered from the read loop itself, so all raw subscriptions share one order.
        """
        self._sid += 1
        sid = self._sid
        self._subs[sid] = Subscription(self, sid, subject, queue=queue)
        self._raw[sid] = deliver
        self.send(command.sub_cmd(subject, queue, sid))
        return sid

    def unsubscribe_raw(self) -> None:
        """End every raw subscription at the server; what is on its way is still delivered."""
        for sid in self._raw:
            self.send(command.unsub_cmd(sid, 0))

    def send(self, line: bytes) -> None:
        """Append to what is sent, in order, and wake the flusher."""
        self._pending.append(line)
        self._pending_data_size += len(line)
        if self.is_connected and self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def post(self, subject: str, payload: bytes) -> None:
        """Append one message to what is sent, in order, without waking the flusher: `push` follows."""
        line = b"PUB %b %d\r\n%b\r\n" % (subject.encode("ascii"), len(payload), payload)
        self._pending.append(line)
        self._pending_data_size += len(line)

    def push(self) -> None:
        """Write what waits to be sent at once where the connection takes it; else the flusher will."""
        if not self._pending or not self.is_connected or self._flush_queue is None:
            return
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and not writer.transport.get_write_buffer_size():
            writer.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0
        elif self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def barrier(self, limit_s: float) -> bool:
        """Whether the server has processed all that was sent before, within the limit and on this connection."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._barriers.add(future)
        try:
            await self._send_ping(future)
            await asyncio.wait({future}, timeout=limit_s)
            return future.done() and not future.cancelled() and future.result()
        finally:
            self._barriers.discard(future)
            future.cancel()

    def abandon(self) -> list[bytes]:
        """Close at once, without callbacks, and hand back the commands that were not sent. Idempotent."""
        unsent: list[bytes] = self._pending
        self._pending, self._pending_data_size = [], 0
        self._status = Client.CLOSED
        self._give_up_waits()
        current = asyncio.current_task()
        waiting = [each._wait_for_msgs_task for each in self._subs.values()]
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task, *waiting):
            if task is not None and task is not current and not task.done():
                task.cancel()
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        return unsent

    def _give_up_waits(self) -> None:
        for future in self._barriers:
            if not future.done():
                future.set_result(False)
        while self._flush_queue is not None and not self._flush_queue.empty():
            waiting = self._flush_queue.get_nowait()
            if not waiting.done():
                waiting.set_result(None)

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if self.dropped <= DROPS_LOGGED_MAX:
            log.warning("bus.frame_dropped", why=why[:200], dropped=self.dropped)

    # --- nats-py's own steps, hardened ---

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        try:
            await super()._process_msg(sid, _readable(subject), _readable(reply), data, headers or b"")
        except Exception as error:  # noqa: BLE001 - whatever a stranger's bytes cause, the next message must be read
            self._drop(f"{type(error).__name__}: {error}")

    def _deliver_raw(self, deliver: RawDeliver, subject: bytes, data: bytes, headers: bytes | None) -> None:
        try:
            deliver(subject.decode("ascii"), data, headers)
        except Exception as error:  # noqa: BLE001 - as above
            self._drop(f"{type(error).__name__}: {error}")

    async def _process_headers(self, headers: bytes) -> Any:
        try:
            return await super()._process_headers(headers)
        except Exception as error:  # noqa: BLE001 - as above
            # The message itself must be delivered: to a reader of a journal a missing one is damage.
            self.mended += 1
            if self.mended <= DROPS_LOGGED_MAX:
                log.warning("bus.headers_ignored", why=type(error).__name__, mended=self.mended)
            return None

    async def _process_pong(self) -> None:
        if not self._pongs:
            return
        self._pings_outstanding = 0
        self._pongs_received += 1
        future = self._pongs.pop(0)
        if not future.done():
            future.set_result(True)

    async def _send_ping(self, future: "asyncio.Future[Any] | None" = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self.send(PING)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        future = asyncio.get_running_loop().create_future()
        assert self._flush_queue is not None
        if not self.is_connected or self._flusher_task is None or self._flusher_task.done():
            future.set_result(None)
        elif force_flush or self._flush_queue.empty():
            await self._flush_queue.put(future)
            if force_flush:
                await asyncio.wait({future}, timeout=self._flush_timeout)
        return future

    async def _process_info_line(self, line: bytes) -> None:
        try:
            info = json.loads(line)
        except ValueError:
            raise ProtocolError("nats: malformed INFO") from None
        await self._process_info(info)

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("'")
        if PERMISSIONS_ERR in text:
            self.refused += 1
            if self.refused == 1:  # the sender's own doing, and it can do it a million times
                log.warning("bus.permission_refused", what=text[:300])
            return
        await self._process_op_err(Error(f"nats: {text}"))

    async def _process_op_err(self, e: Exception) -> None:
        if self.on_lost is None:
            await super()._process_op_err(e)
            return
        if self.is_closed or self._status == Client.DISCONNECTED:
            return
        self._status = Client.DISCONNECTED
        self._give_up_waits()
        self.on_lost(str(e) or type(e).__name__)

    async def _select_next_server(self) -> None:
        if self.options["allow_reconnect"]:
            await super()._select_next_server()
            return
        server = self._server_pool[0]
        self._current_server = server
        await self._connect_to_server(server)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._is_left = self._is_left or status == Client.CLOSED
        await super()._close(status, do_cbs)

    async def _connect_to_server(self, s: Any) -> None:
        self._heed_close()
        await super()._connect_to_server(s)
        self._heed_close()

    def _heed_close(self) -> None:
        """End the task that reconnects, if it is what runs, once the client is closed."""
        if self._is_left and asyncio.current_task() is self._reconnection_task:
            self.abandon()
            raise asyncio.CancelledError

    async def _process_connect_init(self) -> None:
        self._give_up_waits()
        # A PING or PONG of the last connection would be answered, or taken for an answer, on this one.
        self._pending = [each for each in self._pending if each not in (PING, PONG)]
        self._pending_data_size = sum(map(len, self._pending))
        await super()._process_connect_init()
        self._heed_close()

    async def _read_loop(self) -> None:
        await super()._read_loop()
        task = asyncio.current_task()
        if task is None or task.cancelling() or task is not self._reading_task or not self.is_connected:
            return
        await self._process_op_err(Error("nats: the read loop ended"))


def says_no(error: BaseException | None) -> bool:
    """Whether a failed connect is the server's refusal of a login."""
    return isinstance(error, Error) and "authorization" in str(error).lower()


def _readable(subject: bytes) -> bytes:
    """A subject that decodes: what is no UTF-8 in it is spelled out, which makes it nobody's name."""
    try:
        subject.decode()
    except UnicodeDecodeError:
        return subject.decode("utf-8", "backslashreplace").encode()
    return subject


async def quiet(_error: Exception) -> None:
    """An `error_cb` for callers that handle the error where it is raised."""
