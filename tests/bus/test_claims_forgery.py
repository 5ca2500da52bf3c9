"""Claims: what is signed can be checked, and no login request that its server has not signed is believed."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_bus import claims
from crewkeeper_bus.claims import ClaimsError, Key
from crewkeeper_bus.subjects import Permissions

SERVER, USER = Key.make("server"), Key.make("user")


def asked(**changes: Any) -> dict[str, Any]:
    """The claims of a login request, as a server makes them."""
    body = {
        "server_id": {"name": "n1", "host": "127.0.0.1", "id": SERVER.public, "version": "2.15.1"},
        "user_nkey": USER.public,
        "client_info": {"host": "10.0.0.7", "id": 12, "user": "r1.a", "kind": "Client", "type": "nats"},
        "connect_opts": {"user": "r1.a", "pass": "canary-pw", "lang": "c", "protocol": 1, "name": "x"},
        "type": "authorization_request",
        "version": 2,
    }
    return {"aud": "nats-authorization-request", "sub": "A", "exp": 1, "nats": body | changes}


def test_a_request_of_a_server_is_read_and_its_secrets_are_not_shown() -> None:
    request = claims.login_request(SERVER.sign(asked()).encode())
    assert (request.user, request.password, request.cid, request.host) == ("r1.a", "canary-pw", 12, "10.0.0.7")
    assert (request.server_id, request.user_nkey, request.kind) == (SERVER.public, USER.public, "nats")
    assert "canary" not in f"{request} {request!r}"
    bare = claims.login_request(SERVER.sign(asked(connect_opts={"protocol": 1})).encode())
    assert (bare.user, bare.password, bare.token) == ("", "", "")


def forged() -> dict[str, bytes]:
    """Requests that must not be believed."""
    good = SERVER.sign(asked())
    head, body, signature = good.split(".")
    other = Key.make("server").sign(asked()).split(".")
    claimed = Key.make("user").sign(asked())
    renamed = json.loads(base64.urlsafe_b64decode(body + "=="))
    renamed["nats"]["connect_opts"]["user"] = "r1.b"
    changed = base64.urlsafe_b64encode(json.dumps(renamed).encode()).decode().rstrip("=")
    weak = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"none"}').decode().rstrip("=")
    text = {
        "signed by another server": ".".join(other),
        "with another server's signature": f"{head}.{body}.{other[2]}",
        "signed by a user": claimed,
        "changed": f"{head}.{changed}.{signature}",
        "without a signature": f"{head}.{body}.",
        "with no algorithm": f"{weak}.{body}.{signature}",
        "with a fourth part": f"{good}.x",
        "encrypted": "canary" * 20,
        "empty": "",
        "for a server": SERVER.sign(asked() | {"aud": "another"}),
        "of another type": SERVER.sign(asked(type="user")),
        "of an older version": SERVER.sign(asked(version=1)),
        "without a user's key": SERVER.sign(asked(user_nkey=SERVER.public)),
        "with a damaged key": SERVER.sign(asked(user_nkey=USER.public[:-1] + ("A" if USER.public[-1] != "A" else "B"))),
        "with a number for a name": SERVER.sign(asked(connect_opts={"user": 5})),
        "without a body": SERVER.sign({"aud": "nats-authorization-request"}),
    }
    return {name: each.encode() for name, each in text.items()} | {
        "huge": b"a" * (claims.REQUEST_MAX_BYTES + 1),
        "nested": b".".join((head.encode(), base64.urlsafe_b64encode(b"[" * 40_000), b"")),
        "bytes": b"\xff.\x00.\xfe",
    }


@pytest.mark.parametrize(("kind", "data"), forged().items(), ids=forged())
def test_a_forged_request_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(ClaimsError) as caught:
        claims.login_request(data)
    assert "canary" not in str(caught.value), kind


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_bit_goes_unnoticed(place: int, bits: int) -> None:
    data = bytearray(SERVER.sign(asked()).encode())
    data[place % len(data)] ^= bits
    try:
        read = claims.login_request(bytes(data))
    except ClaimsError:
        return
    assert read == claims.login_request(SERVER.sign(asked()).encode()), "base64 ignores spare bits at the end alone"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with pytest.raises(ClaimsError):
        claims.login_request(data)


def test_a_key_is_read_from_its_seed_and_nothing_else() -> None:
    key = Key.make("account")
    assert Key(f" {key.seed}\n").public == key.public
    assert key.public.startswith("A")
    assert key.seed not in repr(key)
    assert claims.is_public(key.public, "account")
    assert not claims.is_public(key.public, "user")
    assert not claims.is_public(key.seed, "account")
    flipped = key.seed[:20] + ("A" if key.seed[20] != "A" else "B") + key.seed[21:]
    for wrong in ("", "SA", key.public, key.seed[:-1], key.seed + "A", flipped, "ß" * 58, "=" * 58):
        with pytest.raises(ClaimsError) as caught:
            Key(wrong)
        assert key.seed[:12] not in str(caught.value)


def test_no_right_is_written_as_a_denial_and_every_right_as_none() -> None:
    def rights(permissions: Permissions | None) -> tuple[Any, Any]:
        body = claims.unverified(claims.user(SERVER, subject="U", name="n", permissions=permissions))["nats"]
        return body["pub"], body["sub"]

    assert rights(None) == ({}, {})
    assert rights(Permissions((), ())) == ({"deny": [">"]}, {"deny": [">"]})
    assert rights(Permissions(("a",), ())) == ({"allow": ["a"]}, {"deny": [">"]})
    assert rights(Permissions((), ("b c",))) == ({"deny": [">"]}, {"allow": ["b c"]})


def test_an_answer_lets_in_or_refuses() -> None:
    for wrong in ({}, {"jwt": "j", "error": "e"}):
        with pytest.raises(ValueError, match="either"):
            claims.response(SERVER, subject="U", server_id="N", **wrong)
    refused = claims.unverified(claims.response(SERVER, subject="U", server_id="N", error="why").decode())
    assert (refused["aud"], refused["sub"], refused["nats"]["error"]) == ("N", "U", "why")
    with pytest.raises(ClaimsError):
        claims.unverified("no jwt")
