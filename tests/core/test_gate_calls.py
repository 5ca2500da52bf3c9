"""Calls through the gate: what is refused, what runs, what it costs, and what is said again."""

from collections.abc import Iterable

import msgspec
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import HOST, TOOLS
from crewkeeper_supervisor.core.crew import Agent, Budget
from crewkeeper_supervisor.core.gate_facts import UNKNOWN_TOLD_MAX
from crewkeeper_supervisor.core.lifecycle import ALIKE_MAX
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.core.tools import CallRate, Tool
from crewkeeper_supervisor.gate import registry
from support.gate_room import LOOK, NUMBER, PAY, Room, bookings, crew_of
from support.journal import RUN, fold

with_ = msgspec.structs.replace


def test_a_call_runs_once_and_its_result_is_the_answer() -> None:
    room = Room()
    room.ask("c1", args={"n": 3})
    (order,) = room.told(t.RunTool)
    assert (order.call, order.agent, order.tool, order.host, order.limit_s) == ("c1", "a", "pay", "h1", 10)
    assert msgspec.json.decode(order.args) == {"n": 3}
    assert room.answers("c1") == []
    assert room.spending() == (0, 1_000_000)
    room.ran("c1", {"paid": True})
    assert room.body("c1") == {"paid": True}
    assert room.spending() == room.spending("a") == (1_000_000, 0)


@pytest.mark.parametrize(
    ("tool", "args", "code", "said"),
    [
        ("pey", {"n": 1}, "unknown_tool", "Did you mean 'pay'"),
        ("format disk", {"n": 1}, "unknown_tool", "Available: look, pay"),
        ("pay", {}, "bad_arguments", "n: is required and missing"),
        ("pay", {"n": "1"}, "bad_arguments", "must be integer, is string"),
        ("pay", {"n": 1, "m": 2}, "bad_arguments", "no argument"),
        ("pay", [1], "bad_arguments", "mapping"),
        ("pay", {"n": 1, "note": "x" * 3000}, "too_large", "the limit is 2048"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_and_nothing_runs(tool: str, args: object, code: str, said: str) -> None:
    room = Room()
    given = room.ask("c1", tool, args)
    assert (room.code("c1"), room.ran_calls()) == (code, [])
    assert said in room.text("c1")
    (booking,) = bookings(given)
    assert (booking.act, booking.code, booking.call) == ("refuse", code, "c1")
    assert room.spending() == (0, 0)
    assert room.kinds() == [code if code != "too_large" else "bad_arguments"]
    room.ask("c2")
    assert room.ran_calls() == ["c2"]


def test_all_mistakes_are_said_at_once() -> None:
    room = Room()
    room.ask("c1", args={"note": 1, "x": 2})
    assert all(said in room.text("c1") for said in ("- n:", "- note:", "'x' is no argument"))


def test_what_cannot_even_be_read_is_answered() -> None:
    room = Room()
    room.store(f"crew.{RUN}.tool.a._.big", b'{"t":"call","args":"' + b"x" * 300_000 + b'"}')
    assert room.code("big") == "too_large"
    room.store(f"crew.{RUN}.tool.a._.odd", b'{"t":"call"}')
    assert room.code("odd") == "bad_arguments"
    assert room.ran_calls() == []


def test_what_no_message_can_carry_is_refused_and_recorded() -> None:
    room = Room()
    unsent = m.Fault(code="too_large", text="the arguments were not sent: 1000000 bytes")
    given = room.ask("c1", args={}, unsent=unsent)
    assert [(each.act, each.code) for each in bookings(given)] == [("refuse", "too_large")]
    assert "1000000 bytes" in room.text("c1")
    room.ask("c2", args={}, unsent=m.Fault(code="approved", text="as you like"))
    assert room.code("c2") == "bad_arguments"
    room.ask("c3", "lok", args={}, unsent=unsent)
    assert room.code("c3") == "unknown_tool"
    room.ask("c4", "plan", args={}, unsent=unsent, what="resource", inside=True)
    assert room.code("c4") == "too_large"
    assert room.ran_calls() == []
    assert {each.finding.kind for each in room.core.incidents.values()} == {"bad_arguments", "unknown_tool"}


def test_nobody_is_granted_to_run_what_the_tool_host_runs() -> None:
    room = Room()
    room.ask("c1", inside=True)
    assert (room.code("c1"), room.ran_calls()) == ("bad_arguments", [])
    assert "runs at the tool host" in room.text("c1")


def test_tools_of_others_do_not_exist() -> None:
    room = Room(crew_of(Agent(name="a", tools=("look",)), Agent(name="b")))
    room.ask("c1")
    room.ask("c2", "look", agent="b")
    assert (room.code("c1"), room.code("c2")) == ("unknown_tool", "unknown_tool")
    assert "No tools are available" in room.text("c2")
    assert "Available: look." in room.text("c1")


def test_the_same_call_again_is_answered_alike_and_runs_once() -> None:
    room = Room()
    room.ask("c1")
    assert room.ask("c1") == []
    room.ran("c1")
    before = room.spending()
    room.ask("c1")
    assert [each.body for each in room.answers("c1")] == [msgspec.Raw(b"7")] * 2
    assert (room.ran_calls(), room.spending()) == (["c1"], before)
    room.ask("c1", args={"n": 2})
    assert room.code("c1") == "call_id_reused"
    room.ask("c1")
    assert room.code("c1") == "ok"
    assert room.ran("c1") == []
    assert room.spending() == before


def test_a_refusal_is_repeated_too() -> None:
    room = Room()
    room.ask("c1", args={})
    room.ask("c1", args={})
    assert [each.error.code for each in room.answers("c1") if each.error] == ["bad_arguments"] * 2


def test_an_id_under_way_is_not_another_call() -> None:
    room = Room()
    room.ask("c1")
    room.ask("c1", args={"n": 2})
    assert room.code("c1") == "call_id_reused"
    room.ran("c1")
    assert room.code("c1") == "ok"


def test_twenty_parallel_calls_of_a_dollar_under_five_are_five() -> None:
    room = Room()
    for number in range(20):
        room.ask(f"c{number}")
    assert room.ran_calls() == [f"c{number}" for number in range(5)]
    assert {room.code(f"c{number}") for number in range(5, 20)} == {"budget_spent"}
    assert "$5.00" in room.text("c5")
    assert "$0.00 left" in room.text("c5")
    for number in range(5):
        room.ran(f"c{number}")
    room.ask("again")
    assert (room.code("again"), room.spending()) == ("budget_spent", (5_000_000, 0))
    assert room.kinds() == ["budget_soft", "budget_spent"]


def test_a_failed_tool_is_charged_and_says_why() -> None:
    room = Room()
    room.ask("c1")
    room.ran("c1", ok=False, code="tool_failed", error="ValueError: no such account")
    assert (room.code("c1"), room.text("c1")) == ("tool_failed", "ValueError: no such account")
    assert room.spending() == (1_000_000, 0)


def test_a_call_that_says_nothing_is_charged_in_full_and_cut() -> None:
    room = Room()
    room.ask("c1")
    assert room.core.next_tick_at_s() == room.now_s + 15
    room.tick(14.9)
    assert room.code("c1") == ""
    given = room.tick(0.2)
    assert room.code("c1") == "tool_timeout"
    assert [cut.call for cut in room.told(t.CutTool)] == ["c1"]
    assert [each.act for each in bookings(given)] == ["expire"]
    assert room.spending() == (1_000_000, 0)
    room.ran("c1")
    assert (room.code("c1"), room.spending()) == ("tool_timeout", (1_000_000, 0))


def test_a_shorter_deadline_of_the_caller_counts() -> None:
    room = Room()
    room.ask("c1", deadline_s=2.0)
    assert room.told(t.RunTool)[0].limit_s == 2


@pytest.mark.parametrize("gone", [True, False])
def test_calls_of_a_dead_tool_host_are_lost_not_repeated(gone: bool) -> None:
    room = Room()
    room.ask("c1")
    if gone:
        room.op(t.ToolsGone(host="h0"), sender=TOOLS)
        assert room.code("c1") == ""
        room.op(t.ToolsGone(host="h1", why="killed"), sender=TOOLS)
    else:
        room.ready("h2")
    assert room.code("c1") == "tool_lost"
    assert room.spending() == (1_000_000, 0)
    room.ask("c1")
    assert (room.code("c1"), room.ran_calls()) == ("tool_lost", ["c1"])


def test_calls_wait_for_a_tool_host_but_not_for_ever() -> None:
    room = Room(ready=False)
    room.ask("c1")
    assert room.answers("c1") == []
    room.ready()
    assert room.ran_calls() == ["c1"]
    room = Room(ready=False)
    room.ask("c1")
    room.tick(30.1)
    assert (room.code("c1"), room.spending()) == ("tool_lost", (0, 0))


def test_a_source_that_failed_is_said() -> None:
    room = Room(ready=False)
    room.ready(pay="ModuleNotFoundError: m")
    room.ask("c1")
    assert room.code("c1") == "tool_failed"
    assert "ModuleNotFoundError" in room.text("c1")


def test_inside_calls_are_granted_and_settled_by_the_agent() -> None:
    room = Room(crew_of(tools={"look": with_(LOOK, cost_microusd=10)}))
    room.ask("c1", "look")
    assert room.body("c1") == {"grant": "c1", "limit_s": 10, "args": {"n": 1}}
    assert (room.told(t.RunTool), room.spending()) == ([], (0, 10))
    room.ask("c1", "look")
    assert room.body("c1")["grant"] == "c1"
    room.settle("c1", cost_microusd=0, result=msgspec.Raw(b"[1]"))
    assert room.body("c1") == {"settled": True, "ok": True, "cost_microusd": 10, "result": [1]}
    assert room.spending() == (10, 0)
    room.settle("c1", cost_microusd=99)
    assert room.spending() == (10, 0)


def test_who_makes_up_names_again_and_again_crowds_out_no_other_finding() -> None:
    room = Room(crew_of())
    for number in range(300):
        room.ask(f"c{number}", f"made_up_{number}")
    found = [each for each in room.core.incidents.values() if each.finding.kind == "unknown_tool"]
    assert len(found) == ALIKE_MAX
    assert sum(each.count for each in found) == 300


def test_who_calls_what_runs_in_itself_is_told_to_ask_a_grant() -> None:
    room = Room(crew_of(tools={"look": with_(LOOK, cost_microusd=10)}))
    room.ask("c1", "look", inside=False)
    fault = room.answers("c1")[-1].error
    assert fault is not None
    assert (fault.code, "grant_tool" in fault.text) == ("bad_arguments", True)
    assert room.spending() == (0, 0)


def test_an_agent_that_came_back_does_not_do_it_twice() -> None:
    room = Room()
    room.ask("c1", "look")
    room.op(m.ProcessExited(agent="a", pid=101, code=1, restart=True), sender=HOST)
    room.join("a")
    room.ask("c1", "look")
    assert room.code("c1") == "tool_lost"


def test_nobody_settles_what_it_was_not_granted() -> None:
    room = Room()
    room.ask("c1")
    room.settle("c1")
    assert "forgery" in room.kinds()
    assert room.spending() == (0, 1_000_000)
    assert room.settle("c9") == []


def test_a_caller_that_gives_up_has_its_call_cut() -> None:
    room = Room(crew_of(tools={"pay": with_(PAY, concurrency=1)}))
    room.ask("c1")
    room.ask("c2")
    room.say("a", t.CallGivenUp, id_="c2")
    assert (room.code("c2"), room.ran_calls()) == ("cancelled", ["c1"])
    room.say("a", t.CallGivenUp, id_="c1")
    assert [cut.call for cut in room.told(t.CutTool)] == ["c1"]
    room.ran("c1", ok=False, code="tool_failed", error="cut")
    assert room.spending() == (1_000_000, 0)


def test_calls_beyond_the_concurrency_wait_in_line() -> None:
    room = Room(crew_of(tools={"pay": with_(PAY, concurrency=2)}, budget=Budget()))
    for number in range(4):
        room.ask(f"c{number}")
    assert room.ran_calls() == ["c0", "c1"]
    room.ran("c1")
    assert room.ran_calls() == ["c0", "c1", "c2"]
    room.tick(15.1)
    assert room.ran_calls() == ["c0", "c1", "c2", "c3"]
    assert room.core.gate.uses["pay"].running == 1


def test_a_rate_is_kept_by_the_journals_clock() -> None:
    room = Room(crew_of(tools={"pay": with_(PAY, rate=CallRate(calls=2, per_s=10))}, budget=Budget()))
    for number in range(3):
        room.ask(f"c{number}")
    assert (room.ran_calls(), room.code("c2")) == (["c0", "c1"], "rate_limited")
    room.tick(5.0)
    room.ask("c3")
    assert room.ran_calls() == ["c0", "c1", "c3"]


def test_a_tool_that_keeps_hanging_rests() -> None:
    room = Room(crew_of(budget=Budget()))
    for number in range(5):
        room.ask(f"c{number}")
        room.tick(15.1)
    room.ask("no")
    assert room.code("no") == "circuit_open"
    room.tick(30.0)
    room.ask("try")
    assert room.ran_calls()[-1] == "try"
    room.ran("try", ok=False, code="tool_failed", error="still")
    room.ask("no2")
    assert room.code("no2") == "circuit_open"
    room.tick(30.0)
    room.ask("try2")
    room.ran("try2")
    room.ask("well")
    assert room.ran_calls()[-1] == "well"


def test_results_are_bounded() -> None:
    room = Room(crew_of(tools={"pay": with_(PAY, result_bytes=64)}))
    room.ask("c1")
    room.ran("c1", "x" * 100)
    assert (room.code("c1"), room.spending()) == ("too_large", (1_000_000, 0))


def test_a_rule_denies_and_says_why() -> None:
    rule = Rule(id="small", do="deny", tools=("pay",), when="args.n > 2", because="small sums only")
    room = Room(crew_of(rules=(rule,)))
    room.ask("c1", args={"n": 3})
    assert room.code("c1") == "denied"
    assert "small sums only (rule small)" in room.text("c1")
    room.ask("c2", args={"n": 2})
    assert room.ran_calls() == ["c2"]
    assert room.kinds() == ["policy_denied"]


def test_redaction_reaches_the_tool_and_the_result() -> None:
    room = Room(crew_of(rules=(Rule(id="clean", do="redact", tools=("pay",)),)))
    room.ask("c1", args={"n": 1, "note": "write to kim@example.com"})
    assert b"kim@example.com" not in bytes(room.told(t.RunTool)[0].args)
    room.ran("c1", {"said": "kim@example.com is known"})
    assert "kim@example.com" not in str(room.body("c1"))


def test_a_hook_is_asked_and_its_silence_denies() -> None:
    room = Room(crew_of(rules=(Rule(id="h", do="deny", tools=("pay",), hook="m:h"),)), obey=False)
    room.ask("c1")
    (asked,) = [each for each in room.commands if type(each).__name__ == "AskHook"]
    answer = t.HookAnswered(command=asked.id, agent="a", call="c1", hook="m:h", answer="no")
    room.op(answer)
    assert room.ran_calls() == ["c1"]
    room.ask("c2")
    room.op(t.HookAnswered(command="x", agent="a", call="c2", hook="m:h", answer="yes", because="not today"))
    assert "not today" in room.text("c2")
    room.ask("c3")
    room.tick(3.1)
    assert room.code("c3") == "denied"


def test_without_rules_the_gate_is_shut() -> None:
    room = Room(core=Supervisor)
    room.ask("c1")
    room.model("m1")
    assert room.code("c1") == "gate_closed"
    assert room.told(t.SpendRefused)[0].fault.code == "gate_closed"
    assert room.ran_calls() == []


def test_nothing_is_let_through_once_the_crew_stops() -> None:
    room = Room()
    room.ask("c1")
    room.op(m.OperatorAsked(action="stop_run", by="kim"))
    room.ask("c2")
    assert room.code("c2") == "gate_closed"
    room.op(m.RunEnded(state="stopped"), sender=HOST)
    assert (room.code("c1"), room.spending()) == ("tool_lost", (1_000_000, 0))
    assert room.core.gate.open == {}


def test_a_killed_agents_waiting_calls_are_cancelled() -> None:
    room = Room(crew_of(tools={"pay": with_(PAY, concurrency=1)}))
    room.ask("c1")
    room.ask("c2")
    room.op(m.OperatorAsked(action="kill", agent="a", by="kim"))
    assert (room.code("c2"), room.code("c1")) == ("cancelled", "")
    room.ran("c1")
    assert room.ran_calls() == ["c1"]


def test_to_look_for_alike_names_is_work_that_no_agent_can_ask_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for = list[str]()
    near = registry.near

    def counted(word: str, candidates: Iterable[str], most: int = 3) -> tuple[str, ...]:
        looked_for.append(word)
        return near(word, candidates, most)

    monkeypatch.setattr(registry, "near", counted)
    room = Room()
    made_up = tuple(f"launch{number}" for number in range(120))
    room.say("a", t.Survey, id_="s1", task="t", names=("pay", *made_up))
    assert room.body("s1") == {"never": list(range(1, 121))}
    assert looked_for == []
    room.say("a", t.Proposed, task="t", tools=("pay", *made_up))
    assert looked_for == list(made_up[:UNKNOWN_TOLD_MAX])
    assert room.kinds() == ["unknown_tool"] * UNKNOWN_TOLD_MAX


def test_what_a_model_proposes_is_a_finding_before_it_calls() -> None:
    room = Room()
    room.say("a", t.Proposed, task="t", tools=("pay", "launch"))
    assert room.kinds() == ["unknown_tool"]


def test_tools_that_an_agent_withholds_are_a_finding() -> None:
    room = Room()
    room.say("a", t.Proposed, task="t", tools=("pay",), unsafe="its definition has changed")
    assert room.kinds() == ["malformed"]
    room.say("a", t.Proposed, task="t", tools=("pay",), unsafe="its definition has changed")
    assert room.kinds() == ["malformed"]


def test_services_may_say_nothing_else() -> None:
    room = Room()
    room.op(m.OperatorAsked(action="kill", agent="a"), sender=TOOLS)
    assert room.kinds() == ["forgery"]
    assert room.core.agents["a"].ending is None


def test_a_wait_for_a_tool_is_an_edge_and_no_deadlock() -> None:
    room = Room()
    room.ask("c1")
    room.wait("a", "t", m.OnTool(call="c1", tool="pay"))
    room.tick(5.0)
    (edge,) = room.core.waits()
    assert (edge.kind, edge.agents, edge.text) == ("tool", ("tool:pay",), "a waits for pay to run")
    assert "deadlock" not in room.kinds()


def test_the_fold_of_the_journal_is_the_same_again() -> None:
    room = Room(crew_of(tools={"pay": with_(PAY, concurrency=2), "nap": Tool(inside=True, schema=NUMBER)}))
    for number in range(8):
        room.ask(f"c{number}")
    room.ran("c0")
    room.ask("c0")
    room.tick(16.0)
    core, commands = fold(room.entries)
    assert (core.digest(), commands) == (room.core.digest(), room.commands)


def test_a_tool_host_that_is_given_up_is_a_finding_and_its_calls_are_refused_at_once() -> None:
    room = Room(ready=False)
    room.ask("c1")
    room.op(m.RestartsExhausted(agent=TOOLS, intensity=30, period_s=60.0), sender=HOST)
    assert (room.code("c1"), room.kinds()) == ("gate_closed", ["restart_intensity"])
    assert "'pay' cannot be run: the tool host has ended more than 30 times within 60 s" in room.text("c1")
    room.ask("c2")
    room.ask("c3", "look")
    assert (room.code("c2"), room.body("c3")["grant"]) == ("gate_closed", "c3")
    room.ready("h2")
    room.ask("c4")
    assert room.ran_calls() == ["c4"]
