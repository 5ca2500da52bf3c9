"""A crew of clients on one bus, and a double that plays the supervisor's part: it records, begins, grants, commands."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.client import Client, connect
from crewkeeper_bus.errors import BusError, CodecError
from crewkeeper_bus.subjects import SUPERVISOR, Kind, build, parse
from crewkeeper_bus.transport import Transport
from support.bus import RUN, open_bus, until
from support.traffic import Recorded, check_traffic


class Double:
    """The supervisor's part of one run, as far as clients notice."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._ids = itertools.count(1)
        self.record: list[Recorded] = []
        self.malformed: list[str] = []
        self.joined: list[Client] = []
        """Clients whose words are waited for where all that was said is asked for."""
        self._marks: set[str] = set()

    async def open(self) -> None:
        await self._transport.subscribe(f"out.crew.{RUN}.>", self._deliver)
        await self._transport.barrier()

    def _deliver(self, subject: str, payload: bytes) -> None:
        address = parse(subject)
        if address.id in self._marks:
            self._marks.remove(address.id)
            return
        theirs = address.sender == SUPERVISOR or address.kind is Kind.CTL
        decode = codec.decode_supervisor if theirs else codec.decode_agent
        try:
            self.record.append(Recorded(address, decode(address.kind, payload)))
        except CodecError:
            self.malformed.append(subject)

    async def command(self, agent: str, type_: Any, **fields: Any) -> str:
        """Publish a command; returns its id."""
        fields.setdefault("id", f"c{next(self._ids)}")
        command = type_(**fields)
        await self.publish(Kind.CTL, agent, "x" + fields["id"], command)
        return str(fields["id"])

    async def answer(self, agent: str, id_: str, **fields: Any) -> None:
        """Publish a reply of the supervisor to a call or question."""
        await self.publish(Kind.REP, agent, id_, m.SupervisorReply(id=f"c{next(self._ids)}", **fields))

    async def publish(self, kind: Kind, to: str, id_: str, message: Any, sender: str = SUPERVISOR) -> None:
        """Publish anything, in anybody's name."""
        payload = message if isinstance(message, bytes) else codec.encode(message)
        await self._transport.publish(build(RUN, kind, sender, to, id_), payload)

    async def outcomes(self, agent: str, count: int) -> list[str]:
        """How the waits of an agent ended, once there are at least `count`."""
        await self.wait(agent, m.WaitEnded, count)
        return [each.outcome for each in self.all(agent, m.WaitEnded)]

    async def break_wait(self, agent: str, wait: m.WaitBegan, **fields: Any) -> str:
        """Break a wait."""
        fields = {"finding": "F1", "why": "a ring of waits", "path": ("a waits for b",), "retry_after_s": 1.5} | fields
        return await self.command(agent, m.Break, task=wait.task, epoch=wait.epoch, **fields)

    def all(self, agent: str, type_: Any, **fields: Any) -> list[Any]:
        """Messages of one type from one agent whose fields are these."""
        return [message for _, message in self.sent(agent, type_, **fields)]

    async def told(self, agent: str, type_: Any, **fields: Any) -> list[Any]:
        """As `all`, once whatever has been said so far has come in."""
        for client in self.joined:
            with contextlib.suppress(BusError):  # one that is cut off, or has left by itself
                await client.flush(30.0)
        # What the server has taken is stored in order, and delivered when it is: what comes after it comes last.
        mark = f"mark{next(self._ids)}"
        self._marks.add(mark)
        await self.publish(Kind.CTL, "_", mark, m.Probe(id=mark, nonce=mark))
        await until(lambda: mark not in self._marks, "all that was said so far")
        return self.all(agent, type_, **fields)

    def sent(self, agent: str, type_: Any, **fields: Any) -> list[Recorded]:
        """As `all`, with addresses."""
        return [
            each
            for each in self.record
            if each.address.sender == agent
            and isinstance(each.message, type_)
            and all(getattr(each.message, key) == value for key, value in fields.items())
        ]

    async def wait(self, agent: str, type_: Any, count: int = 1, **fields: Any) -> Any:
        """The newest such message, once there are at least `count`."""
        await until(lambda: len(self.all(agent, type_, **fields)) >= count, f"{count} {type_.__name__} of {agent}")
        return self.all(agent, type_, **fields)[count - 1]

    async def probe(self, agent: str) -> m.Heartbeat:
        """The state of an agent now."""
        nonce = f"n{next(self._ids)}"
        await self.command(agent, m.Probe, nonce=nonce)
        beat = await self.wait(agent, m.Heartbeat, nonce=nonce)
        assert isinstance(beat, m.Heartbeat)
        return beat


class Crew:
    """Clients on one bus with the double above them."""

    def __init__(self, bus: Any, double: Double) -> None:
        self.bus = bus
        self.double = double
        self.transports: dict[str, Transport] = {}

    async def member(self, agent: str, role: str = "", **options: Any) -> Client:
        """A client that has not joined yet."""
        transport = await self.bus.connect(agent, role)
        self.transports[agent] = transport
        options = {"heartbeat_s": 60.0} | options
        return connect(run=RUN, agent=agent, role=role or agent, transport=transport, **options)

    @asynccontextmanager
    async def joined(self, *agents: str, **options: Any) -> AsyncIterator[tuple[Client, ...]]:
        """Clients of these names that have joined and begun."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await self.member(agent, **options)) for agent in agents]
            for client in clients:
                await self.begin(client)
            self.double.joined += clients
            try:
                yield tuple(clients)
            finally:
                self.double.joined = [each for each in self.double.joined if each not in clients]

    async def begin(self, client: Client) -> None:
        """Let one client begin."""
        await self.double.command(client.agent, m.Begin, peers=("x", "y"), replicas={"worker": 9})
        await client.ready(timeout_s=90)


@asynccontextmanager
async def open_crew(kind: str, tmp_path: Path, *, check: bool = True) -> AsyncIterator[Crew]:
    """A crew on a bus of this kind; at the end, once every agent has left, the traffic is checked."""
    async with open_bus(kind, tmp_path) as bus:
        double = Double(await bus.connect())
        await double.open()
        yield Crew(bus, double)
        if check:
            agents = {(each.address.sender, each.message.inc) for each in double.record if _by_agent(each)}
            await until(
                lambda: {(a, n.inc) for a, n in _left(double)} >= agents, "every agent's last note has been recorded"
            )
            assert agents, "nobody said anything: the test tested nothing"
            check_traffic(double.record)
            assert not double.malformed


def _by_agent(each: Recorded) -> bool:
    return each.address.sender != SUPERVISOR and isinstance(each.message, m.Joined)


def _left(double: Double) -> list[tuple[str, m.Left]]:
    return [(each.address.sender, each.message) for each in double.record if isinstance(each.message, m.Left)]
