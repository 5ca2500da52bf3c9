"""Following a journal by what the server delivers: the same entries, whatever is lost, forged or too much."""

import signal

import anyio
import pytest
from nats_process import crew, linked, until

from crewkeeper_supervisor.shell import journal, tap

pytestmark = pytest.mark.live


async def fill(link, run, count, payload=b"{}"):
    before = await journal.last_seq(link, run)
    for number in range(count):
        await journal.publish(link, f"crew.{run}.msg.a.b.m{number}", payload)

    async def stored():
        return await journal.last_seq(link, run) >= before + count

    await until(stored)


async def take(entries, seen, count):
    with anyio.fail_after(20):
        while len(seen) < count:
            seen += await entries.batch()


async def consumers(link, run):
    return await link.js.consumers_info(f"CREW_{run}")


async def test_it_yields_what_is_stored_to_the_last_digit_and_needs_no_consumer(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        await fill(link, "r1", 700)
        async with journal.follow(link, "r1", quick=True) as entries:
            seen = []
            await take(entries, seen, 701)
            assert len(await consumers(link, "r1")) == 1
            forged = {"Nats-Sequence": "3", "Nats-Time-Stamp": "1999-01-01T00:00:00Z", "Nats-Stream": "CREW_r1"}
            await link.nc.publish("crew.r1.msg.a.b.x", b'{"x":1}', headers=forged)
            await link.nc.publish("crew.r1.msg.a.b.y", b"\xff\x00", headers={"Bad": "\xfc"})
            await fill(link, "r1", 100)
            await take(entries, seen, 803)
            assert await consumers(link, "r1") == []
        assert seen == await journal.read_all(link, "r1")
        assert (seen[701].subject, seen[701].payload) == ("crew.r1.msg.a.b.x", b'{"x":1}')


async def test_what_is_only_delivered_and_not_stored_is_no_entry(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        again = {"Nats-Stream": "CREW_r1", "Nats-Subject": "crew.r1.msg.a.b.m0", "Nats-Sequence": "2"}
        async with journal.follow(link, "r1", quick=True) as entries:
            seen = await entries.batch()
            for _ in range(3):
                await link.nc.publish("out.crew.r1.rep._.a.c1", b'{"id":"9-0"}')
                await link.nc.publish("out.crew.r1.msg.a.b.m0", b"{}", headers=again)
                await fill(link, "r1", 1)
            await take(entries, seen, 4)
        assert [(entry.seq, entry.subject) for entry in seen[1:]] == [(n, "crew.r1.msg.a.b.m0") for n in (2, 3, 4)]


async def test_what_is_lost_on_the_way_comes_by_a_consumer_and_the_end_by_asking(tmp_path, monkeypatch):
    lost, heard = [], tap.marks

    def lossy(headers):
        mark = heard(headers)
        if mark is None or mark[0] not in lost:
            return mark
        lost.remove(mark[0])
        return None

    monkeypatch.setattr(tap, "marks", lossy)
    monkeypatch.setattr(journal, "SILENCE_S", 0.3)
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        async with journal.follow(link, "r1", quick=True) as entries:
            seen = await entries.batch()
            await fill(link, "r1", 2)
            await take(entries, seen, 3)
            assert await consumers(link, "r1") == []
            lost += [6, 7, 12]
            await fill(link, "r1", 7)
            await take(entries, seen, 10)
            await fill(link, "r1", 2)
            await take(entries, seen, 12)
        assert lost == []
        assert [entry.seq for entry in seen] == list(range(1, 13))


async def test_a_reader_that_is_too_slow_for_it_catches_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tap, "ENTRIES_MAX", 10)
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        async with journal.follow(link, "r1", quick=True) as entries:
            seen = await entries.batch()
            await fill(link, "r1", 1)
            await take(entries, seen, 2)
            for count in (25, 4, 31):
                await fill(link, "r1", count)
                await take(entries, seen, len(seen) + count)
        assert [entry.seq for entry in seen] == list(range(1, 63))


async def test_large_entries_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tap, "BYTES_MAX", 1_000_000)
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        async with journal.follow(link, "r1", quick=True) as entries:
            seen = await entries.batch()
            await fill(link, "r1", 1)
            await take(entries, seen, 2)
            await fill(link, "r1", 40, b'{"x":"' + b"x" * 100_000 + b'"}')
            assert len(entries._tap) < 40
            await take(entries, seen, 42)
        assert [entry.seq for entry in seen] == list(range(1, 43))


async def test_it_survives_a_killed_and_restarted_server(tmp_path):
    async with linked(tmp_path) as (server, link):
        await journal.create_run(link, "r1", crew(), "here")
        async with journal.follow(link, "r1", quick=True) as entries:
            seen = []
            await fill(link, "r1", 20)
            await take(entries, seen, 21)
            server.stop(signal.SIGKILL)
            await until(lambda: not link.is_connected)
            server.start()
            await until(lambda: link.is_connected)
            await fill(link, "r1", 20)
            await take(entries, seen, 41)
            await fill(link, "r1", 5)
            await take(entries, seen, 46)
            assert await consumers(link, "r1") == []
        assert [entry.seq for entry in seen] == list(range(1, 47))
