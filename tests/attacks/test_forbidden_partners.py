"""`may_call` and `may_tell`: whoever is not named there cannot be called, told anything or have a call taken back."""

import anyio
import pytest

from crewkeeper_bus.client import connect
from crewkeeper_bus.errors import Refused
from support.raw_nats import raw
from support.siege import Siege

pytestmark = pytest.mark.live


async def test_the_server_itself_refuses_what_may_call_does_not_name(siege: Siege):
    async with siege.link() as link, raw(siege.credentials("carol")) as carol:
        before = await siege.last_seq(link)
        for kind, names in {
            "req": ("bob", "eve", "keeper", "mallory", "carol", "_"),
            "msg": ("eve", "keeper", "_"),
            "cancel": ("bob", "eve", "keeper"),
        }.items():
            for to in names:
                carol.pub(siege.subject(kind, "carol", to), b"{}")
                carol.pub("held" + siege.subject(kind, "carol", to).removeprefix("crew"), b"{}")
        assert await carol.sync()
        assert len(carol.refusals("publish")) == 24, carol.errors
        said = [entry.subject for entry in await siege.stored(link) if entry.seq > before]
        assert [subject for subject in said if ".carol." in subject] == [], "nothing of it is in the journal"
        for to in ("worker", "worker-1", "worker-2"):
            for kind in ("req", "msg", "cancel"):
                carol.pub(siege.subject(kind, "carol", to), b"{}")
        carol.pub(siege.subject("msg", "carol", "bob"), b"{}")
        carol.pub(siege.subject("rep", "carol", "eve"), b"{}")
        assert await carol.sync()
        assert len(carol.refusals("publish")) == 24, "what it names, and answers to anybody, pass"


async def test_an_honest_client_is_told_at_once_and_reaches_its_helper(siege: Siege):
    async with siege.client("carol") as carol, siege.client("eve") as eve:

        @carol.serve()
        async def answer(request):
            return "answered"

        await carol.ready(90)
        await eve.ready(90)
        async with carol.task("part"):
            assert await carol.ask("worker", timeout_s=90) == "ok"
            for send in (carol.ask, carol.tell):
                with pytest.raises(Refused, match=r"by may_(call|tell) of the crew file") as refused:
                    await send("eve")
                assert refused.value.reason == "denied"
            given = await carol.delegate("carols-own", limit_s=60)
            own = connect(given.url, run=siege.run, agent="carols-own", user=given.user, password=given.password)
            async with own as helper:
                await helper.ready(90)
                await carol.tell("carols-own", "do this part")
                with anyio.fail_after(120):
                    message = await helper.receive()
                assert (message.sender, message.body) == ("carol", "do this part")
        assert await eve.ask("carol", timeout_s=90) == "answered", "whoever calls gets its answer"
