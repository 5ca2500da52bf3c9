"""Tokens: what is made can be taken apart, and nothing else can."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell import tokens


def test_a_token_is_new_each_time_and_shows_no_secret():
    made = [tokens.new_token() for _ in range(100)]
    assert len({token.id for token in made}) == len({token.password for token in made}) == 100
    for token in made:
        id_, _, secret = token.password.partition("-")
        assert id_ == tokens.check_id(token.id)
        assert len(secret) >= 43
        assert token.digest == tokens.check_digest(hashlib.sha256(secret.encode()).hexdigest())
        login = tokens.parse(token.password)
        assert login is not None
        assert (login.token, login.digest, login.nonce) == (token.id, token.digest, "")
        assert secret not in repr(token) + repr(login)
    nonce = "a-nonce_of-16-characters"
    marked = tokens.parse(f"{made[0].password}~{nonce}")
    assert marked is not None
    assert (marked.token, marked.digest) == (made[0].id, made[0].digest)
    assert marked.nonce
    assert nonce not in repr(marked)


SAFE = st.text("abcXYZ019_-", min_size=22, max_size=60)


@given(st.text("abcXYZ019_", min_size=8, max_size=32), SAFE, SAFE)
def test_parts_are_found_wherever_hyphens_stand(id_, secret, nonce):
    login = tokens.parse(f"{id_}-{secret}")
    assert login is not None
    assert (login.token, login.digest) == (id_, hashlib.sha256(secret.encode()).hexdigest())
    marked = tokens.parse(f"{id_}-{secret}~{nonce}")
    assert marked is not None
    assert (marked.token, marked.digest) == (login.token, login.digest)


@given(st.text(max_size=300))
def test_any_text_is_a_login_or_none(text):
    login = tokens.parse(text)
    assert login is None or text.startswith(f"{login.token}-")


@pytest.mark.parametrize(
    "password",
    [
        "",
        "-",
        "~",
        "abcdefgh",
        "abcdefgh-",
        "abcdefgh-short",
        "short-" + "x" * 43,
        "abcdefgh-" + "x" * 43 + "~",
        "abcdefgh-" + "x" * 43 + "~short",
        "abcdefgh-" + "x" * 43 + "~" + "n" * 20 + "~" + "n" * 20,
        "abcdefgh-" + "x" * 43 + "\n",
        "abcdefgh-" + "x" * 43 + "é",
        "abcdefgh-" + "x" * 300,
        "abcd.fgh-" + "x" * 43,
    ],
)
def test_what_is_no_password_of_ours_is_none(password):
    assert tokens.parse(password) is None


@pytest.mark.parametrize("value", ["", "a-b-c-d-e", "short", "x" * 33, "é" * 10, "a.b.c.d.e"])
def test_an_id_from_elsewhere_is_checked(value):
    with pytest.raises(ConfigError, match="id of a token"):
        tokens.check_id(value)


@pytest.mark.parametrize("value", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_digest_from_elsewhere_is_checked(value):
    with pytest.raises(ConfigError, match="64 characters"):
        tokens.check_digest(value)
