"""The audit of the spenders' ledger sees it when what keeps to the budget is switched off."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.messages import Joined
from crewkeeper_supervisor.core import budget
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import controller, journal, ledger
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.lease import Lease
from crewkeeper_supervisor.shell.ledger import Ledger
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from support.bus import until
from support.cluster import cluster
from support.spenders import RESERVE, Audit, audit

pytestmark = pytest.mark.live
RUN = "r1"
CALLS = [f"c{number}" for number in range(20)]
FIT = 5
FAST = Settings(lease_ttl_s=1)
Serving = Callable[[str], Any]


@contextlib.asynccontextmanager
async def spender(folder: Path) -> AsyncIterator[tuple[Link, Serving]]:
    """An agent on a real server asks for twenty calls where five fit; yields a link and what serves as a controller."""
    with cluster(folder, 1) as servers:
        place = Place.of(folder, servers.credentials("_supervisor"))
        async with connect(place, name="test") as link:
            registry = Registry(link)
            await registry.open()
            pay = Tool(inside=True, schema={"type": "object"}, cost_microusd=RESERVE, concurrency=100)
            agent = Agent(name="a", tools=("pay",), external=True)
            declared = Crew(name="shop", agents=(agent,), tools={"pay": pay}, budget=Budget(microusd=FIT * RESERVE))
            await journal.create_run(link, RUN, declared, "here")
            await registry.declare(RUN, "shop", "here")
            joined = Joined(inc="i1", seq=1, role="a", heartbeat_s=300)
            await journal.publish(link, f"crew.{RUN}.note.a._.j", codec.encode(joined))
            for seq, call in enumerate(CALLS, start=2):
                asked = t.ToolCall(inc="i1", seq=seq, task="t", tool="pay", args=msgspec.Raw(b"{}"), inside=True)
                await journal.publish(link, f"crew.{RUN}.tool.a._.{call}", codec.encode(asked))
            yield link, lambda name: serving(place, name)


@contextlib.asynccontextmanager
async def serving(place: Place, name: str) -> AsyncIterator[None]:
    """A controller for as long as the block lasts."""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(place, name, settings=FAST))
        yield
        group.cancel_scope.cancel()


async def decided(link: Link) -> Audit:
    """The books, once every call is granted or refused."""

    async def all_are() -> Audit | None:
        found = audit(await ledger.read(link, RUN))
        return found if found.grants + len(found.refused) >= len(CALLS) else None

    await until(lambda: has_ledger(link), "there is a ledger")
    found: Audit = await until(all_are, "every call is decided")
    return found


async def has_ledger(link: Link) -> bool:
    return await link.last(ledger.STREAM, f"ledger.{RUN}") is not None


@pytest.mark.parametrize("reserving", [True, False])
async def test_grants_without_reservations_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserving: bool
) -> None:
    if not reserving:
        for name in ("hold", "free"):
            monkeypatch.setattr(budget.Account, name, lambda account, amounts: None)
    async with spender(tmp_path) as (link, serve), serve("one"):
        found = await decided(link)
    assert found.grants == (FIT if reserving else len(CALLS))
    assert (found.problems == []) is reserving
    assert all("held are above" in problem for problem in found.problems)


class Asleep:
    """An owner that stands still after it has decided and before it records that, and thinks that no time went by."""

    def __init__(self, name: str, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.awake, self.done = anyio.Event(), anyio.Event(), anyio.Event()
        commit, keep, check = Ledger._commit, Lease.keep, Lease.check

        async def commit_late(writing: Ledger, batch: Sequence[ledger.Record]) -> None:
            if writing._owner != name or batch[0].kind == "Owner":
                return await commit(writing, list(batch))
            self.reached.set()
            await self.awake.wait()
            try:
                return await commit(writing, list(batch))
            finally:
                self.done.set()

        async def never_renew(lease: Lease) -> None:
            await (anyio.sleep_forever() if lease._holder.owner == name else keep(lease))

        def believe(lease: Lease) -> None:
            if lease._holder.owner != name:
                check(lease)

        patch.setattr(Ledger, "_commit", commit_late)
        patch.setattr(Lease, "keep", never_renew)
        patch.setattr(Lease, "check", believe)


def unfence(patch: pytest.MonkeyPatch) -> None:
    """Let the ledger be written whoever has written to it before."""
    store = Link.store

    async def store_anyway(link: Link, subject: str, payload: bytes, **options: Any) -> int:
        if subject.startswith("ledger."):
            options.pop("expected_last", None)
        return await store(link, subject, payload, **options)

    patch.setattr(Link, "store", store_anyway)


@pytest.mark.parametrize("fenced", [True, False])
async def test_an_owner_that_writes_late_is_seen_unless_it_is_fenced_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fenced: bool
) -> None:
    asleep = Asleep("one", monkeypatch)
    if not fenced:
        unfence(monkeypatch)
    async with spender(tmp_path) as (link, serve), serve("one"):
        with anyio.fail_after(120):
            await asleep.reached.wait()
        async with serve("two"):
            before = await decided(link)
            assert (before.grants, before.problems) == (FIT, [])
            asleep.awake.set()
            with anyio.fail_after(120):
                await asleep.done.wait()
            records = await ledger.read(link, RUN)
    found = audit(records)
    assert (found.problems == []) is fenced
    assert (ledger.verify(records) == []) is fenced
    twice = [problem for problem in found.problems if "granted twice" in problem]
    assert len(twice) == (0 if fenced else FIT)
