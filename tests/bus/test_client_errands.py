"""Errands: what a framework's own asyncio tasks wait for is one wait of the handler or activity they work for."""

import asyncio

import anyio
import pytest
from msgspec import Raw

from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import Killed, WouldDeadlock
from support.bus import two_buses, until
from support.crew import open_crew


async def ask(client, to, body):
    """A tool as a framework runs it: in a task of its own."""
    async with client.errand():
        return await client.ask(to, body)


async def answer(crew, count):
    """Answer the newest of so many calls of `a`, with the callee's name."""
    await crew.double.wait("a", m.Request, count)
    address, _ = crew.double.sent("a", m.Request)[count - 1]
    await crew.double.answer("a", address.id, body=Raw(b'"done"'))


@two_buses
async def test_the_wait_of_a_child_is_the_wait_of_its_task(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):
        child = asyncio.create_task(ask(a, "x", 1))
        wait = await crew.double.wait("a", m.WaitBegan)
        (began,) = await crew.double.told("a", m.TaskBegan)
        ((address, request),) = crew.double.sent("a", m.Request)
        assert began.name == "work"
        assert wait.task == request.task == began.task
        assert wait.condition == m.OnCall(call=address.id)
        (told,) = (await crew.double.probe("a")).tasks
        assert (told.task, told.slot, told.wait.condition) == (began.task, True, wait.condition)
        await crew.double.break_wait("a", wait)
        with pytest.raises(WouldDeadlock):
            await child
        assert await crew.double.outcomes("a", 1) == ["broken"]
        assert [each.wait for each in (await crew.double.probe("a")).tasks] == [None]


@two_buses
async def test_a_task_waits_for_any_of_its_errands_once_all_of_them_wait(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):
        at_work = anyio.Event()

        async def busy():
            async with a.errand():
                await at_work.wait()
                return await a.ask("y", 2)

        children = asyncio.gather(ask(a, "x", 1), busy())
        await crew.double.wait("a", m.Request, 1)
        assert await crew.double.told("a", m.WaitBegan) == [], "one of them does something else"
        at_work.set()
        wait = await crew.double.wait("a", m.WaitBegan)
        calls = [address.id for address, _ in crew.double.sent("a", m.Request)]
        assert wait.condition == m.OnSome(k=1, of=tuple(m.OnCall(call=call) for call in calls))
        await crew.double.answer("a", calls[0], body=Raw(b'"done"'))
        rest = await crew.double.wait("a", m.WaitBegan, 2)
        assert rest.condition == m.OnCall(call=calls[1])
        await crew.double.break_wait("a", rest)
        with pytest.raises(WouldDeadlock):
            await children
        assert await crew.double.outcomes("a", 2) == ["met", "broken"]


@two_buses
async def test_what_an_errand_no_longer_waits_for_is_no_part_of_the_next_wait(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        async def either():
            async with a.errand():
                return await a.ask_any([("x", 1), ("y", 2)])

        children = [asyncio.create_task(either())]
        await crew.double.wait("a", m.WaitBegan)
        children.append(asyncio.create_task(ask(a, "z", 3)))
        await crew.double.wait("a", m.Request, 3)
        x, y, z = (address.id for address, _ in crew.double.sent("a", m.Request))
        await crew.double.wait("a", m.WaitBegan, 2)
        await crew.double.answer("a", x, error=m.Fault(code="refused", text="no"))
        left = m.OnSome(k=1, of=(m.OnCall(call=y), m.OnCall(call=z)))
        await until(lambda: a._membership.tasks.bound().wait.condition == left, "a wait for what is left")
        (told,) = (await crew.double.probe("a")).tasks
        assert (told.wait.epoch, told.wait.condition) == (2, left)
        await crew.double.answer("a", z, body=Raw(b'"done"'))
        rest = await crew.double.wait("a", m.WaitBegan, 3)
        assert rest.condition == m.OnCall(call=y)
        await crew.double.answer("a", y, body=Raw(b'"done"'))
        assert await asyncio.gather(*children) == [("y", "done"), "done"]


@two_buses
async def test_errands_within_errands_and_a_wait_of_the_task_itself(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        async def outer():
            async with a.errand():
                return await asyncio.create_task(ask(a, "x", 1))

        child = asyncio.create_task(outer())
        wait = await crew.double.wait("a", m.WaitBegan)
        assert isinstance(wait.condition, m.OnCall)
        async with a.errand():  # in the task's own code it changes nothing
            with pytest.raises(TimeoutError):
                await a.receive(timeout_s=0.01)
        own = await crew.double.wait("a", m.WaitBegan, 2)
        assert isinstance(own.condition, m.OnMessage)
        again = await crew.double.wait("a", m.WaitBegan, 3)
        assert again.condition == wait.condition
        await answer(crew, 1)
        assert await child == "done"
        assert await crew.double.outcomes("a", 3) == ["met", "timeout", "met"]


@two_buses
async def test_what_outlives_its_task_is_a_task_of_its_own(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        late = anyio.Event()

        async def outlives():
            async with a.errand():
                with pytest.raises(WouldDeadlock):
                    await a.ask("x", 1)
                await late.wait()
                return await a.ask("y", 2)

        async with a.task("work"):
            child = asyncio.create_task(outlives())
            first = await crew.double.wait("a", m.WaitBegan)
            await crew.double.break_wait("a", first)
            await crew.double.wait("a", m.WaitEnded)
            left = asyncio.create_task(ask(a, "x", 3))
            await crew.double.wait("a", m.Request, 2)
        late.set()
        wait = await crew.double.wait("a", m.Request, 3)
        assert wait.task != first.task
        await answer(crew, 3)
        assert await child == "done"
        await answer(crew, 2)
        assert await left == "done"


async def test_a_stop_fails_errands_that_are_not_seen_to_wait(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):
        held = anyio.Event()

        async def busy():
            async with a.errand():
                await held.wait()

        children = [asyncio.create_task(ask(a, "x", 1)), asyncio.create_task(busy())]
        await until(lambda: len(a._membership.tasks.bound().parts) == 2, "two errands")
        await crew.double.wait("a", m.Request)
        a.stop("enough")
        with pytest.raises(Killed):
            await children[0]
        held.set()
        await children[1]
        assert await crew.double.told("a", m.WaitBegan) == []
