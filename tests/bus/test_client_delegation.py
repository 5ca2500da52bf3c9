"""Letting in a helper: what the client says, what it keeps to itself, what it returns."""

import hashlib

import anyio
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import ConfigError, Killed, Refused, SubjectError
from support.bus import RUN, two_buses
from support.crew import open_crew


async def test_only_the_digest_crosses_the_bus(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as tasks:
        got = []

        async def ask():
            async with a.task("part"):
                got.append(await a.delegate("helper", peers=("b",), tools=("search",), limit_s=60))

        tasks.start_soon(ask)
        asked = await crew.double.wait("a", m.Delegate)
        [(address, _)] = crew.double.sent("a", m.Delegate)
        began = await crew.double.wait("a", m.TaskBegan)
        assert (asked.agent, asked.peers, asked.tools, asked.limit_s) == ("helper", ("b",), ("search",), 60)
        assert asked.task == began.task
        await crew.double.answer("a", address.id)
    [credentials] = got
    token, _, secret = credentials.password.partition("-")
    assert credentials.user == f"{RUN}.helper"
    assert token == asked.token
    assert hashlib.sha256(secret.encode()).hexdigest() == asked.digest
    assert len(secret) >= 40
    for record in crew.bus.bus.records:
        assert secret.encode() not in record.payload
    assert secret not in repr(credentials)


@two_buses
async def test_a_refusal_says_why(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as tasks:

        async def refuse():
            await crew.double.wait("a", m.Delegate)
            [(address, _)] = crew.double.sent("a", m.Delegate)
            await crew.double.answer("a", address.id, error=m.Fault(code="too_much", text="a may not send to c"))

        tasks.start_soon(refuse)
        with pytest.raises(Refused, match="may not send to c") as caught:
            await a.delegate("helper", peers=("c",), limit_s=60)
        assert caught.value.reason == "too_much"


async def test_another_agent_cannot_answer_in_the_supervisors_stead(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "c") as (a, c):
        async with anyio.create_task_group() as tasks:
            got = []

            async def ask():
                got.append(await a.delegate("helper", limit_s=60))

            tasks.start_soon(ask)
            await crew.double.wait("a", m.Delegate)
            [(address, _)] = crew.double.sent("a", m.Delegate)
            c._membership.outgoing.send(m.Kind.REP, "a", address.id, m.Reply, body=codec.encode_body(None))
            await crew.double.told("c", m.Reply)
            await a.flush()
            assert not got
            await crew.double.answer("a", address.id)
        assert got


@two_buses
async def test_a_stop_ends_the_wait_for_an_answer(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), anyio.create_task_group() as tasks:

        async def stop():
            await crew.double.wait("a", m.Delegate)
            await crew.double.command("a", m.Stop, why="enough", grace_s=5.0)

        tasks.start_soon(stop)
        with pytest.raises(Killed, match="enough"):
            await a.delegate("helper", limit_s=60)


async def test_what_cannot_be_asked_for_is_refused_here(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):
        for limit_s in (0, -1, float("nan"), 1e12):
            with pytest.raises(ConfigError, match="limit_s"):
                await a.delegate("helper", limit_s=limit_s)
        for fields in ({"name": "_helper"}, {"name": "a.b"}, {"name": "h", "peers": (">",)}):
            with pytest.raises(SubjectError):
                await a.delegate(limit_s=5, **fields)
        assert not crew.double.all("a", m.Delegate)
