"""The ladder: what is done about conduct that goes on, one rung after the other, until it is over."""

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core import gate_holds, ladder
from crewkeeper_supervisor.core.crew import Response, Responses
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.policy import Policy
from support.gate_room import crew_of
from support.journal import RUN
from support.ladder_room import LadderRoom, crew_with, scripted

ALL = Response(do=("warn", "nudge", "hold", "escalate"), climb_s=10.0, cool_down_s=100.0, hold_s=60.0)


def test_one_rung_at_a_time_and_only_after_its_time() -> None:
    room = LadderRoom(loop=ALL)
    room.hear("found loop k search")
    assert (room.incident().rung, room.nudges(), room.held()) == (1, [], {})
    room.hear("goes_on loop k", 9.9)
    assert (room.incident().rung, room.nudges()) == (1, [])
    room.hear("goes_on loop k", 0.1)
    assert (room.incident().rung, len(room.nudged()), room.held()) == (2, 1, {})
    room.hear("goes_on loop k", 5)
    assert room.held() == {}
    room.hear("goes_on loop k", 5)
    assert room.held() == {"a": [room.incident().id]}
    assert room.escalated() == []
    room.tick(10)
    assert [each.kind for each in room.escalated()] == ["opened"]
    assert room.incident().count == 5


def test_without_climbing_everything_is_done_at_once() -> None:
    room = LadderRoom(loop=Response(do=("nudge", "hold", "escalate"), climb_s=0.0))
    room.hear("found loop k search")
    assert (len(room.nudged()), list(room.held()), len(room.escalated())) == (1, ["a"], 1)
    room.hear("goes_on loop k", 1000)
    assert (len(room.nudged()), len(room.escalated())) == (1, 1)


def test_the_same_condition_counts_and_another_is_another() -> None:
    room = LadderRoom(loop=ALL)
    room.hear("found loop k search")
    room.hear("found loop k search")
    room.hear("found loop other search")
    assert [(each.finding.evidence["key"], each.count) for each in room.core.incidents.values()] == [
        ("k", 2),
        ("other", 1),
    ]
    room.hear("goes_on loop never", 100)
    room.hear("cleared loop never")
    assert len(room.core.incidents) == 2


def test_time_alone_takes_no_rung_but_for_what_is_held() -> None:
    room = LadderRoom(loop=ALL)
    room.hear("found loop k search")
    room.tick(1000)
    assert (room.incident().rung, room.nudges()) == (1, [])
    harsh = LadderRoom(loop=Response(do=("hold", "kill"), climb_s=10.0, hold_s=60.0))
    harsh.hear("found loop k search")
    harsh.tick(59)
    assert harsh.core.agents["a"].ending is None
    harsh.tick(2)
    assert harsh.held() == {}
    harsh.hear("goes_on loop k")
    assert harsh.core.agents["a"].ending is not None


def test_what_is_cleared_lets_go_and_is_over() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold", "escalate")))
    room.hear("found loop k search")
    room.ask("c1")
    assert (room.code("c1"), room.body("c1")["pending"]) == ("ok", "held")
    assert room.ran_calls() == []
    room.hear("cleared loop k", 1, agent="b")
    assert (room.ran_calls(), room.held(), room.incident().state) == (["c1"], {}, "resolved")
    assert "a goes on" in room.steps()


# --- cool-down ---


def test_what_comes_back_soon_goes_on_where_it_had_ended() -> None:
    room = LadderRoom(loop=ALL)
    room.hear("found loop k search")
    room.hear("goes_on loop k", 10)
    room.hear("goes_on loop k", 10)
    room.hear("cleared loop k", 1, agent="b")
    first = room.incident()
    room.hear("found loop k search", 99)
    again = room.incident()
    assert again.id != first.id
    assert (again.rung, room.held()) == (3, {"a": [again.id]})
    assert len(room.nudged()) == 2, "its model is told anew what it is held for"
    assert any("it is back" in step for step in room.steps())
    assert room.escalated() == []


def test_what_comes_back_late_begins_at_the_bottom() -> None:
    room = LadderRoom(loop=ALL)
    room.hear("found loop k search")
    room.hear("goes_on loop k", 10)
    room.hear("cleared loop k", 1)
    room.hear("found loop k search", 101)
    assert (room.incident().rung, len(room.nudged())) == (1, 1)


def test_the_cool_down_is_of_this_very_condition() -> None:
    room = LadderRoom(loop=ALL, stall=ALL)
    room.hear("found loop k search")
    room.hear("goes_on loop k", 10)
    room.hear("cleared loop k", 1)
    room.hear("found loop other search")
    room.hear("found stall k")
    assert [each.rung for each in room.core.incidents.values()] == [2, 1, 1]


# --- hold ---


def test_a_hold_ends_by_time_and_comes_back_with_new_evidence() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k search")
    room.ask("c1")
    room.ask("c2", agent="b")
    assert room.ran_calls() == ["c2"]
    room.tick(60)
    assert (room.ran_calls(), room.held()) == (["c2", "c1"], {})
    room.hear("goes_on loop k")
    assert list(room.held()) == ["a"]


def test_a_person_lets_go_on_and_nobody_is_held_again() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k search")
    room.ask("c1")
    room.asks("resume", "a")
    assert (room.ran_calls(), room.held()) == (["c1"], {})
    assert "a was let go on by kim" in room.steps()
    room.hear("goes_on loop k", 100)
    assert room.held() == {}


def test_a_person_lets_the_whole_crew_go_on() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k b")
    assert list(room.held()) == ["a", "b"]
    room.asks("resume")
    assert room.held() == {}


def test_a_held_call_is_refused_at_its_own_deadline() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k search")
    room.ask("c1", deadline_s=5.0)
    room.tick(4.9)
    assert room.body("c1")["pending"] == "held"
    room.tick(0.2)
    assert room.code("c1") == "held"
    assert "its time is over" in room.text("c1")
    assert room.incident().id in room.text("c1")
    assert room.spending() == (0, 0)
    room.tick(60)
    assert room.ran_calls() == []


def test_model_calls_are_held_too_and_messages_flow() -> None:
    room = LadderRoom(crew_of(responses=Responses(loop=msgspec.structs.replace(ALL, do=("hold",)))))
    room.hear("found loop k search")
    room.model("m1")
    assert [each.call for each in room.told(t.Withhold)] == ["m1"]
    assert room.told(t.SpendGranted) == []
    room.send("a", "t", "a", "x1")
    assert room.core.agents["a"].node.unread
    room.hear("cleared loop k", 1)
    assert [each.call for each in room.told(t.SpendGranted)] == ["m1"]


@pytest.mark.parametrize("what", ["resource", "prompt"])
def test_what_is_read_is_held_too(what: str) -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k search")
    room.ask("c1", "files.plan", args={"uri": "plan"}, what=what, inside=True)
    assert room.body("c1")["pending"] == "held"
    room.hear("cleared loop k", 1)
    assert room.body("c1")["args"] == {"uri": "plan"}


@pytest.mark.parametrize("changed", [False, True])
def test_what_was_approved_is_judged_anew_after_a_hold(changed: bool) -> None:
    rule = Rule(id="dear", do="approve", tools=("pay",))
    room = LadderRoom(crew_of(rules=(rule,), responses=Responses(loop=msgspec.structs.replace(ALL, do=("hold",)))))
    room.ask("c1")
    room.hear("found loop k search")
    room.decide(room.approval())
    assert room.ran_calls() == []
    if changed:
        deny = Rule(id="dear", do="deny", tools=("pay",))
        version = Policy((deny,), default="allow").version
        room.op(t.PolicyChanged(rules=(msgspec.to_builtins(deny),), version=version, by="kim"))
    room.hear("cleared loop k", 1)
    assert (room.ran_calls(), room.code("c1") == "denied") == (([], True) if changed else (["c1"], False))


def test_two_holds_end_one_by_one() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k search")
    room.hear("found loop other search", 30)
    room.ask("c1")
    room.tick(30)
    assert (room.ran_calls(), len(room.held()["a"])) == ([], 1)
    room.tick(29)
    assert room.ran_calls() == []
    room.tick(2)
    assert room.ran_calls() == ["c1"]


def test_who_is_ended_while_held_is_told() -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, do=("hold",)))
    room.hear("found loop k search")
    room.ask("c1")
    room.asks("kill", "a")
    assert room.code("c1") == "cancelled"


# --- break ---


def test_a_break_fails_the_wait_that_repeats() -> None:
    room = LadderRoom(livelock=Response(do=("break",), climb_s=10.0))
    room.call("a", "t", "q1", "b")
    room.wait("a", "t", m.OnCall(call="q1"))
    room.hear("found livelock k")
    (told,) = room.breaks()
    assert (told.code, told.task, told.epoch, told.finding) == ("repeated", "t", 1, room.incident().id)


def test_a_break_without_a_wait_fails_the_next_tool_call_once() -> None:
    room = LadderRoom(loop=Response(do=("break",), climb_s=10.0))
    room.hear("found loop k search")
    assert room.breaks() == []
    room.ask("c1")
    assert room.code("c1") == "repeated"
    room.ask("c2")
    assert room.ran_calls() == ["c2"]


def test_a_break_does_not_wait_for_ever() -> None:
    room = LadderRoom(loop=Response(do=("break",), climb_s=10.0))
    room.hear("found loop k search")
    room.tick(gate_holds.BREAK_LASTS_S + 1)
    room.ask("c1")
    assert room.ran_calls() == ["c1"]


def test_a_break_fails_calls_that_are_held() -> None:
    room = LadderRoom(loop=Response(do=("hold", "break"), climb_s=10.0))
    room.hear("found loop k search")
    room.ask("c1")
    room.hear("goes_on loop k", 10)
    assert room.code("c1") == "repeated"


# --- shadow ---


@pytest.mark.parametrize("climb_s", [0.0, 10.0])
def test_in_shadow_mode_nothing_is_done_and_everything_counted(climb_s: float) -> None:
    room = LadderRoom(loop=msgspec.structs.replace(ALL, climb_s=climb_s, shadow=True))
    room.hear("found loop k search")
    for _ in range(5):
        room.hear("goes_on loop k", 10)
    room.ask("c1")
    assert (room.nudges(), room.held(), room.escalated(), room.ran_calls()) == ([], {}, [], ["c1"])
    counts = room.core.ladder.counts["loop"]
    assert (counts.found, counts.did) == (1, {})
    assert counts.would == {"warn": 1, "nudge": 1, "hold": 1, "escalate": 1}


def test_what_was_done_is_counted_by_kind() -> None:
    room = LadderRoom(loop=ALL, stall=Response(do=("nudge",), climb_s=1.0))
    room.hear("found loop k search")
    room.hear("goes_on loop k", 10)
    room.hear("found stall k")
    room.hear("cleared stall k")
    room.hear("found stall k", 1000)
    counts = room.core.ladder.counts
    assert (counts["loop"].did, counts["stall"].did) == ({"warn": 1, "nudge": 1}, {"nudge": 2})
    assert (counts["loop"].found, counts["stall"].found, counts["stall"].would) == (1, 2, {})


def test_kinds_that_do_not_climb_are_counted_too() -> None:
    room = LadderRoom()
    room.ask("c1", "pey")
    assert room.core.ladder.counts["unknown_tool"].did == {"warn": 1}


# --- the same everywhere ---


def test_the_same_journal_gives_the_same_ladders() -> None:
    room = LadderRoom(
        crew_with(escalations=1, loop=ALL, stall=Response(do=("nudge", "break", "escalate"), climb_s=5.0))
    )
    for text, after_s in (
        *(("found loop k search", 0), ("goes_on loop k", 10), ("found stall s b", 3), ("goes_on loop k", 10)),
        *(("goes_on stall s", 6), ("cleared loop k", 30), ("found loop k search", 20), ("goes_on stall s", 9)),
    ):
        room.hear(text, after_s)
    room.tick(100)
    again = scripted(RUN)
    for seq, (at_s, subject, payload) in enumerate(room.entries, start=1):
        again.handle(again.read(seq, at_s, subject, payload))
    assert again.digest() == room.core.digest()
    assert again.ladder.facts() == room.core.ladder.facts()


def test_the_digest_shows_where_ladders_stand() -> None:
    room = LadderRoom(loop=ALL)
    room.hear("found loop k search")
    before = room.core.digest()
    room.core.ladder.rest(("loop", "x"), ladder.Rested(rung=1, cleared_s=1.0))
    assert room.core.digest() != before
