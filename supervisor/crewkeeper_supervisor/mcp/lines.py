"""Lines: one JSON text a line over byte streams, bounded in size and in time; what a line means is in `rpc`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from crewkeeper_bus.errors import ConfigError

LINE_MAX_BYTES: Final = 16 * 1024 * 1024
"""A longer line is skipped: nobody needs to hold it to know that it is not wanted."""
WRITE_S: Final = 30.0
"""How long the other side may take to read what is written."""
_CHUNK_BYTES: Final = 64 * 1024


class TooLong:
    """Stands for a line that was longer than the limit, and was skipped."""


TOO_LONG: Final = TooLong()


class Stalled(Exception):  # noqa: N818 - what is the case
    """The other side does not read."""


class Gone(Stalled):
    """The other side is not there any more."""


class LineReader:
    """Reads lines.

    Args:
        receive: Returns some bytes, at most as many as asked for; none at the end.
        limit_bytes: The longest line.
    """

    def __init__(self, receive: Callable[[int], Awaitable[bytes]], limit_bytes: int = LINE_MAX_BYTES) -> None:
        """Begin with nothing read."""
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False

    async def next(self) -> bytes | TooLong | None:
        """The next line that is not blank, without its end; None at the end of the stream."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                was_long, self._skipping = self._skipping or len(line) > self._limit_bytes, False
                if was_long:
                    return TOO_LONG
                if line.strip():
                    return line
                continue
            self._searched = len(self._buffer)
            if self._searched > self._limit_bytes:
                self._skipping = True
            if self._skipping:
                self._buffer.clear()
                self._searched = 0
            chunk = await self._receive(_CHUNK_BYTES)
            if not chunk:
                # What has no end was cut off on its way, so it is no line.
                return None
            self._buffer += chunk


class LineWriter:
    """Writes lines, one after the other, for any number of tasks.

    Args:
        send: Writes bytes and returns when they are taken.
        limit_s: How long that may take.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], limit_s: float = WRITE_S) -> None:
        """Nothing is written yet."""
        self._send = send
        self._limit_s = limit_s
        self._lock = anyio.Lock()
        self._is_broken = False

    async def write(self, line: bytes) -> None:
        """Write one line.

        Raises:
            Stalled: It was not taken within the limit; so is every later line, as half of one may have been written.
        """
        # A line that is begun is ended: a caller that is cancelled must not leave half of it.
        with anyio.CancelScope(shield=True):
            async with self._lock:
                if self._is_broken:
                    raise Stalled("nothing is read at the other end")
                self._is_broken = True
                with anyio.move_on_after(self._limit_s) as limit:
                    try:
                        await self._send(line + b"\n")
                    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                        raise Gone(f"the other end is gone ({type(error).__name__})") from None
                if limit.cancelled_caught:
                    raise Stalled(f"nothing was read at the other end for {self._limit_s:g} s")
                self._is_broken = False


def receive_from(stream: ByteReceiveStream) -> Callable[[int], Awaitable[bytes]]:
    """What `LineReader` takes, of an anyio stream."""

    async def receive(limit_bytes: int) -> bytes:
        try:
            return await stream.receive(limit_bytes)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return b""

    return receive


def send_to(stream: ByteSendStream) -> Callable[[bytes], Awaitable[None]]:
    """What `LineWriter` takes, of an anyio stream."""
    return stream.send


async def standard_streams(limit_bytes: int = LINE_MAX_BYTES) -> tuple[LineReader, LineWriter]:
    """This process's own stdin and stdout, as lines.

    Raises:
        ConfigError: They are files, which nobody can talk over.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
    writing = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
        transport, _ = await loop.connect_write_pipe(lambda: writing, sys.stdout.buffer)
    except ValueError:
        raise ConfigError(
            "stdin and stdout must be pipes: an MCP client starts this command itself; see docs/mcp.md"
        ) from None
    writer = asyncio.StreamWriter(transport, writing, None, loop)

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    return LineReader(reader.read, limit_bytes), LineWriter(send)
