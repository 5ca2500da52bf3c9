"""The gate on a real server: grants in the ledger, owners that change, a store that is away, budgets by command."""

import contextlib
import json

import anyio
import msgspec
import pytest
from nats_process import linked, until

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind, parse
from crewkeeper_supervisor.cli.main import run as command
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import controller, journal, ledger, owner, spending
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.registry import Registry

pytestmark = pytest.mark.live
RUN = "r1"
FAST = Settings(lease_ttl_s=30, retries_s=(0.01,), timing=owner.Timing(resend_s=30.0, ended_s=1))
"""Nothing is sent again just because a slow machine shows its trace late."""
AGAIN = Settings(lease_ttl_s=30, retries_s=(0.01,), timing=owner.Timing(resend_s=0.2, ended_s=1))
PAY = Tool(inside=True, schema={"type": "object"}, cost_microusd=1_000_000, concurrency=100)


@contextlib.asynccontextmanager
async def serving(server, name="one", settings=FAST):
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(server.place, name, settings=settings))
        yield
        group.cancel_scope.cancel()


class Spender:
    """An agent that says what it likes, in the journal of a real server."""

    def __init__(self, link) -> None:
        self.link, self.seq = link, 0

    async def say(self, kind: str, type_: type, id_: str, **fields) -> None:
        self.seq += 1
        message = type_(inc="i1", seq=self.seq, **fields)
        await journal.publish(self.link, f"crew.{RUN}.{kind}.a._.{id_}", codec.encode(message))

    async def ask(self, *calls: str) -> None:
        for call in calls:
            await self.say("tool", t.ToolCall, call, task="t", tool="pay", args=msgspec.Raw(b"{}"), inside=True)

    async def answers(self) -> dict[str, list[m.SupervisorReply]]:
        found: dict[str, list[m.SupervisorReply]] = {}
        for entry in await journal.read_all(self.link, RUN):
            address = parse(entry.subject)
            if address.kind is Kind.REP and address.sender == SUPERVISOR:
                found.setdefault(address.id, []).append(codec.decode_supervisor(Kind.REP, entry.payload))
        return found

    async def answered(self, *calls: str) -> dict[str, list[m.SupervisorReply]]:
        async def all_are():
            found = await self.answers()
            return found if set(calls) <= set(found) else None

        return await until(all_are)


async def spender(link, **budget) -> Spender:
    registry = Registry(link)
    await registry.open()
    agent = Agent(name="a", tools=("pay",), external=True)
    declared = Crew(name="shop", agents=(agent,), tools={"pay": PAY}, budget=Budget(**budget))
    await journal.create_run(link, RUN, declared, "here")
    await registry.declare(RUN, "shop", "here")
    found = Spender(link)
    await found.say("note", m.Joined, "j", role="a", heartbeat_s=300)
    return found


def granted(answers) -> list[str]:
    return [call for call, replies in answers.items() if replies[0].error is None]


async def books(link):
    records = await ledger.read(link, RUN)
    assert ledger.verify(records) == []
    found = spending.add_up(records)
    assert found.problems == []
    return found


async def test_twenty_calls_of_a_dollar_under_five_are_five_and_the_ledger_says_so(tmp_path):
    async with linked(tmp_path) as (server, link):
        a = await spender(link, microusd=5_000_000)
        calls = [f"c{number}" for number in range(20)]
        async with serving(server):
            await a.ask(*calls)
            answers = await a.answered(*calls)
            assert granted(answers) == calls[:5]
            await a.say("tool", t.Settled, "c0", ok=True)
            await until(lambda: second_answer(a, "c0"))
        found = await books(link)
        assert list(found.grants.values()) == [1] * 5
        assert (found.refusals, found.ends) == (15, {("a", "c0"): 1})
        sums = found.total("crew", "microusd")
        assert (sums.spent, sums.held) == (1_000_000, 4_000_000)


async def second_answer(a, call):
    return len((await a.answers()).get(call, ())) > 1


async def test_another_owner_grants_what_is_left_and_nothing_twice(tmp_path):
    async with linked(tmp_path) as (server, link):
        a = await spender(link, microusd=3_000_000)
        async with serving(server):
            await a.ask("c0", "c1")
            await a.answered("c0", "c1")
        await a.ask("c0", "c2", "c3")
        async with serving(server, "two"):
            answers = await a.answered("c2", "c3")
        assert granted(answers) == ["c0", "c1", "c2"]
        found = await books(link)
        assert found.grants == {("a", f"c{number}"): 1 for number in range(3)}


async def test_nothing_is_granted_while_the_ledger_cannot_be_written(tmp_path, monkeypatch):
    commit, away, tries = ledger.Ledger.commit, [True], []

    async def flaky(self, commands):
        commands = list(commands)
        tries.append([each.id for each in commands])
        if away[0]:
            raise StoreUnavailable("away")
        await commit(self, commands)

    monkeypatch.setattr(ledger.Ledger, "commit", flaky)
    async with linked(tmp_path) as (server, link):
        a = await spender(link, microusd=2_000_000)
        async with serving(server, settings=AGAIN):
            await a.ask("c0", "c1")
            await until(lambda: owned(link))
            await a.say("note", m.Usage, "u", task="t", cost_microusd=5)
            await a.ask("c2")
            await until(lambda: len(tries) > 2 and len(tries[-1]) >= 3)
            assert await a.answers() == {}
            away[0] = False
            answers = await a.answered("c0", "c1", "c2")
        assert granted(answers) == ["c0", "c1"]
        found = await books(link)
        acts = [
            record.command["booking"]["call"] for record in await ledger.read(link, RUN) if "booking" in record.command
        ]
        assert acts == sorted(acts)
        assert found.total("crew", "microusd").spent == 5


async def owned(link):
    return any(b'"t":"owner"' in entry.payload for entry in await journal.read_all(link, RUN))


async def test_budgets_are_shown_and_changed_by_command(tmp_path, capsys, monkeypatch):
    async with linked(tmp_path) as (server, link):
        a = await spender(link, microusd=1_000_000, tool_calls=10)
        server.announce()
        monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
        monkeypatch.delenv("CREWKEEPER_NATS_URL", raising=False)

        async def act(*words: str) -> tuple[int, str, str]:
            code = await anyio.to_thread.run_sync(lambda: command(["budget", *words]))
            said = capsys.readouterr()
            return code, said.out, said.err

        async with serving(server):
            await a.ask("c0", "c1")
            await a.answered("c0", "c1")
            code, out, err = await act("show", RUN, "-o", "json")
            assert code == 0, err
            shown = json.loads(out)
            assert (code, shown["crew"]["microusd"]) == (
                0,
                {"limit": 1_000_000, "settled": 0, "held": 1_000_000, "over": 0},
            )
            assert shown["agents"]["a"]["tool_calls"] == {"limit": None, "settled": 0, "held": 1, "over": 0}
            assert shown["projection"]["microusd"]["per_hour"] == 0
            code, out, _ = await act("show", RUN)
            assert code == 0
            assert "$1.00" in out
            code, out, _ = await act("top-up", RUN, "usd=1.50")
            assert (code, "the crew: the limit is $2.50, $1.50 left" in out) == (0, True)
            await a.ask("c2")
            assert granted(await a.answered("c2")) == ["c0", "c2"]
            code, out, _ = await act("set", RUN, "usd=0.50", "--agent", "a")
            assert (code, "$2.00" in out, "less is spent" in out) == (0, True, True)
            assert (await act("set", RUN, "gold=1"))[0] == 2
            assert (await act("set", RUN, "usd=1e9"))[0] == 2
            assert (await act("top-up", RUN, "usd=1", "--agent", "nobody"))[0] == 5
        await journal.publish_op(link, RUN, m.RunEnded(state="done"), sender=HOST)
        assert (await act("top-up", RUN, "usd=1"))[0] == 1
