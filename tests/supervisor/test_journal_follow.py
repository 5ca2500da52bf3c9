"""The journal on a real server: declared once, followed without gaps through whatever happens to the consumer."""

import asyncio
import signal

import anyio
import msgspec
import pytest
from nats_process import crew, linked, until

from crewkeeper_bus import codec
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import RunDeclared, Tick
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import JournalGap, RunExists, RunNotFound
from crewkeeper_supervisor.shell.nats_link import connect

pytestmark = pytest.mark.live


async def fill(link, run, count, start=0):
    before = await journal.last_seq(link, run)
    for number in range(start, start + count):
        await journal.publish(link, f"crew.{run}.msg.a.b.m{number}", b'{"n":%d}' % number)
    await link.flush()
    await until(lambda: stored(link, run, before + count))


async def take(entries, seen, count):
    with anyio.fail_after(120):
        while len(seen) < count:
            seen += await entries.batch()


async def stored(link, run, count):
    """What is published without acknowledgement is stored a moment after the server has read it."""
    return await journal.last_seq(link, run) >= count


async def test_a_run_begins_with_its_crew(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        entries = await journal.read_all(link, "r1")
        assert [entry.seq for entry in entries] == [1]
        declared = codec.decode_supervisor("op", entries[0].payload)
        assert isinstance(declared, RunDeclared)
        assert msgspec.convert(declared.crew, Crew) == crew()
        with pytest.raises(RunExists):
            await journal.create_run(link, "r1", crew(), "here")


async def test_the_journal_is_log_first_and_never_acknowledges(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        delivered, acks = await link.nc.subscribe("out.crew.r1.>"), await link.nc.subscribe("crew.r1.rep.x.a.1")
        await link.flush()
        await link.nc.publish("crew.r1.msg.a.b.m1", b"{}", reply="crew.r1.rep.x.a.1")
        assert (await delivered.next_msg(timeout=60)).subject == "out.crew.r1.msg.a.b.m1"
        await link.flush()
        assert acks.pending_msgs == 0
        config = (await link.js.stream_info("CREW_r1")).config
        assert (config.no_ack, config.deny_delete, config.deny_purge) == (True, True, True)
        assert not config.allow_rollup_hdrs
        assert not config.allow_msg_ttl


async def test_it_follows_and_says_when_it_has_caught_up(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        await fill(link, "r1", 1200)
        seen = []
        async with journal.follow(link, "r1", start_seq=100) as entries:
            assert not entries.caught_up
            while not entries.caught_up:
                batch = await entries.batch()
                assert len(batch) <= journal.BATCH_MAX
                seen += batch
            assert [entry.seq for entry in seen] == list(range(100, 1202))
            assert await entries.batch(0.05) == []
            await journal.publish_op(link, "r1", Tick(), id_="t1")
            (tick,) = await entries.batch()
        assert tick.subject == "crew.r1.op._._.t1"
        assert tick.seq == 1202
        assert tick.at_s >= seen[-1].at_s


async def test_a_reader_that_never_waits_lets_others_run(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        async with journal.follow(link, "r1") as entries:
            await entries.batch()
            ran = []
            asyncio.get_running_loop().call_soon(ran.append, True)
            await entries.batch(0)
            await entries.batch(0)
            assert ran


async def test_it_survives_the_loss_of_its_consumer_and_lost_messages(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        async with journal.follow(link, "r1") as entries:
            seen = await entries.batch()
            for info in await link.js.consumers_info("CREW_r1"):
                await link.js.delete_consumer("CREW_r1", info.name)
            await fill(link, "r1", 3)
            await take(entries, seen, 4)
            await fill(link, "r1", 50, start=3)
            await until(lambda: len(entries._waiting) >= 50)
            for _ in range(10):
                entries._waiting.popleft()  # lost on the way
            await take(entries, seen, 54)
        assert [entry.seq for entry in seen] == list(range(1, 55))
        assert await link.js.consumers_info("CREW_r1") == []


async def test_it_survives_a_killed_and_restarted_server(tmp_path):
    async with linked(tmp_path) as (server, link):
        await journal.create_run(link, "r1", crew(), "here")
        await fill(link, "r1", 20)
        async with journal.follow(link, "r1") as entries:
            seen = []
            await take(entries, seen, 21)
            server.stop(signal.SIGKILL)
            await until(lambda: not link.is_connected)
            with pytest.raises(ConnectionLost):
                await journal.publish_op(link, "r1", Tick())
            server.start()
            await until(lambda: link.is_connected)
            await fill(link, "r1", 20, start=20)
            await take(entries, seen, 41)
        assert [entry.seq for entry in seen] == list(range(1, 42))


async def test_what_an_agent_puts_into_headers_does_not_look_like_the_server(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        hostile = {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Stream": "99999"}
        await link.nc.publish("crew.r1.msg.a.b.m1", b"{}", headers=hostile)
        await link.flush()
        async with journal.follow(link, "r1") as entries:
            seen = []
            await take(entries, seen, 2)
        assert seen[1].subject == "crew.r1.msg.a.b.m1"


async def test_missing_entries_and_missing_runs_are_said(tmp_path):
    async with linked(tmp_path) as (_, link):
        await link.js.add_stream(name="CREW_cut", subjects=["crew.cut.>"], max_msgs=3)
        await fill(link, "cut", 10)
        async with journal.follow(link, "cut") as entries:
            with pytest.raises(JournalGap) as gap:
                await entries.batch()
        assert (gap.value.first, gap.value.last) == (1, 7)
        with pytest.raises(RunNotFound):
            await journal.read_all(link, "nobody")
        with pytest.raises(RunNotFound):
            await journal.follow(link, "nobody").batch()


async def test_what_a_fresh_consumer_lost_on_the_way_is_read_again(tmp_path):
    """A connection that breaks again and again while entries come must not make a journal look damaged."""
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        seen = []
        async with journal.follow(link, "r1") as entries:
            await take(entries, seen, 1)
            await fill(link, "r1", 3)
            await until(lambda: len(entries._waiting) >= 3)
            entries._waiting.popleft()
            entries._resumed = True  # as after a restart that has brought nothing yet
            await take(entries, seen, 4)
        assert [entry.seq for entry in seen] == [1, 2, 3, 4]


async def test_a_slow_reader_is_paced_and_loses_nothing(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        for number in range(400):
            await journal.publish(link, f"crew.r1.msg.a.b.m{number}", b'{"x":"' + b"x" * 100_000 + b'"}')
        await until(lambda: stored(link, "r1", 401))
        entries = await journal.read_all(link, "r1")
        assert [entry.seq for entry in entries] == list(range(1, 402))


async def test_a_wrong_password_and_no_server_are_connection_errors(tmp_path):
    async with linked(tmp_path) as (server, _):
        wrong = msgspec.structs.replace(server.place, password="sesame-canary")
        with pytest.raises(ConnectionLost) as refused:
            async with connect(wrong):
                raise AssertionError
        assert "sesame-canary" not in str(refused.value)
    with pytest.raises(ConnectionLost):
        async with connect(server.place):
            raise AssertionError


async def test_a_consumer_that_stands_on_a_server_which_is_behind_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(journal, "LAG_S", 0.2)
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        await fill(link, "r1", 20)
        made, add = [], link.js.add_consumer

        async def behind(stream, config):
            made.append(config.name)
            # The first one beats, and has nothing but what is another run's.
            return await add(stream, config.evolve(filter_subject="crew.r2.>") if len(made) == 1 else config)

        async def unknowing(follower, msg):
            if len(made) > 1:
                await control(follower, msg)

        control = journal.Follower._control
        monkeypatch.setattr(journal.Follower, "_control", unknowing)
        monkeypatch.setattr(link.js, "add_consumer", behind)
        seen = []
        async with journal.follow(link, "r1") as entries:
            await take(entries, seen, 21)
        assert [entry.seq for entry in seen] == list(range(1, 22))
        assert '"cause": "lag"' in capfd.readouterr().err
