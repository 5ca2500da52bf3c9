"""What a message to people says of money, and what it offers to do: what stands, and nothing that cannot be done."""

from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_bus.tool_messages import BudgetChanged
from crewkeeper_supervisor.core.acts import Act, possible
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Agent, Budget, Response, Responses, Webhook
from crewkeeper_supervisor.core.pace import STEP_S, WINDOW_S
from support.gate_room import Room, crew_of
from support.ladder_room import LadderRoom, crew_with

HOOKS = (Webhook(webhook="https://ops.example/"),)


def spend(room: Room, call: str, microusd: int) -> None:
    """A model call that was asked for and paid: input tokens cost 1 µ$ each in this room."""
    room.model(call, given=microusd, most=1)
    room.spent(call, microusd, 0)


def test_the_pace_is_what_was_spent_over_the_window() -> None:
    room = Room(crew_of(budget=Budget(microusd=100_000_000)))
    room.tick(1)
    for minute in range(20):
        spend(room, f"c{minute}", 300_000)
        room.tick(60)
    cost = room.core.cost
    assert cost.over_s == WINDOW_S
    assert cost.microusd_per_minute == 300_000
    assert cost.text == "$0.30 a minute over the last 5 min; $6.00 spent so far"


def test_what_is_held_counts_and_is_said() -> None:
    room = Room(crew_of(budget=Budget(microusd=100_000_000)))
    room.tick(60)
    room.model("c1", given=600_000, most=1)
    room.tick(30)
    cost = room.core.cost
    assert cost.held_microusd == 600_002
    assert cost.microusd_per_minute is not None
    assert cost.microusd_per_minute > 0
    assert "held for calls under way" in cost.text


def test_quiet_time_is_no_cost() -> None:
    room = Room(crew_of(budget=Budget(microusd=100_000_000)))
    spend(room, "c1", 500_000)
    room.tick(7200)
    assert room.core.cost.microusd_per_minute == 0
    assert room.core.cost.text == "nothing over the last 5 min; $0.50 spent so far"
    assert Room().core.cost.text == "nothing that is known of"


def test_of_less_than_a_minute_nothing_is_made_a_minute_of() -> None:
    room = Room(crew_of(budget=Budget(microusd=100_000_000)))
    room.tick(2)
    spend(room, "c1", 2_004_321)
    room.tick(3)
    cost = room.core.cost
    assert cost.microusd_per_minute == 2_004_321
    assert cost.over_s < 60
    assert cost.text.startswith("$2.00 over the last ")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.5, 3, 14, 15, 16, 70, 299, 301, 4000]), st.integers(0, 900)), max_size=25))
def test_the_pace_is_exact_to_a_step(steps: list[tuple[float, int]]) -> None:
    """Whatever the gaps between events, no spending is counted that is older than the window and one step."""
    room = Room(crew_of(budget=Budget(microusd=10**12)))
    begin_s = room.now_s
    paid: list[tuple[float, int]] = []
    for number, (after_s, amount) in enumerate(steps):
        room.tick(after_s)
        if amount:
            spend(room, f"c{number}", amount * 1000)
            paid.append((room.now_s, amount * 1000))
    room.tick(2)
    cost, now_s = room.core.cost, room.now_s
    assert cost.over_s <= WINDOW_S
    assert cost.over_s <= now_s - begin_s + 60
    least = sum(amount for at_s, amount in paid if at_s > now_s - WINDOW_S + STEP_S)
    most = sum(amount for at_s, amount in paid if at_s >= now_s - WINDOW_S - STEP_S)
    assert cost.microusd_per_minute is not None
    spent = cost.microusd_per_minute * max(60, cost.over_s) / 60
    assert least * 0.999 - 10 <= spent <= most * 1.001 + 10
    assert len(room.core.ladder.pace.notes) <= WINDOW_S / STEP_S + 3


def test_a_hold_offers_to_resume_and_to_kill_whom_it_is_about() -> None:
    room = LadderRoom(crew_with(loop=Response(do=("hold", "escalate"), climb_s=1.0)))
    room.hear("found loop one search")
    room.hear("goes_on loop one", 2)
    (told,) = room.escalated()
    assert told.body["can"] == [
        {"do": "acknowledge"},
        {"do": "resume", "agent": "a"},
        {"do": "kill", "agent": "a"},
    ]
    assert told.body["cost"]["microusd_per_minute"] == 0
    state = room.core._state
    room.asks("kill", "a")
    assert [act.do for act in possible(state, room.incident()) if act.do == "kill"] == []
    room.hear("cleared loop one", agent="b")
    assert possible(state, room.incident()) == []


def test_a_spent_budget_offers_half_as_much_again() -> None:
    responses = Responses(budget_spent=Response(do=("escalate",)))
    agents = (Agent(name="a", tools=("pay",), budget=Budget(microusd=2_000_000, wall_s=400)),)
    room = Room(crew_of(*agents, escalate=HOOKS, responses=responses))
    for number in range(3):
        room.ask(f"c{number}", args={"n": number})
        room.ran(f"c{number}")
    room.tick(500)
    found = {act for each in room.core.incidents.values() for act in possible(room.core._state, each)}
    assert Act(do="extend", agent="a", what="microusd", add=1_000_000) in found
    assert Act(do="extend", agent="a", what="wall_s", add=200) in found
    labels = {act.label for act in found}
    assert {"extend by $1.00 for a", "extend by 200 s for a", "kill a"} <= labels


def test_who_was_told_that_a_budget_is_spent_is_told_that_there_is_room_again() -> None:
    responses = Responses(budget_spent=Response(do=("escalate",)))
    room = Room(crew_of(budget=Budget(microusd=1_500_000), escalate=HOOKS, responses=responses))
    room.ask("c1", args={"n": 1})
    room.ask("c2", args={"n": 2})
    assert room.code("c2") == "budget_spent"
    (opened,) = [each for each in room.commands if isinstance(each, Escalate)]
    room.op(BudgetChanged(dimension="microusd", add=2_000_000, by="kim (link)", why="the fair is on"))
    *_, over = [each for each in room.commands if isinstance(each, Escalate)]
    assert (opened.kind, over.kind, over.incident) == ("opened", "resolved", opened.incident)
    assert over.body["steps"][-1] == "there is room again: kim (link) changed the limit: the fair is on"
    for number in range(3, 7):
        room.ask(f"c{number}", args={"n": number})
    *_, again = [each for each in room.commands if isinstance(each, Escalate)]
    assert again.kind == "opened", "what is spent anew is told anew"
    assert again.incident != opened.incident
