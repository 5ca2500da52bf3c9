"""A person says that they know of an incident: who that spares, who hears of it, and that it ends nothing."""

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import Command, Escalate
from crewkeeper_supervisor.core.crew import Response, Webhook
from crewkeeper_supervisor.core.rules import Rule
from support.gate_room import Room, crew_of
from support.journal import RUN
from support.ladder_room import LadderRoom, crew_with, scripted

TELL = Response(do=("escalate",), climb_s=1.0, cool_down_s=0.0)
CLIMBING = Response(do=("warn", "escalate"), climb_s=10.0, cool_down_s=0.0)


def room_of(escalations: int = 10, **responses: Response) -> LadderRoom:
    return LadderRoom(crew_with(escalations=escalations, **({"loop": TELL} | responses)))


def acknowledge(room: Room, incident: str, by: str = "kim", why: str = "on it") -> list[Command]:
    return room.op(m.OperatorAsked(action="acknowledge", incident=incident, by=by, why=why))


def kinds(room: LadderRoom) -> list[str]:
    return [each.kind for each in room.escalated()]


def test_who_was_told_hears_who_knows_of_it_once() -> None:
    room = room_of()
    room.hear("found loop one search")
    incident = room.incident()
    acknowledge(room, incident.id)
    (told,) = [each for each in room.escalated() if each.kind == "acknowledged"]
    assert (told.incident, told.body["by"], told.body["why"]) == (incident.id, "kim", "on it")
    assert "acknowledged by kim: on it" in room.steps()
    assert incident.state == "open", "it is known, not over"
    assert acknowledge(room, incident.id, by="lee") == []
    assert room.core.ladder.acknowledged[incident.id].by == "kim", "the first one counts"
    room.hear("cleared loop one")
    assert kinds(room) == ["opened", "acknowledged", "resolved"]
    assert acknowledge(room, incident.id) == []


def test_what_is_known_before_people_are_told_is_not_told() -> None:
    room = room_of(loop=CLIMBING)
    room.hear("found loop one search")
    assert acknowledge(room, room.incident().id) == [], "nobody has heard of it who had to be told"
    room.hear("goes_on loop one", 20)
    assert room.steps()[-1] == "people are not told: kim knows of it"
    room.hear("cleared loop one")
    assert kinds(room) == []


def test_the_ladder_goes_on_though_somebody_knows() -> None:
    room = room_of(loop=Response(do=("escalate", "hold"), climb_s=10.0, cool_down_s=0.0))
    room.hear("found loop one search")
    acknowledge(room, room.incident().id)
    room.hear("goes_on loop one", 20)
    assert list(room.held()) == ["a"]


def test_a_digest_is_acknowledged_with_all_that_it_names() -> None:
    room = room_of(escalations=1)
    for number in range(4):
        room.hear(f"found loop k{number} search")
    room.tick(60)
    (digest,) = room.digests()
    assert digest.body["can"] == [{"do": "acknowledge"}]
    acknowledge(room, digest.id)
    alone, *named = room.core.incidents
    assert list(room.core.ladder.acknowledged) == named
    (told,) = [each for each in room.escalated() if each.kind == "acknowledged"]
    assert (told.incident, told.body["digest"], told.body["count"]) == ("", digest.id, 3)
    assert acknowledge(room, digest.id) == []
    assert acknowledge(room, alone) != []


def test_one_incident_of_a_digest_is_no_message() -> None:
    room = room_of(escalations=1)
    for number in range(3):
        room.hear(f"found loop k{number} search")
    room.tick(60)
    assert acknowledge(room, list(room.core.incidents)[1]) == []
    assert len(room.core.ladder.acknowledged) == 1


def test_an_approval_that_is_asked_can_be_acknowledged() -> None:
    rules = (Rule(id="dear", do="approve", tools=("pay",), because="money"),)
    room = Room(crew_of(rules=rules, escalate=(Webhook(webhook="https://ops.example/"),)))
    room.ask("c1")
    (told,) = acknowledge(room, room.approval().id)
    assert isinstance(told, Escalate)
    assert (told.kind, told.incident, room.approval().state) == ("acknowledged", room.approval().id, "pending")


def test_what_nobody_knows_is_nothing() -> None:
    room = room_of()
    assert acknowledge(room, "F99-0") == []
    assert acknowledge(room, "") == []


def test_what_a_person_does_from_a_message_stands_with_the_incident() -> None:
    room = room_of()
    room.hear("found loop one search")
    room.op(m.OperatorAsked(action="kill", agent="a", incident=room.incident().id, by="kim (link)", why="enough"))
    assert "kim (link) asked to kill a: enough" in room.steps()


def test_the_end_of_the_run_is_told_to_who_was_told() -> None:
    room = room_of(escalations=1)
    room.hear("found loop one search")
    room.hear("found loop two search")
    room.tick(60)
    room.asks("stop_run")
    room.op(m.RunEnded(state="stopped"), sender="_host")
    assert kinds(room) == ["opened", "digest", "resolved", "resolved"]
    assert room.escalated()[-1].body["digest"] == room.digests()[0].id


def test_the_same_journal_acknowledges_the_same() -> None:
    room = room_of(escalations=2)
    for number in range(6):
        room.hear(f"found loop k{number} search", 4)
    room.tick(60)
    acknowledge(room, next(iter(room.core.incidents)))
    acknowledge(room, room.digests()[0].id)
    again = scripted(RUN)
    for seq, (at_s, subject, payload) in enumerate(room.entries, start=1):
        again.handle(again.read(seq, at_s, subject, payload))
    assert again.digest() == room.core.digest()


# --- closing ---


def close(room: Room, incident: str, by: str = "kim", why: str = "a false alarm") -> list[Command]:
    return room.op(m.OperatorAsked(action="resolve", incident=incident, by=by, why=why))


def test_what_a_person_closes_is_over_and_stays_so_while_it_lasts() -> None:
    room = room_of()
    room.hear("found loop one search")
    incident = room.incident()
    close(room, incident.id)
    assert (incident.state, incident.resolved_at_s) == ("resolved", room.core.now_s)
    assert "closed by kim: a false alarm" in room.steps()
    assert kinds(room) == ["opened", "resolved"], "whoever was told hears of it"
    noted = list(room.steps())
    for later in ("goes_on loop one search", "cleared loop one"):
        room.hear(later, 20)
    assert close(room, incident.id, by="lee") == []
    assert (kinds(room), room.steps()) == (["opened", "resolved"], noted), "it is over once"
    room.hear("found loop one search")
    assert room.incident() is not incident, "what comes back after it was over is told anew"


def test_closing_leaves_agents_as_they_are() -> None:
    room = room_of(loop=Response(do=("nudge", "hold"), climb_s=10.0, cool_down_s=0.0))
    room.hear("found loop one search")
    room.hear("goes_on loop one", 20)
    assert list(room.held()) == ["a"]
    assert close(room, room.incident().id) == []
    assert list(room.held()) == ["a"]
    assert not room.core._state.ladder.owed, "what it has not been told yet it need not hear"
    room.asks("resume", "a")
    assert not room.held()


def test_a_digest_is_closed_with_all_that_it_names() -> None:
    room = room_of(escalations=1)
    for number in range(4):
        room.hear(f"found loop k{number} search")
    room.tick(60)
    close(room, room.digests()[0].id)
    alone, *named = room.core.incidents.values()
    assert alone.state == "open"
    assert {each.state for each in named} == {"resolved"}
