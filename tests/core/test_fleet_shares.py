"""A limit that several runs share: exact for all together and none of it lost, whoever folds what and how often."""

import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.core import fleet_account
from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.core.fleet_account import FleetAccount
from crewkeeper_supervisor.shell.spending import add_up
from support.fleet_room import Fleet
from support.gate_room import records
from support.journal import fold

USD = 1_000_000
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_of_forty_calls_of_two_runs_exactly_as_many_run_as_fit() -> None:
    fleet = Fleet({"microusd": 5 * USD}, "one", "two")
    for number in range(20):
        for room in fleet.rooms.values():
            room.ask(f"c{number}")
    assert fleet.ran() == []
    fleet.settle()
    assert len(fleet.ran()) == 5
    assert {room.code(f"c{n}") for room in fleet.rooms.values() for n in range(20)} == {"", "budget_spent"}
    assert fleet.spending() == 5 * USD
    refused = [room.text("c19") for room in fleet.rooms.values()]
    assert "the budget of all crews together does not allow it: $1.00 asked, $0.00 left of $5.00" in refused[1]


def test_what_one_run_does_not_need_the_other_can_spend() -> None:
    fleet = Fleet({"microusd": 16 * USD, "tool_calls": 100}, "one", "two")
    one, two = fleet.rooms.values()
    one.ask("c1")
    fleet.settle()
    assert fleet.account.shares["one"].leased["microusd"] == 2 * USD  # an eighth of what is left
    one.ran("c1", cost_microusd=0)
    for number in range(17):
        two.ask(f"c{number}")
    fleet.settle()
    assert (len(two.ran_calls()), fleet.spending(), fleet.account.left("microusd")) == (16, 16 * USD, 0)
    assert two.code("c16") == "budget_spent"


def test_no_claim_is_too_large_for_the_books() -> None:
    fleet = Fleet({"microusd": 5 * USD, "tokens": 1000}, "one", "two")
    one, two = fleet.rooms.values()
    for number in range(3):
        claim = {"cost_microusd": 2**53, "input_tokens": 2**53, "output_tokens": 2**53}
        one.say("a", m.Usage, id_=f"u{number}", task="t", **claim)
    fleet.settle()
    assert "malformed" not in one.kinds()
    assert fleet.account.shares["one"].over["tokens"] == 6 * 2**53 - 1000
    two.ask("c1")
    fleet.settle()
    assert two.code("c1") == "budget_spent"
    one.op(m.RunEnded(state="done", why="x"), sender=HOST)
    fleet.settle()
    assert fleet.account.closed["tokens"] == 6 * 2**53


def test_a_refusal_stands_for_a_moment_and_not_for_ever() -> None:
    fleet = Fleet({"microusd": 2 * USD}, "one", "two")
    one, two = fleet.rooms.values()
    one.ask("c1"), one.ask("c2")
    fleet.settle()
    two.ask("c1")
    fleet.settle()
    one.ran("c1", cost_microusd=0)
    two.ask("c2")
    assert (two.code("c2"), fleet.order_of("two")) == ("budget_spent", None)
    two.tick(1.1)
    two.ask("c3")
    fleet.settle()
    assert two.ran_calls() == ["c3"]


def test_a_successor_is_given_the_very_share_that_its_predecessor_had_asked_for() -> None:
    fleet = Fleet({"microusd": 3 * USD}, "one")
    (room,) = fleet.rooms.values()
    room.ask("c1")
    order = fleet.order_of("one")
    assert order is not None
    fleet.account = fleet_account.answer(fleet_account.place(fleet.account, "one", order), "one")
    before = fleet.account
    room.core = fold(room.entries)[0]  # the owner died before it could say so
    again = fleet.order_of("one")
    assert again == order
    fleet.settle()
    assert (fleet.account, room.ran_calls()) == (before, ["c1"])
    room.ran("c1", cost_microusd=0)
    room.op(m.RunEnded(state="done"), sender=HOST)
    closing = fleet.order_of("one")
    fleet.settle()
    closed = fleet.account
    assert closing is not None
    for late in (order, closing):  # and a dead owner's orders come late
        assert fleet_account.place(closed, "one", late) == closed
    assert (closed.shares, closed.taken("microusd"), closed.ended_count) == ({}, 0, 1)


def test_a_run_that_does_not_answer_is_waited_for_only_so_long() -> None:
    fleet = Fleet({"microusd": 2 * USD}, "one", "two")
    one, two = fleet.rooms.values()
    one.ask("c1")
    fleet.settle()
    one.ran("c1", cost_microusd=0)
    two.ask("c1"), two.ask("c2")
    while fleet.carry("two"):
        pass
    assert (two.ran_calls(), two.code("c2")) == (["c1"], "")
    fleet.carry("two", late=True)
    assert two.code("c2") == "budget_spent"


def test_limits_set_while_runs_spend_hold_for_what_they_have_spent_too() -> None:
    fleet = Fleet({}, "one", "two", budget=Budget(microusd=50 * USD))
    one, two = fleet.rooms.values()
    one.ask("c1"), one.ask("c2"), two.ask("c1")
    one.ran("c1")
    fleet.set(microusd=4 * USD)
    fleet.settle()
    assert (fleet.account.taken("microusd"), fleet.spending()) == (3 * USD, 3 * USD)
    one.ran("c2", cost_microusd=0)
    for call in ("c3", "c4", "c5"):
        two.ask(call)
    fleet.settle()
    assert (fleet.spending(), len(fleet.ran())) == (4 * USD, 5)
    fleet.set(microusd=None)
    fleet.settle()
    two.ask("c6")
    assert two.ran_calls()[-1] == "c6"


def test_a_limit_below_what_is_spent_is_what_is_spent() -> None:
    fleet = Fleet({"microusd": 9 * USD}, "one")
    (room,) = fleet.rooms.values()
    room.ask("c1"), room.ask("c2")
    fleet.settle()
    fleet.set(microusd=USD)
    assert fleet.account.bound("microusd") == fleet.account.taken("microusd")
    fleet.settle()
    assert (fleet.account.bound("microusd"), fleet.account.left("microusd")) == (2 * USD, 0)
    fleet.set(microusd=3 * USD)
    fleet.settle()
    room.ask("c3")
    fleet.settle()
    assert room.ran_calls() == ["c1", "c2", "c3"]


def test_what_costs_more_than_reserved_takes_room_from_the_others() -> None:
    fleet = Fleet({"microusd": 4 * USD}, "one", "two")
    one, two = fleet.rooms.values()
    one.ask("c1")
    fleet.settle()
    one.ran("c1", cost_microusd=6 * USD)
    fleet.settle()
    assert (fleet.account.shares["one"].over, "budget_spent" in one.kinds()) == ({"microusd": 2 * USD}, True)
    two.ask("c1")
    fleet.settle()
    assert two.code("c1") == "budget_spent"
    fleet.set(microusd=7 * USD)
    fleet.settle()
    two.tick(1.1)
    two.ask("c2")
    fleet.settle()
    assert (two.ran_calls(), fleet.account.taken("microusd")) == (["c2"], 7 * USD)


def test_calls_can_be_held_until_there_is_room() -> None:
    fleet = Fleet({"microusd": 1 * USD}, "one", "two", budget=Budget(ask_s=60))
    one, two = fleet.rooms.values()
    one.ask("c1")
    fleet.settle()
    two.ask("c1")
    fleet.settle()
    assert two.body("c1")["pending"] == "budget"
    one.ran("c1", cost_microusd=100)
    two.tick(1.1)
    fleet.settle()
    assert (two.ran_calls(), two.code("c1")) == ([], "ok")
    fleet.set(microusd=2 * USD)
    fleet.settle()
    assert two.ran_calls() == ["c1"]


def test_people_are_warned_once_by_one_run() -> None:
    fleet = Fleet({"microusd": 5 * USD}, "one", "two")
    for number in range(3):
        for room in fleet.rooms.values():
            room.ask(f"c{number}")
        fleet.settle()
    kinds = [kind for room in fleet.rooms.values() for kind in room.kinds()]
    assert kinds.count("budget_soft") == 1


# --- whatever happens ---


class Life:
    """Runs that spend, end, lose their owners and hear old ones, in an order of chance."""

    def __init__(self, seed: int) -> None:
        self.rnd = rnd = random.Random(seed)
        limits = {"microusd": rnd.choice((3, 7, 20)) * USD} | ({"tool_calls": 15} if rnd.random() < 0.3 else {})
        self.first = {} if rnd.random() < 0.2 else limits
        own = Budget(
            microusd=rnd.choice((None, 5 * USD)), hand_back_percent=rnd.choice((0, 20)), ask_s=rnd.choice((0, 5))
        )
        self.fleet = Fleet(self.first, "one", "two", "three", budget=own)
        self.orders: list[tuple[str, object]] = []
        self.calls = 0

    def happen(self) -> None:
        rnd, fleet = self.rnd, self.fleet
        name = rnd.choice(list(fleet.rooms))
        room = fleet.rooms[name]
        match rnd.randrange(14):
            case 0 | 1 | 2 | 3:
                self.calls += 1
                room.ask(f"c{self.calls}")
            case 4 | 5 | 6:
                cost = rnd.choice((None, 0, 300_000, 300_000, 2 * USD if rnd.random() < 0.1 else None))
                room.ran(rnd.choice(room.ran_calls() or ["c0"]), cost_microusd=cost)
            case 7 | 8 | 9 | 10:
                if (order := fleet.order_of(name)) is not None:
                    self.orders.append((name, order))
                fleet.carry(name, late=rnd.random() < 0.05)
            case 11:
                self.die(name)
            case 12:
                self.come_late()
            case 13 if rnd.random() < 0.5:
                self.calls += 1
                room.model(f"m{self.calls}", given=rnd.randrange(300_000), most=rnd.randrange(300_000))
                room.spent(f"m{rnd.randint(1, self.calls)}", rnd.randrange(300_000), rnd.randrange(300_000))
            case 13:
                room.tick(rnd.choice((0.1, 1.0, 5.0)))
        if rnd.random() < 0.02:
            fleet.set(microusd=rnd.choice((USD, 4 * USD, 12 * USD)))
        if rnd.random() < 0.02:
            room.say("a", m.Usage, task="t", input_tokens=5, cost_microusd=rnd.randrange(200_000))

    def die(self, name: str) -> None:
        room = self.fleet.rooms[name]
        digest = room.core.digest()
        room.core = fold(room.entries)[0]
        assert room.core.digest() == digest

    def come_late(self) -> None:
        """An owner that was thought dead carries out what it had decided long ago."""
        if self.orders:
            name, order = self.rnd.choice(self.orders)
            account = self.fleet.account
            self.fleet.account = fleet_account.answer(fleet_account.place(account, name, order), name)  # type: ignore[arg-type]
            if (said := fleet_account.said(self.fleet.account, name, order)) is not None:  # type: ignore[arg-type]
                self.fleet.rooms[name].op(said)

    def check(self) -> None:
        account = self.fleet.account
        for dimension in account.limit:
            assert account.taken(dimension) <= (account.bound(dimension) or 0) + sum(
                share.over.get(dimension, 0) for share in account.shares.values()
            )
            for name, room in self.fleet.rooms.items():
                mine = room.core.gate.accounts.fleet
                share = account.shares.get(name)
                if mine is None or (dimension not in self.first and (share is None or not share.revision)):
                    continue  # it has not heard yet, or not said what it had spent before
                used = mine.settled.get(dimension, 0) + mine.held.get(dimension, 0)
                assert used <= mine.limit[dimension] <= (share.leased.get(dimension, 0) if share else 0), name
                crew = room.core.gate.accounts.crew
                assert mine.held.get(dimension, 0) == crew.held.get(dimension, 0)
                spent = [each.settled.get(dimension, 0) + each.over.get(dimension, 0) for each in (mine, crew)]
                assert spent[0] == spent[1]

    def end(self) -> None:
        self.fleet.settle()
        for room in self.fleet.rooms.values():
            room.op(m.RunEnded(state="done"), sender=HOST)
        self.fleet.settle()
        account = self.fleet.account
        assert account.shares == {}
        for dimension in ("microusd", "tool_calls") if account.revision else ():
            assert account.closed.get(dimension, 0) == self.fleet.spending(dimension)
        for room in self.fleet.rooms.values():
            assert (room.core.gate.open, room.core.gate.asking) == ({}, {})
            assert add_up(records(room)).problems == []


def lived(seed: int) -> Life:
    life = Life(seed)
    for _ in range(120):
        life.happen()
        life.check()
    life.end()
    return life


@QUICK
@given(st.integers(0, 2**32))
def test_no_order_of_things_spends_more_than_the_limit_or_loses_any_of_it(seed: int) -> None:
    lived(seed)


def broken_somewhere() -> bool:
    for seed in range(60):
        try:
            lived(seed)
        except AssertionError:
            return True
    return False


def test_an_account_that_gives_what_it_has_not_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not broken_somewhere()
    monkeypatch.setattr(fleet_account, "_lacking", lambda *_: "")
    monkeypatch.setattr(FleetAccount, "left", lambda *_: 10**9)
    monkeypatch.setattr(FleetAccount, "bound", lambda account, dimension: account.limit.get(dimension))
    assert broken_somewhere()


def test_an_account_that_takes_orders_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    place = fleet_account.place

    def forgetful(account: FleetAccount, run: str, order: object) -> FleetAccount:
        shares = {name: share for name, share in account.shares.items() if name != run}
        return place(msgspec.structs.replace(account, shares=shares, ended={}), run, order)  # type: ignore[arg-type]

    monkeypatch.setattr(fleet_account, "place", forgetful)
    assert broken_somewhere()
