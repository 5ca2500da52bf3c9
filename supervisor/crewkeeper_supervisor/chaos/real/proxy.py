"""Proxy: what one agent connects to instead of the server, and where its network goes wrong.

It knows where a frame of the NATS protocol ends, so whole messages are lost, doubled or late. Frames that carry no
message (pings, subscriptions) are never lost, only held up together with everything else.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import anyio
import anyio.abc

from crewkeeper_supervisor.chaos.real.loopback import listening
from crewkeeper_supervisor.chaos.real.own_network import PORT, OwnNetwork

FRAME_MAX_BYTES: Final = 16 * 1024 * 1024
QUEUE_MAX: Final = 10_000
"""Frames held up in one direction of one connection; more make the sender wait."""
BUFFER_BYTES: Final = 65536
"""What the system takes from the server unread: so that one that does not read is noticed soon."""
POLL_S: Final = 0.01
_MESSAGES: Final = (b"PUB ", b"HPUB ", b"MSG ", b"HMSG ")
_PAYLOAD: Final = _MESSAGES
_HELD: Final = ("partition", "stop_reading")
"""What goes wrong with a connection as a whole, not with single messages."""


class Tampering:
    """One fault at work. `fired`: how many frames it has touched, or connections it has kept out."""

    def __init__(self, do: str, direction: str, share: float, by_s: float) -> None:
        self.do = do
        self.direction = direction
        self.share = share
        self.by_s = by_s
        self.fired = 0

    def is_for(self, direction: str) -> bool:
        """Whether it works in this direction, `in` to the agent or `out` of it."""
        return self.direction in ("both", direction)


class Proxy:
    """A way to the server for one agent, on a loopback port of its own.

    Args:
        upstream: The server's address, asked for at every connection; empty while there is none.
        seed: Of who is hit.
        network: The network of the agent's own that it listens in; None: loopback.

    Attributes:
        port: Where it listens, from `serve` on.
        ports: From where it has connected to the server so far: so the server knows the agent's connections.
    """

    def __init__(self, upstream: Callable[[], str], seed: int, network: OwnNetwork | None = None) -> None:
        self._upstream = upstream
        self._chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._tamperings: list[Tampering] = []
        self._network = network
        self.port = 0
        self.ports: set[int] = set()

    @property
    def url(self) -> str:
        """The address for the agent."""
        return f"nats://127.0.0.1:{self.port}" if self._network is None else self._network.url

    @property
    def way(self) -> str:
        """Shell statements that lead an agent's command, `"$@"`, through it."""
        return f"export CREWKEEPER_URL={self.url}" if self._network is None else self._network.way

    def tamper(self, do: str, direction: str, share: float, by_s: float) -> Tampering:
        """Let something go wrong until `end`."""
        made = Tampering(do, direction, share, by_s)
        self._tamperings.append(made)
        return made

    def is_at_work(self, tampering: Tampering) -> bool:
        """Whether it has not ended."""
        return tampering in self._tamperings

    def end(self, tampering: Tampering) -> None:
        """End it; harmless when repeated."""
        if tampering in self._tamperings:
            self._tamperings.remove(tampering)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Listen until cancelled; in an agent's network, from when the agent has made it."""
        if self._network is not None:
            task_status.started()
            await self._serve_in(self._network)
            return
        async with listening() as (listener, self.port):
            task_status.started()
            await listener.serve(self._connected)

    async def _serve_in(self, network: OwnNetwork) -> None:
        while True:
            try:
                listener = await anyio.create_tcp_listener(local_host=network.address, local_port=PORT)
            except OSError:  # it is not there yet
                await anyio.sleep(POLL_S)
                continue
            network.ready.touch()
            async with listener:
                await listener.serve(self._connected)

    async def _connected(self, client: anyio.abc.SocketStream) -> None:
        async with client:
            while cut := self._cut("out") or self._cut("in"):
                cut.fired += 1
                await anyio.sleep(0.2)
            address = urlsplit(self._upstream())
            try:
                server = await anyio.connect_tcp(address.hostname or "", address.port or 0)
            except (OSError, ValueError):
                return
            near = server.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - this is no database
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self.ports.add(near.getsockname()[1])
            async with server, anyio.create_task_group() as group:
                for source, sink, direction in ((client, server, "out"), (server, client, "in")):
                    group.start_soon(self._carry, source, sink, direction, group.cancel_scope)

    def _cut(self, direction: str) -> Tampering | None:
        return self._at_work("partition", direction)

    def _at_work(self, do: str, direction: str) -> Tampering | None:
        return next((each for each in self._tamperings if each.do == do and each.is_for(direction)), None)

    async def _carry(
        self,
        source: anyio.abc.SocketStream,
        sink: anyio.abc.SocketStream,
        direction: str,
        scope: anyio.CancelScope,
    ) -> None:
        frames: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(QUEUE_MAX)
        async with anyio.create_task_group() as group:
            group.start_soon(self._write, frames, sink, direction, scope)
            reader = _Frames(source)
            late: bytes | None = None
            while frame := await self._next(reader, direction):
                for each in self._touched(frame, direction):
                    if each is None:
                        late = frame
                        continue
                    await frames.put(each)
                    if late is not None and each[1] is not late:
                        await frames.put((each[0], late))
                        late = None
            await frames.put(None)

    async def _next(self, reader: "_Frames", direction: str) -> bytes:
        """The next frame, once this side reads; empty at the end."""
        while self._at_work("stop_reading", direction) is not None:  # noqa: ASYNC110 - two can be at work
            await anyio.sleep(POLL_S)
        return await reader.next()

    def _touched(self, frame: bytes, direction: str) -> list[tuple[float, bytes] | None]:
        """What becomes of a frame: when it goes on, once, twice or never; None: after the next one."""
        due_s = anyio.current_time()
        if not frame.startswith(_MESSAGES):
            return [(due_s, frame)]
        struck = [
            each
            for each in self._tamperings
            if each.is_for(direction) and each.do not in _HELD and self._chance.random() < each.share
        ]
        words = {each.do for each in struck}
        alone = next((word for word in ("drop", "reorder") if word in words), "")  # beside these, others do nothing
        for each in struck:
            each.fired += each.do == alone or not alone
        if alone:
            return [] if alone == "drop" else [None]
        due_s += sum(each.by_s for each in struck if each.do == "delay")
        return [(due_s, frame)] * (2 if "duplicate" in words else 1)

    async def _write(
        self,
        frames: "asyncio.Queue[tuple[float, bytes] | None]",
        sink: anyio.abc.SocketStream,
        direction: str,
        scope: anyio.CancelScope,
    ) -> None:
        try:
            while (entry := await frames.get()) is not None:
                due_s, frame = entry
                await anyio.sleep_until(due_s)
                held = False
                while cut := self._cut(direction):
                    cut.fired += not held
                    held = True
                    await anyio.sleep(POLL_S)
                await sink.send(frame)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the other end is gone: so is this connection
        scope.cancel()


class _Frames:
    """Cuts a stream of bytes into protocol frames."""

    def __init__(self, source: anyio.abc.SocketStream) -> None:
        self._source = source
        self._bytes = bytearray()

    async def next(self) -> bytes:
        """The next frame; empty at the end."""
        while (end := self._bytes.find(b"\r\n")) < 0:
            if not await self._more():
                return b""
        line = bytes(self._bytes[: end + 2])
        size = end + 2
        if line.startswith(_PAYLOAD):
            size += int(line.split()[-1]) + 2
        while len(self._bytes) < size:
            if not await self._more():
                return b""
        frame = bytes(self._bytes[:size])
        del self._bytes[:size]
        return frame

    async def _more(self) -> bool:
        if len(self._bytes) > FRAME_MAX_BYTES:
            return False
        try:
            self._bytes += await self._source.receive(65536)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True
