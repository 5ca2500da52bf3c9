"""Controllers die while servers are told about an agent, and while a share is booked: each is done once."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core import fleet_account
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import journal, ledger
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.fleet import Fleet
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from support.bus import until
from support.spenders import RESERVE, audit

pytestmark = [pytest.mark.live, pytest.mark.slow]
RUN = "r1"
LIMIT_S = 120.0
GRANTS = 3


async def declare(link: Link) -> None:
    """A run of two agents whose calls cost, under a limit that all crews of the server share."""
    registry = Registry(link)
    await registry.open()
    pay = Tool(inside=True, schema={"type": "object"}, cost_microusd=RESERVE, concurrency=100, timeout_s=3600)
    agents = tuple(Agent(name=name, tools=("pay",), external=True) for name in ("a", "b"))
    limits = {"microusd": GRANTS * RESERVE}
    fleet = Fleet(link)
    await fleet.open()
    await fleet.change(lambda account: fleet_account.set_limits(account, limits, "test"))
    crew = Crew(name="shop", agents=agents, tools={"pay": pay}, heartbeat_s=300, fleet=limits, fleet_revision=1)
    await journal.create_run(link, RUN, crew, "here")
    await registry.declare(RUN, "shop", "here")
    access = Access(link)
    await access.open()
    for agent in agents:
        await access.issue(RUN, agent.name, agent.name, ttl_s=600.0, by="test")
        joined = m.Joined(inc="i1", seq=1, role=agent.name, heartbeat_s=300)
        await journal.publish(link, f"crew.{RUN}.note.{agent.name}._.j", codec.encode(joined))


@contextlib.contextmanager
def controller(folder: Path, point: str = "") -> "Iterator[subprocess.Popen[bytes]]":
    """A controller that dies at a point."""
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "serve", "--state", str(folder / "state")]
    env = {**os.environ, "CREWKEEPER_FAIL_POINT": point}
    env.pop("CREWKEEPER_NATS_URL", None)
    with (folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


async def dies_at(folder: Path, point: str) -> None:
    with controller(folder, point) as process:
        await until(lambda: process.poll() is not None, f"it dies at {point}", LIMIT_S)


async def test_orders_and_shares_are_carried_out_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with EmbeddedServer(state), connect(Place.find(state=state), name="test") as link:
        await declare(link)

        await journal.publish_op(link, RUN, m.OperatorAsked(action="kill", by="test", agent="a"))
        await dies_at(tmp_path, "access-stored")
        record = await Access(link).get(RUN, "a")
        assert record is not None
        assert record.state == "killed"
        assert await reported(link) == []
        await dies_at(tmp_path, "access-done")
        assert await reported(link) == []
        with controller(tmp_path):
            (done, *_) = await until(lambda: reported(link), "the order is reported", LIMIT_S)
            assert done.ok
        for number in range(2 * GRANTS):
            call = t.ToolCall(inc="i1", seq=2 + number, task="t", tool="pay", args=msgspec.Raw(b"{}"), inside=True)
            await journal.publish(link, f"crew.{RUN}.tool.b._.c{number}", codec.encode(call))
        await dies_at(tmp_path, "share-booked")
        with controller(tmp_path):
            books = await until(lambda: decided(link), "every call is decided", LIMIT_S)
        account, records = await Fleet(link).read(), await ledger.read(link, RUN)
    assert books.grants == GRANTS
    assert account.shares[RUN].leased["microusd"] == GRANTS * RESERVE
    kills = [record for record in records if record.kind == "SetAccess" and record.command["state"] == "killed"]
    assert len(kills) == 1
    assert ledger.verify(records) == []


async def reported(link: Link) -> list[m.AccessSet]:
    """What the journal says of orders about agents."""
    entries = await journal.read_all(link, RUN)
    found = [e for e in entries if ".op." in e.subject]
    messages = [codec.decode_supervisor(subjects.parse(e.subject).kind, e.payload) for e in found]
    return [message for message in messages if isinstance(message, m.AccessSet) and message.state == "killed"]


async def decided(link: Link):
    """The books, once every call is granted or refused."""
    books = audit(await ledger.read(link, RUN))
    return books if books.grants + len(books.refused) >= 2 * GRANTS else None
