"""Subjects and patterns: the grammar takes what it should and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_bus.errors import SubjectError
from crewkeeper_bus.pattern import check_subject, matches
from crewkeeper_bus.subjects import (
    AGENT_KINDS,
    HELD,
    HOST,
    RECEIVED_KINDS,
    REPORTED_KINDS,
    SERVICES,
    SUPERVISOR,
    Address,
    Kind,
    agent_permissions,
    build,
    check_agent,
    check_member,
    check_token,
    ledger_subject,
    parse,
    paused_permissions,
    run_filter,
    service_permissions,
    stream_name,
)

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


@given(TOKENS, st.sampled_from(Kind), TOKENS, TOKENS, TOKENS)
def test_a_built_subject_parses_to_its_parts(run, kind, sender, to, id_):
    subject = build(run, kind, sender, to, id_)
    expected = Address(run, kind, sender, to, id_)
    assert parse(subject) == parse(f"out.{subject}") == expected
    assert expected.subject == subject
    assert check_subject(subject) == subject
    assert matches(run_filter(run), subject)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_subject_error(text):
    try:
        address = parse(text)
    except SubjectError:
        return
    assert text in (address.subject, f"out.{address.subject}")


@given(st.text(max_size=40))
def test_a_token_is_taken_only_if_it_fits_the_rule(text):
    fits = 1 <= len(text) <= 32 and all(char.isascii() and (char.isalnum() or char in "_-") for char in text)
    if fits:
        assert check_token(text, "agent") == text
    else:
        with pytest.raises(SubjectError, match="agent"):
            check_token(text, "agent")


@pytest.mark.parametrize("value", ["", "a.b", "a b", "*", ">", "a\n", "é", "x" * 33, None, 7, b"a"])
def test_what_is_no_token_is_refused_in_every_place(value):
    for place in range(4):
        parts = ["r", "a", "b", "i"]
        parts[place] = value
        run, sender, to, id_ = parts
        with pytest.raises(SubjectError):
            build(run, Kind.REQ, sender, to, id_)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "crew.r.req.a.b",
        "crew.r.req.a.b.c.d",
        "out.out.crew.r.req.a.b.c",
        "crow.r.req.a.b.c",
        "crew.r.shout.a.b.c",
        "crew.r.REQ.a.b.c",
        "crew.r.req.a..c",
        "crew.r.req.*.b.c",
        "crew.r.req.a.b.c\n",
        "crew.r.req.a.b.>",
    ],
)
def test_foreign_subjects_do_not_parse(subject):
    with pytest.raises(SubjectError):
        parse(subject)


@pytest.mark.parametrize("name", [SUPERVISOR, HOST, "_x", "__"])
def test_reserved_names_are_no_agents(name):
    assert check_token(name, "agent") == name
    with pytest.raises(SubjectError, match="reserved"):
        check_agent(name)
    with pytest.raises(SubjectError):
        agent_permissions("r", name, "role")
    with pytest.raises(SubjectError):
        agent_permissions("r", "agent", name)


def test_permissions_name_the_agent_as_sender_and_receiver_only():
    allowed = agent_permissions("r", "a", "w")
    for kind in Kind:
        own = build("r", kind, "a", SUPERVISOR if kind in REPORTED_KINDS else "b", "i")
        assert any(matches(pattern, own) for pattern in allowed.publish) == (kind in AGENT_KINDS)
        for foreign in (build("r", kind, "b", "a", "i"), build("r2", kind, "a", "b", "i"), f"out.{own}"):
            assert not any(matches(pattern, foreign) for pattern in allowed.publish)
        plain = [pattern for pattern in allowed.subscribe if " " not in pattern]
        mine = f"out.{build('r', kind, 'b', 'a', 'i')}"
        assert any(matches(pattern, mine) for pattern in plain) == (kind in RECEIVED_KINDS)
        assert not any(matches(pattern, f"out.{build('r', kind, 'b', 'w', 'i')}") for pattern in plain)
    assert [pattern for pattern in allowed.subscribe if " " in pattern] == ["out.crew.r.req.*.w.* w"]


def may(allowed, kind, to):
    return any(matches(pattern, build("r", kind, "a", to, "i")) for pattern in allowed.publish)


def test_heartbeats_and_notes_go_to_the_supervisor_alone():
    for peers in (None, (), ("b",)):
        allowed = agent_permissions("r", "a", "w", peers)
        for kind in REPORTED_KINDS:
            assert may(allowed, kind, SUPERVISOR)
            assert not may(allowed, kind, "b")
            assert not may(allowed, kind, HOST)


def test_peers_narrow_what_is_begun_and_not_what_is_owed():
    whole, narrow, alone = (agent_permissions("r", "a", "w", peers) for peers in (None, ("b", "c"), ()))
    for kind in (Kind.REQ, Kind.MSG, Kind.CANCEL):
        assert may(whole, kind, "z")
        assert may(narrow, kind, "b")
        assert may(narrow, kind, "c")
        for receiver in ("z", "bb", SUPERVISOR, "a"):
            assert not may(narrow, kind, receiver)
        assert not may(alone, kind, "b")
    for kind in (Kind.REP, Kind.PROG):
        for allowed in (whole, narrow, alone):
            assert may(allowed, kind, "z")
    assert whole.subscribe == narrow.subscribe == alone.subscribe


@pytest.mark.parametrize("peer", ["*", ">", "a.b", "", "_", "_host", "b *"])
def test_a_peer_is_a_plain_name(peer):
    with pytest.raises(SubjectError):
        agent_permissions("r", "a", "w", ("b", peer))


def test_without_any_tool_the_server_refuses_tool_calls():
    assert may(agent_permissions("r", "a", "w"), Kind.TOOL, "search")
    assert may(agent_permissions("r", "a", "w", tools=("search",)), Kind.TOOL, "search")
    assert not may(agent_permissions("r", "a", "w", tools=()), Kind.TOOL, "search")


@given(st.none() | st.lists(TOKENS.filter(lambda name: name[0] != "_"), max_size=5), st.booleans())
def test_no_permission_reaches_outside_its_run_or_speaks_for_another(peers, tools):
    allowed = agent_permissions("r", "a", "w", peers, tools=() if tools else None)
    for pattern in allowed.publish:
        crew, run, kind, sender, _, last = pattern.split(".")
        assert (run, sender, last) == ("r", "a", "*")
        assert crew in ("crew", HELD)
        assert Kind(kind) in AGENT_KINDS
    for pattern in allowed.subscribe:
        out, crew, run, kind, _, to, last = pattern.split(" ")[0].split(".")
        assert (out, crew, run, last) == ("out", "crew", "r", "*")
        assert Kind(kind) in RECEIVED_KINDS
        assert to == "a" or (kind == Kind.REQ and pattern.endswith(" w"))


@given(st.none() | st.lists(TOKENS.filter(lambda name: name[0] != "_"), max_size=5), st.booleans())
def test_what_may_be_held_is_what_may_be_said(peers, tools):
    allowed = agent_permissions("r", "a", "w", peers, tools=() if tools else None)
    said = {pattern.removeprefix("crew.") for pattern in allowed.publish if pattern.startswith("crew.")}
    held = {pattern.removeprefix("held.") for pattern in allowed.publish if pattern.startswith("held.")}
    assert held == said
    assert len(allowed.publish) == 2 * len(said)
    assert not any(pattern.startswith(HELD) for pattern in allowed.subscribe)


def test_a_held_agent_hears_the_supervisor_and_says_nothing():
    held = paused_permissions("r", "a")
    assert held.publish == ()
    assert held.subscribe == ("out.crew.r.ctl.*.a.*",)
    for run, agent in (("a.b", "a"), ("r", "_"), ("r", "*")):
        with pytest.raises(SubjectError):
            paused_permissions(run, agent)


def test_names_of_streams_and_ledger():
    assert (stream_name("r"), run_filter("r"), ledger_subject("r")) == ("CREW_r", "crew.r.>", "ledger.r")
    for make in (stream_name, run_filter, ledger_subject):
        with pytest.raises(SubjectError):
            make("a.b")


@pytest.mark.parametrize("subject", ["a", "a.b.c", "$SYS.REQ", "a-b._/=x", "x" * 1024])
def test_subjects_that_can_be_published(subject):
    assert check_subject(subject) == subject == check_subject(subject, wildcards=True)


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "a.>", "*.*.>", "a.*.b"])
def test_patterns_can_be_subscribed_and_not_published(pattern):
    assert check_subject(pattern, wildcards=True) == pattern
    with pytest.raises(SubjectError):
        check_subject(pattern)


@pytest.mark.parametrize(
    "subject", ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nb", "a\x0bb", "é", "a.>.b", "a*", "x" * 1025, None]
)
def test_what_would_break_the_protocol_is_refused(subject):
    for wildcards in (False, True):
        with pytest.raises(SubjectError):
            check_subject(subject, wildcards=wildcards)


PART = st.sampled_from(["a", "b", "*"])


@given(st.lists(PART, min_size=1, max_size=4), st.booleans(), st.lists(st.sampled_from("ab"), min_size=1, max_size=5))
def test_matching_equals_a_naive_oracle(parts, open_end, tokens):
    def naive(wanted, given_):
        if not wanted:
            return not given_
        if wanted[0] == ">":
            return bool(given_)
        return bool(given_) and wanted[0] in ("*", given_[0]) and naive(wanted[1:], given_[1:])

    wanted = [*parts, *([">"] if open_end else [])]
    assert matches(".".join(wanted), ".".join(tokens)) == naive(wanted, tokens)


@pytest.mark.parametrize(
    ("pattern", "narrower", "covered"),
    [("a.*", "a.*", True), ("a.*", "a.>", False), ("a.>", "a.*.>", True), ("*.b", "a.b", True), ("a.b", "*.b", False)],
)
def test_matching_a_pattern_means_covering_it(pattern, narrower, covered):
    assert matches(pattern, narrower) is covered


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_hears_commands_and_states_facts_and_nothing_else(service: str) -> None:
    assert service_permissions("r1", service) == (
        (f"crew.r1.op.{service}._.*",),
        (f"out.crew.r1.ctl._.{service}.*",),
    )
    assert check_member(service) == service
    with pytest.raises(SubjectError):
        check_agent(service)


@pytest.mark.parametrize("name", ["_", "_host", "_other", "a b", ""])
def test_no_other_reserved_name_may_log_in(name: str) -> None:
    with pytest.raises(SubjectError):
        check_member(name)
    with pytest.raises(SubjectError):
        service_permissions("r1", name)
