"""Whom the gate tells that a person has to decide, what it tells, and when it stops telling."""

from crewkeeper_supervisor.core.approvals import TOLD_MAX
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.core.rules import Rule
from support.gate_room import Room, crew_of

RULES = (Rule(id="dear", do="approve", tools=("pay",), because="money"),)
HOOKS = (Webhook(webhook="https://ops.example/"),)


def told(room: Room) -> list[Escalate]:
    return [each for each in escalated(room) if each.kind == "asked"]


def escalated(room: Room) -> list[Escalate]:
    return [each for each in room.commands if isinstance(each, Escalate) and each.body["kind"] == "approval"]


def test_people_are_told_of_exactly_what_is_asked() -> None:
    room = Room(crew_of(rules=RULES, escalate=HOOKS, approval_who="finance"))
    room.ask("c1", args={"n": 5})
    (asked,) = told(room)
    approval = room.approval()
    assert (asked.incident, asked.kind, asked.durable) == (approval.id, "asked", True)
    body = asked.body
    assert (body["approval"], body["digest"], body["who"]) == (approval.id, approval.digest, "finance")
    assert (body["tool"], body["args"], body["rule"], body["because"]) == ("pay", {"n": 5}, "dear", "money")
    assert body["expires_s"] == approval.expires_at_s
    assert "links" not in body  # made on the way out: the ledger has none
    room.ask("c1", args={"n": 5})  # the same call again is the same question
    assert len(told(room)) == 1


def test_nobody_is_told_where_nobody_is_named() -> None:
    room = Room(crew_of(rules=RULES))
    room.ask("c1")
    assert room.approval().state == "pending"
    assert told(room) == []


def test_a_flood_of_questions_does_not_become_a_flood_of_messages() -> None:
    room = Room(crew_of(rules=RULES, escalate=HOOKS))
    for number in range(TOLD_MAX + 10):
        room.ask(f"c{number}", args={"n": number})
    assert len(room.core.gate.approvals) == TOLD_MAX + 10
    assert len(told(room)) == TOLD_MAX
    for approval in list(room.core.gate.approvals.values())[:15]:
        room.decide(approval, "deny")
    room.ask("again", args={"n": 1})
    assert len(told(room)) == TOLD_MAX + 1


def test_people_who_were_asked_are_told_when_nothing_is_left_to_decide() -> None:
    room = Room(crew_of(rules=RULES, escalate=HOOKS))
    room.ask("c1")
    approval = room.approval()
    room.decide(approval, "deny", reason="not this month")
    asked, over = escalated(room)
    assert (asked.kind, over.kind, over.incident) == ("asked", "resolved", approval.id)
    assert over.body["summary"] == "a's call of 'pay': denied by kim: not this month"
    room.decide(approval, "approve")
    assert len(escalated(room)) == 2, "one end, whatever comes later"

    room.ask("c2")
    room.tick(approval.expires_at_s - approval.asked_at_s + 1)
    assert [each.body.get("state", "") for each in escalated(room)] == ["", "denied", "", "expired"]


def test_who_was_not_asked_is_not_told_of_the_end() -> None:
    room = Room(crew_of(rules=RULES, escalate=HOOKS))
    for number in range(TOLD_MAX + 1):
        room.ask(f"c{number}", args={"n": number})
    room.decide(room.approval(), "deny")
    assert len(escalated(room)) == TOLD_MAX
