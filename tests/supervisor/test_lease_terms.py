"""Leases on a real server: one owner at a time, terms that only grow, and an owner that knows when it is none."""

import os

import anyio
import pytest
from nats_process import linked, python, until

from crewkeeper_supervisor.shell import lease as module
from crewkeeper_supervisor.shell.errors import LeaseLost, StoreUnavailable
from crewkeeper_supervisor.shell.lease import Holder, Leases
from crewkeeper_supervisor.shell.nats_link import connect

pytestmark = pytest.mark.live


async def pair(link, ttl_s=600, first_ttl_s=None):
    """Two that want leases; nothing lapses by itself, unless that is what is tested."""
    one, two = Leases(link, "one", first_ttl_s or ttl_s), Leases(link, "two", ttl_s)
    await one.open()
    await two.open()
    return one, two


class Clock:
    """Stands in for the owner's clock."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        monkeypatch.setattr(module, "clock_s", lambda: self.now_s)


async def test_one_owner_at_a_time_and_terms_grow(tmp_path):
    async with linked(tmp_path) as (_, link):
        one, two = await pair(link)
        first = await one.acquire("r1")
        assert first.still_mine()
        assert await two.acquire("r1") is None
        other = await two.acquire("r2")
        assert await first.renew()
        assert await first.renew()
        await first.release()
        await first.release()
        assert not first.still_mine()
        with pytest.raises(LeaseLost):
            first.check()
        second = await two.acquire("r1")
        assert second.term > other.term > first.term
        assert await one.acquire("r1") is None


async def test_an_unrenewed_lease_expires_and_its_old_owner_cannot_renew(tmp_path):
    async with linked(tmp_path) as (_, link):
        one, two = await pair(link, first_ttl_s=1)
        first = await one.acquire("r1")
        second = await two.wait("r1")
        assert second.term > first.term
        assert not first.still_mine()
        with pytest.raises(LeaseLost):
            await first.renew()
        with pytest.raises(LeaseLost):
            await first.keep()
        await first.release()  # takes nothing from the new owner
        assert await second.renew()


async def test_a_kept_lease_outlives_its_time_to_live_and_a_standby_does_not_ask(tmp_path):
    async with linked(tmp_path) as (_, link):
        one, two = await pair(link, ttl_s=4)
        first = await one.acquire("r1")
        asked = []
        original = two._try
        two._try = lambda run: asked.append(run) or original(run)
        async with anyio.create_task_group() as group:
            group.start_soon(first.keep)
            got = []
            group.start_soon(lambda: wait(two, got))
            start = first._revision
            await until(lambda: first._revision >= start + 5)  # renewed every quarter: 1.25 times to live
            assert first.still_mine()
            assert not got
            assert len(asked) <= 3
            await first.release()
            await until(lambda: got)
            group.cancel_scope.cancel()
        assert got[0].term > first.term


async def wait(leases, got):
    got.append(await leases.wait("r1"))


async def test_an_owner_that_cannot_reach_the_server_stops_before_the_lease_ends(tmp_path, monkeypatch):
    async with linked(tmp_path) as (server, link):
        clock = Clock(monkeypatch)
        leases = Leases(link, "one", 300)
        await leases.open()
        held = await leases.acquire("r1")
        clock.now_s += 230
        assert held.still_mine()
        assert await held.renew()
        server.stop()
        await until(lambda: not link.is_connected)
        clock.now_s += 230
        assert await held.renew() is False
        assert held.still_mine()
        clock.now_s += 20
        assert not held.still_mine()
        with pytest.raises(LeaseLost):
            await held.keep()
        with pytest.raises(StoreUnavailable):
            await leases.acquire("r2")


async def test_a_lease_whose_renewals_stop_is_taken_when_its_owner_has_stopped(tmp_path, monkeypatch):
    async with linked(tmp_path) as (_, link):
        clock = Clock(monkeypatch)
        one, two = await pair(link)
        held, got = await one.acquire("r1"), []
        async with anyio.create_task_group() as group:
            group.start_soon(wait, two, got)
            await until(lambda: "r1" in two._changed)
            assert await held.renew()
            await until(lambda: two._seen.get("r1") == (clock.now_s, held._revision))
            clock.now_s += 0.85 * 600
            assert not held.still_mine()
            assert await two.acquire("r1") is None, "its owner may think for a moment longer that it is its own"
            clock.now_s += 0.06 * 600
            await until(lambda: got)
        assert got[0].term > held._revision
        with pytest.raises(LeaseLost):
            await held.renew()


async def test_a_lease_that_was_renewed_unseen_is_not_taken(tmp_path, monkeypatch):
    async with linked(tmp_path) as (_, link):
        clock = Clock(monkeypatch)
        one, two = await pair(link)
        held = await one.acquire("r1")
        two._seen["r1"] = (clock.now_s, held._revision)
        assert await held.renew()
        clock.now_s += 0.95 * 600
        assert await two.acquire("r1") is None


async def test_a_renewal_whose_acknowledgement_was_lost_is_not_a_lost_lease(tmp_path):
    async with linked(tmp_path) as (_, link):
        leases = Leases(link, "one", 600)
        await leases.open()
        held = await leases.acquire("r1")
        before = held._revision
        assert await held.renew()
        held._revision = before
        assert await held.renew() is False
        assert await held.renew()
        assert held.still_mine()


async def test_the_lease_of_a_process_that_died_here_is_taken_at_once(tmp_path):
    program = (
        "import anyio, sys\n"
        "from pathlib import Path\n"
        "from crewkeeper_supervisor.shell.lease import Leases\n"
        "from crewkeeper_supervisor.shell.nats_link import connect\n"
        "from crewkeeper_supervisor.shell.place import Place\n"
        "async def main():\n"
        "    async with connect(Place.of_url(sys.argv[1], Path('.'))) as link:\n"
        "        leases = Leases(link, 'child', 600)\n"
        "        await leases.open()\n"
        "        held = await leases.acquire('r1')\n"
        "        print(held.term, flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    async with linked(tmp_path) as (server, link):
        url = server.url.replace("://", f"://sup:{server.password}@")
        with python(["-c", program, url], tmp_path / "child.log") as child:
            term = int(await until(child.text))
            one, _ = await pair(link)
            assert await one.acquire("r1") is None
        with anyio.fail_after(120):  # far below the time to live
            assert (await one.wait("r1")).term > term


async def test_who_lost_the_race_for_a_lease_reads_who_won(tmp_path, monkeypatch):
    async with linked(tmp_path) as (_, link):
        one, two = await pair(link)
        winner = []

        async def slower(run):
            if not winner:
                winner.append(await one.acquire(run))
                return None, None  # as after a compare-and-set that lost
            return await attempt(run)

        attempt = two._try
        monkeypatch.setattr(two, "_try", slower)
        monkeypatch.setattr(Holder, "is_dead", property(lambda holder: holder.owner == "one"))
        two._seen["r1"] = (module.clock_s(), 0)  # a renewal was seen
        with anyio.fail_after(120):  # far below the time to live
            assert (await two.wait("r1")).term > winner[0].term


def test_only_a_process_of_this_machine_can_be_known_to_be_dead():
    dead = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(dead, 0)
    here = module._machine()
    assert Holder(owner="x", nonce="n", machine=here, pid=dead).is_dead
    assert not Holder(owner="x", nonce="n", machine=here, pid=os.getpid()).is_dead
    assert not Holder(owner="x", nonce="n", machine="elsewhere", pid=dead).is_dead
    assert not Holder(owner="x", nonce="n").is_dead


async def test_two_connections_race_and_exactly_one_wins(tmp_path):
    async with linked(tmp_path) as (server, link):
        await Leases(link, "setup").open()
        won = []

        async def race(number):
            async with connect(server.place, name=f"racer {number}") as own:
                for run in ("r1", "r2", "r3"):
                    if held := await Leases(own, str(number), 600).acquire(run):
                        won.append(held.run)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(race, number)
        assert sorted(won) == ["r1", "r2", "r3"]
