"""Redaction in the client: what never reaches the wire, what is left alone, and that a glance overlooks nothing."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crewkeeper_bus.client import connect
from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.memory_transport import MemoryBus
from crewkeeper_bus.redaction import Redactor
from crewkeeper_bus.settings import resolve

KEY = "00" * 16
TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sTaB3dE6gH9jK2mN5p"
SECRETS = (
    TOKEN,
    "sk-" + "ant-api03-" + "aB3dE6gH9jK2mN5pQ8sTaB3dE6gH9j",
    "sk-" + "proj-aB3dE6gH9jK2mN5pQ8sTaB3d",
    "S" + "K" + "0123456789abcdef" * 2,
    "https://user:" + "hunter22@db.example/x",
    "password=" + "hunter22x",
    "auth-token: " + "a1b2c3d4e5f6",
    "pa\u017f\u017fword=" + "hunter22x",
    "Authorization: Basic " + "dXNlcjpwYXNz",
    "Bearer " + "aB3dE6gH9jK2mN5pQ8sT",
    "4111 1111 1111 1111",
    "someone@example.org",
    "+49 30 12345678",
)
FIELDS = ("pass_word", "Client-Secret", "x-api-key", "sessiontoken", "authorization", "COOKIE", "next_page_token")

values = st.recursive(
    st.none()
    | st.integers(-(2**60), 2**60)
    | st.text(max_size=20)
    | st.tuples(st.text(max_size=6), st.sampled_from(SECRETS), st.text(max_size=6)).map("".join),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(value=values, kinds=st.sampled_from([("secrets",), ("personal",), ("secrets", "personal"), ("password",)]))
@example(value={"p_a_s_s_w_o_r_d": "x1y2z3"}, kinds=("secrets",))
@example(value="line\nghp_" + TOKEN[4:], kinds=("secrets",))
def test_a_glance_overlooks_nothing(value, kinds):
    redactor = Redactor(b"k", kinds)
    expected, found = redactor.value(value)
    for raw in (msgspec.json.encode(value), json.dumps(value).encode()):
        clean, told = redactor.json(raw)
        assert msgspec.json.decode(clean) == msgspec.json.decode(msgspec.json.encode(expected))
        assert [each.kind for each in told] == [each.kind for each in found]


def test_what_holds_nothing_is_passed_on_byte_for_byte():
    raw = b'{ "task-12" : "17% = more; a basic question", "tokens": 12 }'
    assert Redactor(b"k", ("secrets",)).json(raw)[0] is raw


async def spoken(monkeypatch, **settings):
    """What an agent that says everything it can has put on the wire."""
    seen = []
    monkeypatch.setenv("CREWKEEPER_REDACT_KEY", KEY)
    bus = MemoryBus()
    real = type(bus.connect()).publish

    async def publish(self, subject, payload):
        seen.append((subject, payload))
        await real(self, subject, payload)

    monkeypatch.setattr(type(bus.connect()), "publish", publish)
    async with connect(run="r1", agent="a", transport=bus.connect(), **settings) as client:
        async with client.task(f"with {TOKEN}"):
            await client.tell("b", {"note": f"use {TOKEN}", "n": 1})
            await client.progress(f"got {TOKEN}")
        return seen, client


async def test_secrets_do_not_leave_the_client(monkeypatch):
    seen, client = await spoken(monkeypatch)
    wire = b"".join(payload for _, payload in seen)
    assert TOKEN.encode() not in wire
    digest = Redactor(bytes.fromhex(KEY)).digest(TOKEN)
    assert wire.count(f"[redacted:github_token:{digest}]".encode()) == 3
    assert client._membership.outgoing.redaction.replaced == 3


async def test_it_can_be_switched_off(monkeypatch):
    seen, client = await spoken(monkeypatch, redact="none")
    assert b"".join(payload for _, payload in seen).count(TOKEN.encode()) == 3
    assert client._membership.outgoing.redaction.replaced == 0


async def test_personal_data_is_left_unless_asked_for():
    bus = MemoryBus()
    for redact, gone in ((None, False), ("secrets,personal", True)):
        async with connect(run="r1", agent="a", transport=bus.connect(), redact=redact) as client:
            async with client.task():
                await client.tell("b", "write to someone@example.org")
            assert (client._membership.outgoing.redaction.replaced > 0) is gone


@pytest.mark.parametrize("words", ["nothing", "secrets,none", "secrets,cards"])
def test_what_is_no_kind_is_refused(words):
    environ = {"CREWKEEPER_RUN": "r", "CREWKEEPER_AGENT": "a", "CREWKEEPER_REDACT": words}
    with pytest.raises(ConfigError, match="CREWKEEPER_REDACT"):
        resolve({}, environ, needs_url=False)
    with pytest.raises(ConfigError, match="CREWKEEPER_REDACT_KEY"):
        resolve({}, environ | {"CREWKEEPER_REDACT": "", "CREWKEEPER_REDACT_KEY": "xyz"}, needs_url=False)
