"""Headers that make a stream refuse a message: what is not stored is not delivered either."""

import uuid

import pytest

from support.raw_nats import raw
from support.siege import Siege

pytestmark = pytest.mark.live

TRICKS = {
    "the same id twice": b"Nats-Msg-Id: {id}",
    "another stream": b"Nats-Expected-Stream: ELSEWHERE",
    "another last sequence": b"Nats-Expected-Last-Sequence: 999999",
    "another last sequence of the subject": b"Nats-Expected-Last-Subject-Sequence: 999999",
    "another last sequence of another subject": (
        b"Nats-Expected-Last-Subject-Sequence: 7\nNats-Expected-Last-Subject-Sequence-Subject: crew.x.msg.a.b.c"
    ),
    "another last id": b"Nats-Expected-Last-Msg-Id: nothing",
    "a time to live": b"Nats-TTL: 1s",
    "no time to live": b"Nats-TTL: never",
    "a time to live that is none": b"Nats-TTL: soon",
    "a rollup of all": b"Nats-Rollup: all",
    "a rollup of the subject": b"Nats-Rollup: sub",
    "a counter": b"Nats-Incr: +1",
    "a batch that is never committed": b"Nats-Batch-Id: {id}\nNats-Batch-Sequence: 1",
    "a batch that is committed": b"Nats-Batch-Id: {id}\nNats-Batch-Sequence: 1\nNats-Batch-Commit: 1",
    "a batch without beginning": b"Nats-Batch-Id: {id}\nNats-Batch-Sequence: 7\nNats-Batch-Commit: 1",
    "a schedule": b"Nats-Schedule: @at 2099-01-01T00:00:00Z\nNats-Schedule-Target: crew.x.msg.a.b.c",
    "a schedule that goes on": b"Nats-Schedule: @every 1s\nNats-Schedule-Target: crew.x.msg.a.b.c",
    "a newer server": b"Nats-Required-Api-Level: 9999",
    "a marker": b"Nats-Marker-Reason: Purge",
    "the mark of a delivery": b"Nats-Stream: S\nNats-Subject: crew.x.ctl._.a.b\nNats-Sequence: 1",
    "a trace": b"Nats-Trace-Dest: crew.x.ctl._.a.b\nNats-Trace-Only: true",
    "a traced parent": b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "a status": b"NATS/1.0 503\r\n\r\n",
    "a status of a stream": b"NATS/1.0 409 Leadership Change\r\n\r\n",
    "a block without end": b"NATS/1.0\r\nA: b",
    "a name without value": b"NATS/1.0\r\nAAAA\r\n\r\n",
}


@pytest.mark.parametrize("trick", TRICKS)
async def test_what_is_delivered_is_stored(siege: Siege, trick: str):
    marker = uuid.uuid4().hex[:16]
    headers = TRICKS[trick].replace(b"{id}", marker.encode())
    async with siege.link() as link, raw(siege.credentials("eve")) as eve, raw(siege.credentials("bob")) as bob:
        bob.sub(f"out.crew.{siege.run}.msg.*.bob.*")
        await bob.sync()
        sent = [f"{marker}-{number}".encode() for number in range(3)]
        for number, payload in enumerate(sent):
            eve.pub(siege.subject("msg", "eve", "bob", f"{marker}-{number}"), payload, headers=headers)
        eve.pub(siege.subject("msg", "eve", "bob", marker), f"{marker}-last".encode())
        assert await eve.sync()
        await bob.until(lambda: any(each.payload.endswith(b"-last") for each in bob.heard), "the plain one")
        heard = [each.payload for each in bob.heard if each.payload.startswith(marker.encode())]
        stored = [each.payload for each in await siege.stored(link) if each.payload.startswith(marker.encode())]
        assert heard == stored
        assert heard[-1] == f"{marker}-last".encode()
        assert set(heard) <= {*sent, heard[-1]}


async def test_a_stream_is_not_made_to_answer_in_the_servers_name(siege: Siege):
    """A stream that acknowledges publishes to a subject of the sender's choice, with the server's rights."""
    marker = uuid.uuid4().hex[:16]
    targets = [
        siege.subject("rep", "keeper", "bob", marker),
        siege.subject("ctl", "_", "bob", marker),
        "out." + siege.subject("rep", "keeper", "bob", marker),
        f"_INBOX.{marker}",
        f"$JS.API.STREAM.PURGE.CREW_{siege.run}",
    ]
    async with siege.link() as link, raw(siege.credentials("eve")) as eve, raw(siege.credentials("bob")) as bob:
        bob.sub(f"out.crew.{siege.run}.rep.*.bob.*")
        bob.sub(f"out.crew.{siege.run}.ctl.*.bob.*")
        await bob.sync()
        answers: list[str] = []

        async def saw(message):
            answers.append(message.subject)

        for target in targets:
            await link.nc.subscribe(target, cb=saw)
        await link.nc.flush()
        await link.nc.flush()
        for number, target in enumerate(targets):
            for headers in (b"", b"Nats-Expected-Stream: ELSEWHERE", b"Nats-Msg-Id: 1"):
                eve.pub(
                    siege.subject("msg", "eve", "keeper", f"{marker}{number}"), b"{}", reply=target, headers=headers
                )
        eve.pub(siege.subject("rep", "eve", "bob", marker), b"{}")  # what is permitted comes
        assert await eve.sync()
        await bob.until(lambda: bob.heard, "what is permitted")
        assert await bob.sync()
        await link.nc.flush()
        assert answers == []
        assert [each.subject for each in bob.heard] == [("out." + siege.subject("rep", "eve", "bob", marker)).encode()]
