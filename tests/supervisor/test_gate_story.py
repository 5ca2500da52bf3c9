"""What is told of calls, budgets and the fleet: by name, once, and only what a reader needs."""

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import HOST, TOOLS
from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views.budget import budget_table, budgets
from crewkeeper_supervisor.views.fleet import fleet_table, fleet_view
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.story import Story
from support.fleet_room import Fleet
from support.gate_room import Room, crew_of
from support.journal import RUN, START_S


def told(room: Room, *, details: bool = False) -> list[str]:
    """The story of a room, without the findings, which have tests of their own."""
    story, lines = Story(RUN), []
    for seq, entry in enumerate(room.entries, start=1):
        lines += [line for line in story.feed(Entry(seq, *entry))[1] if details or line.weight != "detail"]
    return [line.text for line in lines]


def folded(room: Room) -> Fold:
    fold = Fold(RUN)
    for seq, entry in enumerate(room.entries, start=1):
        fold.feed(Entry(seq, *entry))
    return fold


def test_calls_are_told_by_what_they_are_calls_of() -> None:
    room = Room(crew_of(budget=Budget(tool_calls=2)))
    for call in ("c1", "c2", "c3"):
        room.ask(call)
        room.wait("a", "t", m.OnTool(call=call, tool="pay"))
    room.wake("a", "t", outcome="failed")
    room.ran("c1")
    room.ran("c2", ok=False, error="no such account")
    lines = told(room)
    assert any(line.startswith("refuses a's call of 'pay' (budget_spent): the budget of the crew") for line in lines)
    assert "a has the result of 'pay'" in lines
    assert "a's call of 'pay' has failed (tool_failed): no such account" in lines
    assert not any("wait" in line for line in lines)
    room.ask("c4", args={"n": "two", "extra": 1})
    assert "'extra' is no argument" in told(room)[-1]
    assert "Expected" not in told(room)[-1]


def test_a_call_that_is_asked_for_again_is_no_other_call() -> None:
    room = Room(crew_of())
    for _ in range(3):
        room.ask("c1")
    assert told(room).count("a calls the tool 'pay'") == 1
    assert told(room, details=True).count("a asks again what becomes of its call of 'pay'") == 2


def test_the_tool_host_is_called_so() -> None:
    room = Room()
    room.op(m.ProcessStarted(agent=TOOLS, pid=7), sender=HOST)
    room.op(m.RestartsExhausted(agent=TOOLS, intensity=30, period_s=60.0), sender=HOST)
    lines = told(room)
    assert "the tool host started (process 7)" in lines
    assert "gave up on the tool host: more than 30 restarts in 1m00s" in lines


def test_changed_limits_are_told_with_their_units() -> None:
    room = Room(crew_of(budget=Budget(microusd=1, wall_s=60)))
    room.op(t.BudgetChanged(dimension="microusd", add=1_500_000, by="kim"))
    room.op(t.BudgetChanged(dimension="wall_s", limit=3600, by="kim"))
    room.op(t.BudgetChanged(agent="a", dimension="tool_calls", by="kim"))
    room.op(t.ToolsNarrowed(agent="a", tools=("look", "pay"), by="kim"))
    room.op(t.ToolsNarrowed(agent="a", tools=()))
    assert told(room)[-5:] == [
        "kim allows the crew $1.50 more",
        "kim sets the limit of the crew to 1h00m of time",
        "kim takes away the limit of tool calls of a",
        "kim leaves a look, pay",
        "somebody leaves a no tool",
    ]


def test_the_final_cost_is_projected_within_what_may_be_spent() -> None:
    room = Room(crew_of(budget=Budget(microusd=5_000_000, wall_s=100)))
    room.ask("c1")
    room.ran("c1")
    view = budgets(folded(room), START_S + 5)
    assert (view.projection["microusd"].at_end, view.projection["tool_calls"].at_end) == (
        None,
        None,
    )  # too early to say
    view = budgets(folded(room), START_S + 25)
    assert (view.projection["microusd"].at_end, view.projection["tool_calls"].at_end) == (4_000_000, 4)
    assert view.projection["microusd"].reached_in_s == 100.0
    assert ("crew", "usd", "$5.00", "$1.00", "$0.00", "$4.00", "1m40s", "$4.00") in budget_table(view).rows
    assert ("crew", "wall", "1m40s", "25s", "-", "1m15s", "1m15s", "-") in budget_table(view).rows
    view = budgets(folded(room), START_S + 11)
    assert view.projection["microusd"].at_end == 5_000_000
    room.op(m.RunEnded(state="done"), sender=HOST)
    assert budgets(folded(room), START_S + 99).projection["microusd"].at_end == 1_000_000


def test_what_runs_spend_stands_in_the_fleets_budget_once() -> None:
    fleet = Fleet({"microusd": 16_000_000}, "one", "two")
    one, two = fleet.rooms.values()
    one.ask("c1"), two.ask("c1"), two.ask("c2")
    fleet.settle()
    one.ran("c1")
    two.ran("c1")
    one.op(m.RunEnded(state="done"), sender=HOST)
    fleet.settle()
    view = fleet_view(fleet.account, {name: folded(room) for name, room in fleet.rooms.items()})
    assert list(view.runs) == ["two"]
    usd, its = view.fleet["microusd"], view.runs["two"]["microusd"]
    assert (usd.settled, usd.held, its.settled, its.held) == (2_000_000, 1_000_000, 1_000_000, 1_000_000)
    assert usd.settled + usd.held + usd.idle + (usd.left or 0) == usd.limit == 16_000_000
    rows = fleet_table(view).rows
    assert [row[0] for row in rows] == ["fleet", "two", "1 ended"]
    assert rows[0][:5] == ("fleet", "usd", "$16.00", "$2.00", "$1.00")
    assert "all crews" not in " ".join(told(two))
    assert any("this one may spend" in line for line in told(two, details=True))
