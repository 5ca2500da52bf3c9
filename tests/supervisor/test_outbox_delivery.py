"""The outbox on a real server against a real receiver that fails in every way receivers do."""

import contextlib
import threading

import anyio
import msgspec
import pytest
from nats_process import crew, linked, python, until

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.messages import Outcome
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell import journal, webhook
from crewkeeper_supervisor.shell.outbox import DEAD_STREAM, STREAM, Entry, Outbox
from crewkeeper_supervisor.shell.receiver import Receiver

pytestmark = pytest.mark.live
SECRET = "whsec_b3V0Ym94LWNhbmFyeS1vdXRib3gtY2FuYXJ5"
QUICK = (0.01, 0.01, 0.01)


@contextlib.asynccontextmanager
async def working(directory, retries_s=QUICK):
    async with linked(directory) as (server, link):
        await journal.create_run(link, "r1", crew(), "here")
        outbox = Outbox(link, retries_s)
        await outbox.open()
        async with anyio.create_task_group() as group:
            group.start_soon(outbox.work)
            yield server, link, outbox
            group.cancel_scope.cancel()


def entry(url, command="5-0", endpoint=0, secret=SECRET):
    body = msgspec.json.encode({"type": "crewkeeper.deadlock.opened", "timestamp": "now", "data": {"run": "r1"}})
    receiver = Webhook(webhook=url, secret=secret, allow_private=True)
    return Entry(run="r1", command=command, endpoint=endpoint, receiver=receiver, body=body)


async def outcomes(link, at_least=1):
    found = []
    for stored in await journal.read_all(link, "r1"):
        if subjects.parse(stored.subject).kind == "op":
            message = codec.decode_supervisor("op", stored.payload)
            if isinstance(message, Outcome):
                found.append(message)
    return found if len(found) >= at_least else None


async def waiting(link, stream=STREAM):
    return (await link.js.stream_info(stream)).state.messages


async def empty(link):
    return await waiting(link) == 0


async def test_a_delivery_is_signed_reported_and_taken_out(tmp_path):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            assert await outbox.enqueue(entry(receiver.url))
            (outcome,) = await until(lambda: outcomes(link))
            await until(lambda: empty(link))
        (received,) = receiver.received
    assert outcome.command == "5-0"
    assert outcome.ok
    assert outcome.detail.startswith("204 from 127.0.0.1")
    assert (received.verified, received.id) == (True, "msg_r1_5-0")
    assert received.body["type"] == "crewkeeper.deadlock.opened"


async def test_failures_are_tried_again_under_the_same_id(tmp_path, capfd):
    with Receiver(SECRET, answer=lambda number: 503 if number < 3 else 204) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(entry(receiver.url))
            not_yet, outcome = await until(lambda: outcomes(link, 2))
            await until(lambda: empty(link))
        received = receiver.received
    assert not not_yet.ok, "the second failure is told at once, not only the end of all attempts"
    assert "503 from 127.0.0.1" in not_yet.detail
    assert "tried again in" in not_yet.detail
    assert outcome.ok
    assert [each.status for each in received] == [503, 503, 204]
    assert {each.id for each in received} == {"msg_r1_5-0"}
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("status", "attempts", "said"),
    [(410, 1, "410 from"), (500, 4, "given up after 4 attempts"), (302, 4, "302 from")],
)
async def test_it_gives_up_says_so_and_keeps_the_dead(tmp_path, status, attempts, said):
    with Receiver(SECRET, answer=lambda number: status) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(entry(receiver.url))
            *_, outcome = await until(lambda: outcomes(link, 1 if attempts == 1 else 2))
            await until(lambda: empty(link))
            assert await waiting(link, DEAD_STREAM) == 1
        assert len(receiver.received) == attempts
    assert not outcome.ok
    assert said in outcome.detail


async def test_a_hanging_receiver_is_left_and_does_not_hold_up_others(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "ATTEMPT_LIMIT_S", 0.5)
    release = threading.Event()

    def hang(number):
        release.wait(20)
        return 204

    with Receiver(SECRET, answer=hang) as hanging, Receiver(SECRET) as fine:
        async with working(tmp_path, (0.01,)) as (_, link, outbox):
            await outbox.enqueue(entry(hanging.url, "5-0"))
            await outbox.enqueue(entry(fine.url, "6-0"))
            first, second = await until(lambda: outcomes(link, 2))
        release.set()
    assert (first.command, first.ok) == ("6-0", True)
    assert (second.command, second.ok) == ("5-0", False)
    assert "no answer from 127.0.0.1" in second.detail


async def test_nobody_listening_and_unusable_settings_are_said_without_secrets(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("HOOK_URL", "http://127.0.0.1:1/path-canary")
    cases = {
        "1-0": entry("${HOOK_URL}", "1-0"),
        "2-0": entry("${NOT_SET}", "2-0"),
        "3-0": entry("ftp://host/path-canary", "3-0"),
        "4-0": entry("http://[path-canary", "4-0"),
        "5-0": entry("http://127.0.0.1:1/x", "5-0", secret="whsec_canary!é"),
    }
    async with working(tmp_path) as (_, link, outbox):
        for each in cases.values():
            await outbox.enqueue(each)
        found = {outcome.command: outcome for outcome in await until(lambda: outcomes(link, len(cases)))}
    assert not any(outcome.ok for outcome in found.values())
    assert "cannot be reached: ConnectError" in found["1-0"].detail
    assert "NOT_SET is not set" in found["2-0"].detail
    assert "not an http" in found["3-0"].detail
    assert "not a usable address" in found["4-0"].detail
    assert "not base64" in found["5-0"].detail
    logged = "".join(capfd.readouterr()) + "".join(outcome.detail for outcome in found.values())
    assert "canary" not in logged


async def test_what_is_waiting_is_not_queued_twice_and_each_receiver_is_its_own(tmp_path):
    async with linked(tmp_path) as (_, link):
        await journal.create_run(link, "r1", crew(), "here")
        outbox = Outbox(link)
        await outbox.open()
        assert await outbox.enqueue(entry("http://127.0.0.1:1/"))
        assert not await outbox.enqueue(entry("http://127.0.0.1:1/"))
        assert await outbox.enqueue(entry("http://127.0.0.1:1/", endpoint=1))
        assert await waiting(link) == 2


async def test_what_waits_survives_the_worker_and_the_server(tmp_path):
    async with linked(tmp_path) as (server, link):
        await journal.create_run(link, "r1", crew(), "here")
        outbox = Outbox(link, QUICK)
        await outbox.open()
        with Receiver(SECRET) as receiver:
            await outbox.enqueue(entry(receiver.url))
            server.stop()
            await until(lambda: not link.is_connected)
            async with anyio.create_task_group() as group:
                group.start_soon(outbox.work)
                server.start()
                await until(lambda: receiver.received)
                assert (await until(lambda: outcomes(link)))[0].ok
                await until(lambda: empty(link))
                group.cancel_scope.cancel()


async def test_an_unreadable_entry_is_taken_out_and_the_rest_is_delivered(tmp_path):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await link.js.publish("escalations.r1.0.junk", b"\xff")
            await outbox.enqueue(entry(receiver.url))
            await until(lambda: outcomes(link))
            await until(lambda: empty(link))


async def test_the_receiver_runs_as_a_program(tmp_path):
    ready = tmp_path / "ready"
    arguments = ["-m", "crewkeeper_supervisor.shell.receiver", "--ready-file", str(ready)]
    with python(arguments, tmp_path / "out.log", {"OPS_WEBHOOK_SECRET": SECRET}) as program:
        await until(ready.exists)
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(entry(ready.read_text()))
            assert (await until(lambda: outcomes(link)))[0].ok
        await until(lambda: "signature ok  id msg_r1_5-0" in program.text())
        assert SECRET not in program.text()
