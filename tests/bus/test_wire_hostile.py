"""Hostile frames: whatever one client sends, another that listens still gets the next message."""

import asyncio
import base64
import json
from urllib.parse import urlsplit

import anyio
import nkeys
import pytest
from nats.aio.client import Client
from nats.errors import Error

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.wire import WireClient, quiet
from support.bus import Inbox, plain_client, running_server, until

pytestmark = pytest.mark.live


def hpub(headers, subject=b"t.x", payload=b"evil", reply=b""):
    middle = b" " + reply if reply else b""
    return b"HPUB %b%b %d %d\r\n%b%b\r\n" % (
        subject, middle, len(headers), len(headers) + len(payload), headers, payload,
    )  # fmt: skip


def pub(subject, payload=b"evil", reply=b""):
    return b"PUB %b%b %d\r\n%b\r\n" % (subject, b" " + reply if reply else b"", len(payload), payload)


FRAMES = {
    "subject not UTF-8": pub(b"t.\xff\xfe"),
    "subject with a lone continuation byte": pub(b"t.\x80"),
    "subject in UTF-8 but not ASCII": pub("t.é".encode()),
    "subject with NEL": pub(b"t.\xc2\x85"),
    "subject with VT": pub(b"t.\x0ba"),
    "subject with FF": pub(b"t.\x0c"),
    "subject with FS": pub(b"t.\x1c\x1d\x1e\x1f"),
    "subject with NUL": pub(b"t.\x00"),
    "subject with a quote": pub(b"t.'\""),
    "subject like an operation": pub(b"t.MSG"),
    "a long subject": pub(b"t." + b"x" * 3900),
    "reply not UTF-8": pub(b"t.x", reply=b"\xff\xfe"),
    "reply with VT": pub(b"t.x", reply=b"a\x0bb"),
    "reply with NUL": pub(b"t.x", reply=b"\x00"),
    "header reply not UTF-8": hpub(b"NATS/1.0\r\n\r\n", reply=b"\xff"),
    "header subject not UTF-8": hpub(b"NATS/1.0\r\n\r\n", subject=b"t.\xff"),
    "version line without end": hpub(b"NATS/1.0"),
    "version line without end and no payload": hpub(b"NATS/1.0", payload=b""),
    "version line with a lone CR": hpub(b"NATS/1.0\r"),
    "status not UTF-8": hpub(b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
    "status without end": hpub(b"NATS/1.0 503"),
    "status of one blank": hpub(b"NATS/1.0 "),
    "no responders, forged": hpub(b"NATS/1.0 503\r\n\r\n", payload=b""),
    "idle heartbeat, forged": hpub(b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", payload=b""),
    "flow control, forged": hpub(b"NATS/1.0 100 Flow\xff\r\n\r\n", payload=b"", reply=b"t.y"),
    "description not UTF-8": hpub(b"NATS/1.0 100 \xff\xfe\r\n\r\n"),
    "header name not UTF-8": hpub(b"NATS/1.0\r\n\xff: x\r\n\r\n"),
    "header value not UTF-8": hpub(b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n"),
    "header without colon": hpub(b"NATS/1.0\r\nAAAA\r\n\r\n"),
    "only colons": hpub(b"NATS/1.0\r\n:::::\r\n\r\n"),
    "header block without end": hpub(b"NATS/1.0\r\nA: b"),
    "folded header": hpub(b"NATS/1.0\r\nA: b\r\n c\r\n\r\n"),
    "a thousand headers": hpub(b"NATS/1.0\r\n" + b"A: b\r\n" * 1000 + b"\r\n"),
    "forged sequence": hpub(b"NATS/1.0\r\nNats-Stream: S\r\nNats-Sequence: 99999999999999999999999\r\n\r\n"),
    "random header bytes": hpub(bytes(range(256))),
    "zero header bytes": hpub(b"\x00" * 12),
    "payload like frames": pub(b"t.x", b"\r\nMSG t.x 1 3\r\nabc\r\n-ERR 'x'\r\nPING\r\n"),
    "empty payload": pub(b"t.x", b""),
}


async def attack(server, frame):
    """Send one frame over a bare socket; whether the server took it without closing."""
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    own = server.credentials
    nonce = json.loads((await reader.readline())[5:])["nonce"]
    signature = base64.b64encode(nkeys.from_seed(own.seed.encode()).sign(nonce.encode())).decode()
    hello = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "x", "version": "1",
             "jwt": own.jwt, "sig": signature, "protocol": 1}  # fmt: skip
    writer.write(b"CONNECT %b\r\nPING\r\n%bPING\r\n" % (json.dumps(hello).encode(), frame))
    answers = b""
    with anyio.move_on_after(5):
        while answers.count(b"PONG\r\n") < 2 and (chunk := await reader.read(65536)):
            answers += chunk
    writer.close()
    await writer.wait_closed()
    return answers.count(b"PONG\r\n") == 2


async def test_the_transport_reads_on_after_every_hostile_frame(tmp_path):
    async with running_server(tmp_path) as server, plain_client(server) as friend:
        own, inbox = server.credentials, Inbox()
        transport = await NatsTransport.open(credentials=lambda: own)
        losses = []
        transport.on_change(losses.append)
        await transport.subscribe("t.>", inbox)
        await transport.barrier()
        taken = 0
        for name, frame in FRAMES.items():
            taken += await attack(server, frame)
            await friend.publish("t.after", name.encode())
            await friend.flush()
            await until(lambda name=name: name.encode() in inbox.payloads, f"the message after: {name}")
        assert taken >= 20  # the others the server itself stopped
        assert losses == []
        link = transport._link
        await transport.close()
        assert link.dropped + transport.dropped >= 3


async def test_everything_nats_py_offers_survives_every_hostile_frame(tmp_path):
    async with running_server(tmp_path) as server, plain_client(server) as friend:
        own, client, got, lost = server.credentials, WireClient(), [], []

        async def disconnected():
            lost.append(True)

        async def keep(message):
            got.append(message.data)

        await client.connect(own.url, **own.options(), disconnected_cb=disconnected)
        try:
            await client.subscribe("t.>", cb=keep)
            pulled = await client.subscribe("t.>")
            assert await client.barrier(5)
            for name, frame in FRAMES.items():
                await attack(server, frame)
                await friend.publish("t.after", name.encode())
                await friend.flush()
                await until(lambda name=name: name.encode() in got, f"the message after: {name}")
            assert lost == []
            assert client.mended >= 6
            seen = set()
            while not set(map(str.encode, FRAMES)) <= seen:
                seen.add((await pulled.next_msg(timeout=60)).data)
        finally:
            lost_before_close = list(lost)
            await client.close()
        assert lost_before_close == []


async def test_a_late_answer_to_a_flush_that_gave_up_is_harmless(tmp_path):
    async with running_server(tmp_path) as server:
        own, client, got = server.credentials, WireClient(), []

        async def keep(message):
            got.append(message.data)

        await client.connect(own.url, **own.options())
        await client.subscribe("t", cb=keep)
        given_up = asyncio.get_running_loop().create_future()
        await client._send_ping(given_up)
        given_up.cancel()
        assert await client.barrier(5)
        await client.publish("t", b"still here")
        await until(lambda: got == [b"still here"])
        await client.close()


async def test_a_ping_keeps_its_place_behind_what_is_buffered(tmp_path):
    async with running_server(tmp_path) as server:
        own, client = server.credentials, WireClient()
        await client.connect(own.url, **own.options())
        client.send(b"PUB t 0\r\n\r\n")
        future = asyncio.get_running_loop().create_future()
        await client._send_ping(future)
        assert client._pending == [b"PUB t 0\r\n\r\n", b"PING\r\n"]
        assert await asyncio.wait_for(future, 5)
        await client.close()


async def feed(data, chunk):
    """What a client makes of bytes from the server, cut into chunks."""
    client, got = WireClient(), []
    client._raw[1] = lambda subject, payload, headers: got.append((subject, payload, headers))
    for start in range(0, len(data), chunk):
        await client._ps.parse(data[start : start + chunk])
    return got, client.dropped


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10_000])
async def test_frames_are_split_the_same_however_they_arrive(chunk):
    data = (
        b"MSG a.b 1 3\r\nabc\r\n+OK\r\nMSG a 1 reply.to 0\r\n\r\nHMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
        b"MSG \xff 1 1\r\nx\r\nMSG a\x0bb 1 2\r\n\r\n\r\nHMSG a 1 r 8 8\r\nNATS/1.0\r\nPONG\r\n"
        b"MSG z 2 1\r\nq\r\nMSG e 1 1\r\n!\r\n"
    )
    got, dropped = await feed(data, chunk)
    assert got == [
        ("a.b", b"abc", None),
        ("a", b"", None),
        ("a", b"hi", b"NATS/1.0\r\n\r\n"),
        ("a\x0bb", b"\r\n", None),
        ("a", b"", b"NATS/1.0"),
        ("e", b"!", None),
    ]
    assert dropped == 1


@pytest.mark.parametrize("line", [b"MSG a\r\n", b"MSG a 1 x\r\n", b"MSG a 1 -1\r\n", b"HMSG a 1 9 8\r\n", b"WHAT\r\n"])
async def test_a_server_that_breaks_the_protocol_is_a_protocol_error(line):
    from nats.errors import ProtocolError

    with pytest.raises(ProtocolError):
        await feed(line, 100)


@pytest.mark.parametrize("there", [False, True], ids=["the server is away", "the server is back"])
async def test_a_client_that_is_closed_reconnects_no_more_though_its_task_does_not_hear_of_it(tmp_path, there):
    """Two things that come together are one to `asyncio.wait_for`, and a cancellation among them may be lost."""
    asked, reconnect = [], Client._connect_to_server

    async def deaf(self, server):
        asked.append(server)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            if not there:
                raise ConnectionRefusedError from None
        await reconnect(self, server)

    async with running_server(tmp_path) as server:
        client = WireClient()
        options = {"reconnect_time_wait": 0.01, "max_reconnect_attempts": -1, "error_cb": quiet}
        await client.connect(server.url, **server.credentials.options(), **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Client, "_connect_to_server", deaf)
            await client._process_op_err(Error("lost"))
            await until(lambda: asked, "it reconnects")
            await client.close()
            await until(client._reconnection_task.done, "it gives up")
        assert len(asked) == 1
        assert client.is_closed
        assert client._transport._io_writer.is_closing()


@pytest.mark.parametrize("there", [False, True], ids=["the server is away", "the server is back"])
async def test_a_transport_that_is_closed_dials_no_more_though_its_task_does_not_hear_of_it(tmp_path, there):
    asked, dial = [], NatsTransport._dial

    async def deaf(self, credentials, url=""):
        asked.append(self)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            if not there:
                raise ConnectionLost("nobody is there") from None
        return await dial(self, credentials, url)

    async with running_server(tmp_path) as server:
        own = server.credentials
        transport = await NatsTransport.open(credentials=lambda: own)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NatsTransport, "_dial", deaf)
            await transport._link._process_op_err(Error("lost"))
            await until(lambda: asked, "it dials")
            await transport.close()
            await until(transport._keeper.done, "it gives up")
        assert len(asked) == 1
        assert not transport.is_connected
        assert transport._link is None
