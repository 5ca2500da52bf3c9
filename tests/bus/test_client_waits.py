"""What a task can wait for besides calls: messages, locks, semaphores, people, time."""

import asyncio
import itertools

import anyio
import msgspec
import pytest

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.errors import CodecError, ConfigError, PeerGone, Refused, SubjectError, Timeout, WouldDeadlock
from crewkeeper_bus.grants import resource_token
from crewkeeper_bus.subjects import Kind
from support.bus import two_buses, until
from support.crew import open_crew


@two_buses
async def test_messages_are_taken_oldest_first(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, _b, c):
        ids = [await a.tell("c", number) for number in range(3)]
        await until(lambda: len(c._membership.mailbox.unread()) == 3, "three unread")
        assert (await crew.double.probe("c")).unread == tuple(("a", id_) for id_ in ids)
        got = [await c.receive() for _ in range(3)]
        assert [(each.sender, each.id, each.body) for each in got] == [("a", ids[n], n) for n in range(3)]
        await crew.double.wait("c", m.Taken, 3)
        assert [each.message for each in (await crew.double.told("c", m.Taken))] == ids
        assert (await crew.double.probe("c")).unread == ()
        assert not (await crew.double.told("c", m.WaitBegan))


@two_buses
async def test_receive_filters_by_sender(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b", "c") as (a, b, c):
        await a.tell("c", "from a")
        await until(lambda: c._membership.mailbox.unread(), "unread")
        got: list = []

        async def receive() -> None:
            got.append(await c.receive(from_=["b", "x"], timeout_s=90))

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            wait = await crew.double.wait("c", m.WaitBegan)
            assert wait.condition == m.OnMessage(senders=("b", "x"))
            assert wait.deadline_s == 90
            await b.tell("c", "from b")
        assert got[0].body == "from b"
        assert (await c.receive(from_="a")).body == "from a"
        with pytest.raises(Timeout):
            await c.receive(from_="a", timeout_s=0.05)
        with pytest.raises(SubjectError):
            await c.receive(from_="no name")


@two_buses
async def test_two_receivers_each_get_one_and_a_cancelled_one_loses_nothing(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        got: list = []

        async def receive() -> None:
            got.append((await b.receive()).body)

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await crew.double.wait("b", m.WaitBegan)
            group.cancel_scope.cancel()
        await a.tell("b", 1)
        await a.tell("b", 2)
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            group.start_soon(receive)
        assert sorted(got) == [1, 2]


async def test_message_handed_to_a_receiver_cancelled_in_the_same_instant_is_kept(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a", "b") as (a, b):
        mailbox = b._membership.mailbox
        accept = mailbox.accept

        def accept_and_cancel(*args):
            taken = accept(*args)
            receiver.cancel()
            return taken

        mailbox.accept = accept_and_cancel
        receiver = asyncio.create_task(b.receive())
        await crew.double.wait("b", m.WaitBegan)
        await a.tell("b", "precious")
        with pytest.raises(asyncio.CancelledError):
            await receiver
        assert not (await crew.double.told("b", m.Taken))
        assert (await b.receive(timeout_s=90)).body == "precious"


@two_buses
async def test_body_of_a_message_has_a_type(kind, tmp_path):
    class Plan(msgspec.Struct):
        days: int

    async with open_crew(kind, tmp_path) as crew, crew.joined("a", "b") as (a, b):
        await a.tell("b", Plan(days=3))
        assert (await b.receive(type=Plan)).body == Plan(days=3)
        await a.tell("b", "no plan")
        with pytest.raises(CodecError):
            await b.receive(type=Plan)
        with pytest.raises(Timeout):
            await b.receive(timeout_s=0.05)


@two_buses
async def test_message_delivered_twice_is_unread_once(kind, tmp_path):
    async with open_crew(kind, tmp_path, check=False) as crew, crew.joined("a", "b") as (a, b):
        id_ = await a.tell("b", 1)
        message = await crew.double.wait("a", m.Message)
        await crew.double.publish(Kind.MSG, "b", id_, message, sender="a")
        await until(lambda: b.dropped, "dropped")
        assert (await crew.double.probe("b")).unread == (("a", id_),)


@two_buses
async def test_full_mailbox_drops_messages(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,), crew.joined("b", mailbox=2) as (b,):
        for number in range(3):
            await a.tell("b", number)
        await until(lambda: b.dropped, "one dropped")
        assert [(await b.receive()).body for _ in range(2)] == [0, 1]


@two_buses
async def test_lock_is_granted_held_and_released(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        done = anyio.Event()
        revisions: list[int] = []

        async def write() -> None:
            async with a.lock("report", timeout_s=90) as grant:
                revisions.append(grant.revision)
                await done.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            acquire = await crew.double.wait("a", m.Acquire)
            assert (acquire.resource, acquire.mode, acquire.units, acquire.capacity) == ("report", "x", 1, 1)
            wait = await crew.double.wait("a", m.WaitBegan)
            assert wait.condition == m.OnResource(resource="report", ticket=acquire.ticket)
            assert (await crew.double.probe("a")).held == ()
            await crew.double.command("a", m.Granted, resource="report", ticket=acquire.ticket, revision=57)
            await until(lambda: revisions, "granted")
            assert (await crew.double.probe("a")).held == (
                m.Held(resource="report", ticket=acquire.ticket, task=acquire.task),
            )
            assert not (await crew.double.told("a", m.Release))
            done.set()
        assert revisions == [57]
        release = await crew.double.wait("a", m.Release)
        assert (release.resource, release.ticket, release.task) == ("report", acquire.ticket, acquire.task)
        assert (await crew.double.probe("a")).held == ()


@two_buses
async def test_semaphore_and_shared_lock_say_what_they_ask_for(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        revisions = itertools.count(1)
        entered: list[int] = []

        async def both() -> None:
            async with a.semaphore("gpu", capacity=4, units=3) as gpu:
                entered.append(gpu.revision)
                async with a.lock("report.md", mode="s") as report:
                    entered.append(report.revision)

        async with anyio.create_task_group() as group:
            group.start_soon(both)
            for count in (1, 2):
                acquire = await crew.double.wait("a", m.Acquire, count)
                await crew.double.command(
                    "a", m.Granted, resource=acquire.resource, ticket=acquire.ticket, revision=next(revisions)
                )
        gpu, report = await crew.double.told("a", m.Acquire)
        assert (gpu.resource, gpu.mode, gpu.units, gpu.capacity) == ("gpu", "x", 3, 4)
        assert (report.resource, report.mode) == (resource_token("report.md"), "s")
        await crew.double.wait("a", m.Release, 2)
        assert [each.ticket for each in (await crew.double.told("a", m.Release))] == [report.ticket, gpu.ticket]
        assert entered == [1, 2]


@two_buses
async def test_lock_that_is_not_granted_is_given_up(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        with pytest.raises(Timeout):
            async with a.lock("report", timeout_s=0.05):
                pytest.fail("not granted")
        release = await crew.double.wait("a", m.Release)
        await crew.double.command("a", m.Granted, resource="report", ticket=release.ticket, revision=1)
        await until(lambda: a.dropped, "the late grant is dropped")
        assert (await crew.double.probe("a")).held == ()


@two_buses
async def test_broken_lock_wait_raises(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):

        async def ask() -> None:
            with pytest.raises(WouldDeadlock):
                async with a.lock("report"):
                    pytest.fail("not granted")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await crew.double.break_wait("a", await crew.double.wait("a", m.WaitBegan))
        await crew.double.wait("a", m.Release)


async def test_grant_that_meets_a_broken_wait_is_not_held(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):

        async def ask() -> None:
            with pytest.raises(WouldDeadlock):
                async with a.lock("report"):
                    pytest.fail("broken before it was granted")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            wait = await crew.double.wait("a", m.WaitBegan)
            await crew.double.break_wait("a", wait)
            ticket = wait.condition.ticket
            await crew.double.command("a", m.Granted, resource="report", ticket=ticket, revision=1)
            await crew.double.command("a", m.Probe, nonce="between")
        assert (await crew.double.wait("a", m.Heartbeat, nonce="between")).held == ()
        assert len(await crew.double.told("a", m.Release)) == 1


def test_resource_names_become_tokens():
    assert resource_token("gpu-1") == "gpu-1"
    long_one, other = resource_token("x" * 40), resource_token("x" * 41)
    assert long_one != other
    assert resource_token("report.md") != resource_token("report_md")
    assert resource_token("report.md").startswith("report_md-")
    assert all(len(resource_token(name)) <= 32 for name in ("x" * 400, "ä b", "."))


async def test_bad_resources_are_refused_before_anything_is_sent(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):
        for bad in (
            lambda: a.lock(""),
            lambda: a.lock("r", mode="w"),
            lambda: a.semaphore("s", capacity=0),
            lambda: a.semaphore("s", capacity=2, units=3),
        ):
            with pytest.raises(ConfigError):
                bad()
        assert not (await crew.double.told("a", m.Acquire))


@two_buses
async def test_human_answers(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        answers: list = []

        async def ask() -> None:
            answers.append(await a.ask_human("Book the hotel?", who="ops", timeout_s=90))
            for error in (Refused, PeerGone):
                with pytest.raises(error):
                    await a.ask_human("And this one?", who="ops")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            asked = await crew.double.wait("a", m.AskHuman)
            assert (asked.who, asked.text) == ("ops", "Book the hotel?")
            wait = await crew.double.wait("a", m.WaitBegan)
            assert wait.condition == m.OnHuman(who="ops", question=asked.question)
            await crew.double.answer("a", asked.question, body=codec.encode_body("yes, book"))
            for count, code in ((2, "policy"), (3, "peer_gone")):
                asked = await crew.double.wait("a", m.AskHuman, count)
                await crew.double.wait("a", m.WaitBegan, count)
                await crew.double.answer("a", asked.question, error=m.Fault(code=code, text="no"))
        assert answers == ["yes, book"]
        with pytest.raises(CodecError):
            await a.ask_human("x" * 2001)


@two_buses
async def test_sleep_is_a_timer_wait(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a", limit_s=0.01) as (a,):
        await a.sleep(0.05)
        wait = await crew.double.wait("a", m.WaitBegan)
        assert wait.condition == m.OnTimer(after_s=0.05)
        assert (await crew.double.wait("a", m.WaitEnded)).outcome == "met"


@two_buses
async def test_progress_and_usage_are_noted(kind, tmp_path):
    async with open_crew(kind, tmp_path) as crew, crew.joined("a") as (a,):
        async with a.task("write") as task:
            await a.progress("chapter 2 of 5" + "x" * 5000)
            await a.report_usage(model="m", input_tokens=1, output_tokens=2, cost_microusd=3)
            with pytest.raises(CodecError):
                await a.report_usage(cost_microusd=-1)
        progress = await crew.double.wait("a", m.Progress)
        assert progress.task == task.id
        assert len(progress.text) == 2000
        usage = await crew.double.wait("a", m.Usage)
        assert (usage.task, usage.model, usage.input_tokens, usage.output_tokens, usage.cost_microusd) == (
            task.id,
            "m",
            1,
            2,
            3,
        )
