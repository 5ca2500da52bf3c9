"""The outbox on a real server against a real receiver that fails in every way receivers do."""

import contextlib
import threading
import time

import anyio
import msgspec
import pytest
from nats_process import crew, linked, python, until

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.messages import Outcome
from crewkeeper_bus.webhooks import verify
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell import circuit, deliveries, journal, webhook
from crewkeeper_supervisor.shell import outbox as outboxes
from crewkeeper_supervisor.shell.deliveries import Answered, Deliveries, Queue
from crewkeeper_supervisor.shell.nats_link import connect
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


def entry(url, command="5-0", endpoint=0, secret=SECRET, incident=""):
    body = msgspec.json.encode({"type": "crewkeeper.deadlock.opened", "timestamp": "now", "data": {"run": "r1"}})
    receiver = Webhook(webhook=url, secret=secret, allow_private=True)
    return Entry(run="r1", command=command, endpoint=endpoint, receiver=receiver, body=body, incident=incident)


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


async def two_wait(link):
    return await waiting(link) == 2


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


async def test_what_is_for_a_later_recipient_is_not_counted_as_waiting(tmp_path, monkeypatch):
    reads = 0

    async def read(*arguments):
        nonlocal reads
        reads += 1
        return await get_last_msg(*arguments)

    async with linked(tmp_path) as (_, link):
        queue = Queue(link)
        assert await queue.count(0.0) is None, "there is no outbox yet"
        outbox = Outbox(link)
        await outbox.open()
        assert await queue.count(0.0) == (0, 0)
        get_last_msg = link.js.get_last_msg
        monkeypatch.setattr(link.js, "get_last_msg", read)
        first = entry("http://127.0.0.1:1/")
        for number, change in enumerate(({}, {"due_s": 500.0}, {"due_s": 900.0}, {"due_s": 900.0, "closing": True})):
            await outbox.enqueue(msgspec.structs.replace(first, command=f"{number}-0", **change))
        assert await queue.count(400.0) == (2, 2)
        assert await queue.count(600.0) == (3, 1)
        assert reads == 4, "each is looked into once"
        await link.js.purge_stream(STREAM, subject="escalations.*.*.*.2-0")
        assert await queue.count(600.0) == (3, 0)
        monkeypatch.setattr(deliveries, "READ_MAX", 1)
        assert sum(await queue.count(0.0)) == 3, "what is not looked into counts as due"


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
    assert outcome.detail.endswith(f"{attempts} attempts" if attempts > 1 else "1 attempt")


async def test_what_a_receiver_asks_for_outlives_the_controller_that_asked(tmp_path, monkeypatch):
    """In the record, which every controller looks at; the circuit is only this one's."""

    async def busy(http, receiver, message_id, body):
        return webhook.Attempt(ok=False, host="ops.example", text="429 from ops.example", retry_after_s=3600.0)

    monkeypatch.setattr(webhook, "deliver", busy)
    async with working(tmp_path) as (_, link, outbox):
        asked_s = time.time()
        await outbox.enqueue(entry("http://127.0.0.1:9/"))
        records = Deliveries(link)

        async def tried():
            found = await records.get(entry("http://127.0.0.1:9/"))
            return found if found.count else None

        assert (await until(tried)).next_s >= asked_s + 3600


async def test_a_hanging_receiver_is_left_and_does_not_hold_up_others(tmp_path, monkeypatch):
    release, is_told = threading.Event(), anyio.Event()
    deliver = webhook.deliver

    def hang(number):
        release.wait(20)
        return 204

    async def limited(http, receiver, *what):
        """One attempt; one that hangs is over when the other receiver was reached, if its limit does not come later."""
        hangs = receiver.webhook == hanging.url
        monkeypatch.setattr(webhook, "ATTEMPT_LIMIT_S", 0.5 if hangs else 60.0)
        attempt = await deliver(http, receiver, *what)
        if hangs:
            await is_told.wait()
        return attempt

    monkeypatch.setattr(webhook, "deliver", limited)
    with Receiver(SECRET, answer=hang) as hanging, Receiver(SECRET) as fine:
        async with working(tmp_path, (0.01,)) as (_, link, outbox):
            await outbox.enqueue(entry(hanging.url, "5-0"))
            await outbox.enqueue(entry(fine.url, "6-0"))
            await until(lambda: outcomes(link))
            is_told.set()
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
    assert "cannot be reached: nothing takes connections there" in found["1-0"].detail
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


async def test_about_one_incident_they_arrive_in_order_though_the_first_fails(tmp_path):
    refused = iter([503, 503, 503])
    with Receiver(SECRET, answer=lambda number: next(refused, 204)) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            for command in ("1-0", "2-0", "3-0"):
                await outbox.enqueue(entry(receiver.url, command, incident="F1"))
            await until(lambda: empty(link))
        taken = [each.id for each in receiver.received if each.status == 204]
    assert taken == ["msg_r1_1-0", "msg_r1_2-0", "msg_r1_3-0"]
    assert [each.id for each in receiver.received][:4] == ["msg_r1_1-0"] * 4, "nothing overtakes"


async def test_another_incident_does_not_wait(tmp_path):
    status = {"msg_r1_1-0": 503}
    with Receiver(SECRET) as receiver:
        receiver.take, take = (
            lambda path, headers, payload: status.get(headers["webhook-id"]) or take(path, headers, payload),
            receiver.take,
        )
        async with working(tmp_path, (1000.0,)) as (_, link, outbox):
            await outbox.enqueue(entry(receiver.url, "1-0", incident="F1"))
            await outbox.enqueue(entry(receiver.url, "2-0", incident="F1"))
            await outbox.enqueue(entry(receiver.url, "3-0", incident="F2"))
            await until(lambda: receiver.received)
            await until(lambda: two_wait(link))
            assert [each.id for each in receiver.received] == ["msg_r1_3-0"]


async def test_an_endpoint_that_is_gone_is_not_called_until_a_person_sends_again(tmp_path):
    with Receiver(SECRET, answer=lambda number: 410 if number == 1 else 204) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(entry(receiver.url, "1-0"))
            await until(lambda: outcomes(link, 1))
            await outbox.enqueue(entry(receiver.url, "2-0"))
            *_, second = await until(lambda: outcomes(link, 2))
            assert not second.ok
            assert "gone (410)" in second.detail
            assert len(receiver.received) == 1
            records = Deliveries(link)
            found = {each.entry.command: each for each in await records.ls("r1")}
            assert {each.state for each in found.values()} == {"dead"}
            assert await records.gone(found["1-0"].entry.receiver)
            assert await records.again(found["2-0"])
            assert (await until(lambda: outcomes(link, 3)))[2].ok
            assert await records.gone(found["1-0"].entry.receiver) is None, "it answered, so it is there"
            await outbox.enqueue(entry(receiver.url, "3-0"))
            assert (await until(lambda: outcomes(link, 4)))[3].ok
    assert [each.id for each in receiver.received] == ["msg_r1_1-0", "msg_r1_2-0", "msg_r1_3-0"]


async def test_what_became_of_each_is_kept_with_every_attempt(tmp_path):
    with Receiver(SECRET, answer=lambda number: 503 if number < 3 else 204) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(entry(receiver.url))
            await until(lambda: empty(link))
            (found,) = await Deliveries(link).ls()
            assert (found.state, found.count) == ("delivered", 3)
            assert [each.ok for each in found.tries] == [False, False, True]
            assert not await Deliveries(link).ls("other")
            assert await Deliveries(link).again(found)
            await until(lambda: len(receiver.received) == 4)
            await until(lambda: empty(link))
    assert {each.id for each in receiver.received} == {"msg_r1_5-0"}


async def test_a_copy_of_what_was_delivered_is_not_sent(tmp_path):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(entry(receiver.url))
            await until(lambda: empty(link))
            copy = msgspec.json.encode(entry(receiver.url))
            await link.store(f"escalations.{entry(receiver.url).tail}", copy)
            await until(lambda: outcomes(link, 2))
            await until(lambda: empty(link))
        assert len(receiver.received) == 1


@pytest.mark.slow
async def test_nothing_is_lost_or_overtaken_when_the_receiver_is_down_and_the_worker_is_killed(tmp_path, monkeypatch):
    """Down for many attempts; the worker is killed in the middle, and another on a new connection goes on."""
    monkeypatch.setattr(circuit, "PAUSE_S", 0.02)
    monkeypatch.setattr(circuit, "PAUSE_MAX_S", 0.05)
    down = threading.Event()
    down.set()
    genuine = []

    class Independent(Receiver):
        def take(self, path, headers, payload):
            if down.is_set():
                return 503
            verify(SECRET, headers, payload)
            genuine.append(next(value for key, value in headers.items() if key.lower() == "webhook-id"))
            return 204

    retries_s = (0.02,) * 200
    sent = [(f"{number}-{part}", f"F{number}") for part in range(3) for number in range(4)]
    with Independent(SECRET) as receiver:
        async with linked(tmp_path) as (server, link):
            await journal.create_run(link, "r1", crew(), "here")
            first = Outbox(link, retries_s)
            await first.open()
            async with anyio.create_task_group() as group:
                group.start_soon(first.work)
                for command, incident in sent:
                    await first.enqueue(entry(receiver.url, command, incident=incident))
                await until(lambda: outcomes(link, 4))  # told that nobody is reached yet
                group.cancel_scope.cancel()
            down.clear()
            async with connect(server.place, name="second") as other, anyio.create_task_group() as group:
                group.start_soon(Outbox(other, retries_s).work)
                await until(lambda: empty(link), 60)
                group.cancel_scope.cancel()
    assert set(genuine) == {f"msg_r1_{command}" for command, _ in sent}
    for number in range(4):
        firsts = list(dict.fromkeys(id_ for id_ in genuine if id_.startswith(f"msg_r1_{number}-")))
        assert firsts == [f"msg_r1_{number}-{part}" for part in range(3)]


def later(url, command, after_s, *, closing=False):
    made = entry(url, command, endpoint=1, incident="F1")
    receiver = msgspec.structs.replace(made.receiver, after_s=3600.0)
    return msgspec.structs.replace(made, receiver=receiver, closing=closing, due_s=time.time() + after_s)


async def test_a_later_recipient_is_told_if_nobody_acknowledges_and_of_the_end_too(tmp_path):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            await outbox.enqueue(later(receiver.url, "1-0", 0.05))
            await until(lambda: receiver.received)
            await until(lambda: empty(link))
            await outbox.enqueue(later(receiver.url, "2-0", 0.05, closing=True))
            await until(lambda: empty(link))
    assert [each.id for each in receiver.received] == ["msg_r1_1-0", "msg_r1_2-0"]


@pytest.mark.parametrize("how", ["acknowledged", "over"])
async def test_a_later_recipient_is_spared_what_is_acknowledged_or_over(tmp_path, monkeypatch, how):
    monkeypatch.setattr(outboxes, "TURN_S", 0.02)
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            opened = later(receiver.url, "1-0", 3600)
            await outbox.enqueue(opened)
            assert await waiting(link) == 1
            if how == "acknowledged":
                await Deliveries(link).answer(opened, Answered(by="ana", at_s=time.time()))
                await until(lambda: empty(link))
            await outbox.enqueue(later(receiver.url, "2-0", 3600, closing=True))
            told = await until(lambda: outcomes(link, 2))
            await until(lambda: empty(link))
            states = {each.state for each in await Deliveries(link).ls()}
    assert not receiver.received
    assert states == {"needless"}
    assert [each.ok for each in told] == [True, True]
    assert ("acknowledged by ana" if how == "acknowledged" else "it was over before") in told[0].detail


@pytest.mark.parametrize("told", [True, False])
async def test_a_later_recipient_hears_at_once_who_knows_of_what_it_was_told(tmp_path, told):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            if told:
                await outbox.enqueue(later(receiver.url, "1-0", 0))
                await until(lambda: empty(link))
            known = msgspec.structs.replace(later(receiver.url, "2-0", 3600), acknowledged_by="ana")
            await outbox.enqueue(known)
            await until(lambda: empty(link))
            assert (await Deliveries(link).get(known)).state == ("delivered" if told else "needless")
    assert [each.id for each in receiver.received] == (["msg_r1_1-0", "msg_r1_2-0"] if told else [])


async def test_an_acknowledgement_comes_too_late_for_who_was_told(tmp_path):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, link, outbox):
            opened = later(receiver.url, "1-0", 0)
            await outbox.enqueue(opened)
            await until(lambda: empty(link))
            await Deliveries(link).answer(opened, Answered(by="ana", at_s=time.time()))
            await outbox.enqueue(later(receiver.url, "2-0", 0, closing=True))
            await until(lambda: len(receiver.received) == 2)
