"""An agent that asks for the same again and again: it is answered, the ledger does not grow, the journal hardly."""

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import AnswerCall
from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.core.gate_state import ANSWERS_MAX, OPEN_MAX
from crewkeeper_supervisor.core.repeats import REPEATS
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell.spending import add_up
from support.gate_room import LOOK, PAY, Room, crew_of, records
from support.journal import fold

APPROVE = Rule(id="ask", do="approve", tools=("pay", "look"))
MANY = 1000


def _asked_often(room: Room, call: str, tool: str = "pay") -> list[AnswerCall]:
    before = len(room.answers(call))
    for _ in range(MANY):
        room.ask(call, tool)
    return room.answers(call)[before:]


def test_polling_for_an_approval_grows_no_ledger_and_is_answered_as_often_as_is_reasonable() -> None:
    room = Room(crew_of(rules=(APPROVE,)))
    room.ask("c1")
    recorded = len(records(room))
    told = _asked_often(room, "c1")
    assert len(records(room)) == recorded
    assert len(told) == REPEATS.burst
    assert not any(each.final or each.durable for each in told)
    room.tick(5.0)
    assert len(_asked_often(room, "c1")) == 5 * REPEATS.messages_per_s
    room.decide(room.approval())
    assert room.ran_calls() == ["c1"]  # whoever was not told meanwhile misses nothing


def test_an_answer_is_said_again_and_no_more_of_it_than_fits() -> None:
    large = msgspec.structs.replace(PAY, result_bytes=1024 * 1024)
    room = Room(crew_of(tools={"pay": large}))
    room.ask("c1")
    room.ran("c1", "x" * 900_000)
    recorded = len(records(room))
    told = _asked_often(room, "c1")
    assert len(records(room)) == recorded
    assert 0 < sum(len(bytes(each.body or b"")) for each in told) <= REPEATS.burst_bytes
    room.tick(60.0)
    room.ask("c1")
    assert room.body("c1") == "x" * 900_000


def test_a_grant_is_said_again_to_who_did_not_hear_it() -> None:
    room = Room()
    room.ask("c1", "look")
    recorded = len(records(room))
    assert len(_asked_often(room, "c1", "look")) == REPEATS.burst
    assert len(records(room)) == recorded
    assert room.body("c1")["grant"] == "c1"


def test_waits_that_were_made_up_are_ended_without_a_record_of_each() -> None:
    room = Room(crew_of(tools={"pay": PAY, "look": Tool(inside=True, timeout_s=10)}))
    for number in range(MANY):
        room.task("a", f"t{number}")
        room.wait("a", f"t{number}", m.OnTool(call=f"never{number}", tool="pay"))
    recorded = len(records(room))
    room.tick(60.0)
    room.heartbeat("a")
    answered = [each for each in room.commands if isinstance(each, AnswerCall) and each.call.startswith("never")]
    assert len(records(room)) == recorded
    assert len(answered) == REPEATS.burst
    assert {each.error.code for each in answered if each.error is not None} == {"peer_gone"}


def test_a_call_that_was_told_as_lost_is_not_run_when_it_comes_after_all() -> None:
    """Its caller says it again until it hears of it, so that it may have been on its way when it was told."""
    room = Room()
    room.wait("a", "t", m.OnAll(of=(m.OnTool(call="c1", tool="pay"), m.OnTimer(after_s=600))))
    room.tick(60.0)
    room.heartbeat("a")
    assert room.code("c1") == "peer_gone"
    told = [each.error.code for each in room.ask("c1") if isinstance(each, AnswerCall) and each.error is not None]
    assert (told, room.ran_calls()) == (["peer_gone"], [])
    # Whoever has heard of it and asks again under the same id wants it run.
    room.wake("a", "t")
    room.ask("c1")
    assert room.ran_calls() == ["c1"]
    assert fold(room.entries)[0].digest() == room.core.digest()


def test_an_id_that_is_used_again_when_it_is_forgotten_does_not_make_the_books_look_wrong() -> None:
    room = Room()
    room.ask("c1")
    room.ran("c1")
    for number in range(ANSWERS_MAX):
        room.ask(f"n{number}", "nothing")
    room.ask("c1")
    room.ran("c1")
    assert room.ran_calls() == ["c1", "c1"]
    assert add_up(records(room)).problems == []


@pytest.mark.parametrize("refused", ["call_id_reused", "rate_limited", "tool_lost"])
def test_what_is_refused_beside_the_calls_that_are_kept_hides_no_second_grant(refused: str) -> None:
    """The gate keeps nothing of it, so it does not forget the first grant; nor may whoever adds up the books."""
    look = LOOK if refused == "tool_lost" else msgspec.structs.replace(PAY, concurrency=1)
    room = Room(crew_of(tools={"pay": PAY, "look": look}, budget=Budget()))
    room.ask("c1")
    room.ran("c1")
    if refused == "rate_limited":
        for number in range(OPEN_MAX):
            room.ask(f"q{number}", "look")
    elif refused == "tool_lost":
        room.ask("q0", "look")
        room.join("a")  # another incarnation of it, which cannot know what came of that
        room.task("a", "t", name="work")
    room.tick(5.0)  # or it would be too much at once
    before = len(records(room))
    for number in range(ANSWERS_MAX):
        if refused == "tool_lost":
            room.ask("q0", "look")
        else:
            room.ask("c1" if refused == "call_id_reused" else f"r{number}", args={"n": number + 2})
    found = records(room)
    assert [each.command["booking"]["code"] for each in found[before:]] == [refused] * ANSWERS_MAX
    room.ask("c1")
    assert room.ran_calls().count("c1") == 1  # it is kept
    assert add_up(found).problems == []
    granted = next(each for each in found if each.command["booking"]["act"] == "reserve")
    assert "a/c1 was granted before" in str(add_up([*found, granted]).problems)


def test_calls_that_never_came_crowd_out_no_answer() -> None:
    room = Room()
    room.ask("c1")
    room.ran("c1")
    for turn in range(ANSWERS_MAX // REPEATS.burst + 2):
        for number in range(REPEATS.burst):
            room.task("a", f"t{turn}-{number}")
            room.wait("a", f"t{turn}-{number}", m.OnTool(call=f"never{turn}-{number}", tool="pay"))
        room.tick(60.0 * (turn + 1))
        room.heartbeat("a")
        for number in range(REPEATS.burst):
            room.wake("a", f"t{turn}-{number}")
    assert len(room.answers(f"never{turn}-0")) == 1
    room.ask("c1")
    assert room.ran_calls() == ["c1"]
    assert add_up(records(room)).problems == []
    assert fold(room.entries)[0].digest() == room.core.digest()


def test_a_grant_that_is_given_twice_is_a_wrong_in_the_books() -> None:
    room = Room()
    room.ask("c1")
    room.ran("c1")
    found = records(room)
    granted = next(each for each in found if "booking" in each.command and each.command["booking"]["act"] == "reserve")
    assert "a/c1 was granted before" in str(add_up([*found, granted]).problems)
    assert "a/c1 was granted before" in str(add_up([*found[:1], granted, granted]).problems)
