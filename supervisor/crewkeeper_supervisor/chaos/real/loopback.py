"""Loopback: how what stands behind a scenario listens and reads requests; what it answers is its own business."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.abc

REQUEST_MAX_BYTES: Final = 1024 * 1024


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[anyio.abc.Listener[anyio.abc.SocketStream], int]]:
    """A listener on a free loopback port, and that port, for as long as the block lasts."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener:
        yield listener, listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no database is near


async def read_request(stream: anyio.abc.SocketStream) -> tuple[dict[str, str], bytes]:
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
