"""Whatever happens, in whatever order: no limit is exceeded, nothing runs or is charged twice, the books add up."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import HOST, TOOLS
from crewkeeper_supervisor.core import budget
from crewkeeper_supervisor.core.crew import Agent, Budget
from crewkeeper_supervisor.core.gate_state import GateState
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import CallRate
from crewkeeper_supervisor.shell.spending import add_up
from support.gate_room import LOOK, PAY, Room, bookings, crew_of, records
from support.journal import fold

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
with_ = msgspec.structs.replace


def crew(rnd: random.Random) -> Any:
    tight = rnd.choice([2, 3, 50])
    limits = Budget(
        microusd=tight * 1_000_000 + rnd.choice([0, 1, 999_999]),
        tokens=rnd.choice([None, 500, 5000]),
        tool_calls=rnd.choice([None, 4, 20]),
        hand_back_percent=rnd.choice([0, 10]),
        ask_s=rnd.choice([0.0, 20.0]),
    )
    own = Budget(microusd=rnd.choice([None, 1_500_000, 4_000_000]), tool_calls=rnd.choice([None, 3]))
    task = Budget(microusd=rnd.choice([None, 2_000_000]))
    return crew_of(
        Agent(name="a", tools=("pay", "look"), budget=own, task_budget=task),
        Agent(name="b", tools=("pay",)),
        budget=limits,
        approval_s=60,
        rules=(Rule(id="r", do="approve", when="args.n > 3"),) if rnd.random() < 0.5 else (),
        tools={
            "pay": with_(PAY, concurrency=rnd.choice([1, 3, 100]), rate=rnd.choice([None, CallRate(calls=5, per_s=5)])),
            "look": with_(LOOK, cost_microusd=rnd.choice([0, 300_000])),
        },
    )


class Chance:
    """Things that happen to a gate, by chance."""

    def __init__(self, rnd: random.Random, room: Room) -> None:
        self.rnd = rnd
        self.room = room
        self.hosts = 1

    def happen(self) -> None:
        rnd, room = self.rnd, self.room
        room.now_s += rnd.choice((0.0, 0.01, 0.5, 3.0))
        agent, call = rnd.choice("ab"), f"c{rnd.randrange(12)}"
        match rnd.randrange(17):
            case 0 | 1 | 2 | 3 | 4:
                room.ask(call, rnd.choice(("pay", "pay", "look", "nope")), {"n": int(call[1:]) % 6}, agent=agent)
            case 5 | 6 | 7:
                cost = rnd.choice((None, None, 0, 1_000_000, 2_500_000))
                room.ran(call, agent=agent, ok=rnd.random() < 0.8, cost_microusd=cost)
            case 8:
                room.model(f"m{rnd.randrange(8)}", agent=agent, given=rnd.randrange(300), most=rnd.randrange(300))
            case 9:
                sent = rnd.random() < 0.8
                call = f"m{rnd.randrange(8)}"
                room.spent(call, rnd.randrange(400), rnd.randrange(400), agent=agent, forwarded=sent)
            case 10:
                room.settle(call, agent=agent, cost_microusd=rnd.choice((0, 500_000)))
            case 11:
                room.tick(rnd.choice((1.0, 20.0, 70.0)))
            case 12:
                for approval in list(room.core.gate.approvals.values())[-3:]:
                    room.decide(approval, rnd.choice(("approve", "approve", "deny", "cancel")))
            case 13:
                self.people()
            case 14:
                self.die(agent)
            case 15:
                room.say(agent, t.CallGivenUp, id_=call)
            case 16 if rnd.random() < 0.3:  # its owner dies: the successor reads the journal, and is in the same state
                digest, pending = room.core.digest(), list(room.core.pending.values())
                room.core = fold(room.entries)[0]
                assert (room.core.digest(), list(room.core.pending.values())) == (digest, pending)

    def people(self) -> None:
        rnd, room = self.rnd, self.room
        add = rnd.choice((0, 500_000))
        limit = None if add else rnd.choice((0, 1_000_000, 9_000_000))
        agent = rnd.choice(("", "a"))
        room.op(t.BudgetChanged(agent=agent, dimension="microusd", add=add, limit=limit, by="kim"))
        room.say("b", m.Usage, task="t", input_tokens=rnd.randrange(50), cost_microusd=rnd.randrange(100_000))

    def die(self, agent: str) -> None:
        if self.rnd.random() < 0.5:
            self.room.op(t.ToolsGone(host=f"h{self.hosts}"), sender=TOOLS)
            self.hosts += 1
            self.room.ready(f"h{self.hosts}")
        else:
            self.room.op(m.ProcessExited(agent=agent, pid=0, code=1, restart=True), sender=HOST)
            self.room.join(agent)


def check(room: Room) -> None:
    accounts = room.core.gate.accounts
    for each in (accounts.crew, *accounts.agents.values(), *accounts.tasks.values()):
        for dimension in budget.SPENT:
            settled, held = each.settled.get(dimension, 0), each.held.get(dimension, 0)
            assert held >= 0
            if dimension in each.limit:
                assert settled + held <= each.limit[dimension], (each.name, dimension)
    for dimension in budget.SPENT:
        for part in ("held", "spent"):
            assert total([accounts.crew], dimension, part) == total(accounts.agents.values(), dimension, part)
    held = [call.held for call in room.core.gate.open.values() if call.stage == "running"]
    assert accounts.crew.held.get("microusd", 0) == sum(each.get("microusd", 0) for each in held)


def total(accounts: Any, dimension: str, part: str) -> int:
    if part == "held":
        return sum(each.held.get(dimension, 0) for each in accounts)
    return sum(each.settled.get(dimension, 0) + each.over.get(dimension, 0) for each in accounts)


def lived(seed: int, length: int = 80) -> Room:
    rnd = random.Random(seed)
    room = Room(crew(rnd))
    chance = Chance(rnd, room)
    for _ in range(length):
        chance.happen()
        check(room)
    return room


def sound(seed: int) -> None:
    room = lived(seed)
    ran = room.ran_calls()
    assert len({(each.agent, each.call) for each in room.told(t.RunTool)}) == len(ran)
    books = add_up(records(room))
    assert books.problems == []
    assert max(books.ends.values(), default=1) == 1
    assert set(books.ends) <= set(books.grants)
    crew_account = room.core.gate.accounts.crew
    assert books.total("crew", "microusd").held == crew_account.held.get("microusd", 0)
    room.op(m.RunEnded(state="done"), sender=HOST)
    assert (room.core.gate.open, room.core.gate.asking) == ({}, {})
    assert not any(crew_account.held.values())
    assert all(use.running == 0 for use in room.core.gate.uses.values())
    core, commands = fold(room.entries)
    assert (core.digest(), commands) == (room.core.digest(), room.commands)


@QUICK
@given(st.integers(0, 2**32))
def test_limits_hold_and_the_books_add_up(seed: int) -> None:
    sound(seed)


def broken_somewhere() -> bool:
    for seed in range(60):
        try:
            sound(seed)
        except AssertionError:
            return True
    return False


def test_without_faults_the_same_seeds_are_sound() -> None:
    assert not broken_somewhere()


def test_a_gate_that_reserves_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "reserve", lambda *_, **__: None)
    assert broken_somewhere()


def test_a_gate_that_does_not_look_for_room_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "shortage", lambda *_, **__: None)
    assert broken_somewhere()


def test_a_gate_that_forgets_what_it_has_answered_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    over = GateState.over

    def forget(self: GateState, call: Any, ended: Any) -> None:
        over(self, call, ended)
        self.ended[call.agent].clear()

    monkeypatch.setattr(GateState, "over", forget)
    assert broken_somewhere()


def test_a_gate_that_frees_without_charging_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "settle", lambda path, held, spent: [each.free(held) for each in path])
    assert broken_somewhere()


def test_chance_reaches_every_end() -> None:
    rooms = [lived(seed) for seed in range(150)]
    codes = {each.error.code for room in rooms for each in room.commands if getattr(each, "error", None)}
    acts = {booking.act for room in rooms for booking in bookings(room.commands)}
    assert acts == {"reserve", "settle", "expire", "release", "refuse"}
    assert codes >= {
        *("unknown_tool", "budget_spent", "rate_limited", "tool_timeout", "tool_lost", "tool_failed", "cancelled"),
        *("approval_denied", "approval_expired"),
    }
    assert any(account.over for room in rooms for account in room.core.gate.accounts.agents.values())
    assert any(booking.last for room in rooms for booking in bookings(room.commands))
