"""What `supervisor responses` shows."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from crewkeeper_bus.messages import NudgeTaken, Outcome
from crewkeeper_supervisor.core.crew import Response
from crewkeeper_supervisor.views.responses import ResponsesView, notices, responses, responses_table
from crewkeeper_supervisor.views.story import Story
from support.journal import RUN
from support.ladder_room import LadderRoom, crew_with, scripted

HOLD = Response(do=("nudge", "hold", "escalate"), climb_s=0.0, hold_s=90.0)


def seen(room: LadderRoom) -> ResponsesView:
    fold: Any = SimpleNamespace(run=RUN, supervisor=room.core)
    return responses(fold)


def test_what_was_done_and_what_would_have_been() -> None:
    room = LadderRoom(crew_with(escalations=1, loop=HOLD, misuse=Response(do=("kill",), shadow=True)))
    room.hear("found loop k search")
    room.hear("found loop other search")
    room.hear("found misuse k search")
    room.hear("cleared loop other")
    view = seen(room)
    rows = {row.kind: row for row in view.responses}
    assert (rows["loop"].found, rows["loop"].open, rows["loop"].did) == (2, 1, {"nudge": 2, "hold": 2, "escalate": 2})
    assert (rows["misuse"].would, rows["misuse"].did, rows["misuse"].shadow) == ({"kill": 1}, {}, True)
    assert rows["crash"].found == 0
    assert [(each.agent, each.for_s) for each in view.held] == [("a", 90.0)]
    assert view.nudges == {"a": 1}
    assert (view.escalation.per_minute, view.escalation.last_minute, len(view.escalation.withheld)) == (1, 1, 1)
    assert msgspec.json.decode(msgspec.json.encode(view))["schema_version"] == view.schema_version


def test_the_table_has_what_was_found_and_wide_has_every_kind() -> None:
    room = LadderRoom(loop=HOLD)
    assert responses_table(seen(room)).rows == ()
    room.hear("found loop k search")
    (row,) = responses_table(seen(room)).rows
    assert row == ("loop", "1", "1", "live", "nudge 1, hold 1, escalate 1", "-")
    wide = responses_table(seen(room), wide=True)
    assert len(wide.rows) == len(seen(room).responses)
    assert all(len(row) == len(wide.columns) for row in wide.rows)


def test_who_is_held_is_said_with_the_remedy() -> None:
    room = LadderRoom(loop=HOLD)
    room.hear("found loop k search")
    said = notices(seen(room))
    assert any("a is held by F" in each and f"supervisor agent resume {RUN} a" in each for each in said)
    assert any("a has 1 nudge" in each for each in said)


def test_the_story_tells_every_rung_and_what_is_in_the_digest() -> None:
    ladder = Response(do=("warn", "nudge", "hold", "escalate"), climb_s=10.0)
    room = LadderRoom(crew_with(escalations=1, loop=ladder, stall=Response(do=("escalate",), climb_s=1.0)))
    room.hear("found loop k search")
    room.hear("goes_on loop k", 10)
    (nudge,) = room.nudges()
    room.say("a", NudgeTaken, nudge=nudge.nudge)
    room.hear("goes_on loop k", 10)
    for number in range(3):
        room.hear(f"found stall s{number}")
    room.tick(60)
    for each in room.escalated():
        room.op(Outcome(command=each.id, ok=True, detail="204"))
    story = Story(RUN)
    story.fold.supervisor = scripted(RUN)
    lines = [
        line.text
        for seq, (at_s, subject, payload) in enumerate(room.entries, start=1)
        for line in story.feed(Entry(seq, at_s, subject, payload))[1]
    ]
    loop = next(iter(room.core.incidents))
    for sentence in (
        f"loop {loop} goes on: nudge a",
        f"nudges a about {loop}: {nudge.text}",
        "a's model is given a nudge",
        f"loop {loop} goes on: hold new tool and model calls of a for up to 300 s",
        f"loop {loop} goes on: tell people in the next digest: there are too many",
        "told people by webhook about 3 incidents in a digest: 204",
    ):
        assert sentence in lines, "\n".join(lines)


class Entry(NamedTuple):
    """A journal entry."""

    seq: int
    at_s: float
    subject: str
    payload: bytes
