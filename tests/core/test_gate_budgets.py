"""Budgets: model calls, hand-back, holding and asking, limits between agents, changes by people, approvals."""

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.budget import TASKS_MAX
from crewkeeper_supervisor.core.crew import Agent, Budget
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Price
from support.gate_room import LOOK, PAY, Room, bookings, crew_of
from support.journal import fold

with_ = msgspec.structs.replace
ASK = (Rule(id="big", do="approve", tools=("pay",), because="sums are checked"),)


# --- models ---


def test_a_model_call_reserves_the_most_and_is_charged_what_was_used() -> None:
    room = Room()
    room.model("m1", given=1000, most=500)
    (grant,) = room.told(t.SpendGranted)
    assert (grant.call, grant.max_output_tokens, grant.last) == ("m1", 500, False)
    assert room.spending() == (0, 2000)
    room.spent("m1", 1000, 100)
    assert room.spending() == (1200, 0)
    assert [each.call for each in room.told(t.SpendBooked)] == ["m1"]
    crew = room.core.gate.accounts.crew.settled
    assert (crew["tokens"], crew["input_tokens"], crew["output_tokens"], crew["model_calls"]) == (1100, 1000, 100, 1)


def test_what_nobody_has_counted_is_charged_as_it_was_held() -> None:
    """What goes into a cache costs more than what does not, and nobody says whether it did."""
    room = Room(crew_of(prices={}))
    room.model("m1", given=10_000, most=100, model="claude-sonnet-4-5")
    held = room.spending()[1]
    room.spent("m1", 10_000, 100, estimated=True)
    assert room.spending() == (held, 0)


def test_what_is_kept_for_an_hour_is_charged_as_that() -> None:
    for written, for_an_hour, charged in ((0, 0, 30_000), (10_000, 0, 37_500), (10_000, 10_000, 60_000)):
        room = Room(crew_of(prices={}))
        room.model("m1", given=10_000, most=100, model="claude-sonnet-4-5")
        fields = {"cache_write_tokens": written, "cache_write_1h_tokens": for_an_hour}
        room.spent("m1", 10_000, 0, **fields)
        assert room.spending() == (charged, 0)


def test_a_model_without_a_price_is_refused() -> None:
    room = Room(crew_of(prices={"m1": Price(input_microusd=1, output_microusd=1)}))
    room.model("x", model="no-such-model-of-anybody")
    (refused,) = room.told(t.SpendRefused)
    assert refused.fault.code == "denied"
    assert "price" in refused.fault.text


def test_what_was_never_forwarded_costs_nothing() -> None:
    room = Room()
    room.model("m1")
    room.spent("m1", 0, 0, forwarded=False)
    assert room.spending() == (0, 0)
    assert room.core.gate.accounts.crew.settled.get("model_calls", 0) == 0


def test_a_model_call_that_nobody_settles_is_charged_in_full() -> None:
    room = Room()
    room.model("m1", given=1000, most=500)
    room.tick(905.1)
    assert room.spending() == (2000, 0)
    assert room.told(t.SpendRefused)[-1].fault.code == "tool_timeout"


def test_what_costs_more_than_reserved_stands_above_the_limit_and_stops_the_rest() -> None:
    room = Room(crew_of(budget=Budget(microusd=1000)))
    room.model("m1", given=100, most=100)
    room.spent("m1", 1000, 1000)
    crew = room.core.gate.accounts.crew
    assert (crew.settled["microusd"], crew.over["microusd"]) == (1000, 2000)
    assert "budget_spent" in room.kinds()
    room.model("m2", given=1, most=1)
    assert room.told(t.SpendRefused)[-1].fault.code == "budget_spent"
    room.op(t.BudgetChanged(dimension="microusd", add=5000, by="kim"))
    assert (crew.settled["microusd"], crew.over.get("microusd", 0)) == (3000, 0)
    room.model("m3", given=1, most=1)
    assert room.told(t.SpendGranted)[-1].call == "m3"


def test_an_agents_own_model_call_is_priced_by_its_tokens() -> None:
    room = Room()
    room.say("a", t.ModelCall, id_="m1", task="t", model="m1", input_tokens=1000, max_output_tokens=500)
    assert room.body("m1") == {"grant": "m1", "limit_s": 900, "last": False}
    room.settle("m1", cost_microusd=0, input_tokens=1000, output_tokens=100)
    assert room.spending() == (1200, 0)


def test_each_agent_gets_one_last_call_out_of_what_is_kept() -> None:
    budget = Budget(microusd=10_000, hand_back_percent=20)
    room = Room(crew_of(Agent(name="a"), Agent(name="b"), budget=budget))
    room.model("m1", given=0, most=4000)
    room.model("m2", given=0, most=500)
    assert [grant.last for grant in room.told(t.SpendGranted)] == [False, True]
    room.model("m3", given=0, most=100)
    assert room.told(t.SpendRefused)[-1].call == "m3"
    room.model("m4", agent="b", given=0, most=500)
    assert room.told(t.SpendGranted)[-1].call == "m4"
    assert room.spending() == (0, 10_000)


def test_a_call_can_be_held_until_people_raise_the_limit() -> None:
    room = Room(crew_of(budget=Budget(microusd=1_000_000, ask_s=60)))
    room.ask("c1")
    room.ask("c2")
    room.ask("c3")
    (pending,) = room.answers("c2")
    assert (pending.final, room.body("c2")["pending"]) == (False, "budget")
    room.op(t.BudgetChanged(dimension="microusd", add=1_000_000, by="kim"))
    assert room.ran_calls() == ["c1", "c2"]
    room.tick(60.1)
    assert room.code("c3") == "budget_spent"
    assert room.spending()[0] + room.spending()[1] <= 2_000_000


def test_what_is_given_back_lets_a_held_call_go_on() -> None:
    room = Room(crew_of(budget=Budget(microusd=2_000, ask_s=60)))
    room.model("m1", given=0, most=1000)
    room.model("m2", given=0, most=500)
    assert [each.call for each in room.told(t.Withhold)] == ["m2"]
    room.spent("m1", 0, 100)
    assert [each.call for each in room.told(t.SpendGranted)] == ["m1", "m2"]


# --- accounts ---


def test_an_agent_that_names_tasks_without_end_has_no_other_s_forgotten() -> None:
    per_task = {"tools": ("pay",), "task_budget": Budget(tool_calls=1)}
    room = Room(crew_of(Agent(name="a", **per_task), Agent(name="b", **per_task), budget=Budget()))
    room.ask("b1", agent="b")
    room.ran("b1", agent="b")
    for number in range(TASKS_MAX + 5):
        raw = msgspec.Raw(b'{"n":1}')
        room.say("a", t.ToolCall, id_=f"a{number}", task=f"t{number}", tool="pay", args=raw)
        room.ran(f"a{number}")
    room.ask("b2", agent="b")
    assert room.code("b2") == "budget_spent"


def test_agents_and_tasks_have_limits_of_their_own() -> None:
    one = Agent(name="a", tools=("pay",), budget=Budget(tool_calls=2), task_budget=Budget(tool_calls=1))
    room = Room(crew_of(one, Agent(name="b", tools=("pay",))))
    room.ask("c1")
    room.ask("c2")
    assert "budget of a/t" in room.text("c2")
    raw = msgspec.Raw(b'{"n":1}')
    room.say("a", t.ToolCall, id_="c3", task="u", tool="pay", args=raw)
    room.say("a", t.ToolCall, id_="c4", task="v", tool="pay", args=raw)
    assert "budget of a does" in room.text("c4")
    room.ask("c5", agent="b")
    assert room.ran_calls() == ["c1", "c3", "c5"]
    assert room.core.gate.accounts.crew.held["tool_calls"] == 3


def test_a_limit_set_below_what_is_spent_is_what_is_spent() -> None:
    room = Room()
    room.ask("c1")
    room.ask("c2")
    room.ran("c1")
    room.op(t.BudgetChanged(dimension="microusd", limit=1, by="kim"))
    assert room.core.gate.accounts.crew.limit["microusd"] == 2_000_000
    room.op(t.BudgetChanged(dimension="microusd", by="kim"))
    assert "microusd" not in room.core.gate.accounts.crew.limit


def test_warnings_come_once_and_again_for_another_limit() -> None:
    room = Room(crew_of(budget=Budget(tool_calls=5)))
    for number in range(5):
        room.ask(f"c{number}")
    assert room.kinds() == ["budget_soft"]
    assert room.core.incidents[next(iter(room.core.incidents))].count == 1
    room.op(t.BudgetChanged(dimension="tool_calls", limit=6, by="kim"))
    room.ask("c5")
    assert room.kinds() == ["budget_soft"]


def test_what_an_agent_reports_is_charged_and_booked_with_the_next_decision() -> None:
    room = Room(crew_of(budget=Budget(tokens=1000)))
    room.say("a", m.Usage, task="t", input_tokens=300, output_tokens=100, cost_microusd=5)
    given = room.ask("c1")
    (booking,) = bookings(given)
    assert booking.noted == {"a": {"microusd": 5, "input_tokens": 300, "output_tokens": 100, "tokens": 400}}
    assert bookings(room.ask("c2"))[0].noted == {}


# --- between agents ---


def three(**limits: int) -> Room:
    return Room(crew_of(Agent(name="a"), Agent(name="b"), Agent(name="c"), budget=Budget(**limits)))


def test_a_chain_that_grows_too_deep_is_refused_and_taken_back() -> None:
    room = three(depth=1)
    room.call("a", "t", "q1", "b")
    room.begin_call("b", "q1", "h1")
    given = room.call("b", "h1", "q2", "c")
    assert {type(each).__name__ for each in given} == {"CancelCall", "AnswerCall"}
    assert "2 deep; the budget allows 1" in room.text("q2")
    assert room.code("q2") == "too_deep"
    [incident] = room.core.incidents.values()
    assert (incident.finding.kind, incident.finding.agents) == ("depth", ("b", "c", "a")), "caller, callee, and above"


def test_a_task_that_fans_out_too_far_is_refused() -> None:
    room = three(fan_out=1)
    room.call("a", "t", "q1", "b")
    room.call("a", "t", "q2", "c")
    assert (room.code("q1"), room.code("q2")) == ("", "too_many_calls")
    assert room.kinds() == ["fan_out"]


def test_messages_beyond_their_limit_end_further_calls() -> None:
    room = three(messages=2)
    for number in range(3):
        room.say("a", m.Message, to="b", task="t", body=msgspec.Raw(b"1"), id_=f"x{number}")
    room.call("a", "t", "q1", "b")
    assert room.code("q1") == "budget_spent"
    assert "2 messages" in room.text("q1")


def test_time_that_is_over_closes_the_gate() -> None:
    room = Room(crew_of(budget=Budget(wall_s=100)))
    room.ask("c1")
    room.tick(100.1)
    room.ask("c2")
    assert (room.code("c2"), room.ran_calls()) == ("budget_spent", ["c1"])
    assert "the time of the crew is over" in room.text("c2")
    assert room.kinds().count("budget_spent") == 1


# --- approvals ---


def test_a_call_waits_for_a_person_and_runs_once_approved() -> None:
    room = Room(crew_of(rules=ASK))
    room.ask("c1", args={"n": 2})
    (pending,) = room.answers("c1")
    (asked,) = room.approvals_asked()
    assert (pending.final, room.body("c1")) == (False, {"pending": asked.approval})
    assert (asked.tool, bytes(asked.args), asked.rule, asked.cost_microusd) == ("pay", b'{"n":2}', "big", 1_000_000)
    assert room.spending() == (0, 0)
    room.wait("a", "t", m.OnTool(call="c1", tool="pay"))
    assert [edge.agents for edge in room.core.waits()] == [("human:operator",)]
    given = room.decide(room.approval())
    assert room.ran_calls() == ["c1"]
    (booking,) = bookings(given)
    assert (booking.approval, booking.by) == (asked.approval, "kim")
    assert room.decide(room.approval()) == []
    room.ran("c1")
    assert room.ran_calls() == ["c1"]


def test_denied_expired_and_cancelled_are_not_the_same() -> None:
    room = Room(crew_of(rules=ASK, approval_s=60))
    codes = {}
    for call, decision in (("c1", "deny"), ("c2", "cancel"), ("c3", "")):
        room.ask(call)
        if decision:
            room.decide(room.approval(), decision, reason="no")
        else:
            room.tick(60.1)
        codes[call] = (room.code(call), room.approval().state)
    assert codes == {
        "c1": ("approval_denied", "denied"),
        "c2": ("cancelled", "cancelled"),
        "c3": ("approval_expired", "expired"),
    }
    assert room.decide(room.approval()) == []
    assert (room.ran_calls(), room.spending()) == ([], (0, 0))


def test_a_decision_about_something_else_decides_nothing() -> None:
    room = Room(crew_of(rules=ASK))
    room.ask("c1")
    first = room.approval()
    assert room.decide(first, digest="0" * 64) == []
    room.ask("c2")
    assert room.decide(room.approval(), digest=first.digest) == []
    assert room.ran_calls() == []


def test_another_policy_cancels_what_was_asked_under_the_old_one() -> None:
    room = Room(crew_of(rules=ASK))
    room.ask("c1")
    version = room.core.gate.rules.version  # type: ignore[union-attr]
    room.op(t.PolicyChanged(rules=(), default="allow", version="", by="kim"))
    assert (room.code("c1"), room.approval().state) == ("cancelled", "cancelled")
    assert room.core.gate.rules.version != version  # type: ignore[union-attr]
    room.ask("c2")
    assert room.ran_calls() == ["c2"]
    room.op(t.PolicyChanged(rules=({"id": "x", "do": "dance"},), version="", by="kim"))
    assert room.kinds() == ["malformed"]
    room.ask("c3")
    assert room.ran_calls() == ["c2", "c3"]


def test_a_person_may_take_longer_than_the_caller_waits_at_a_time() -> None:
    room = Room(crew_of(rules=ASK, approval_s=60))
    room.ask("c1", deadline_s=5.0)
    room.tick(20)
    assert (room.approval().state, room.code("c1")) == ("pending", "ok")
    room.decide(room.approval())
    (order,) = room.told(t.RunTool)
    assert order.limit_s == 10, "the tool's own time"
    room.ran("c1", 5)
    room.ask("c1", deadline_s=5.0)
    assert room.body("c1") == 5


def test_what_an_agent_carries_out_is_granted_when_it_asks_again() -> None:
    rules = (Rule(id="all", do="approve"),)
    room = Room(crew_of(rules=rules, approval_s=60))
    for call in ("c1", "c2"):
        room.ask(call, "look", deadline_s=5.0)
        room.tick(20)
        room.decide(room.approval())
        assert room.body(call) == {"pending": room.approval().id}, "nobody waits for a grant"
        if call == "c1":
            room.ask(call, "look", deadline_s=5.0)
            assert (room.body(call)["args"], room.body(call)["limit_s"]) == ({"n": 1}, 5)
    room.tick(41)
    assert room.code("c2") == "cancelled"
    assert room.spending() == (0, 0)


def test_what_was_asked_before_a_crash_is_granted_to_who_asks_again_after_it() -> None:
    room = Room(crew_of(rules=(Rule(id="all", do="approve"),), approval_s=60))
    room.ask("c1", "look")
    room.join("a")
    room.task("a", "t", name="work")
    room.ask("c1", "look")
    room.decide(room.approval())
    assert [(each.inc, each.final) for each in room.answers("c1")][-1] == ("i2", True)
    assert room.body("c1")["grant"] == "c1"
    room.settle("c1")
    assert room.spending() == (0, 0)
    assert room.body("c1")["settled"]


def test_an_approved_call_may_still_be_too_dear() -> None:
    room = Room(crew_of(rules=ASK, budget=Budget(microusd=1)))
    room.ask("c1")
    room.decide(room.approval())
    assert room.code("c1") == "budget_spent"
    assert room.ran_calls() == []


def test_the_same_call_again_asks_nobody_twice() -> None:
    room = Room(crew_of(rules=ASK))
    room.ask("c1")
    room.ask("c1")
    assert len(room.approvals_asked()) == 1
    assert [each.final for each in room.answers("c1")] == [False, False]


def test_models_and_inside_tools_can_need_approval_too() -> None:
    rules = (Rule(id="all", do="approve"),)
    room = Room(crew_of(rules=rules, tools={"pay": PAY, "look": LOOK}))
    room.model("m1")
    assert [each.call for each in room.told(t.Withhold)] == ["m1"]
    room.decide(room.approval())
    assert [each.call for each in room.told(t.SpendGranted)] == ["m1"]
    room.ask("c1", "look")
    room.decide(room.approval())
    assert room.body("c1")["grant"] == "c1"


# --- people ---


def test_depth_fan_out_and_time_can_be_changed_like_the_rest() -> None:
    room = three(depth=1, wall_s=100)
    room.op(t.BudgetChanged(dimension="depth", add=1, by="kim"))
    room.op(t.BudgetChanged(agent="b", dimension="fan_out", limit=1, by="kim"))
    room.call("a", "t", "q1", "b")
    room.begin_call("b", "q1", "h1")
    room.call("b", "h1", "q2", "c")
    room.call("b", "h1", "q3", "c")
    assert (room.code("q2"), "2 calls open at once; the budget allows 1" in room.text("q3")) == ("", True)
    room.tick(100.1)
    room.ask("c1")
    assert room.code("c1") == "budget_spent"
    room.op(t.BudgetChanged(dimension="wall_s", add=50, by="kim"))
    room.ask("c2")
    assert room.code("c2") != "budget_spent"
    assert [each.state for each in room.core.incidents.values() if "wall" in each.finding.evidence["key"]] == [
        "resolved"
    ]
    room.tick(50.1)
    room.ask("c3")
    assert room.code("c3") == "budget_spent"
    room.op(t.BudgetChanged(dimension="wall_s", by="kim"))
    room.ask("c4")
    assert room.code("c4") != "budget_spent"
    core, _ = fold(room.entries)
    assert core.digest() == room.core.digest()


def test_more_of_what_is_not_limited_is_no_limit() -> None:
    room = Room(crew_of(budget=Budget()))
    room.op(t.BudgetChanged(dimension="tool_calls", add=1, by="kim"))
    room.op(t.BudgetChanged(dimension="depth", add=1, by="kim"))
    assert (room.core.gate.accounts.crew.limit, room.core.limit_of("", "depth")) == ({}, None)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (1_500_000, "the crew has $0.50 left of its $1.50: too little for what was asked"),
        (1_000_000, "the crew has no more of its $1.00"),
    ],
)
def test_what_is_left_of_a_limit_is_not_called_nothing(limit: int, said: str) -> None:
    room = Room(crew_of(budget=Budget(microusd=limit, warn_percent=100)))
    room.ask("c1")
    room.ask("c2")
    assert room.code("c2") == "budget_spent"
    assert [each.finding.summary for each in room.core.incidents.values() if each.finding.kind == "budget_spent"] == [
        said
    ]
