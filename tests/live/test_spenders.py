"""Fifty spenders of three processes at one limit while controllers and the server die: the ledger keeps to it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus.subjects import TOOLS, Kind, parse
from crewkeeper_bus.tool_messages import BudgetChanged, RunTool
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import audit_keys, heads, journal, ledger, source, spending
from crewkeeper_supervisor.shell.audit import examine
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.views.replay import Replay
from support.bus import until
from support.cluster import Cluster, cluster
from support.spenders import ACTUAL, RESERVE, Audit, audit, ran, told_by, write_programs

pytestmark = pytest.mark.live
RUN = "r1"
SPENDERS = {"ann": 17, "bob": 17, "cid": 16}
FIRST, MORE = 4 * RESERVE, 3 * RESERVE
"""The limit at first, at which four calls are under way at once, and what is added after each fault."""
CONTROLLER = ("-m", "crewkeeper_supervisor.cli.main")
_NOTHING_HELD = """
from crewkeeper_supervisor.cli.main import main
from crewkeeper_supervisor.core.budget import Account
Account.hold = Account.free = lambda account, amounts: None
main()
"""
UNRESERVING = ("-c", _NOTHING_HELD)
"""A controller to whose core nothing is ever held."""


class Scene:
    """The processes of the run, and what its ledger says."""

    def __init__(self, folder: Path, servers: Cluster, link: Link, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.link = link
        self.node = servers.nodes[0]
        self._account = servers.credentials("_supervisor")
        self._stack = stack
        self.controllers: dict[str, subprocess.Popen[bytes]] = {}
        self.spenders: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a Python process that logs in by its environment."""
        url = self._account.url.replace("//", f"//{self._account.user}:{self._account.password}@")
        env = {
            "CREWKEEPER_RUN": RUN,
            "CREWKEEPER_AGENT": name,
            "CREWKEEPER_URL": self._account.url,
            "CREWKEEPER_USER": self._account.user,
            "CREWKEEPER_PASSWORD": self._account.password,
            "CREWKEEPER_NATS_URL": url,
        }
        return self._stack.enter_context(child([sys.executable, *words], env, self.folder, name))

    def serve(self, name: str, program: tuple[str, ...] = CONTROLLER) -> None:
        """Start a controller."""
        state = str(self.folder / "state")
        self.controllers[name] = self.start(name, *program, "serve", "--state", state, "--name", name)

    async def records(self) -> list[ledger.Record]:
        """The ledger, read as it is now."""
        while True:
            await anyio.sleep(0.1)  # whoever waits for something in it reads it again and again
            with contextlib.suppress(StoreUnavailable):  # the server is about to be back
                return await ledger.read(self.link, RUN)

    async def owner(self) -> str:
        """The controller that owns the run now."""
        names = [record.command["owner"] for record in await self.records() if record.kind == "Owner"]
        return names[-1] if names else ""

    async def books(self) -> Audit:
        """What the ledger adds up to now."""
        return audit(await self.records())

    async def grants(self, at_least: int) -> None:
        """Wait until so many calls were granted in all."""

        async def enough() -> bool:
            return (await self.books()).grants >= at_least

        await until(enough, f"{at_least} grants")

    async def exhausted(self, limit: int) -> Audit:
        """Wait until not one more call fits under this limit."""

        async def spent() -> Audit | None:
            found = await self.books()
            return found if found.limit == limit and found.is_exhausted else None

        found: Audit = await until(spent, f"all of {limit} is spent")
        return found

    async def taken_over(self, before: str) -> str:
        """Wait for another owner."""

        async def other() -> str:
            now = await self.owner()
            return now if now != before else ""

        name: str = await until(other, f"another one than {before} owns the run")
        return name

    async def orders(self) -> list[RunTool]:
        """What the tool host was told to run."""
        found = []
        for entry in await journal.read_all(self.link, RUN):
            address = parse(entry.subject)
            if address.kind is Kind.CTL and address.to == TOOLS:
                message = codec.decode_supervisor(Kind.CTL, entry.payload)
                found += [message] if isinstance(message, RunTool) else []
        return found

    async def all_have_ended(self) -> None:
        """Tell the spenders to stop, and wait until each has the answers to its last calls."""
        (self.folder / "stop").touch()
        await until(lambda: all(self.spenders[name].poll() == 0 for name in SPENDERS), "the spenders end")

    async def add(self, amount: int) -> None:
        """Raise the limit."""
        await journal.publish_op(self.link, RUN, BudgetChanged(dimension="microusd", add=amount, by="test"))


@contextlib.contextmanager
def child(command: list[str], env: dict[str, str], folder: Path, name: str) -> "Iterator[subprocess.Popen[bytes]]":
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=os.environ | env, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


@contextlib.asynccontextmanager
async def scene(folder: Path, program: tuple[str, ...] = CONTROLLER) -> AsyncIterator[Scene]:
    """A run with two controllers, a tool host and the spenders."""
    write_programs(folder)
    (folder / "state").mkdir()
    with cluster(folder / "servers", 1) as servers, contextlib.ExitStack() as stack:
        place = Place.of(folder / "state", servers.credentials("_supervisor"))
        async with connect(place, name="test") as link:
            agents = tuple(Agent(name=name, tools=("pay",), external=True) for name in SPENDERS)
            pay = Tool(function="paid_tool:pay", cost_microusd=RESERVE, timeout_s=3, concurrency=100)
            declared = Crew(name="shop", agents=agents, tools={"pay": pay}, budget=Budget(microusd=FIRST))
            registry = Registry(link)
            await registry.open()
            await journal.create_run(link, RUN, declared, "here")
            await registry.declare(RUN, "shop", "here")
            made = Scene(folder, servers, link, stack)
            for name in ("one", "two"):
                made.serve(name, program)
            made.start("tools", "-m", "crewkeeper_agents.tool_host", "tools.json")
            for name, number in SPENDERS.items():
                made.spenders[name] = made.start(name, "spender.py", name, str(number), str(folder))
            yield made


@pytest.mark.slow
async def test_no_fault_lets_fifty_spenders_overspend(tmp_path: Path) -> None:
    async with scene(tmp_path) as run:
        # A controller dies.
        await run.grants(10)
        first = await run.owner()
        run.controllers[first].kill()
        await run.taken_over(first)
        run.serve("three")
        found = await run.exhausted(FIRST)
        # Its successor is stopped for longer than its lease lasts, and comes back.
        await run.add(MORE)
        await run.grants(found.grants + 10)
        second = await run.owner()
        run.controllers[second].send_signal(signal.SIGSTOP)
        await run.taken_over(second)
        run.controllers[second].send_signal(signal.SIGCONT)
        await until(lambda: "lease.lost" in (tmp_path / f"{second}.log").read_text(), "it knows that it was replaced")
        found = await run.exhausted(FIRST + MORE)
        # The server dies.
        await run.add(MORE)
        await run.grants(found.grants + 10)
        run.node.stop()  # kill -9
        run.node.start()
        await run.exhausted(FIRST + 2 * MORE)
        await run.all_have_ended()
        records, orders = await run.records(), await run.orders()
        replaying = Replay(RUN, records, await heads.read(run.link, RUN))
        replaying.take(await journal.read_all(run.link, RUN))
        proven = await examine(await source.of_run(run.link, RUN), key=audit_keys.load(tmp_path / "state"))
    # Whoever owned the run, and however it died: what was decided follows from the journal, and is as it was written.
    assert replaying.finish().differences == []
    assert proven.problems == []
    assert len({record.id for record in records}) == len(records)
    assert {order.id for order in orders} <= {record.id for record in records}
    assert len({record.term for record in records if "booking" in record.command}) >= 3
    assert ledger.verify(records) == spending.add_up(records).problems == []
    found = audit(records)
    assert found.problems == []
    assert found.is_exhausted
    assert found.limit == FIRST + 2 * MORE
    # No call that would have fitted was refused, so these are as many as there can be.
    ends = list(found.over.values())
    assert found.spent == ACTUAL * ends.count("settle") + RESERVE * ends.count("expire") <= found.limit
    assert len(ends) == ends.count("settle") + ends.count("expire")
    agree(found, told_by(tmp_path), ran(tmp_path))


async def test_the_same_spenders_are_seen_to_overspend_without_reservations(tmp_path: Path) -> None:
    async with scene(tmp_path, UNRESERVING) as run:

        async def overspent() -> list[str]:
            return [problem for problem in (await run.books()).problems if "held are above" in problem]

        assert await until(overspent, "it is seen")


def agree(found: Audit, told: dict[tuple[str, str], str], was_run: list[tuple[str, str]]) -> None:
    """What spenders were told and what was really run is what the ledger says."""
    assert set(told) == set(found.over) | found.refused
    assert {key for key, outcome in told.items() if outcome == "budget_spent"} == found.refused
    paid = {key for key, outcome in told.items() if outcome == "paid"}
    assert {found.over[key] for key in paid} == {"settle"}
    assert len(was_run) == len(set(was_run))
    assert paid <= set(was_run) <= set(found.over)
