"""A receiver believes what is signed, recent and new, and nothing else; checked against an independent signer."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Library

from crewkeeper_bus.webhooks import SeenIds, WebhookRefused, WebhookRepeated, verify

OLD = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
NEW = "whsec_c2Vjb25kc2Vjb25kc2Vjb25kc2Vjb25k"
NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()
BODY = b'{"type":"crewkeeper.deadlock.opened","data":{"n":1}}'


def signed(secret=OLD, id_="msg_1", body=BODY, now=NOW):
    stamp = str(int(now.timestamp()))
    signature = Library(secret).sign(id_, now, body.decode())
    return {"Webhook-Id": id_, "WEBHOOK-TIMESTAMP": stamp, "webhook-signature": signature}


def test_what_another_implementation_signs_is_believed():
    assert verify(OLD, signed(), BODY, now_s=NOW_S)["data"] == {"n": 1}
    assert verify(OLD.removeprefix("whsec_"), signed(), BODY, now_s=NOW_S)


def test_during_rotation_either_secret_and_any_signature_will_do():
    both = {**signed(), "webhook-signature": f"{signed(NEW)['webhook-signature']} {signed()['webhook-signature']}"}
    for secrets in (OLD, NEW, [NEW, OLD]):
        assert verify(secrets, both, BODY, now_s=NOW_S)
    assert verify([NEW, OLD], signed(), BODY, now_s=NOW_S)
    with pytest.raises(WebhookRefused, match="no signature fits"):
        verify(NEW, signed(), BODY, now_s=NOW_S)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"webhook-signature": ""}, "missing"),
        ({"webhook-signature": "v1,"}, "no signature"),
        ({"webhook-signature": "v1a," + "A" * 44}, "no signature"),
        ({"webhook-signature": "v1,é " * 1000}, "no signature"),
        ({"Webhook-Id": "msg_2"}, "no signature"),
        ({"Webhook-Id": "x" * 600}, "malformed"),
        ({"WEBHOOK-TIMESTAMP": str(int(NOW_S) + 1)}, "no signature"),
        ({"WEBHOOK-TIMESTAMP": "nan"}, "malformed"),
        ({"WEBHOOK-TIMESTAMP": "9" * 400}, "malformed"),
        ({"WEBHOOK-TIMESTAMP": "1"}, "too old"),
    ],
)
def test_what_was_tampered_with_is_refused(change, said):
    with pytest.raises(WebhookRefused, match=said):
        verify(OLD, signed() | change, BODY, now_s=NOW_S)


def test_another_version_of_a_right_signature_is_refused():
    value = signed()["webhook-signature"].partition(",")[2]
    with pytest.raises(WebhookRefused):
        verify(OLD, signed() | {"webhook-signature": f"v2,{value}"}, BODY, now_s=NOW_S)


def test_five_minutes_either_way_are_tolerated_and_no_more():
    for off_s in (-300, 300):
        assert verify(OLD, signed(), BODY, now_s=NOW_S + off_s)
    for off_s in (-301, 301):
        with pytest.raises(WebhookRefused, match="too"):
            verify(OLD, signed(), BODY, now_s=NOW_S + off_s)


def test_a_repeated_request_is_told_from_a_false_one_and_may_be_taken_back():
    seen = SeenIds()
    with pytest.raises(WebhookRefused):
        verify(NEW, signed(), BODY, now_s=NOW_S, seen=seen)
    assert verify(OLD, signed(), BODY, now_s=NOW_S, seen=seen), "a false request must not use up an id"
    with pytest.raises(WebhookRepeated):
        verify(OLD, signed(), BODY, now_s=NOW_S, seen=seen)
    seen.forget("msg_1")
    assert verify(OLD, signed(), BODY, now_s=NOW_S, seen=seen)


def test_what_is_remembered_is_bounded():
    seen = SeenIds(2)
    assert [seen.add(each) for each in "abca"] == [True, True, True, True]
    with pytest.raises(ValueError, match="at least 1"):
        SeenIds(0)


def test_a_secret_that_cannot_be_one_is_the_receivers_mistake():
    for secrets in ("whsec_!", "", []):
        with pytest.raises(ValueError, match="secret") as error:
            verify(secrets, signed(), BODY, now_s=NOW_S)
        assert not isinstance(error.value, WebhookRefused)


def test_what_is_signed_and_no_json_is_refused():
    with pytest.raises(WebhookRefused, match="JSON"):
        verify(OLD, signed(body=b"{"), b"{", now_s=NOW_S)


@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "x"]), st.text()),
    st.binary(),
)
def test_nothing_but_a_refusal_escapes(headers, payload):
    with pytest.raises(WebhookRefused):
        verify(OLD, headers, payload, now_s=NOW_S)
