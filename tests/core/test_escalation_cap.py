"""People are told one by one while that are few, and of all others in one digest that leaves nobody out."""

from typing import Any

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Agent, Crew, Response, Webhook
from crewkeeper_supervisor.core.response import give_up_on
from support.journal import RUN, Journal
from support.ladder_room import LadderRoom, crew_with, scripted

TELL = Response(do=("escalate",), climb_s=1.0, cool_down_s=0.0)


def room_of(escalations: int = 10, **responses: Response) -> LadderRoom:
    return LadderRoom(crew_with(escalations=escalations, **({"loop": TELL} | responses)))


def named(body: dict[str, Any]) -> list[str]:
    return [id_ for ids in body["ids"].values() for id_ in ids]


@pytest.mark.parametrize(("kind", "alone"), [("intrusion", 10), ("loop", 5)])
def test_two_hundred_at_once_are_the_cap_or_half_of_it_and_a_digest_of_the_rest(kind: str, alone: int) -> None:
    room = room_of(**{kind: TELL})
    for number in range(200):
        room.hear(f"found {kind} k{number} search")
    opened = [each.incident for each in room.escalated()]
    assert len(opened) == alone
    room.tick(60)
    (digest,) = room.digests()
    assert len(room.escalated()) == alone + 1
    assert sorted([*opened, *named(digest.body)]) == sorted(room.core.incidents)
    assert digest.body["count"] == 200 - alone
    assert f"{200 - alone} {kind}" in digest.body["summary"]
    assert all("people" in each.steps[-1].text for each in room.core.incidents.values())
    room.tick(600)
    assert len(room.escalated()) == alone + 1


@pytest.mark.parametrize("cap", [1, 2, 5, 10])
def test_never_more_than_the_cap_in_any_minute(cap: int) -> None:
    room = room_of(escalations=cap, intrusion=TELL)
    times: list[float] = []
    for number in range(120):
        kind = "intrusion" if number % 7 < 2 or number > 80 else "loop"
        room.hear(f"found {kind} k{number} search", 2.5)
        while len(times) < len(room.escalated()):
            times.append(room.now_s)
    room.tick(60)
    for begin_s in times:
        assert sum(begin_s <= at_s < begin_s + 60 for at_s in times) <= cap
    told = [each.incident for each in room.escalated() if each.incident]
    told += [id_ for each in room.digests() for id_ in named(each.body)]
    assert sorted(told) == sorted(room.core.incidents), "each is told once, and none is missing"


def test_few_are_told_one_by_one() -> None:
    room = room_of()
    for number in range(10):
        room.hear(f"found loop k{number} search", 15)
    assert (len(room.escalated()), room.digests()) == (10, [])


def test_what_was_over_before_the_digest_is_told_there_alone() -> None:
    room = room_of(escalations=1)
    room.hear("found loop one search")
    room.hear("found loop two search")
    room.hear("cleared loop two")
    room.hear("cleared loop one")
    room.tick(60)
    assert [each.kind for each in room.escalated()] == ["opened", "resolved", "digest"]
    (told,) = room.digests()[0].body["incidents"]
    assert (told["event"], told["state"]) == ("opened", "resolved")


def test_a_digest_is_over_when_all_that_it_names_is() -> None:
    room = room_of(escalations=1)
    for number in range(3):
        room.hear(f"found loop k{number} search")
    room.tick(60)
    (digest,) = room.digests()
    assert digest.body["open"] == 2
    room.hear("cleared loop k1", 600)
    assert [each.kind for each in room.escalated()] == ["opened", "digest"]
    room.hear("cleared loop k2")
    over = room.escalated()[-1]
    assert (over.kind, over.incident, over.body["digest"]) == ("resolved", "", digest.id)
    for same in ("severity", "ids", "count"):
        assert over.body[same] == digest.body[same], "receivers know it by this"
    room.tick(600)
    assert room.escalated()[-1] is over, "that one of them is over was said by this"


def test_what_a_digest_told_is_over_in_the_next_while_others_of_it_stand() -> None:
    room = room_of(escalations=1)
    for number in range(4):
        room.hear(f"found loop k{number} search")
    room.tick(60)
    room.hear("cleared loop k1", 600)
    room.hear("cleared loop k2")
    due_s = room.core.next_tick_at_s()
    assert due_s is not None
    assert due_s > room.now_s, "what is due long ago would never be met"
    room.tick(60)
    assert [each.kind for each in room.escalated()] == ["opened", "digest", "digest"]
    said = room.digests()[1].body
    assert [each["event"] for each in said["incidents"]] == ["resolved", "resolved"]
    assert (said["open"], said["can"]) == (0, [])
    assert ", all over: info: 2 loop" in said["summary"]
    room.hear("cleared loop k3")
    assert [each.body.get("digest") for each in room.escalated()][3:] == [room.digests()[0].id]


def test_a_digest_of_one_says_what_that_is() -> None:
    room = room_of(escalations=1)
    room.hear("found loop one search")
    room.hear("found loop two search")
    room.tick(60)
    assert room.digests()[0].body["summary"] == "a repeats itself (told late, beyond 1 escalation a minute)"
    room.hear("cleared loop two")
    assert room.escalated()[-1].body["summary"] == "a repeats itself"


def test_one_that_several_digests_tell_of_is_over_for_each() -> None:
    room = room_of(escalations=1)
    room.hear("found loop one search")
    room.hear("found loop two search")
    room.tick(60)
    for number in range(2):
        give_up_on(room.core._state, room.incident())
        room.hear(f"found loop other{number} search")
        room.tick(60)
    assert len(room.digests()) == 3
    for incident in list(room.core.incidents.values()):
        room.hear(f"cleared loop {incident.finding.evidence['key']}")
    over = [each.body["digest"] for each in room.escalated() if each.kind == "resolved" and not each.incident]
    assert sorted(over) == sorted(each.id for each in room.digests()), "each once"


def test_the_end_of_the_crew_waits_for_no_digest() -> None:
    room = room_of(escalations=1)
    for number in range(3):
        room.hear(f"found loop k{number} search")
    room.asks("stop_run")
    (digest,) = room.digests()
    assert digest.body["count"] == 2


def test_nobody_to_tell_is_no_digest() -> None:
    room = LadderRoom(crew_with(webhook=False, escalations=1, loop=TELL))
    for number in range(3):
        room.hear(f"found loop k{number} search")
    room.tick(100)
    assert room.escalated() == []


def test_a_digest_fits_into_a_request_with_every_name() -> None:
    from crewkeeper_supervisor.shell import webhook

    room = room_of(escalations=1)
    for number in range(800):
        room.hear(f"found loop k{number} search", agent="a" if number % 2 else "b")
    room.tick(61)
    (digest,) = room.digests()
    assert len(named(digest.body)) == 799
    sent = webhook.body(RUN, "room", digest)
    assert all(id_.encode() in sent for id_ in named(digest.body))


def test_the_same_journal_tells_the_same() -> None:
    room = room_of(escalations=2)
    for number in range(30):
        room.hear(f"found loop k{number} search", 4)
    again = scripted(RUN)
    for seq, (at_s, subject, payload) in enumerate(room.entries, start=1):
        again.handle(again.read(seq, at_s, subject, payload))
    assert again.digest() == room.core.digest()


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_many_deadlocks_at_once_are_the_cap_and_a_digest_of_all_others(count: int) -> None:
    """Real rings, found by the detector, broken and told under the default policy."""
    pairs = [(f"a{number}", f"b{number}") for number in range(count)]
    agents = tuple(Agent(name=name) for pair in pairs for name in pair)
    room = Journal(Crew(name="many", agents=agents, escalate=(Webhook(webhook="https://ops.example/"),)))
    room.start()
    for one, other in pairs:
        room.task(one, "t")
        room.task(other, "t")
        room.call(one, "t", f"c{one}", other)
        room.call(other, "t", f"c{other}", one)
        room.wait(one, "t", m.OnCall(call=f"c{one}"))
        room.wait(other, "t", m.OnCall(call=f"c{other}"))
    room.tick(1.0)
    for name in [name for pair in pairs for name in pair]:
        room.affirm(name)
    for _ in range(4):
        room.tick(20.0)
    told = [each for each in room.commands if isinstance(each, Escalate)]
    opened = [each.incident for each in told if each.kind == "opened"]
    digests = [each for each in told if each.kind == "digest"]
    assert len(room.core.incidents) == count
    assert {each.finding.kind for each in room.core.incidents.values()} == {"deadlock"}
    assert len(opened) == 10
    in_digests = [id_ for each in digests for id_ in named(each.body)]
    assert {*opened, *in_digests} == set(room.core.incidents), "none is missing"
    assert len([each for each in told if each.kind != "resolved"]) <= 10 + 2


def test_what_was_told_alone_is_told_alone_to_be_over_though_worse_waits_for_the_digest() -> None:
    room = room_of(escalations=3)
    room.hear("found loop one search")
    first = room.incident()
    for number in range(3):
        room.hear(f"found loop k{number} search")
    second = room.incident()
    for incident in (first, second):
        give_up_on(room.core._state, incident)
    room.hear("goes_on loop one")
    assert [each.incident for each in room.escalated()] == list(room.core.incidents)[:2], "worse news counts, too"
    room.hear("cleared loop one")
    assert [each.kind for each in room.escalated()] == ["opened", "opened", "resolved"]
    room.tick(60)
    (digest,) = room.digests()
    assert named(digest.body) == list(room.core.incidents)[:1:-1], "the worst first"
    room.hear("cleared loop k2")
    room.tick(60)
    assert room.digests()[1].body["incidents"][0]["event"] == "resolved"


def test_a_digest_says_what_could_not_be_resolved() -> None:
    room = room_of(escalations=1)
    room.hear("found loop one search")
    give_up_on(room.core._state, room.incident())
    room.tick(60)
    (told,) = room.digests()[0].body["incidents"]
    assert told["event"] == "unresolved"
    room.hear("cleared loop one")
    assert [each.kind for each in room.escalated()] == ["opened", "digest", "resolved", "resolved"]
    assert [each.incident for each in room.escalated()[2:]] == [room.incident().id, ""], "both messages are over"


def test_any_number_of_warnings_leaves_room_for_what_is_severe() -> None:
    room = room_of(escalations=6, intrusion=TELL)
    for number in range(50):
        room.hear(f"found loop w{number} search")
    for number in range(4):
        room.hear(f"found intrusion s{number} search")
    kinds = [room.core.incidents[each.incident].finding.kind for each in room.escalated()]
    assert kinds == ["loop"] * 3 + ["intrusion"] * 2, "the last place is that of the digest"
    room.tick(60)
    (digest,) = room.digests()
    assert digest.body["severities"] == {"error": 2, "warning": 47}
    assert digest.body["severity"] == "error"
    assert "error: 2 intrusion; warning: 47 loop" in digest.body["summary"]
    assert [each["severity"] for each in digest.body["incidents"]][:3] == ["error", "error", "warning"]
    assert list(digest.body["ids"]) == ["intrusion", "loop"]


def test_severe_ones_that_go_on_do_not_keep_the_digest_from_being_sent() -> None:
    room = room_of(escalations=4, intrusion=TELL)
    for number in range(8):
        room.hear(f"found loop w{number} search")
    for number in range(40):
        room.hear(f"found intrusion s{number} search", 2)
    assert room.digests(), "eighty seconds are more than the minute that a digest may take"


def test_what_cannot_be_resolved_is_told_though_its_beginning_waits_for_the_digest() -> None:
    room = room_of(escalations=4)
    for number in range(3):
        room.hear(f"found loop k{number} search")
    last = room.incident()
    give_up_on(room.core._state, last)
    room.hear("goes_on loop k0")
    assert [each.kind for each in room.escalated()] == ["opened", "opened", "unresolved"]
    room.hear("cleared loop k2")
    assert room.escalated()[-1].kind == "resolved"
    room.tick(60)
    assert room.digests() == [], "nothing is left for it"


@pytest.mark.parametrize("later", [False, True])
def test_what_cannot_be_resolved_is_critical_in_a_digest_too(later: bool) -> None:
    room = room_of(escalations=3, intrusion=TELL, loop=TELL if later else Response(do=()))
    for number in range(3):
        room.hear(f"found intrusion s{number} search")
    room.hear("found loop k search")
    last = room.incident()
    assert last.told == later, "its beginning waits for the digest where people are told of that"
    give_up_on(room.core._state, last)
    room.hear("goes_on loop k")
    assert [each.kind for each in room.escalated()] == ["opened"] * 3, "there is no room even for that"
    room.tick(60)
    (digest,) = room.digests()
    assert digest.body["severities"] == {"critical": 1}
    assert named(digest.body) == [last.id]
    room.hear("cleared loop k")
    over = room.escalated()[-1]
    assert (over.kind, over.body["digest"], over.body["severity"]) == ("resolved", digest.id, "critical")
    room.tick(60)
    assert room.digests() == [digest], "one word of its end is enough"


def test_what_is_over_before_its_digest_is_sent_is_not_called_unresolved() -> None:
    room = room_of(escalations=1)
    room.hear("found loop one search")
    room.hear("found loop two search")
    give_up_on(room.core._state, room.incident())
    room.hear("cleared loop two")
    room.tick(60)
    (digest,) = room.digests()
    assert digest.body["open"] == 0
    assert digest.body["summary"] == "a repeats itself (told late, beyond 1 escalation a minute, which is over)"
