"""Serving calls: the queue, slots, reentrancy, early replies, activities and implicit tasks."""

import asyncio

import anyio
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import PeerGone, Refused
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import open_crew


class Gate:
    """A handler that holds each call until it is let through, and counts how many it has inside."""

    def __init__(self) -> None:
        self.order: list = []
        self.inside = 0
        self.most = 0
        self._permits = anyio.Semaphore(0)

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._permits.release()

    async def __call__(self, request):
        self.order.append(request.body)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._permits.acquire()
        finally:
            self.inside -= 1
        return request.body


@two_buses
async def test_calls_start_in_order_within_the_slots(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", concurrency=2) as (a, b):
        gate = Gate()
        b.serve()(gate)
        calls = [await a.call("b", number) for number in range(6)]
        await crew.double.wait("b", m.CallStarted, 2)
        await until(lambda: len(b._membership.serving.queued()) == 4, "four are queued")
        assert b._membership.serving.queued() == tuple(call.id for call in calls[2:])
        beat = await crew.double.probe("b")
        assert beat.queued == tuple(call.id for call in calls[2:])
        assert {task.call for task in beat.tasks} == {call.id for call in calls[:2]}
        assert all(task.slot and task.caller == "a" for task in beat.tasks)
        gate.let(6)
        assert [await call.answer(90) for call in calls] == list(range(6))
        assert gate.order == list(range(6))
        assert gate.most == 2
        started = [each.call for each in (await crew.double.told("b", m.CallStarted))]
        assert started == [call.id for call in calls]


@two_buses
async def test_full_queue_refuses(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a") as (a,),
        await crew.member("b", mailbox=1) as b,
    ):
        gate = Gate()
        b.serve()(gate)
        first, second, third = [await a.call("b", number) for number in range(3)]
        with pytest.raises(Refused) as refused:
            await third.answer(90)
        assert refused.value.reason == "queue_full"
        gate.let(2)
        assert [await first.answer(90), await second.answer(90)] == [0, 1]


@two_buses
async def test_no_mailbox_still_takes_what_can_start(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a") as (a,),
        await crew.member("b", mailbox=0) as b,
    ):
        gate = Gate()
        b.serve()(gate)
        first = await a.call("b", 1)
        with pytest.raises(Refused):
            await a.ask("b", 2, timeout_s=90)
        gate.let()
        assert await first.answer(90) == 1


async def call_back(crew, reentrant):
    """`a` serves `ask` by asking `b`, whose handler asks `a` back; a's answer to that, or what b is told."""
    async with (
        crew.joined("a", concurrency=1, reentrant=reentrant) as (a,),
        crew.joined("b", "c") as (b, c),
    ):

        @a.serve()
        async def outer(request):
            return await a.ask("b", timeout_s=90)

        @a.serve("back")
        async def back(request):
            return list(request.chain)

        @b.serve()
        async def inner(request):
            return await b.ask("a", verb="back", timeout_s=None if reentrant != "none" else 0.3)

        answer = await c.ask("a", timeout_s=90)
        requests = crew.double.sent("c", m.Request) + crew.double.sent("a", m.Request)
        return answer, [each.address.id for each in requests]


@two_buses
@pytest.mark.parametrize("reentrant", ["chain", "full"])
async def test_reentrant_agent_takes_a_call_that_descends_from_its_own(kind, tmp_path, reentrant):
    async with open_crew(kind, tmp_path) as crew:
        chain, ids = await call_back(crew, reentrant)
        assert chain == ids


@two_buses
async def test_chain_reentrant_agent_takes_a_call_it_makes_to_itself(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", concurrency=1, reentrant="chain") as (a,):

        @a.serve("back")
        async def back(_request):
            return "here"

        async with a.task("alone"):
            assert await a.ask("a", verb="back", timeout_s=90) == "here"


@two_buses
async def test_agent_that_is_not_reentrant_queues_it(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:
        with pytest.raises(Refused) as refused:
            await call_back(crew, "none")
        assert refused.value.reason == "timeout"


@two_buses
async def test_chain_reentrant_agent_queues_a_call_from_elsewhere(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a", reentrant="chain") as (a,),
        crew.joined("b", "c", "d") as (b, c, d),
    ):
        gate = Gate()
        b.serve()(gate)

        @a.serve()
        async def outer(request):
            return await a.ask("b", request.body)

        @d.serve()
        async def pass_on(request):
            return await d.ask("a", request.body)

        first = await c.call("a", 1)
        await crew.double.wait("b", m.CallStarted)
        second = await c.call("d", 2)
        request = await crew.double.wait("d", m.Request)
        assert request.chain == (second.id,)
        await until(lambda: len(a._membership.serving.queued()) == 1, "queued")
        gate.let(2)
        assert [await first.answer(90), await second.answer(90)] == [1, 2]


@two_buses
async def test_only_the_caller_can_cancel_a_call(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        b.serve()(gate := Gate())
        running, queued = await a.call("b", 1), await a.call("b", 2)
        await until(lambda: b._membership.serving.queued() == (queued.id,), "one runs, one is queued")
        for call in (running, queued):
            c._membership.outgoing.send(Kind.CANCEL, "b", call.id, m.Cancel)
        await until(lambda: b.dropped == 2, "both are dropped")
        gate.let(2)
        assert [await running.answer(90), await queued.answer(90)] == [1, 2]


@two_buses
async def test_the_supervisor_cancels_in_the_callers_stead(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        b.serve()(gate := Gate())
        c.serve()(never := Gate())

        @b.serve("onward")
        async def onward(request):
            await b.ask("c", None)

        running = await a.call("b", verb="onward")
        await crew.double.wait("c", m.CallStarted)
        queued = await a.call("b", 2)
        await until(lambda: b._membership.serving.queued() == (queued.id,), "one runs, one is queued")

        async def cancel(call, caller):
            cancel = m.SupervisorCancel(id=f"k-{call.id}", caller=caller, why="gone")
            await crew.double.publish(Kind.CANCEL, "b", call.id, cancel)

        await cancel(queued, "c")
        await until(lambda: b.dropped == 1, "a call that somebody else made is left alone")
        assert b._membership.serving.queued() == (queued.id,)
        await cancel(queued, "a")
        await cancel(running, "a")
        started = await crew.double.wait("b", m.CallStarted, call=running.id)
        await crew.double.wait("b", m.TaskEnded, task=started.task)
        await crew.double.wait("b", m.Cancel)
        assert b._membership.serving.queued() == ()
        assert (gate.most, never.most) == (0, 1)
        await running.cancel()
        await queued.cancel()


@two_buses
async def test_fully_reentrant_agent_has_no_limit(kind, tmp_path):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a") as (a,),
        crew.joined("b", reentrant="full") as (b,),
    ):
        gate = Gate()
        b.serve()(gate)
        calls = [await a.call("b", number) for number in range(5)]
        await crew.double.wait("b", m.CallStarted, 5)
        gate.let(5)
        assert sorted([await call.answer(90) for call in calls]) == list(range(5))
        assert gate.most == 5


@two_buses
async def test_early_reply_leaves_the_handler_its_task(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve("slow")(gate := Gate())
        twice = []

        @b.serve()
        async def early(request):
            await request.reply("soon")
            try:
                await request.reply("again")
            except RuntimeError as error:
                twice.append(str(error))
            await request.progress("nobody hears")
            return await b.ask("b2")

        assert await a.ask("b") == "soon"
        started = await crew.double.wait("b", m.CallStarted)
        wait = await crew.double.wait("b", m.WaitBegan, task=started.task)
        beat = await crew.double.probe("b")
        assert [(task.task, task.call, task.slot) for task in beat.tasks] == [(started.task, "", True)]
        queued = await a.call("b", verb="slow")
        await until(lambda: b._membership.serving.queued() == (queued.id,), "the slot is still taken")
        await crew.double.break_wait("b", wait)
        await crew.double.wait("b", m.TaskEnded, task=started.task)
        gate.let()
        await queued.answer(90)
        assert [reply.early for reply in (await crew.double.told("b", m.Reply))] == [True, False]
        assert len(twice) == 1
        assert not (await crew.double.told("b", m.CallProgress))


@two_buses
async def test_activities_and_handlers_share_the_slots(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(gate := Gate())
        gate.let(1)
        entered = anyio.Event()
        async with b.task("write report") as task:
            began = await crew.double.wait("b", m.TaskBegan)
            assert (began.task, began.name, began.slot) == (task.id, "write report", True)
            call = await a.call("b", 1)
            await until(lambda: b._membership.serving.queued() == (call.id,), "the call is queued")

            async def second() -> None:
                async with b.task("second"):
                    entered.set()

            async with anyio.create_task_group() as group:
                group.start_soon(second)
                await until(lambda: len(b._membership.slots._line) == 2, "the activity is in line")
                assert not entered.is_set()
                group.cancel_scope.cancel()
        assert await call.answer(90) == 1
        assert not entered.is_set()
        async with b.task("third"):
            pass
        await crew.double.wait("b", m.TaskEnded, 2)
        assert [each.name for each in (await crew.double.told("b", m.TaskBegan))] == ["write report", "third"]


@two_buses
async def test_one_asyncio_task_has_one_activity(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", concurrency=2) as (a,), a.task("outer"):
        with pytest.raises(Refused) as refused:
            async with a.task("inner"):
                pass
        assert refused.value.reason == "nested_task"


@two_buses
async def test_implicit_task_begins_at_the_first_wait_and_ends_with_its_asyncio_task(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):

        @b.serve()
        async def echo(request):
            return request.body

        async def work() -> None:
            await a.ask("b", 1)
            await a.ask("b", 2)

        assert not (await crew.double.told("a", m.TaskBegan))
        await asyncio.create_task(work(), name="side work")
        began = await crew.double.wait("a", m.TaskBegan)
        assert (began.name, began.slot) == ("side work", False)
        ended = await crew.double.wait("a", m.TaskEnded)
        assert ended.task == began.task
        assert {each.task for each in (await crew.double.told("a", m.Request))} == {began.task}


@two_buses
async def test_calls_of_a_cancelled_asyncio_task_are_cancelled(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(Gate())

        async def work() -> None:
            await a.call("b")
            await anyio.sleep_forever()

        work_task = asyncio.create_task(work())
        started = await crew.double.wait("b", m.CallStarted)
        work_task.cancel()
        await crew.double.wait("b", m.TaskEnded, task=started.task)
        await crew.double.wait("a", m.TaskEnded)


@two_buses
async def test_implicit_task_ends_where_a_declared_one_begins(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        await a.tell("b", 1)
        implicit = await crew.double.wait("a", m.TaskBegan)
        async with a.task("declared"):
            await crew.double.wait("a", m.TaskEnded, task=implicit.task)
        await a.tell("b", 2)
        await crew.double.wait("a", m.TaskBegan, 3)


@two_buses
async def test_children_of_a_handler_wait_as_tasks_of_their_own(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve("leaf")(gate := Gate())

        @b.serve()
        async def fork(request):
            async with anyio.create_task_group() as group:
                group.start_soon(b.ask, "c")
                group.start_soon(b.ask, "c")
            return "done"

        call = await a.call("b")
        waits = [await crew.double.wait("b", m.WaitBegan, count) for count in (1, 2)]
        handler = (await crew.double.wait("b", m.CallStarted)).task
        assert len({wait.task for wait in waits} | {handler}) == 3
        assert all(each.chain == (call.id,) for each in (await crew.double.told("b", m.Request)))
        beat = await crew.double.probe("b")
        assert {task.task: task.slot for task in beat.tasks} == {
            handler: True,
            waits[0].task: False,
            waits[1].task: False,
        }
        for request in crew.double.sent("b", m.Request):
            await crew.double.answer("b", request.address.id, body=codec.encode_body(1))
        assert await call.answer(90) == "done"
        assert gate.order == []


@two_buses
async def test_call_of_a_failed_handler_is_cancelled(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        c.serve()(Gate())

        @b.serve()
        async def leaves_a_call(request):
            await b.call("c")
            raise ValueError("and fails")

        with pytest.raises(Refused):
            await a.ask("b")
        await crew.double.wait("b", m.Cancel)
        await crew.double.wait("c", m.CallStarted)
        await crew.double.wait("c", m.TaskEnded)


@two_buses
async def test_agent_that_leaves_answers_for_its_open_calls(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        async with crew.joined("b") as (b,):
            b.serve()(Gate())
            running, queued = await a.call("b"), await a.call("b")
            await until(lambda: b._membership.serving.queued(), "one runs, one is queued")
        for call in (running, queued):
            with pytest.raises(PeerGone):
                await call.answer(90)


@two_buses
async def test_agent_that_leaves_gives_its_own_calls_up(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("b") as (b,):
        b.serve()(Gate())
        async with crew.joined("a") as (a,):
            await a.call("b")
            started = await crew.double.wait("b", m.CallStarted)
        await crew.double.wait("b", m.TaskEnded, task=started.task)
        assert len(await crew.double.told("a", m.Cancel)) == 1


@two_buses
async def test_call_delivered_twice_runs_once(kind, tmp_path):
    async with open_crew(kind, tmp_path, check=False) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(gate := Gate())
        gate.let(5)
        assert await a.ask("b", 1) == 1
        address, request = crew.double.sent("a", m.Request)[0]
        await crew.double.publish(Kind.REQ, "b", address.id, request, sender="a")
        await until(lambda: b.dropped, "dropped")
        assert await a.ask("b", 2) == 2
        assert gate.order == [1, 2]


@two_buses
async def test_handler_is_registered_once(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        a.serve()(Gate())
        with pytest.raises(ValueError, match="handler already"):
            a.serve()(Gate())
