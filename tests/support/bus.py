"""Buses to test against: a fake, and a real server with a journal stream for each run."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import nats
import pytest
from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.memory_transport import MemoryBus
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.subjects import agent_permissions, run_filter, stream_name
from crewkeeper_bus.transport import Transport
from support.door import Door, open_door

RUN = "r1"
LIMIT_S = 180.0
"""How long anything may take that a test waits for, on a slow machine too."""


async def until(condition: Callable[[], Any], what: str = "condition", limit_s: float = LIMIT_S) -> Any:
    """Wait until `condition()` is true and return its value; fail after `limit_s`. It may be async."""
    with anyio.move_on_after(limit_s):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return value
            await anyio.sleep(0.002)
    raise AssertionError(f"not within {limit_s} s: {what}")


@asynccontextmanager
async def running_server(state_dir: Path) -> AsyncIterator[EmbeddedServer]:
    """A real server on `state_dir / "server"`."""
    async with EmbeddedServer(state_dir / "server") as server:
        yield server


@asynccontextmanager
async def plain_client(server: EmbeddedServer, **options: Any) -> AsyncIterator[Any]:
    """The stock client, as the supervisor unless `user` and `password` are given."""
    own = {} if "user" in options else server.credentials.options()
    options = {"error_cb": _ignore, **own, **options}
    client = await nats.connect(server.url, **options)
    try:
        yield client
    finally:
        await client.close()


async def _ignore(_error: Exception) -> None:
    pass


@asynccontextmanager
async def journal_stream(server: EmbeddedServer, run: str = RUN) -> AsyncIterator[Any]:
    """The log-first stream of a run; yields a JetStream context to look into it with."""
    async with plain_client(server) as client:
        stream = client.jetstream()
        await stream.add_stream(
            StreamConfig(
                name=stream_name(run),
                subjects=[run_filter(run)],
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                discard=DiscardPolicy.OLD,
                no_ack=True,
                allow_direct=True,
                duplicate_window=0.1,
                republish=RePublish(src=run_filter(run), dest=f"out.{run_filter(run)}"),
            )
        )
        yield stream


class Bus(Protocol):
    """Somewhere to connect to, fake or real."""

    kind: str

    async def connect(self, agent: str = "", role: str = "") -> Transport:
        """A transport, as this agent of `RUN` (added on the way), or with every right; closed with the bus."""

    async def cut(self, transport: Transport) -> None:
        """Take the connection of this one transport away until `restore`, and return when it knows."""

    async def restore(self, transport: Transport) -> None:
        """Bring it back, and return when it is."""


class FakeBus:
    kind = "memory"

    def __init__(self) -> None:
        self.bus = MemoryBus()

    async def connect(self, agent: str = "", role: str = "") -> Transport:
        return self.bus.connect(agent, agent_permissions(RUN, agent, role or agent) if agent else None)

    async def cut(self, transport: Any) -> None:
        transport.cut()

    async def restore(self, transport: Any) -> None:
        transport.restore()


class RealBus:
    kind = "nats"

    def __init__(self, server: EmbeddedServer, door: Door, stack: AsyncExitStack) -> None:
        self.server = server
        self.door = door
        self._stack = stack
        self._credentials: dict[int, Callable[[], Credentials]] = {}

    async def connect(self, agent: str = "", role: str = "") -> NatsTransport:
        credentials = self.server.credentials
        if agent:
            credentials = self.door.let_in(RUN, [(agent, role or agent)])[agent]
        transport = await NatsTransport.open(credentials=lambda: credentials, name=agent)
        self._stack.push_async_callback(transport.close)
        return transport

    async def cut(self, transport: Any) -> None:
        def away() -> Credentials:
            raise ConfigError("cut by the test")

        self._credentials[id(transport)] = transport._read_credentials
        transport._read_credentials = away
        transport._link._transport._io_writer.transport.abort()
        await until(lambda: not transport.is_connected, "the loss is seen")

    async def restore(self, transport: Any) -> None:
        transport._read_credentials = self._credentials.pop(id(transport))
        await until(lambda: transport.is_connected, "the connection is back")


@asynccontextmanager
async def open_bus(kind: str, tmp_path: Path) -> AsyncIterator[Bus]:
    """A `FakeBus` for kind `memory`; a `RealBus` with the journal of `RUN` for kind `nats`."""
    if kind == "memory":
        yield FakeBus()
        return
    async with (
        running_server(tmp_path) as server,
        journal_stream(server),
        open_door(server) as door,
        AsyncExitStack() as stack,
    ):
        yield RealBus(server, door, stack)


two_buses = pytest.mark.parametrize("kind", ["memory", pytest.param("nats", marks=pytest.mark.live)])
"""Runs a test that takes `kind` and `tmp_path` on both buses: `async with open_bus(kind, tmp_path) as bus:`."""


class Inbox:
    """A `Deliver` that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def __call__(self, subject: str, payload: bytes) -> None:
        self.got.append((subject, payload))

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.got]

    async def wait(self, count: int) -> list[bytes]:
        """The payloads, once there are at least `count`."""
        await until(lambda: len(self.got) >= count, f"{count} messages, got {len(self.got)}")
        return self.payloads


async def settle(rounds: int = 5) -> None:
    """Let everything that is scheduled in the loop run."""
    for _ in range(rounds):
        await asyncio.sleep(0)
