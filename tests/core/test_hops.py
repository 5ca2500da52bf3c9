"""Rules about messages between agents, rules changed while a crew runs, and the counts of what rules did."""

from typing import Any

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.commands import AnswerCall, CancelCall
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.policy import Policy
from support.gate_room import Room, crew_of
from support.journal import fold

A, B = Agent(name="a", tools=("pay", "look")), Agent(name="b")


def room_of(*rules: Rule, **fields: Any) -> Room:
    return Room(crew_of(A, B, rules=rules, **fields))


def ask(room: Room, call: str, body: Any, verb: str = "ask") -> Any:
    raw = msgspec.Raw(msgspec.json.encode(body))
    return room.say("a", m.Request, to="b", id_=call, task="t", verb=verb, chain=("a",), body=raw)


def changed(*rules: Rule, default: str = "allow", version: str | None = None) -> t.PolicyChanged:
    version = Policy(rules, default=default).version if version is None else version  # type: ignore[arg-type]
    told = tuple(msgspec.to_builtins(rule) for rule in rules)
    return t.PolicyChanged(rules=told, default=default, version=version, by="kim")


def test_a_denied_call_fails_for_its_caller_and_is_taken_from_its_callee() -> None:
    room = room_of(Rule(id="no-drops", do="deny", to=("b",), when="args.sql.contains('DROP')", because="never"))
    assert not [each for each in ask(room, "c1", {"sql": "SELECT 1"}) if isinstance(each, AnswerCall)]
    commands = ask(room, "c2", {"sql": "DROP TABLE x"})
    (answer,) = [each for each in commands if isinstance(each, AnswerCall)]
    assert (answer.agent, answer.call) == ("a", "c2")
    assert answer.error is not None
    assert answer.error.code == "denied"
    assert "never (rule no-drops)" in answer.error.text
    assert [each.call for each in commands if isinstance(each, CancelCall)] == ["c2"]
    assert room.kinds() == ["policy_denied"]


def test_what_is_asked_for_is_judged_by_the_verb_that_the_callee_acts_on() -> None:
    room = room_of(Rule(id="no-drops", do="deny", to=("b",), when="args.verb == 'drop'", because="never"))
    commands = ask(room, "c1", {"verb": "look"}, verb="drop")
    (answer,) = [each for each in commands if isinstance(each, AnswerCall)]
    assert answer.error is not None
    assert answer.error.code == "denied"
    assert not [each for each in ask(room, "c2", {"verb": "drop"}, verb="look") if isinstance(each, AnswerCall)]


def test_where_no_server_holds_an_agent_to_may_call_the_core_does() -> None:
    narrow = Agent(name="a", may_call=("c",), may_tell=("b",))
    room = Room(crew_of(narrow, B, Agent(name="c", replicas=2)))
    for to in ("c", "c-2"):
        said = room.say("a", m.Request, to=to, id_=to, task="t", verb="ask", chain=("a",), body=msgspec.Raw(b"{}"))
        assert not [each for each in said if isinstance(each, AnswerCall) and each.error.code == "denied"]
    for to in ("b", "c"):
        room.say("a", m.Message, to=to, id_=f"m{to}", task="t", body=msgspec.Raw(b"{}"))
    assert room.kinds() == []
    (answer,) = [each for each in ask(room, "c1", {}) if isinstance(each, AnswerCall)]
    assert answer.error is not None
    assert (answer.error.code, "may call c" in answer.error.text) == ("denied", True)
    assert room.kinds() == ["policy_denied"]
    room.say("c-1", m.Message, to="a", id_="m9", task="t", body=msgspec.Raw(b"{}"))
    room.say("a", m.Message, to="a", id_="m8", task="t", body=msgspec.Raw(b"{}"))
    assert room.kinds() == ["policy_denied"] * 2, "to itself is not named, either"


def test_a_denied_message_is_a_finding() -> None:
    room = room_of(Rule(id="quiet", do="deny", hop="agent", agents=("a",), when="args.body == 'psst'"))
    for text in ("hello", "psst"):
        room.say("a", m.Message, to="b", id_=text, task="t", body=msgspec.Raw(msgspec.json.encode(text)))
    assert room.kinds() == ["policy_denied"]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule(id="r", do="approve", hop="agent"), "cannot wait for a person"),
        (Rule(id="r", do="deny", hop="agent", hook="m:f"), "cannot wait for the hook"),
        (Rule(id="r", do="deny", hop="agent", when="args.missing > 1"), "could not be evaluated"),
    ],
)
def test_what_cannot_be_decided_at_once_is_denied(rule: Rule, why: str) -> None:
    room = room_of(rule)
    (answer,) = [each for each in ask(room, "c1", {}) if isinstance(each, AnswerCall)]
    assert answer.error is not None
    assert answer.error.code == "denied"
    assert why in answer.error.text


def test_rules_about_tools_leave_messages_alone() -> None:
    room = room_of(Rule(id="r", do="deny", tools=("pay",)))
    assert not room.core.gate.judges_messages
    assert not [each for each in ask(room, "c1", {}) if isinstance(each, AnswerCall)]


def test_other_rules_hold_from_where_the_journal_has_them() -> None:
    room = room_of()
    room.ask("c1")
    room.op(changed(Rule(id="stop", do="deny", tools=("pay",))))
    room.ask("c2")
    room.op(changed())
    room.ask("c3")
    answers = {each.call: each.error for each in room.commands if isinstance(each, AnswerCall)}
    assert answers["c2"] is not None
    assert answers["c2"].code == "denied"
    assert "c1" not in answers
    assert "c3" not in answers
    core, commands = fold(room.entries)
    assert (core.digest(), commands) == (room.core.digest(), room.commands)


def test_rules_that_cannot_be_used_leave_the_old_ones() -> None:
    room = room_of(Rule(id="stop", do="deny", tools=("pay",)))
    room.ask("c0")
    before = room.core.gate.rules.version
    for broken in (changed(version="0" * 32), t.PolicyChanged(rules=({"id": "x", "do": "dance"},), version="1")):
        room.op(broken)
        assert room.core.gate.rules.version == before
        assert [rule.id for rule in room.core.gate.in_force] == ["stop"]
    assert "malformed" in room.kinds()


def test_what_rules_did_and_would_have_done_is_counted_until_they_change() -> None:
    shadow = Rule(id="trial", do="deny", tools=("pay",), when="args.n > 1", shadow=True)
    room = room_of(shadow, Rule(id="eyes", do="warn", tools=("pay",)))
    for number in range(3):
        room.ask(f"c{number}", args={"n": number})
    assert room.core.gate.applied == {
        ("default", "allow"): 3,
        ("eyes", "warn"): 3,
        ("trial", "would deny"): 1,
    }
    room.op(changed(shadow))
    assert room.core.gate.applied == {}
