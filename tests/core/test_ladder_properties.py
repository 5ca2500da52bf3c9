"""Random conduct against what a ladder promises, and single faults put into it, each of which is noticed."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.mutations import Mutation
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Action, Response
from crewkeeper_supervisor.core.findings import Incident
from support.journal import RUN
from support.ladder_room import LadderRoom, crew_with, scripted

CLIMB_S, COOL_DOWN_S, HOLD_S = 10.0, 50.0, 40.0
LADDERS: tuple[tuple[Action, ...], ...] = (
    ("warn", "nudge", "hold", "escalate"),
    ("nudge", "escalate"),
    ("hold",),
    ("warn", "hold", "nudge", "break"),
)


class Trial:
    """One random run, and everything about it that a ladder may not do."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)
        self.do = self.rnd.choice(LADDERS)
        self.cap = self.rnd.choice((1, 2, 3))
        policy = Response(do=self.do, climb_s=CLIMB_S, cool_down_s=COOL_DOWN_S, hold_s=HOLD_S)
        self.room = LadderRoom(crew_with(escalations=self.cap, loop=policy))
        self.wrong: list[str] = []
        self.open: dict[str, Incident] = {}
        self.rested: dict[str, tuple[int, float]] = {}
        self.told_s: list[float] = []
        self.calls = 0
        self.taken: set[str] = set()

    def run(self, steps: int = 80) -> list[str]:
        for _ in range(steps):
            self.step()
        self.end()
        return self.wrong

    def step(self) -> None:
        room, rnd = self.room, self.rnd
        after_s = rnd.choice((0.0, 0.5, 3.0, 11.0, 60.0))
        before = {key: (each.rung, each.rung_at_s) for key, each in self.open.items()}
        if after_s:
            self.see(room.tick(after_s))
            self.check(before, evidence=None)
        before = {key: (each.rung, each.rung_at_s) for key, each in self.open.items()}
        key = f"k{rnd.randrange(5)}"
        match rnd.randrange(6):
            case 0 | 1 | 2 if key in self.open:
                self.see(room.hear(f"goes_on loop {key}"))
                self.check(before, evidence=key)
            case 0 | 1 | 2:
                self.begin(key)
            case 3 if key in self.open:
                incident = self.open.pop(key)
                self.rested[key] = (incident.rung, room.now_s)
                self.see(room.hear(f"cleared loop {key}", agent="b"))
            case 4:
                self.calls += 1
                room.ask(f"c{self.calls}", "pay")
            case _:
                self.take()
        self.check_calls()
        due_s = room.core.next_tick_at_s()
        if due_s is not None and due_s <= room.now_s:
            self.wrong.append("what is due was not met")

    def begin(self, key: str) -> None:
        self.see(self.room.hear(f"found loop {key} search"))
        incident = self.open[key] = self.room.incident()
        reached, cleared_s = self.rested.pop(key, (1, -1e9))
        due = reached if self.room.now_s - cleared_s <= COOL_DOWN_S else 1
        if incident.rung != due:
            self.wrong.append(f"{key} begins at rung {incident.rung}, not {due}")

    def take(self) -> None:
        for each in self.room.nudges():
            if each.nudge not in self.taken:
                self.taken.add(each.nudge)
                self.room.say("a", m.NudgeTaken, nudge=each.nudge)

    def see(self, given: list[Any]) -> None:
        self.told_s += [
            self.room.now_s for each in given if isinstance(each, Escalate) and each.kind in ("opened", "digest")
        ]
        for each in given:
            nudge = getattr(each, "message", None)
            if isinstance(nudge, m.Nudge) and nudge.nudge in self.taken:
                self.wrong.append("a nudge that was taken is sent again")

    def check(self, before: dict[str, tuple[int, float]], evidence: str | None) -> None:
        room = self.room
        for key, (rung, at_s) in before.items():
            incident = self.open[key]
            by_clock = evidence != key
            if incident.rung > rung + 1:
                self.wrong.append("two rungs at once")
            if incident.rung == rung + 1 and room.now_s < at_s + CLIMB_S:
                self.wrong.append("a rung was not given its time")
            if incident.rung == rung + 1 and by_clock and self.do[rung] != "escalate":
                self.wrong.append("the clock took a rung that does more than tell")
            due = rung < len(self.do) and room.now_s >= at_s + CLIMB_S
            if not by_clock and due and incident.rung == rung:
                self.wrong.append("evidence after its time took no rung")

    def check_calls(self) -> None:
        holds = self.room.core.gate.holds
        for agent, each in holds.items():
            if min(hold.until_s for hold in each.values()) <= self.room.now_s:
                self.wrong.append("a hold did not end in its time")
            waiting = [call for call in self.room.core.gate.open.values() if call.agent == agent]
            if any(call.stage == "running" and call.opened_s > self.since(each) for call in waiting):
                self.wrong.append("a held call runs")
        standing = {incident.id for incident in self.open.values()}
        if any(id_ not in standing for each in holds.values() for id_ in each):
            self.wrong.append("what is over still holds")
        if not holds and any(call.stage == "held" for call in self.room.core.gate.open.values()):
            self.wrong.append("a call is held by nothing")

    @staticmethod
    def since(holds: dict[str, Any]) -> float:
        return float(max(each.until_s for each in holds.values())) - HOLD_S

    def end(self) -> None:
        room = self.room
        self.see(room.tick(100))
        self.see(room.tick(100))
        if any(sum(at_s <= each < at_s + 60 for each in self.told_s) > self.cap for at_s in self.told_s):
            self.wrong.append("people were told too often")
        told = [each.incident for each in room.escalated() if each.kind == "opened"]
        for digest in room.digests():
            told += [each["incident"] for each in digest.body["incidents"] if each["event"] == "opened"]
        due = [id_ for id_, incident in room.core.incidents.items() if incident.told]
        if sorted(told) != sorted(due):
            self.wrong.append("somebody was not told of, or twice")
        again = scripted(RUN)
        for seq, (at_s, subject, payload) in enumerate(room.entries, start=1):
            again.handle(again.read(seq, at_s, subject, payload))
        if again.digest() != room.core.digest():
            self.wrong.append("another fold comes to another state")


SEEDS = range(25)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ladder_keeps_its_promises(seed: int) -> None:
    assert Trial(seed).run() == []


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _right: value


def _hasty(right: Any) -> Any:
    def goes_on(state: Any, kind: Any, key: str, detail: str = "") -> None:
        incident = state.incidents.get(state.ladder.open.get((kind, key)))
        if incident is not None:
            incident.rung_at_s = -1e9
        right(state, kind, key, detail)

    return goes_on


def _forgotten(right: Any) -> Any:
    def withhold(state: Any, incident: Any, kind: Any) -> None:
        right(state, incident, kind)
        if len(state.ladder.escalations.withheld) > 1:
            state.ladder.escalations.withheld.popitem()

    return withhold


def _never_taken(_right: Any) -> Any:
    return lambda state, agent, id_: ""


MUTATIONS = (
    Mutation(name="ladder-never-climbs", place="ladder:_climb", make=_constant(lambda *_: None)),
    Mutation(name="ladder-climbs-at-once", place="ladder:goes_on", make=_hasty),
    Mutation(name="cool-down-ignored", place="ladder_state:LadderState.rest", make=_constant(lambda *_: None)),
    Mutation(name="holds-not-released", place="gate_holds:release", make=_constant(lambda *_: [])),
    Mutation(name="holds-never-end", place="gate_holds:expire", make=_constant(lambda _: [])),
    Mutation(name="held-calls-pass", place="gate_holds:of", make=_constant(lambda *_: None)),
    Mutation(name="nudges-not-taken", place="nudges:taken", make=_never_taken),
    Mutation(name="cap-ignored", place="escalation:_has_room", make=_constant(lambda *_: True)),
    Mutation(name="digest-forgets", place="escalation:_withhold", make=_forgotten),
    Mutation(name="digest-never-sent", place="escalation:watch", make=_constant(lambda _: None)),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_fault_of_the_ladder_is_noticed(mutation: Mutation) -> None:
    with mutation.applied():
        assert any(Trial(seed).run() for seed in SEEDS)
