"""The text and the signature of a webhook, and a receiver that believes neither without proof."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import msgspec
import pytest
from standardwebhooks import Webhook as Library

from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell import receiver as receiving
from crewkeeper_supervisor.shell import webhook
from crewkeeper_supervisor.shell.errors import SettingMissing
from crewkeeper_supervisor.shell.receiver import Received, Receiver, describe

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
TOMORROW = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)


def escalation(**body):
    return Escalate(id="7-1", incident="F7-0", kind="opened", body={"kind": "deadlock", **body})


def post(url, payload, headers):
    with httpx2.Client(trust_env=False) as http:
        return http.post(url, content=payload, headers=headers).status_code


def test_the_body_is_typed_and_names_run_and_incident():
    body = msgspec.json.decode(webhook.body("r1", "trip", escalation(summary="a ring")))
    assert set(body) == {"type", "timestamp", "data"}
    assert body["type"] == "crewkeeper.deadlock.opened"
    assert datetime.fromisoformat(body["timestamp"]).utcoffset() == timedelta(0)
    data = body["data"]
    assert (data["run"], data["crew"], data["incident"], data["summary"]) == ("r1", "trip", "F7-0", "a ring")


def test_a_large_body_is_cut_and_says_what_is_missing():
    body = webhook.body("r1", "trip", escalation(summary="s", edges=["e" * 100] * 500, tail=["t"] * 9000))
    assert len(body) < webhook.BODY_MAX_BYTES
    data = msgspec.json.decode(body)["data"]
    assert data["summary"] == "s"
    assert set(data["left_out"]) == {"edges", "tail"}


def test_variables_come_from_the_environment():
    assert webhook.expand("https://${HOST}/${A_1}", {"HOST": "h", "A_1": "x"}) == "https://h/x"
    assert webhook.expand("$HOST ${} ${a-b}", {}) == "$HOST ${} ${a-b}"
    assert webhook.expand("$${HOST}", {}) == "${HOST}"
    with pytest.raises(SettingMissing) as missing:
        webhook.expand("${NOPE}", {"NOPE": ""})
    assert missing.value.name == "NOPE"


def test_the_signature_is_the_standard_one():
    now = datetime.now(UTC)
    headers = webhook.sign(SECRET, "msg_1", now, b'{"a":1}')
    assert Library(SECRET).verify(b'{"a":1}', headers) == {"a": 1}
    assert webhook.sign("", "msg_1", now, b"{}").keys() == {"webhook-id", "webhook-timestamp"}
    with pytest.raises(webhook.Unusable) as unusable:
        webhook.sign("whsec_!é", "msg_1", now, b"{}")
    for taken_by_the_library in (f"{SECRET}\n# more", "ge-he-im"):
        with pytest.raises(webhook.Unusable):
            webhook.sign(taken_by_the_library, "msg_1", now, b"{}")
    assert "é" not in str(unusable.value)


def test_a_receiver_takes_what_is_genuine_only():
    payload = b'{"type":"t","data":{}}'
    now = datetime.now(UTC)
    good = webhook.sign(SECRET, "msg_1", now, payload)
    hostile = [
        {},
        {**good, "webhook-id": "msg_2"},
        {**good, "webhook-timestamp": "1"},
        {**good, "webhook-timestamp": "nan"},
        {**good, "webhook-timestamp": "9" * 400},
        {**good, "webhook-signature": "v1"},
        {**good, "webhook-signature": "v1,%%%"},
        {**good, "webhook-signature": "v1,a,b"},
        {**good, "webhook-signature": ",,, ,"},
        webhook.sign(SECRET, "msg_1", now - timedelta(minutes=10), payload),
        webhook.sign("whsec_c2Vjb25kc2Vjb25kc2Vjb25kc2Vjb25k", "msg_1", now, payload),
    ]
    with Receiver(SECRET) as receiver:
        assert [post(receiver.url, payload, headers) for headers in hostile] == [401] * len(hostile)
        assert post(receiver.url, payload + b" ", good) == 401
        assert post(receiver.url, b"\xff", webhook.sign(SECRET, "m", now, b"{}")) == 401
        assert post(receiver.url, payload, good) == 204
        assert post(receiver.url + "/other", payload, good) == 404
        assert post(receiver.url, b"x" * (receiving.BODY_MAX_BYTES + 1), good) == 413
        received = receiver.received
    assert [each.verified for each in received] == [False] * (len(hostile) + 2) + [True, False]
    assert all(each.problem and each.body is None for each in received if not each.verified)


def test_what_a_person_gets_is_plain_text_whatever_the_body_is():
    data = {
        "crew": "trip",
        "summary": "ring \x1b[2J\n\u202e",
        "ring": "a > b > a",
        "waits": [{"text": "a waits for b", "for_s": 1.5}, 5],
        "victim": {"agent": "a", "why": "least work"},
        "steps": ["opened", "tell people"],
    }
    received = Received(id="m\r\n1", verified=True, problem="", status=204, body={"type": "t", "data": data})
    text = "\n".join(describe(received))
    assert "ring: a" not in text
    assert all(c.isprintable() or c == "\n" for c in text)
    for shown in ("a > b > a", "a waits for b (for 1.5 s)", "a: least work", "tell people", "signature ok"):
        assert shown in text
    for body in (None, [], {}, {"data": 5}, {"data": {"waits": 3, "victim": [], "steps": {}}}):
        assert list(describe(msgspec.structs.replace(received, body=body)))


async def sent(receiver):
    async with webhook.client() as http:
        return await webhook.deliver(http, receiver, "msg_1", b'{"type":"crewkeeper.deadlock.opened","data":{}}')


async def test_during_rotation_the_old_and_the_new_secret_fit():
    new = "whsec_c2Vjb25kc2Vjb25kc2Vjb25kc2Vjb25k"
    for secret in (SECRET, new):
        with Receiver(secret) as receiver:
            hook = Webhook(webhook=receiver.url, secret=new, previous_secret=SECRET, allow_private=True)
            assert (await sent(hook)).ok
            assert receiver.received[0].verified


async def test_what_is_sent_is_in_the_format_asked_for():
    with Receiver(SECRET) as receiver:
        hook = Webhook(webhook=receiver.url, secret=SECRET, allow_private=True, format="alertmanager")
        assert (await sent(hook)).ok
        assert receiver.received[0].body["version"] == "4"
        keyless = await sent(msgspec.structs.replace(hook, format="pagerduty"))
        assert (keyless.final, len(receiver.received)) == (True, 1)
        assert "routing_key" in keyless.text


async def test_what_the_crew_file_does_not_allow_is_not_called():
    with Receiver(SECRET) as receiver:
        for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost"), "http://169.254.169.254/latest"):
            attempt = await sent(Webhook(webhook=url, secret=SECRET))
            assert (attempt.ok, attempt.final) == (False, True)
        by_name = receiver.url.replace("127.0.0.1", "localhost").replace("http:", "https:")
        refused = await sent(Webhook(webhook=by_name, secret=SECRET))
        assert "private or loopback" in refused.text
        assert not receiver.received


async def test_a_name_is_called_at_the_address_it_was_judged_by():
    with Receiver(SECRET) as receiver:
        by_name = receiver.url.replace("127.0.0.1", "localhost")
        assert (await sent(Webhook(webhook=by_name, secret=SECRET, allow_private=True))).ok


def test_a_receiver_may_ask_for_a_pause_in_seconds_or_until_a_date():
    assert webhook._seconds("120") == 120
    later = datetime.now(UTC) + timedelta(minutes=10)
    assert 500 < webhook._seconds(later.strftime("%a, %d %b %Y %H:%M:%S GMT")) < 700
    for nothing in ("", "soon", "-5", "9" * 400, "Sun, 06 Nov 1994 08:49:37 GMT"):
        assert webhook._seconds(nothing) == 0


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("9", 9, 9),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("1e9", 0, 0),
        ("99999999999", 0, 0),
        pytest.param(TOMORROW, 80_000, 86_400, id="tomorrow"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
async def test_what_retry_after_says_is_heard_for_an_hour_at_most(asked, least, most):
    """Seconds or a date; what is neither says nothing."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, headers={"retry-after": asked})

    receiver = Webhook(webhook="http://127.0.0.1:9/", allow_private=True)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        attempt = await webhook.deliver(http, receiver, "msg_1", b"{}")
    assert not attempt.ok
    assert not attempt.final
    assert min(least, 3600) <= attempt.retry_after_s <= min(most, 3600)
