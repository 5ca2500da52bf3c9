"""Malformed frames from inside the crew: our clients and the supervisor read on, and the journal holds what came."""

import json
import uuid

import anyio
import nats
import pytest

from support.bus import until
from support.raw_nats import raw
from support.siege import Siege, join

pytestmark = pytest.mark.live

HEADERS = (
    b"NATS/1.0",
    b"NATS/1.0\r",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 100 \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n\xff: x\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n:::::\r\n\r\n",
    b"NATS/1.0\r\nA: b\r\n c\r\n\r\n",
    b"NATS/1.0\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
)
IDS = (b"\xff\xfe", b"\x80", "é".encode(), b"\xc2\x85", b"\x0ba", b"\x0c", b"\x1c\x1d", b"\x00", b"'\"", b"x" * 3000)
REPLIES = (b"\xff\xfe", b"a\x0bb", b"\x00", b"a\x0cb")
PAYLOADS = (
    b"",
    b"null",
    b"\xff\xfe",
    b"[" * 60_000,
    b"x" * 300_000,
    b'{"inc":"i","seq":NaN}',
    b'{"inc":"i","seq":1e400}',
    b'{"inc":"i","seq":' + b"9" * 60_000 + b"}",
    b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b"\r\nMSG out.crew.r.ctl._.bob.x 1 2\r\n{}\r\n-ERR 'Authorization Violation'\r\nPING\r\n",
)


def attack(siege: Siege, eve, kinds: tuple[str, ...]) -> int:
    """Send all of it to bob; returns how many frames."""
    sent = 0
    for kind in kinds:
        to = f"crew.{siege.run}.{kind}.eve.bob.".encode()
        for headers in HEADERS:
            eve.pub(to + uuid.uuid4().hex[:12].encode(), b"{}", headers=headers)
        for id_ in IDS:
            eve.pub(to + id_, b"{}")
        for reply in REPLIES:
            eve.pub(to + uuid.uuid4().hex[:12].encode(), b"{}", reply=reply)
        for payload in PAYLOADS:
            eve.pub(to + uuid.uuid4().hex[:12].encode(), payload)
        sent += len(HEADERS) + len(IDS) + len(REPLIES) + len(PAYLOADS)
    return sent


async def test_our_client_hears_the_next_message(siege: Siege):
    async with siege.client("bob") as bob, raw(siege.credentials("eve")) as eve, siege.link() as link:
        inc = join(siege, eve, "eve")
        await bob.ready(90)
        link_before = bob._membership._transport._link
        sent = attack(siege, eve, ("msg", "req", "rep", "prog", "cancel"))
        said = {"inc": inc, "seq": 2, "task": "t", "body": "still there?"}
        eve.pub(siege.subject("msg", "eve", "bob", uuid.uuid4().hex[:12]), json.dumps(said).encode())
        assert await eve.sync(), eve.errors
        assert not eve.refusals("publish")
        assert (await bob.receive(timeout_s=90)).body == "still there?"
        with anyio.fail_after(120):
            assert await bob.ask("worker") == "ok"
        assert bob._membership._transport._link is link_before, "it lost its connection"
        await siege.finding(link, "malformed", "eve")
        fold = await siege.fold(link)
        assert fold.supervisor.state == "running"
        told = sum(i.count for i in fold.supervisor.incidents.values() if i.finding.kind == "malformed")
        assert told >= sent // 2
    for log in [*siege.state.glob("*.log"), *siege.state.glob("runs/*/logs/*.log"), siege.log]:
        assert "Traceback" not in log.read_text(errors="replace"), log


async def test_a_stock_client_harms_nobody_but_itself_by_going_deaf(siege: Siege):
    """Whoever uses the stock client can be silenced by a frame; the crew goes on, and so does the supervisor."""
    own = siege.credentials("bob")

    async def ignore(_error):
        pass

    stock = await nats.connect(own.url, user=own.user, password=own.password, error_cb=ignore, max_reconnect_attempts=0)
    try:
        heard: list[bytes] = []

        async def take(message):
            heard.append(message.data)

        await stock.subscribe(f"out.crew.{siege.run}.msg.*.bob.*", cb=take)
        await stock.flush()
        async with siege.client("mallory") as mallory, raw(siege.credentials("eve")) as eve, siege.link() as link:
            join(siege, eve, "eve")
            await mallory.ready(90)
            before = await siege.last_seq(link)
            sent = attack(siege, eve, ("msg",))
            assert await eve.sync()

            async def all_stored():
                return await siege.last_seq(link) >= before + sent

            await until(all_stored, "the journal has all of it")
            with anyio.fail_after(120):
                assert await mallory.ask("worker") == "ok"
            await siege.finding(link, "malformed", "eve")
    finally:
        await stock.close()
