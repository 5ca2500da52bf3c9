"""The rules of letting in and of passing on: nothing is granted that the record does not hold, nothing is widened."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crewkeeper_bus.pattern import matches
from crewkeeper_bus.subjects import agent_permissions, build
from crewkeeper_supervisor.core.scope import (
    SESSION_S,
    Grant,
    Login,
    Record,
    Refusal,
    Scope,
    Token,
    Wider,
    decide,
    expand_peers,
    narrow,
)

NOW = 1_000_000.0


def digest(secret):
    return hashlib.sha256(secret.encode()).hexdigest()


SECRETS = st.sampled_from(["one", "two", "three"])
TOKENS = st.builds(
    Token,
    id=st.sampled_from(["t1", "t2", "t3"]),
    digest=SECRETS.map(digest),
    issued_at=st.just(NOW - 100),
    expires_at=st.floats(NOW - 10, NOW + 10_000),
    revoked_at=st.sampled_from([0.0, 0.0, NOW - 1]),
)
NAMES = st.sampled_from(["a", "b", "c", "d"])
SOME = st.none() | st.lists(NAMES, max_size=4).map(tuple)
RECORDS = st.builds(
    Record,
    run=st.just("r1"),
    agent=st.just("a"),
    role=st.sampled_from(["a", "w"]),
    peers=SOME,
    tools=SOME,
    state=st.sampled_from(["running", "paused", "killed"]),
    over=st.sampled_from([False, False, True]),
    tokens=st.lists(TOKENS, max_size=4, unique_by=lambda token: token.id).map(tuple),
)
LOGINS = st.builds(
    Login, token=st.sampled_from(["t1", "t2", "t3", ""]), digest=SECRETS.map(digest), nonce=st.sampled_from(["", "n"])
)


@st.composite
def knocks(draw):
    """A record, and mostly a login with one of its tokens."""
    record = draw(RECORDS)
    if not record.tokens or draw(st.integers(0, 3)) == 0:
        return record, draw(LOGINS)
    token = draw(st.sampled_from(record.tokens))
    return record, Login(token=token.id, digest=token.digest, nonce=draw(st.sampled_from(["", "n"])))


@given(knocks())
def test_a_grant_needs_a_token_in_force_and_a_living_record(knock):
    record, login = knock
    verdict = decide(record, login, NOW)
    presented = [token for token in record.tokens if (token.id, token.digest) == (login.token, login.digest)]
    alive = record.state != "killed" and not record.over
    if isinstance(verdict, Refusal):
        assert verdict.proven == bool(presented)
        assert not (alive and any(token.in_force(NOW) and token.expires_at >= NOW + 1 for token in presented))
        return
    (token,) = presented
    assert alive
    assert token.in_force(NOW)
    assert NOW < verdict.expires_at <= min(NOW + SESSION_S, token.expires_at)
    if record.state == "paused":
        assert verdict.permissions.publish == ()
    else:
        assert verdict.permissions == agent_permissions("r1", "a", record.role, record.peers, tools=record.tools)


@given(knocks(), LOGINS)
def test_the_nonce_never_changes_the_decision(knock, other):
    record, login = knock
    same = Login(token=login.token, digest=login.digest, nonce=other.nonce)
    assert decide(record, login, NOW) == decide(record, same, NOW)


@given(RECORDS, LOGINS)
def test_without_the_secret_nothing_is_learned_of_the_agent(record, login):
    verdict = decide(record, login, NOW)
    if isinstance(verdict, Refusal) and not verdict.proven:
        assert verdict.reason == "wrong_token"


def test_each_refusal_has_its_reason():
    token = Token(id="t1", digest=digest("one"), issued_at=0, expires_at=NOW + 100)
    record = Record(run="r1", agent="a", role="a", tokens=(token,))
    right, wrong = Login(token="t1", digest=digest("one")), Login(token="t1", digest=digest("two"))
    refusals = {
        "unknown": decide(None, right, NOW),
        "wrong_token": decide(record, wrong, NOW),
        "expired": decide(record, right, NOW + 100),
        "revoked": decide(replace(record, tokens=(replace(token, revoked_at=NOW - 1),)), right, NOW),
        "killed": decide(replace(record, state="killed"), right, NOW),
        "run_over": decide(replace(record, state="killed", over=True), right, NOW),
    }
    for reason, verdict in refusals.items():
        assert isinstance(verdict, Refusal)
        assert verdict.reason == reason
    assert decide(record, None, NOW) == Refusal(reason="wrong_token")
    assert isinstance(decide(record, right, NOW), Grant)


@pytest.mark.parametrize("left_s", [0.0, 0.3, 0.999])
def test_a_token_in_its_last_second_is_over(left_s):
    """The server counts whole seconds: a session that ended in the same one would be none."""
    token = Token(id="t1", digest=digest("one"), issued_at=0, expires_at=NOW + left_s)
    record = Record(run="r1", agent="a", role="a", tokens=(token,))
    verdict = decide(record, Login(token="t1", digest=digest("one")), NOW)
    assert verdict == Refusal(reason="expired", proven=True)


# --- passing on ---

LIMITS = st.none() | st.floats(0, 100)
SCOPES = st.builds(Scope, peers=SOME, tools=SOME, until_s=LIMITS)


def within(inner, outer):
    """Whether a scope is a part of another, said the long way."""
    for mine, theirs in ((inner.peers, outer.peers), (inner.tools, outer.tools)):
        if theirs is not None and (mine is None or any(name not in theirs for name in mine)):
            return False
    return outer.until_s is None or (inner.until_s is not None and inner.until_s <= outer.until_s)


@given(SCOPES, SCOPES)
def test_what_is_passed_on_is_a_part_of_what_one_has(parent, wanted):
    given_ = narrow(parent, wanted)
    if isinstance(given_, Wider):
        assert not within(wanted, parent)
    else:
        assert within(given_, parent)
        assert within(given_, wanted)


@st.composite
def modest_wishes(draw):
    """A scope, and a part of it."""

    def part(allowed):
        return draw(
            SOME if allowed is None else st.lists(st.sampled_from(allowed)).map(tuple) if allowed else st.just(())
        )

    parent = draw(SCOPES)
    limit = LIMITS if parent.until_s is None else st.floats(0, parent.until_s)
    return parent, Scope(peers=part(parent.peers), tools=part(parent.tools), until_s=draw(limit))


@given(modest_wishes())
def test_a_wish_within_the_parents_scope_is_granted_to_the_letter(wish):
    parent, wanted = wish
    assert within(wanted, parent)
    given_ = narrow(parent, wanted)
    assert isinstance(given_, Scope)
    assert within(wanted, given_)


@given(modest_wishes(), SCOPES)
def test_nobody_gets_more_by_asking_through_another(wish, bottom):
    top, middle = wish
    first = narrow(top, middle)
    assert isinstance(first, Scope)
    second = narrow(first, bottom)
    if isinstance(second, Scope):
        assert within(second, top)


@given(modest_wishes())
def test_a_narrowed_agent_may_publish_nothing_that_its_parent_may_not(wish):
    parent, wanted = wish
    given_ = narrow(parent, wanted)
    assert isinstance(given_, Scope)
    upper, lower = (agent_permissions("r", "x", "x", scope.peers, tools=scope.tools) for scope in (parent, given_))
    for kind in ("req", "msg", "cancel", "tool"):
        for to in ("a", "b", "c", "d", "e"):
            subject = build("r", kind, "x", to, "i")
            if any(matches(pattern, subject) for pattern in lower.publish):
                assert any(matches(pattern, subject) for pattern in upper.publish)


def test_a_refused_wish_says_what_is_too_much():
    parent = Scope(peers=("b", "c"), tools=("search",), until_s=10.0)
    for wanted, what, text in (
        (Scope(peers=("b", "z")), "peers", "peers z are not the asker's to give; it has b, c"),
        (Scope(tools=("search", "shell")), "tools", "tools shell are not the asker's to give; it has search"),
        (Scope(until_s=12.5), "deadline", "2.500 s later"),
    ):
        refused = narrow(parent, wanted)
        assert isinstance(refused, Wider)
        assert refused.what == what
        assert text in refused.text


def test_a_role_among_the_peers_brings_its_instances():
    roles = {"w-1": "w", "w-2": "w", "b": "b"}
    assert expand_peers(("w", "b", "w"), roles) == ("w", "b", "w-1", "w-2")
    assert expand_peers((), roles) == ()
