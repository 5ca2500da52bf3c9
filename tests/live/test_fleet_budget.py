"""Two runs, two controllers, one limit, and a controller killed: no prefix of both ledgers together exceeds it."""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from crewkeeper_bus.messages import RunEnded
from crewkeeper_bus.subjects import HOST, ledger_subject
from crewkeeper_supervisor.cli.main import run as command
from crewkeeper_supervisor.core import fleet_account
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.fleet_account import FleetAccount
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import journal, ledger, spending
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.fleet import Fleet
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from support.bus import until
from support.cluster import Cluster, cluster
from support.spenders import RESERVE, write_programs

pytestmark = pytest.mark.live
RUNS = ("r1", "r2")
LIMIT = 6 * RESERVE
MAIN = ("-m", "crewkeeper_supervisor.cli.main")


class Books:
    """All ledgers together, in the order in which they were stored, by the amounts of their bookings alone."""

    def __init__(self) -> None:
        self.spent = self.held = self.most = 0
        self.grants = dict.fromkeys(RUNS, 0)
        self._open: dict[tuple[str, str, str], int] = {}

    def take(self, run: str, booking: dict[str, Any]) -> None:
        """The next record."""
        key, amount = (run, booking["agent"], booking["call"]), booking.get("amounts", {}).get("microusd", 0)
        if booking["act"] == "reserve":
            assert key not in self._open
            self._open[key] = amount
            self.held += amount
            self.grants[run] += 1
        elif booking["act"] != "refuse":
            self.held -= self._open.pop(key)
            self.spent += amount
        self.most = max(self.most, self.spent + self.held)

    @property
    def is_exhausted(self) -> bool:
        """Nothing is under way, and not one more call fits."""
        return not self.held and self.spent + RESERVE > LIMIT


async def books(link: Link) -> Books:
    """What is in the ledgers now."""
    found, batches = Books(), []
    for run in RUNS:
        stored = await ledger.stored(link, ledger.STREAM, ledger_subject(run))
        batches += [(seq, run, ledger._decoded(run, seq, data)) for seq, data in stored]
    for _, run, records in sorted(batches, key=lambda batch: batch[0]):
        for record in records:
            if isinstance(record.command, dict) and (booking := record.command.get("booking")):
                found.take(run, booking)
    return found


class Stage:
    """The processes of both runs."""

    def __init__(self, folder: Path, servers: Cluster, link: Link, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.link = link
        self.url = ""
        self._account = servers.credentials("_supervisor")
        self._stack = stack

    def start(self, run: str, agent: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a Python process that logs in by its environment."""
        account = self._account
        self.url = account.url.replace("//", f"//{account.user}:{account.password}@")
        env = {
            "CREWKEEPER_RUN": run,
            "CREWKEEPER_AGENT": agent,
            "CREWKEEPER_URL": account.url,
            "CREWKEEPER_USER": account.user,
            "CREWKEEPER_PASSWORD": account.password,
            "CREWKEEPER_NATS_URL": self.url,
        }
        return self._stack.enter_context(child([sys.executable, *words], env, self.folder))

    def serve(self, name: str, run: str) -> "subprocess.Popen[bytes]":
        """Start a controller for one run alone."""
        return self.start(
            run, name, *MAIN, "serve", "--state", str(self.folder / "state"), "--name", name, "--run", run
        )

    async def reached(self, what: str, reached: Any) -> Books:
        """Wait until the books are so."""

        async def there() -> Books | None:
            await anyio.sleep(0.1)  # the ledgers are read from their beginning each time
            with contextlib.suppress(StoreUnavailable):
                found = await books(self.link)
                return found if reached(found) else None
            return None

        found: Books = await until(there, what)
        return found


@contextlib.contextmanager
def child(words: list[str], env: dict[str, str], folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with (folder / "processes.log").open("ab") as log:
        process = subprocess.Popen(words, env=os.environ | env, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Two declared runs under one limit, their tool hosts, and eight spenders of each."""
    write_programs(folder)
    (folder / "state").mkdir()
    with cluster(folder / "servers", 1) as servers, contextlib.ExitStack() as stack:
        place = Place.of(folder / "state", servers.credentials("_supervisor"))
        async with connect(place, name="test") as link:
            fleet, registry = Fleet(link), Registry(link)
            await fleet.open()
            await registry.open()
            await fleet.change(lambda account: fleet_account.set_limits(account, {"microusd": LIMIT}, "test"))
            pay = Tool(function="paid_tool:pay", cost_microusd=RESERVE, timeout_s=5, concurrency=100)
            made = Stage(folder, servers, link, stack)
            for run in RUNS:
                agents = (Agent(name=run, tools=("pay",), external=True),)
                crew = Crew(name=run, agents=agents, tools={"pay": pay}, fleet={"microusd": LIMIT}, fleet_revision=1)
                await journal.create_run(link, run, crew, "here")
                await registry.declare(run, run, "here")
                made.start(run, "tools", "-m", "crewkeeper_agents.tool_host", "tools.json")
                made.start(run, run, "spender.py", run, "8", str(folder))
            yield made


@pytest.mark.slow
async def test_a_limit_of_two_runs_is_kept_and_used_up_though_a_controller_is_killed(tmp_path, capsys, monkeypatch):
    async with stage(tmp_path) as made:
        first = made.serve("one", "r1")
        made.serve("two", "r2")
        await made.reached("both spend", lambda found: min(found.grants.values()) >= 5)
        first.kill()
        made.serve("three", "r1")
        found = await made.reached("all of it is spent", lambda found: found.is_exhausted)
        assert min(found.grants.values()) > 5
        monkeypatch.setenv("CREWKEEPER_NATS_URL", made.url)
        words = ["budget", "top-up", "fleet", "usd=4", "--state", str(tmp_path / "state")]
        code = await anyio.to_thread.run_sync(lambda: command(words))
        assert (code, "all crews together: the limit is $16.00" in capsys.readouterr().out) == (0, True)
        more = await made.reached(
            "some of what is more, too", lambda more: sum(more.grants.values()) > 5 + sum(found.grants.values())
        )
        assert more.spent > found.spent
        for run in RUNS:
            await journal.publish_op(made.link, run, RunEnded(state="done"), sender=HOST)
            await Registry(made.link).set_state(run, "done")
        fleet = Fleet(made.link)

        async def closed() -> FleetAccount | None:
            account = await fleet.read()
            return account if account.ended_count == len(RUNS) else None

        account: FleetAccount = await until(closed, "both are in the books")
        last = await books(made.link)
        problems = [spending.add_up(await ledger.read(made.link, run)).problems for run in RUNS]
    assert found.most <= LIMIT
    assert last.most <= LIMIT + 4_000_000
    assert problems == [[], []]
    assert (account.shares, last.held, account.closed["microusd"]) == ({}, 0, last.spent)
