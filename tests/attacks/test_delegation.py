"""Helpers that agents let in: never wider than who asked, and gone with its task; what they try beyond is refused."""

import pytest

from crewkeeper_bus.client import Client, connect
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import Refused
from support.bus import until
from support.raw_nats import dial, raw
from support.siege import Siege

pytestmark = pytest.mark.live


async def test_a_helper_reaches_its_peers_only_and_goes_with_the_task(siege: Siege):
    async with siege.client("bob") as bob, siege.link() as link:
        await bob.ready(90)
        async with bob.task("with help"):
            given = await bob.delegate("helper", peers=("worker", "bob"), limit_s=300)
            assert given.user == f"{siege.run}.helper"
            async with raw(given) as helper:
                for to in ("eve", "keeper", "mallory", "_"):
                    helper.pub(siege.subject("msg", "helper", to), b"{}")
                    helper.pub(siege.subject("req", "helper", to), b"{}")
                for name in ("bob", "eve"):
                    helper.pub(siege.subject("msg", name, "worker"), b"{}")
                assert await helper.sync()
                assert len(helper.refusals("publish")) == 10, helper.errors
                helper.pub(siege.subject("msg", "helper", "bob"), b"{}")
                helper.sub("out.crew.>")
                assert await helper.sync()
                assert len(helper.refusals("publish")) == 10
                assert len(helper.refusals("subscription")) == 1

        async def is_out() -> bool:
            again = await dial(given)
            await again.close()
            return any("authorization violation" in each.lower() for each in again.errors)

        await until(is_out, "the helper is out, for its task is over")
        secret = given.password.partition("-")[2].encode()
        for entry in await siege.stored(link):
            assert secret not in entry.payload


async def test_nobody_lets_in_more_than_it_may_do_itself(siege: Siege):
    async with siege.client("mallory") as mallory:
        await mallory.ready(90)
        async with mallory.task("part"):
            given = await mallory.delegate("narrow", peers=("worker",), limit_s=300)
            async with siege_client(siege, given, "narrow") as narrow:
                with pytest.raises(Refused):
                    await narrow.delegate("wide", peers=("worker", "eve"), limit_s=60)
                with pytest.raises(Refused):
                    await narrow.delegate("late", peers=("worker",), limit_s=86_400)
            for taken in ("keeper", "worker-1", "worker", "mallory", "bob"):
                with pytest.raises(Refused):
                    await mallory.delegate(taken, peers=("worker",), limit_s=60)


def siege_client(siege: Siege, credentials: Credentials, name: str) -> Client:
    return connect(credentials.url, run=siege.run, agent=name, user=credentials.user, password=credentials.password)


async def test_a_wish_over_a_raw_socket_is_judged_the_same(siege: Siege):
    """Who does not use the client cannot ask for more, nor in another's name."""
    async with siege.link() as link, raw(siege.credentials("eve")) as eve:
        wish = b'{"t":"delegate","inc":"i","seq":1,"task":"t","agent":"intruder","limit_s":60,"digest":"%b",'
        wish += b'"token":"abcdefgh"}'
        for sender in ("bob", "_"):
            eve.pub(siege.subject("note", sender, "_", "w1"), wish % (b"0" * 64))
        eve.pub(siege.subject("note", "eve", "_", "w2"), wish % (b"0" * 63))  # no digest
        eve.pub(siege.subject("note", "eve", "_", "w3"), wish % (b"0" * 64))  # of nobody who joined
        assert await eve.sync()
        assert len(eve.refusals("publish")) == 2
        await siege.finding(link, "malformed", "eve")

        async def all_read():
            entries = await siege.stored(link)
            return any(e.subject.endswith(".w3") for e in entries)

        await until(all_read, "all of it is in the journal")
        agents = (await siege.fold(link)).supervisor.agents
        assert "intruder" not in agents
