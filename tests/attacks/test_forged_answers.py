"""Who answers what it was not asked is not believed; who points where an answer should go is not obeyed."""

import json
import uuid
from contextlib import AsyncExitStack

import anyio
import pytest

from support.bus import until
from support.raw_nats import raw
from support.siege import Siege, join

pytestmark = pytest.mark.live


async def test_the_answer_of_a_third_is_not_believed(siege: Siege):
    """Even of one that has learned the id of the call."""
    async with siege.client("bob") as bob, siege.client("mallory") as mallory, raw(siege.credentials("eve")) as eve:
        inc = join(siege, eve, "eve")
        called, release, seq = anyio.Event(), anyio.Event(), 1

        @mallory.serve()
        async def slow(request):
            called.set()
            await release.wait()
            return "true"

        call = await bob.call("mallory")
        with anyio.fail_after(120):
            await called.wait()
        for kind, body in (
            ("prog", {"text": "mine"}),
            ("rep", {"body": "forged"}),
            ("rep", {"error": {"code": "x", "text": "y"}}),
        ):
            seq += 1
            said = {"inc": inc, "seq": seq, **body}
            eve.pub(siege.subject(kind, "eve", "bob", call.id), json.dumps(said).encode())
            eve.pub(siege.subject(kind, "mallory", "bob", call.id), json.dumps(said).encode())  # and in its name
        assert await eve.sync()
        await until(lambda: bob._membership.dropped["stranger"] >= 3, "all three were dropped")
        assert call.is_open
        assert call.progress == ""
        release.set()
        assert await call.answer(90) == "true"
        assert len(eve.refusals("publish")) == 3


async def test_an_answer_for_a_role_counts_from_its_instances_only(siege: Siege):
    async with siege.client("bob") as bob, raw(siege.credentials("eve")) as eve, siege.link() as link:
        await bob.ready(90)
        inc = join(siege, eve, "eve")
        await eve.sync()
        for number in range(20):
            call = await bob.call("worker", number)
            eve.pub(
                siege.subject("rep", "eve", "bob", call.id),
                json.dumps({"inc": inc, "seq": number + 2, "body": "forged"}).encode(),
            )
            assert await call.answer(90) == "ok"
        assert await eve.sync()
        assert await siege.last_seq(link) > 0


CONFUSED = (
    "crew.{run}.ctl._.bob.{id}",
    "crew.{run}.rep._.bob.{id}",
    "crew.{run}.rep.keeper.bob.{id}",
    "out.crew.{run}.ctl._.bob.{id}",
    "crew.other.msg.a.b.{id}",
    "_INBOX.{id}",
    "$JS.API.STREAM.PURGE.CREW_{run}",
    "$JS.API.STREAM.DELETE.CREW_{run}",
    "$KV.ACCESS.{run}.eve",
    "$SYS.REQ.SERVER.PING.{id}",
)


@pytest.mark.parametrize("where", CONFUSED)
async def test_nobody_answers_where_a_stranger_points(siege: Siege, where: str):
    """The server does not check a reply subject; whoever published there would do it with its own rights."""
    marker = uuid.uuid4().hex[:16]
    target = where.format(run=siege.run, id=marker)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(siege.link())
        eve = await stack.enter_async_context(raw(siege.credentials("eve")))
        inc = join(siege, eve, "eve")
        answers: list[str] = []

        async def saw(message):
            answers.append(message.subject)

        await link.nc.subscribe(target, cb=saw)
        await link.nc.flush()
        await link.nc.flush()
        own = eve.sub(f"out.crew.{siege.run}.rep.*.eve.*")
        call = json.dumps({"inc": inc, "seq": 2, "task": "t", "verb": "ask", "body": {}}).encode()
        lost = json.dumps({"inc": inc, "seq": 3, "task": "t", "verb": "ask", "body": {}}).encode()
        beat = json.dumps({"inc": inc, "seq": 4, "role": "eve"}).encode()
        asked = json.dumps(
            {"t": "ask_human", "inc": inc, "seq": 5, "task": "t", "question": "q", "who": "o", "text": "?"}
        )
        eve.pub(siege.subject("req", "eve", "worker", marker + "1"), call, reply=target)
        eve.pub(siege.subject("req", "eve", "nobody", marker + "2"), lost, reply=target)  # the supervisor answers
        eve.pub(siege.subject("hb", "eve", "_", marker + "3"), beat, reply=target)
        eve.pub(siege.subject("note", "eve", "_", marker + "4"), asked.encode(), reply=target)
        eve.pub(siege.subject("note", "eve", "_", marker + "5"), b"not a message", reply=target)
        assert await eve.sync()
        ids = {f"{marker}1".encode(), f"{marker}2".encode()}
        await eve.until(
            lambda: {each.subject.split(b".")[-1] for each in eve.heard if each.sid == own} >= ids,
            "the worker's answer and the supervisor's, on subjects of their own",
        )
        await link.nc.flush()
        assert answers == []
