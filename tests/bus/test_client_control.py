"""Obeying the supervisor: break, probe, pause, resume, stop, and who is believed."""

import asyncio

import anyio
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import Killed, Paused, PeerGone, Timeout, WouldDeadlock
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import open_crew


async def never(request):
    await anyio.sleep_forever()


async def echo(request):
    return request.body


@two_buses
async def test_ready_returns_at_the_beginning(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, await crew.member("a", "scribe", concurrency=3, mailbox=7) as a:
        with pytest.raises(Timeout):
            await a.ready(timeout_s=0.05)
        await crew.begin(a)
        assert a.peers == ("x", "y")
        joined = await crew.double.wait("a", m.Joined)
        assert (joined.seq, joined.inc, joined.role) == (1, a.incarnation, "scribe")
        assert (joined.concurrency, joined.mailbox, joined.heartbeat_s) == (3, 7, 60.0)
        assert joined.pid > 0
        assert (a.agent, a.run, a.role) == ("a", "r1", "scribe")


@two_buses
async def test_broken_wait_raises_once_and_the_task_goes_on(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", concurrency=2) as (a, b):
        b.serve("hang")(never)
        b.serve()(echo)
        seen: list = []

        async def work() -> None:
            try:
                await a.ask("b", verb="hang")
            except WouldDeadlock as error:
                seen.append((str(error), error.path, error.finding, error.retry_after_s))
            seen.append(await a.ask("b", "fallback"))

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            wait = await crew.double.wait("a", m.WaitBegan)
            command = await crew.double.break_wait("a", wait)
            await crew.double.break_wait("a", wait)
            await crew.double.break_wait("a", wait, id=command)
        assert seen == [("a ring of waits", ("a waits for b",), "F1", 1.5), "fallback"]
        assert await crew.double.outcomes("a", 2) == ["broken", "met"]
        assert len(await crew.double.told("a", m.Cancel)) == 1


@two_buses
async def test_break_of_another_epoch_or_task_is_ignored(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        release = anyio.Event()

        @b.serve()
        async def later(request):
            await release.wait()
            return "answer"

        answers: list = []

        async def ask() -> None:
            answers.append(await a.ask("b"))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            wait = await crew.double.wait("a", m.WaitBegan)
            why = {"finding": "F", "why": "stale"}
            await crew.double.command("a", m.Break, task=wait.task, epoch=wait.epoch + 1, **why)
            await crew.double.command("a", m.Break, task="other", epoch=wait.epoch, **why)
            await crew.double.probe("a")
            release.set()
        assert answers == ["answer"]
        await crew.double.break_wait("a", wait)
        await crew.double.probe("a")
        assert await crew.double.outcomes("a", 1) == ["met"]


@two_buses
async def test_commands_of_an_old_term_and_of_strangers_are_ignored(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        await crew.double.command("a", m.Probe, nonce="new", term=5)
        await crew.double.wait("a", m.Heartbeat, nonce="new")
        await crew.double.command("a", m.Pause, term=4)
        await crew.double.publish(Kind.CTL, "a", "x", m.Pause(id="forged", term=5), sender="b")
        await crew.double.publish(Kind.CTL, "a", "x", m.StopProcess(id="host", agent="a", term=5))
        await until(lambda: a.dropped == 3, "all dropped")
        assert a._membership.dropped == {"stranger": 1, "unexpected": 2}
        await crew.double.command("a", m.Probe, nonce="again", term=5)
        assert (await crew.double.wait("a", m.Heartbeat, nonce="again")).state == "running"
        await a.checkpoint(wait=False)


@two_buses
async def test_command_is_obeyed_once(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        await crew.double.command("a", m.Pause, id="p1")
        await crew.double.command("a", m.Resume)
        await crew.double.command("a", m.Pause, id="p1")
        assert (await crew.double.probe("a")).state == "running"
        await a.checkpoint(wait=False)
        assert [each.state for each in (await crew.double.told("a", m.Standing))] == ["paused", "running"]


@two_buses
async def test_pause_of_an_idle_agent_stands_at_once_and_holds_what_comes(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(echo)
        await crew.double.command("b", m.Pause, why="budget")
        assert (await crew.double.wait("b", m.Standing)).state == "paused"
        call = await a.call("b", 1)
        await until(lambda: b._membership.serving.queued() == (call.id,), "held in the queue")
        beat = await crew.double.probe("b")
        assert (beat.state, beat.queued) == ("paused", (call.id,))
        with pytest.raises(Paused, match="budget"):
            await b.checkpoint(wait=False)
        assert not (await crew.double.told("b", m.CallStarted))
        await crew.double.command("b", m.Resume)
        assert await call.answer(90) == 1
        assert [each.state for each in (await crew.double.told("b", m.Standing))] == ["paused", "running"]


@two_buses
@pytest.mark.parametrize("reentrant", ["full", "chain"])
async def test_paused_reentrant_agent_holds_calls_too(kind, tmp_path, reentrant):
    async with (
        open_crew(kind, tmp_path) as crew,
        crew.joined("a") as (a,),
        crew.joined("b", reentrant=reentrant) as (b,),
    ):
        b.serve()(echo)
        await crew.double.command("b", m.Pause)
        await crew.double.wait("b", m.Standing)
        call = await a.call("b", 1)
        await until(lambda: b._membership.serving.queued() == (call.id,), "held")
        await crew.double.command("b", m.Resume)
        assert await call.answer(90) == 1


@two_buses
async def test_pause_holds_a_running_task_at_its_next_checkpoint(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        b.serve()(echo)
        at_work = anyio.Event()
        steps: list[str] = []

        async def work() -> None:
            async with a.task("work"):
                steps.append("works")
                await at_work.wait()
                await a.ask("b")
                steps.append("asked")

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await until(lambda: steps, "at work")
            await crew.double.command("a", m.Pause)
            assert (await crew.double.probe("a")).state == "running"
            assert not (await crew.double.told("a", m.Standing))
            at_work.set()
            await crew.double.wait("a", m.Standing)
            assert not (await crew.double.told("a", m.Request))
            assert (await crew.double.probe("a")).state == "paused"
            await crew.double.command("a", m.Pause)
            await crew.double.command("a", m.Resume)
        assert steps == ["works", "asked"]
        await crew.double.wait("a", m.Standing, 2)
        assert [each.state for each in (await crew.double.told("a", m.Standing))] == ["paused", "running"]


@two_buses
async def test_replies_come_in_while_paused(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        release = anyio.Event()

        @b.serve()
        async def later(request):
            await release.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(a.ask, "b")
            await crew.double.wait("a", m.WaitBegan)
            await crew.double.command("a", m.Pause)
            await crew.double.wait("a", m.Standing)
            release.set()
            assert (await crew.double.wait("a", m.WaitEnded)).outcome == "met"


@two_buses
async def test_stop_fails_waits_and_leaves(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("b") as (b,):
        b.serve()(never)
        after: list[str] = []

        async def agent() -> None:
            async with await crew.member("a") as a:
                await crew.begin(a)
                try:
                    await a.ask("b")
                except Killed as error:
                    after.append(str(error))
                for refused in (a.checkpoint, lambda: a.tell("b"), a.receive, lambda: a.sleep(1)):
                    with pytest.raises(Killed):
                        await refused()
                assert a.is_stopped
                await a.run_forever()
            after.append("left")

        async with anyio.create_task_group() as group:
            group.start_soon(agent)
            await crew.double.wait("a", m.WaitBegan)
            await crew.double.command("a", m.Stop, why="over budget")
        assert after == ["the supervisor stopped this agent: over budget", "left"]
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "killed"
        left = await crew.double.wait("a", m.Left)
        assert left.done is False
        assert "over budget" in left.why
        assert await crew.double.told("a", m.Cancel)


@two_buses
async def test_stop_gives_handlers_their_grace_and_then_cancels_them(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):

        async def agent() -> None:
            async with await crew.member("b", concurrency=2) as b:

                @b.serve("finish")
                async def finish(request):
                    await until(lambda: b.is_stopped, "stopped")
                    return "finished"

                b.serve("hang")(never)
                await b.run_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(agent)
            await crew.double.wait("b", m.Joined)
            finishes, hangs = await a.call("b", verb="finish"), await a.call("b", verb="hang")
            await crew.double.wait("b", m.CallStarted, 2)
            queued = await a.call("b", verb="hang")
            await crew.double.wait("a", m.Request, 3)
            await crew.double.probe("b")
            await crew.double.command("b", m.Stop, grace_s=0.3)
            assert await finishes.answer(90) == "finished"
            for call in (hangs, queued):
                with pytest.raises(PeerGone):
                    await call.answer(90)


@two_buses
async def test_code_that_only_serves_is_no_task(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:

        async def agent() -> None:
            async with await crew.member("a") as a:
                await a.tell("b", "hello")
                await a.run_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(agent)
            began = await crew.double.wait("a", m.TaskBegan)
            await crew.double.wait("a", m.TaskEnded, task=began.task)
            assert (await crew.double.probe("a")).tasks == ()
            await crew.double.command("a", m.Stop)


@two_buses
async def test_stop_ends_code_that_never_asks(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:
        ended: list[str] = []

        async def agent() -> None:
            async with await crew.member("a"):
                await anyio.sleep_forever()
            ended.append("after the block")

        async with anyio.create_task_group() as group:
            group.start_soon(agent)
            await crew.double.wait("a", m.Joined)
            await crew.double.command("a", m.Stop, grace_s=0.0)
        assert ended == ["after the block"]
        assert (await crew.double.wait("a", m.Left)).done is False


@two_buses
async def test_stop_reaches_an_agent_that_is_paused_or_waits_for_a_slot(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:
        outcomes: list[str] = []

        async def expect_killed(name, step) -> None:
            with pytest.raises(Killed):
                await step()
            outcomes.append(name)

        async with await crew.member("a") as a:
            await crew.begin(a)

            async def activity() -> None:
                async with a.task("second"):
                    pytest.fail("no slot was free")

            async with anyio.create_task_group() as group, a.task("first"):
                group.start_soon(expect_killed, "slot", activity)
                await until(lambda: len(a._membership.slots._line) == 1, "waits for a slot")
                await crew.double.command("a", m.Pause)
                await crew.double.probe("a")
                group.start_soon(expect_killed, "pause", a.checkpoint)
                await crew.double.wait("a", m.Standing)
                await crew.double.command("a", m.Stop)
        assert sorted(outcomes) == ["pause", "slot"]


@two_buses
async def test_one_that_is_cancelled_leaves_without_a_word(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, anyio.create_task_group() as group:

        async def agent() -> None:
            async with crew.joined("a"):
                await anyio.sleep_forever()

        group.start_soon(agent)
        await crew.double.wait("a", m.Joined)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            left = await crew.double.wait("a", m.Left)
            assert (left.done, left.why) == (False, "")


@two_buses
async def test_errors_of_the_author_leave_the_client_unchanged(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:
        with pytest.raises(LookupError, match="author"):
            async with crew.joined("a"):
                raise LookupError("the author's own")
        left = await crew.double.wait("a", m.Left)
        assert (left.done, left.why) == (False, "the author's own")


@two_buses
async def test_cancellation_from_outside_passes_through_the_client(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew:
        after: list[str] = []

        async def agent(name: str, started: anyio.Event) -> None:
            async with crew.joined(name):
                started.set()
                await anyio.sleep_forever()
            after.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(agent, "a", started := anyio.Event())
            await started.wait()
            group.cancel_scope.cancel()
        native = asyncio.create_task(agent("b", started := anyio.Event()))
        await started.wait()
        native.cancel()
        with pytest.raises(asyncio.CancelledError):
            await native
        assert after == []
        for name in ("a", "b"):
            assert (await crew.double.wait(name, m.Left)).done is False
