"""Answers of the gate that are delivered before the journal has them: recorded first, said twice, granted once."""

import contextlib
import subprocess
import sysconfig
from pathlib import Path

import anyio
import pytest
from msgspec import Raw
from nats_process import linked, until

import crewkeeper_bus as bus
from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.errors import ToolLost
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.subjects import SUPERVISOR, Kind, parse
from crewkeeper_supervisor.core.booking import Booking
from crewkeeper_supervisor.core.commands import AnswerCall, SetAccess, TellAgent
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import controller, journal, ledger, owner, spending
from crewkeeper_supervisor.shell.ahead import Ahead
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.effects import Effects
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry

RUN = "r1"
FAST = Settings(lease_ttl_s=30, retries_s=(0.01,), timing=owner.Timing(resend_s=30.0, ended_s=1))
PAY = Tool(inside=True, schema={"type": "object"}, cost_microusd=1_000_000, concurrency=100)
BOOKED = Booking(act="reserve", agent="a", call="c1")


# --- which ---


def answer(id_, agent="a", **fields):
    return AnswerCall(id=id_, agent=agent, call="c1", **({"booking": BOOKED} | fields))


def test_an_answer_overtakes_nothing_that_its_agent_has_not_been_sent():
    ahead, pause = Ahead(), TellAgent(id="5-0", agent="a", message=m.Pause(id="5-0", term=1), durable=True)
    assert ahead.admits(answer("4-0"), {"4-0"}, fresh=True)
    assert not ahead.admits(pause, {"5-0"}, fresh=True)
    pending = {"5-0", "6-0", "7-0"}
    assert not ahead.admits(answer("6-0"), pending, fresh=True)
    assert ahead.admits(answer("7-0", "b"), pending, fresh=True)
    assert not ahead.admits(answer("8-0"), {"6-0", "8-0"}, fresh=True), "the pause shows, the answer behind it does not"
    assert ahead.admits(answer("9-0"), {"9-0"}, fresh=True), "everything shows"


def test_while_the_server_is_told_to_hold_or_end_an_agent_its_answers_wait_for_the_journal():
    ahead, kill = Ahead(), SetAccess(id="5-0", agent="a", state="killed", why="w")
    assert not ahead.admits(kill, {"5-0"}, fresh=True)
    assert not ahead.admits(answer("6-0"), {"5-0", "6-0"}, fresh=True)


def test_only_answers_of_the_gate_and_only_when_they_are_new():
    assert not Ahead().admits(answer("4-0", booking=None), {"4-0"}, fresh=True)
    assert not Ahead().admits(answer("4-0"), {"4-0"}, fresh=False)


# --- on a real server ---


@contextlib.asynccontextmanager
async def serving(server, name="one"):
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(server.place, name, settings=FAST))
        yield
        group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def spending_run(tmp_path):
    async with linked(tmp_path) as (server, link):
        registry = Registry(link)
        await registry.open()
        declared = Crew(name="shop", agents=(Agent(name="a", tools=("pay",), external=True),), tools={"pay": PAY})
        await journal.create_run(link, RUN, declared, "here")
        await registry.declare(RUN, "shop", "here")
        heard = []

        async def hear(msg):
            heard.append((parse(msg.subject), codec.decode_supervisor(Kind.REP, msg.data), bool(msg.headers)))

        await link.nc.subscribe(f"out.crew.{RUN}.rep._.a.*", cb=hear)
        await link.flush()
        yield server, link, heard


@contextlib.asynccontextmanager
async def agent(server):
    transport = await NatsTransport.open(credentials=lambda: server.place.credentials, name="a")
    async with bus.connect(server.url, run=RUN, agent="a", transport=transport) as client:
        yield client


async def begun(link):
    """The run is owned, and the agent was told to begin: nothing else is on its way to it."""

    async def told():
        return any(".ctl._.a." in entry.subject for entry in await journal.read_all(link, RUN))

    await until(told)


async def copies(link):
    """Answers of the gate in the journal."""
    found = []
    for entry in await journal.read_all(link, RUN):
        address = parse(entry.subject)
        if address.kind is Kind.REP and address.sender == SUPERVISOR:
            found.append(codec.decode_supervisor(Kind.REP, entry.payload))
    return found


async def grants(link):
    records = await ledger.read(link, RUN)
    assert ledger.verify(records) == []
    found = spending.add_up(records)
    assert found.problems == []
    return found.grants


@pytest.mark.live
async def test_an_answer_is_in_the_ledger_then_delivered_then_in_the_journal_and_obeyed_once(tmp_path, monkeypatch):
    recorded, send = [], Effects.carry_out

    async def looked_at(self, command, *args, **kwargs):
        if isinstance(command, AnswerCall):
            recorded.append(command.id in {record.id for record in await ledger.read(self._link, RUN)})
        await send(self, command, *args, **kwargs)

    monkeypatch.setattr(Effects, "carry_out", looked_at)
    async with spending_run(tmp_path) as (server, link, heard), serving(server), agent(server) as a:
        await begun(link)
        async with a.grant_tool("pay", {}, call_id="c1") as grant:
            grant.result = 1
        await until(lambda: len(heard) >= 4)
        granted = [(reply.id, stored) for _, reply, stored in heard if b"grant" in bytes(reply.body)]
        assert granted == [(granted[0][0], False), (granted[0][0], True)], "the answer, and its copy by the journal"
        assert granted[0][0] in [reply.id for reply in await copies(link)]
        assert a.dropped == 2, "nobody waits for what is said of a settlement, which comes twice, too"
        assert await grants(link) == {("a", "c1"): 1}
    assert recorded
    assert all(recorded)


def cut_short(monkeypatch):
    """Controllers die between an answer and its copy: nothing that follows an answer is sent. Returns the way back."""
    post = Link.post

    async def only_ahead(self, subject, payload):
        if subject.startswith("out."):
            await post(self, subject, payload)

    monkeypatch.setattr(Link, "post", only_ahead)
    return lambda: monkeypatch.setattr(Link, "post", post)


@pytest.mark.live
async def test_a_controller_that_dies_before_the_copy_loses_and_doubles_no_grant(tmp_path, monkeypatch):
    mend, entered, done = cut_short(monkeypatch), [], anyio.Event()

    async def spend(a):
        async with a.grant_tool("pay", {}, call_id="c1"):
            entered.append(True)
            await done.wait()

    async with spending_run(tmp_path) as (server, link, heard), agent(server) as a, anyio.create_task_group() as group:
        async with serving(server):
            await begun(link)
            group.start_soon(spend, a)
            await until(lambda: entered)
            assert [stored for _, _, stored in heard] == [False]
        assert await copies(link) == [], "it was granted, and the journal does not show it"
        mend()
        async with serving(server, "two"):
            await until(lambda: len(heard) >= 2)
            done.set()
            await until(lambda: len({reply.id for _, reply, _ in heard}) == 2)
            assert heard[0][1] == heard[1][1], "the same answer, under the same id"
            assert [reply.id for reply in await copies(link)].count(heard[0][1].id) == 1
        assert entered == [True]
        assert await grants(link) == {("a", "c1"): 1}


def clustered(server):
    """The same server once more, as one of a cluster."""
    names = {"--cluster_name": "c", "--cluster": "nats://127.0.0.1:-1", "-a": "127.0.0.1", "-p": str(server.port)}
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    words = [word for pair in names.items() for word in pair]
    server.process = subprocess.Popen([str(binary), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.live
async def test_on_a_cluster_answers_take_the_one_way_through_the_journal(tmp_path, monkeypatch):
    async with linked(tmp_path) as (server, alone):
        assert not alone.is_clustered
        server.stop()
        clustered(server)
        await until(lambda: alone.is_connected and alone.is_clustered)
    monkeypatch.setattr(Link, "is_clustered", True)
    async with spending_run(tmp_path) as (server, link, heard), agent(server) as a, serving(server):
        await begun(link)
        async with a.grant_tool("pay", {}, call_id="c1"):
            pass
        await until(lambda: len(heard) >= 2)
        assert all(stored for _, _, stored in heard)


@pytest.mark.live
async def test_what_was_granted_to_an_agent_that_died_is_not_granted_to_the_next(tmp_path, monkeypatch):
    mend = cut_short(monkeypatch)
    async with spending_run(tmp_path) as (server, link, heard):
        async with serving(server):
            joined = m.Joined(inc="first", seq=1, role="a", heartbeat_s=300)
            await journal.publish(link, f"crew.{RUN}.note.a._.j", codec.encode(joined))
            await begun(link)
            call = t.ToolCall(inc="first", seq=2, task="t", tool="pay", args=Raw(b"{}"), inside=True)
            await journal.publish(link, f"crew.{RUN}.tool.a._.c1", codec.encode(call))
            await until(lambda: heard)
        assert (heard[0][1].inc, heard[0][1].error) == ("first", None)
        assert await copies(link) == []
        mend()
        async with agent(server) as second, anyio.create_task_group() as group:
            lost = []

            async def ask():
                with pytest.raises(ToolLost):
                    async with second.grant_tool("pay", {}, call_id="c1"):
                        raise AssertionError("granted twice")
                lost.append(True)

            group.start_soon(ask)
            await until(lambda: asked_twice(link))
            async with serving(server, "two"):
                await until(lambda: lost)
        assert heard[1][1] == heard[0][1], "it is sent again all the same: the first may be alive"
        assert await grants(link) == {("a", "c1"): 1}


async def asked_twice(link):
    asked = [entry for entry in await journal.read_all(link, RUN) if ".tool." in entry.subject]
    return len([entry for entry in asked if isinstance(codec.decode_agent(Kind.TOOL, entry.payload), t.ToolCall)]) >= 2
