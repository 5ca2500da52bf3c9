"""Loopback: how what stands behind a scenario listens and reads requests; what it answers is its own business."""

import contextlib
import itertools
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import anyio
import anyio.abc

Answer = Callable[[anyio.abc.SocketStream, dict[str, str], bytes], Awaitable[None]]
"""Answers a request of these headers, with lower-case names, and this body on its connection."""

REQUEST_MAX_BYTES: Final = 1024 * 1024
PORTS: Final = range(20_000, 32_000)
"""Below what Linux (32,768) and macOS (49,152) hand out by themselves, to outgoing connections too."""
_walk = itertools.count(secrets.randbelow(len(PORTS)))
"""From where this process goes on to look, so that it does not name a port twice before somebody listens there."""


def free_port() -> int:
    """A loopback port that nobody listens on, for what must know its port before it starts or after it was killed.

    It is one of `PORTS`: what the kernel hands out for port 0, or to a connection, cannot take it meanwhile.

    Raises:
        OSError: Every one is taken.
    """
    for step in itertools.islice(_walk, len(PORTS)):
        port = PORTS[step % len(PORTS)]
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on 127.0.0.1")


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[anyio.abc.Listener[anyio.abc.SocketStream], int]]:
    """A listener on a free loopback port, and that port, for as long as the block lasts."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener:
        yield listener, listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no database is near


def heeding(answer: Answer, limit_s: float) -> Callable[[anyio.abc.SocketStream], Awaitable[None]]:
    """What deals with connections of one request each; what is no request, or breaks off, gets no answer."""

    async def connected(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                with anyio.fail_after(limit_s):
                    headers, body = await _read_request(stream)
                    await answer(stream, headers, body)
            except (TimeoutError, ValueError, anyio.EndOfStream, anyio.BrokenResourceError):
                return  # not a request, or its sender went away

    return connected


async def _read_request(stream: anyio.abc.SocketStream) -> tuple[dict[str, str], bytes]:
    """Headers, with lower-case names, and body of one HTTP request.

    Raises:
        ValueError: It is too large.
        anyio.EndOfStream: It broke off.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
        if len(data) > REQUEST_MAX_BYTES:
            raise ValueError("the request is too large")
    head, _, body = data.partition(b"\r\n\r\n")
    rows = [line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:]]
    headers = {name.strip().lower(): value.strip() for name, _, value in rows}
    length = min(int(headers.get("content-length", "0")), REQUEST_MAX_BYTES)
    while len(body) < length:
        body += await stream.receive()
    return headers, body
