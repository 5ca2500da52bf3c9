"""Pausing agents at the server and letting them go on, on real servers: every word is counted."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_supervisor.shell import enforcer as enforcer_module
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.enforcer import Enforcer
from crewkeeper_supervisor.shell.errors import ClaimsRefused
from support.login_stage import RUN, Stage, login_stage, until

pytestmark = pytest.mark.live
ORDER = {"why": "test", "term": 1}


class Agent:
    """A client of the bus that says numbers and keeps what it hears."""

    def __init__(self, name: str, transport: NatsTransport) -> None:
        self.name = name
        self.transport = transport
        self.heard: list[tuple[str, int]] = []
        self.said: Counter[str] = Counter()

    async def say(self, to: str) -> None:
        """The next number to one other."""
        number = self.said[to]
        self.said[to] += 1
        await self.transport.publish(f"crew.{RUN}.msg.{self.name}.{to}.{number}", b"%d" % number)

    def hear(self, subject: str, payload: bytes) -> None:
        self.heard.append((subject.split(".")[4], int(payload)))

    def numbers(self, sender: str) -> list[int]:
        """What one other said, in the order in which it came."""
        return [number for who, number in self.heard if who == sender]


class Crew:
    """Agents on a server, an enforcer, and the journal."""

    def __init__(self, stage: Stage, enforcer: Enforcer, agents: dict[str, Agent]) -> None:
        self.stage = stage
        self.enforcer = enforcer
        self.agents = agents

    async def stored(self, sender: str, to: str) -> list[int]:
        """What the journal has of one agent to another, in its order."""
        entries = await journal.read_all(self.stage.link, RUN)
        start = f"crew.{RUN}.msg.{sender}.{to}."
        return [int(each.payload) for each in entries if each.subject.startswith(start)]

    async def is_idle(self) -> bool:
        """Whether nothing of a hold is left at the server."""
        names = [each.config.name for each in await self.stage.link.js.streams_info()]
        mapped = (await self.enforcer._holds.mapped())[1]
        return not mapped and not any(name.startswith("HELD_") for name in names)

    @contextlib.asynccontextmanager
    async def talking(self, *pairs: tuple[str, str]) -> AsyncIterator[None]:
        """Inside the block each of these (sender, receiver) talks without a pause."""
        async with anyio.create_task_group() as group:

            async def talk(sender: str, to: str) -> None:
                while True:
                    await self.agents[sender].say(to)
                    await anyio.sleep(0.001)

            for sender, to in pairs:
                group.start_soon(talk, sender, to)
            yield
            group.cancel_scope.cancel()

    async def further(self, sender: str, to: str, count: int = 100) -> None:
        """Wait until one has said so much more to the other."""
        goal = self.agents[sender].said[to] + count
        await until(lambda: self.agents[sender].said[to] >= goal, f"{sender} talks")

    async def all_heard(self, sender: str, to: str) -> None:
        """Check that everything one said reached the other, and that each word is in the journal once."""
        said = list(range(self.agents[sender].said[to]))
        heard = self.agents[to]
        await until(lambda: set(heard.numbers(sender)) >= set(said), f"{to} has heard all of {sender}")
        assert sorted(await self.stored(sender, to)) == said
        assert said


@contextlib.asynccontextmanager
async def crew(mode: str, directory: Path, *names: str) -> AsyncIterator[Crew]:
    async with login_stage(mode, directory) as stage, stage.serving(), contextlib.AsyncExitStack() as stack:
        await stage.declare()
        enforcer = Enforcer(stage.link, stage.system, stage.access, stage.authority)
        await enforcer.open()
        agents = {}
        for name in names:
            issued = await stage.access.issue(RUN, name)
            own = issued.credentials
            transport = await NatsTransport.open(stage.url, user=own.user, password=own.password, name=name)
            stack.push_async_callback(transport.close)
            agent = agents[name] = Agent(name, transport)
            for kind in ("msg", "ctl"):
                await transport.subscribe(f"out.crew.{RUN}.{kind}.*.{name}.*", agent.hear)
            await transport.barrier()
        yield Crew(stage, enforcer, agents)


async def test_what_a_held_agent_says_comes_later_and_whole(tmp_path: Path):
    async with crew("operator", tmp_path, "a", "b") as those:
        async with those.talking(("a", "b"), ("b", "a")):
            await those.further("a", "b")
            done = await those.enforcer.pause(RUN, "a", **ORDER)
            assert (done.ok, done.connections, done.detail) == (True, 0, "")
            first = those.agents["a"].said["b"]  # what was said before may come into the journal a moment later
            await those.further("a", "b", 300)
            stored = await those.stored("a", "b")
            assert max(stored) < first
            assert those.agents["a"].transport.is_connected
            heard = len(those.agents["a"].numbers("b"))
            await until(lambda: len(those.agents["a"].numbers("b")) > heard + 50, "the held one hears")
            held = range(len(stored), those.agents["a"].said["b"])
            done = await those.enforcer.resume(RUN, "a", **ORDER)
            assert (done.ok, done.connections, done.detail) == (True, 0, "")
            await those.further("a", "b")
        await those.all_heard("a", "b")
        await those.all_heard("b", "a")
        order = [number for number in await those.stored("a", "b") if number in held]
        assert order == sorted(order)
        assert len(those.agents["b"].heard) == len(set(those.agents["b"].heard))
        assert await those.is_idle()


@pytest.mark.parametrize("mode", ["config", "operator"])
async def test_what_is_said_to_an_agent_that_was_sent_away_comes_later(mode, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(enforcer_module, "MAPPED_MAX", 0)  # in mode `operator`: as if many others were held
    async with crew(mode, tmp_path, "a", "b") as those:
        a = those.agents["a"]
        async with those.talking(("b", "a")):
            await those.further("b", "a")
            done = await those.enforcer.pause(RUN, "a", **ORDER)
            assert (done.ok, done.connections >= 1, done.detail) == (True, True, "")  # its way back may be closed too
            await until(lambda: a.transport.is_connected, "it is back, to hear the supervisor")
            heard = len(a.heard)
            await those.further("b", "a", 300)
            assert len(a.heard) == heard
            await those.stage.link.publish(f"crew.{RUN}.ctl._.a.1", b"-1")
            await until(lambda: a.numbers("_") == [-1], "it hears the supervisor")
            await a.transport.publish(f"crew.{RUN}.msg.a.b.x", b"1")
            await a.transport.barrier()
            assert await those.stored("a", "b") == []
            done = await those.enforcer.resume(RUN, "a", **ORDER)
            assert (done.ok, done.detail) == (True, "")
            assert done.connections >= 1
            await those.further("b", "a")
        await those.all_heard("b", "a")
        await a.say("b")
        await those.all_heard("a", "b")
        assert await those.is_idle()


async def test_a_held_agent_that_reconnects_hears_what_it_missed(tmp_path: Path):
    async with crew("operator", tmp_path, "a", "b") as those:
        a = those.agents["a"]
        async with those.talking(("b", "a")):
            assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
            before = a.transport._link
            those.stage.system.kick((await those.stage.system.connections(f"{RUN}.a")).connections)
            await until(lambda: a.transport.is_connected and a.transport._link is not before, "it is back")
            heard = len(a.heard)
            await those.further("b", "a", 200)
            assert len(a.heard) == heard
            done = await those.enforcer.resume(RUN, "a", **ORDER)
            assert (done.ok, done.detail) == (True, "")
        await those.all_heard("b", "a")


async def test_a_pair_is_held_apart_and_nobody_else(tmp_path: Path):
    async with crew("operator", tmp_path, "a", "b", "c") as those:
        async with those.talking(("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")):
            await those.further("a", "b")
            assert (await those.enforcer.pause_pair(RUN, "b", "a")).ok
            first = those.agents["a"].said["b"], those.agents["b"].said["a"]
            heard = len(those.agents["c"].heard), len(those.agents["b"].numbers("c"))
            await those.further("a", "b")
            await until(lambda: len(those.agents["c"].heard) > heard[0] + 50, "a reaches c")
            await until(lambda: len(those.agents["b"].numbers("c")) > heard[1] + 50, "c reaches b")
            assert max(await those.stored("a", "b")) < first[0]
            assert max(await those.stored("b", "a"), default=-1) < first[1]
            assert (await those.enforcer.resume_pair(RUN, "a", "b")).ok
        for sender, to in (("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")):
            await those.all_heard(sender, to)
        assert await those.is_idle()


@pytest.mark.parametrize("batch", [50, 500])
async def test_an_agent_goes_on_while_it_is_still_held_apart_from_one(tmp_path: Path, monkeypatch, batch: int):
    monkeypatch.setattr("crewkeeper_supervisor.shell.excerpt.BATCH", batch)
    async with crew("operator", tmp_path, "a", "b", "c") as those:
        async with those.talking(("a", "b"), ("a", "c")):
            assert (await those.enforcer.pause_pair(RUN, "a", "b")).ok
            assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
            await those.further("a", "b")
            assert (await those.enforcer.resume(RUN, "a", **ORDER)).ok
            await those.further("a", "c")
            first = those.agents["a"].said["b"]
            await those.further("a", "b")
            assert max(await those.stored("a", "b"), default=-1) < first
        await those.all_heard("a", "c")
        assert (await those.enforcer.resume_pair(RUN, "a", "b")).ok
        await those.all_heard("a", "b")
        assert await those.is_idle()


async def test_another_supervisor_finishes_what_was_begun(tmp_path: Path, monkeypatch):
    async with crew("operator", tmp_path, "a", "b") as those:
        stage = those.stage
        async with those.talking(("a", "b")):
            assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
            await those.further("a", "b", 300)

            async def refused(_jwt: str) -> tuple[str, ...]:
                raise ClaimsRefused("by the test")

            with monkeypatch.context() as patch:
                patch.setattr(stage.system, "push_account", refused)
                done = await those.enforcer.resume(RUN, "a", **ORDER)
                assert (done.ok, done.detail) == (False, "by the test")
            other = Enforcer(stage.link, stage.system, stage.access, stage.authority)
            await other.open()
            assert (await other.resume(RUN, "a", **ORDER)).ok
            await those.further("a", "b")
        await those.all_heard("a", "b")
        assert len(those.agents["b"].heard) == len(set(those.agents["b"].heard))
        assert await those.is_idle()


async def test_words_that_were_put_into_the_journal_once_are_not_put_in_again(tmp_path: Path, monkeypatch):
    async with crew("operator", tmp_path, "a", "b") as those:
        async with those.talking(("a", "b")):
            assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
            await those.further("a", "b", 300)

            async def lost(*_: object, **__: object) -> bool:
                raise TimeoutError

            with monkeypatch.context() as patch:  # as if it ended before it could delete what it had put there
                patch.setattr(those.stage.link.js, "purge_stream", lost)
                done = await those.enforcer.resume(RUN, "a", **ORDER)
                assert not done.ok
            assert len(await those.stored("a", "b")) > 200
            assert (await those.enforcer.resume(RUN, "a", **ORDER)).ok
        await those.all_heard("a", "b")


async def test_repeating_an_order_changes_nothing(tmp_path: Path):
    async with crew("operator", tmp_path, "a", "b") as those:
        assert (await those.enforcer.resume(RUN, "a", **ORDER)).ok
        for _ in range(2):
            assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
        assert len((await those.enforcer._holds.mapped())[1]) == 1
        await those.agents["a"].say("b")
        for _ in range(2):
            assert (await those.enforcer.resume(RUN, "a", **ORDER)).ok
        await those.all_heard("a", "b")
        assert those.agents["a"].transport.is_connected
        assert await those.is_idle()


async def test_an_agent_that_says_too_much_while_it_is_held_is_sent_away(tmp_path: Path):
    async with crew("operator", tmp_path, "a", "b") as those:
        a = those.agents["a"]
        assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
        for _ in range(10):
            await a.say("b")
        await a.transport.barrier()
        done = await those.enforcer.pause(RUN, "a", **ORDER, keep=False)
        assert (done.ok, done.connections >= 1) == (True, True)  # its way back may be closed too
        await until(lambda: a.transport.is_connected, "it is back, to hear the supervisor")
        await a.transport.publish(f"crew.{RUN}.msg.a.b.x", b"99")
        await a.transport.barrier()
        await those.agents["b"].say("a")
        assert (await those.enforcer.resume(RUN, "a", **ORDER)).ok
        await those.all_heard("b", "a")
        await those.all_heard("a", "b")  # what was kept before is not lost, what was refused is not there
        assert await those.is_idle()


async def test_of_a_killed_agent_nothing_is_left_to_be_said(tmp_path: Path):
    async with crew("operator", tmp_path, "a", "b", "c") as those:
        a, b = those.agents["a"], those.agents["b"]
        assert (await those.enforcer.pause(RUN, "a", **ORDER)).ok
        assert (await those.enforcer.pause_pair(RUN, "a", "b")).ok
        for _ in range(10):
            await a.say("c")
            await b.say("a")
        await a.transport.barrier()
        await b.transport.barrier()
        done = await those.enforcer.kill(RUN, "a", **ORDER)
        assert (done.ok, done.connections >= 1) == (True, True)  # its way back may be closed too
        assert await those.stored("a", "c") == []
        assert await those.stored("b", "a") == list(range(10))  # the living one's words are the living one's
        assert await those.is_idle()
        done = await those.enforcer.resume(RUN, "a", **ORDER)
        assert not done.ok
        assert "final" in done.detail


async def test_a_pair_cannot_be_held_apart_without_the_operators_key(tmp_path: Path):
    async with crew("config", tmp_path, "a", "b") as those:
        done = await those.enforcer.pause_pair(RUN, "a", "b")
        assert (done.ok, done.enforced) == (False, False)
        assert "embedded server" in done.detail
        assert (await those.enforcer.resume_pair(RUN, "a", "b")).ok


async def test_calls_to_a_role_are_delivered_again_if_nobody_else_could_take_them(tmp_path: Path):
    async with crew("config", tmp_path) as those, contextlib.AsyncExitStack() as stack:
        workers = {}
        for name in ("w-1", "w-2"):
            own = (await those.stage.access.issue(RUN, name, "w")).credentials
            transport = await NatsTransport.open(those.stage.url, user=own.user, password=own.password)
            stack.push_async_callback(transport.close)
            workers[name] = Agent(name, transport)
            await transport.subscribe(f"out.crew.{RUN}.req.*.w.*", workers[name].hear, "w")
            await transport.barrier()
        both = workers["w-1"].heard, workers["w-2"].heard
        assert (await those.enforcer.pause(RUN, "w-1", **ORDER)).ok
        await those.stage.link.publish(f"crew.{RUN}.req.x.w.1", b"1")
        await until(lambda: both[1] == [("x", 1)], "the other one takes it")
        assert (await those.enforcer.pause(RUN, "w-2", **ORDER)).ok
        await those.stage.link.publish(f"crew.{RUN}.req.x.w.2", b"2")
        assert (await those.enforcer.resume(RUN, "w-2", **ORDER)).ok
        await until(lambda: both[1] == [("x", 1), ("x", 2)], "it takes what came meanwhile")
        assert (await those.enforcer.resume(RUN, "w-1", **ORDER)).ok
        await workers["w-1"].transport.barrier()
        assert both[0] == []
