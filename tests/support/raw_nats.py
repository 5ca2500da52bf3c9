"""A raw NATS client: a socket and a parser, nothing that keeps its user from doing what the protocol forbids."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio

from crewkeeper_bus.credentials import Credentials

LIMIT_S = 120.0


class Heard(NamedTuple):
    """One message that the server delivered."""

    subject: bytes
    sid: int
    reply: bytes
    headers: bytes
    payload: bytes


class Raw:
    """One connection.

    Attributes:
        heard: Messages delivered, oldest first.
        errors: What the server complained of, oldest first.
        is_closed: Whether the server has closed it.
        info: What the server said of itself.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard: list[Heard] = []
        self.errors: list[str] = []
        self.is_closed = False
        self.info: dict[str, Any] = {}
        self._pongs = 0
        self._awaited = 0
        self._reader = reader
        self._writer = writer
        self._news = asyncio.Event()
        self._sids = 0
        self._task = asyncio.get_running_loop().create_task(self._read(), name="raw reader")

    # --- what it does ---

    def write(self, data: bytes) -> None:
        """Send bytes as they are; what the other end has closed for swallows them."""
        if not self.is_closed:
            self._writer.write(data)

    def pub(
        self, subject: str | bytes, payload: bytes = b"", *, reply: str | bytes = b"", headers: bytes = b""
    ) -> None:
        """Publish; `headers` are lines of `Name: value`, or a whole block that begins with `NATS/`."""
        to = b" ".join(part for part in (_bytes(subject), _bytes(reply)) if part)
        if not headers:
            self.write(b"PUB %b %d\r\n%b\r\n" % (to, len(payload), payload))
            return
        block = headers if headers.startswith(b"NATS/") else b"NATS/1.0\r\n%b\r\n\r\n" % headers.replace(b"\n", b"\r\n")
        self.write(b"HPUB %b %d %d\r\n%b%b\r\n" % (to, len(block), len(block) + len(payload), block, payload))

    def sub(self, subject: str, queue: str = "") -> int:
        """Subscribe; returns the subscription's id."""
        self._sids += 1
        self.write(" ".join(part for part in ("SUB", subject, queue, str(self._sids)) if part).encode() + b"\r\n")
        return self._sids

    async def sync(self) -> bool:
        """Wait until the server has processed everything sent; whether it has, and is still there."""
        for _ in range(2):  # the second answer also follows what its other threads had in hand
            self._awaited += 1
            awaited = self._awaited
            self.write(b"PING\r\n")
            await self.until(lambda awaited=awaited: self.is_closed or self._pongs >= awaited, "an answer")
        return not self.is_closed

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for something to become true of what was heard."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {LIMIT_S} s: {what}; errors: {self.errors[-3:]}") from None

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        await self.until(lambda: self.is_closed, "the server closes the connection")

    @property
    def payloads(self) -> list[bytes]:
        """Of all messages heard."""
        return [each.payload for each in self.heard]

    def refusals(self, of: str) -> list[str]:
        """Complaints about a publish or a subscription (`of`: `publish` or `subscription`) that was not permitted."""
        return [each for each in self.errors if f"permissions violation for {of}" in each.lower()]

    async def close(self) -> None:
        """End it from this side, even when cancelled. Idempotent."""
        self._writer.close()
        self._task.cancel()
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(LIMIT_S):
                    await self._writer.wait_closed()
            await asyncio.wait({self._task}, timeout=LIMIT_S)

    # --- what it hears ---

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                await self._take(line.rstrip(b"\r\n"))
                self._news.set()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            self.is_closed = True
            self._news.set()

    async def _take(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        match operation.upper():
            case b"INFO":
                self.info = json.loads(rest)
            case b"PING":
                self.write(b"PONG\r\n")
            case b"PONG":
                self._pongs += 1
            case b"-ERR":
                self.errors.append(rest.decode("utf-8", "replace").strip("'"))
            case b"MSG" | b"HMSG":
                await self._take_message(rest.split(b" "), sizes=2 if operation == b"HMSG" else 1)

    async def _take_message(self, fields: list[bytes], sizes: int) -> None:
        total, head = int(fields[-1]), int(fields[-2]) if sizes == 2 else 0
        data = (await self._reader.readexactly(total + 2))[:-2]
        reply = fields[2] if len(fields) == 3 + sizes else b""
        self.heard.append(Heard(fields[0], int(fields[1]), reply, data[:head], data[head:]))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


async def dial(credentials: Credentials, **options: Any) -> Raw:
    """Connect and log in; look at `is_closed` and `errors` for how that went. Options are those of CONNECT."""
    address = urlsplit(credentials.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=8 * 1024 * 1024)
    raw = Raw(reader, writer)
    given = {"user": credentials.user, "pass": credentials.password, **options}
    hello = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1}
    hello |= {"lang": "raw", "version": "0", **{key: value for key, value in given.items() if value != ""}}
    raw.write(b"CONNECT " + json.dumps(hello).encode() + b"\r\n")
    try:
        await raw.sync()
    except BaseException:
        await raw.close()
        raise
    return raw


async def enter(credentials: Credentials, **options: Any) -> Raw:
    """Connect and log in, as often as it takes: a server refuses also whom nobody has vouched for within its limit.

    Raises:
        AssertionError: Every login was refused.
    """
    until_s = time.monotonic() + LIMIT_S
    while (client := await dial(credentials, **options)).is_closed:
        await client.close()
        assert time.monotonic() < until_s, client.errors
        await anyio.sleep(0.05)
    return client


@asynccontextmanager
async def raw(credentials: Credentials, **options: Any) -> AsyncIterator[Raw]:
    """A connection that the server let in, closed at the end."""
    client = await enter(credentials, **options)
    try:
        yield client
    finally:
        await client.close()
