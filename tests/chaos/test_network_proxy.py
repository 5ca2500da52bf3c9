"""The proxy where the network of one agent goes wrong: whole messages are lost, doubled, late or out of order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from crewkeeper_supervisor.chaos.real.proxy import Proxy
from support.bus import until

LIMIT_S = 60.0


class Far:
    """What came out at the far end."""

    def __init__(self) -> None:
        self.got = b""
        self.port = 0

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        task_status.started()
        async with listener:
            await listener.serve(self.take)

    async def take(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                while True:
                    self.got += await stream.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return

    async def has(self, data: bytes) -> None:
        with anyio.fail_after(LIMIT_S):
            while self.got != data:
                assert data.startswith(self.got) or len(self.got) <= len(data), self.got
                await anyio.sleep(0.002)


@asynccontextmanager
async def between() -> AsyncIterator[tuple[Proxy, Far, anyio.abc.SocketStream]]:
    far = Far()
    proxy = Proxy(lambda: f"nats://127.0.0.1:{far.port}", seed=1)
    async with anyio.create_task_group() as group:
        await group.start(far.serve)
        await group.start(proxy.serve)
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as near:
            yield proxy, far, near
        group.cancel_scope.cancel()


def pub(word: bytes) -> bytes:
    return b"PUB crew.x %d\r\n%s\r\n" % (len(word), word)


async def test_what_nothing_befalls_arrives_as_it_is_in_whatever_pieces() -> None:
    async with between() as (_, far, near):
        sent = b"CONNECT {}\r\nPING\r\n" + pub(b"a\r\nb") + b"HPUB s 4 6\r\nh\r\n\r\nx\r\n" + pub(b"")
        for byte in sent:
            await near.send(bytes([byte]))
        await far.has(sent)


@pytest.mark.parametrize(
    ("do", "arrives"),
    [
        ("drop", [b"PING\r\n", b"PING\r\n"]),
        ("duplicate", [b"PING\r\n", pub(b"1"), pub(b"1"), pub(b"2"), pub(b"2"), b"PING\r\n"]),
        ("delay", [b"PING\r\n", pub(b"1"), pub(b"2"), b"PING\r\n"]),
    ],
)
async def test_messages_are_hit_and_nothing_else(do: str, arrives: list[bytes]) -> None:
    async with between() as (proxy, far, near):
        fault = proxy.tamper(do, "out", 1.0, 0.01)
        await near.send(b"PING\r\n" + pub(b"1") + pub(b"2") + b"PING\r\n")
        await far.has(b"".join(arrives))
        assert fault.fired == 2
        proxy.end(fault)
        await near.send(pub(b"3"))
        await far.has(b"".join(arrives) + pub(b"3"))


async def test_a_message_is_overtaken_by_the_next_frame() -> None:
    async with between() as (proxy, far, near):
        fault = proxy.tamper("reorder", "out", 1.0, 0.0)
        await near.send(pub(b"1"))
        await until(lambda: fault.fired, "it has struck")
        proxy.end(fault)
        await near.send(pub(b"2"))
        await far.has(pub(b"2") + pub(b"1"))


async def test_a_cut_holds_everything_until_it_heals() -> None:
    async with between() as (proxy, far, near):
        await near.send(pub(b"1"))
        await far.has(pub(b"1"))
        fault = proxy.tamper("partition", "both", 1.0, 0.0)
        await near.send(pub(b"2"))
        await until(lambda: fault.fired, "it has struck")
        assert far.got == pub(b"1")
        proxy.end(fault)
        await far.has(pub(b"1") + pub(b"2"))


async def test_one_direction_leaves_the_other_alone() -> None:
    async with between() as (proxy, far, near):
        proxy.tamper("drop", "in", 1.0, 0.0)
        await near.send(pub(b"1"))
        await far.has(pub(b"1"))
