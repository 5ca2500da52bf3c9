"""Agents that are left fewer tools than the crew file lets them use, by whoever issues their credentials."""

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.crew import Agent, Budget
from crewkeeper_supervisor.core.rules import Rule
from support.gate_room import Room, crew_of
from support.journal import Mirror, fold

AGENTS = (Agent(name="a", tools=("pay", "look")), Agent(name="b", tools=("pay",)))
ASK = Rule(id="ask", do="approve", tools=("pay",), agents=("a",))


def test_what_an_agent_is_left_holds_at_once_and_for_calls_that_wait() -> None:
    room = Room(crew_of(*AGENTS, rules=(ASK,)))
    room.ask("c1")
    room.op(t.ToolsNarrowed(agent="a", tools=("look", "elsewhere"), by="kim"))
    room.ask("c2")
    assert (room.code("c2"), "Available: look." in room.text("c2")) == ("unknown_tool", True)
    room.decide(room.approval())
    assert (room.code("c1"), room.ran_calls()) == ("unknown_tool", [])
    room.say("a", t.Survey, id_="s1", task="t", names=("pay", "look"))
    assert room.body("s1") == {"never": [0]}
    room.say("a", t.Proposed, task="t", tools=("pay",))
    assert room.kinds().count("unknown_tool") == 1
    room.ask("c3", "look")
    assert room.body("c3")["grant"] == "c3"
    assert fold(room.entries)[0].digest() == room.core.digest()


def test_nobody_is_left_what_the_crew_file_does_not_give() -> None:
    room = Room(crew_of(*AGENTS))
    room.op(t.ToolsNarrowed(agent="b", tools=("pay", "look"), by="kim"))
    room.ask("c1", "look", agent="b")
    assert room.code("c1") == "unknown_tool"
    room.op(t.ToolsNarrowed(agent="b", tools=(), by="kim"))
    room.ask("c2", agent="b")
    room.ask("c3", agent="a")
    assert (room.code("c2"), room.ran_calls()) == ("unknown_tool", ["c3"])
    room.op(t.ToolsNarrowed(agent="b", tools=("pay",), by="kim"))
    room.ask("c4", agent="b")
    assert room.ran_calls() == ["c3", "c4"]


def test_functions_of_a_tool_may_be_all_that_is_left() -> None:
    gate = Room(crew_of(*AGENTS)).core.gate
    gate.narrowed["a"] = ("files.read_file", "time", "shell.run", "pay")
    assert gate.tools_left("a", ("files", "time.now", "shell.stop", "pay")) == ("time.now", "pay", "files.read_file")
    assert gate.tools_left("a", ("files.read_file", "files.write_file")) == ("files.read_file",)


def test_a_helper_gets_no_tool_that_its_agent_is_not_left() -> None:
    room = Room(crew_of(*AGENTS))
    room.op(t.ToolsNarrowed(agent="a", tools=("look",), by="kim"))
    wish = {"task": "t", "limit_s": 60, "digest": "0" * 64, "token": "x" * 12}
    room.say("a", m.Delegate, id_="d1", agent="h1", tools=("pay",), **wish)
    assert (room.code("d1"), "pay" in room.text("d1")) == ("refused", True)
    room.say("a", m.Delegate, id_="d2", agent="h2", tools=("look",), **wish)
    assert room.code("d2") == "ok"
    room.mirrors["h2"] = Mirror("h2", Agent(name="h2", external=True))
    room.join("h2")
    room.ask("c1", "look", agent="h2")
    room.op(t.ToolsNarrowed(agent="a", tools=("pay",), by="kim"))
    room.ask("c2", "look", agent="h2")
    assert (room.body("c1")["grant"], room.code("c2")) == ("c1", "unknown_tool"), (
        "nor later one that it is left no more"
    )


def test_only_the_supervisor_side_leaves_agents_their_tools() -> None:
    room = Room(crew_of(*AGENTS))
    room.op(t.ToolsNarrowed(agent="a", tools=()), sender="b")
    room.ask("c1")
    assert room.ran_calls() == ["c1"]
    assert "forgery" in room.kinds()


def test_a_call_that_waits_for_more_to_spend_needs_its_tool_still() -> None:
    room = Room(crew_of(*AGENTS, budget=Budget(microusd=1, ask_s=60)))
    room.ask("c1")
    room.ask("c2", agent="b")
    assert [room.body(call)["pending"] for call in ("c1", "c2")] == ["budget", "budget"]
    room.op(t.ToolsNarrowed(agent="a", tools=("look",), by="kim"))
    assert (room.code("c1"), "Available: look." in room.text("c1")) == ("unknown_tool", True)
    room.op(t.BudgetChanged(dimension="microusd", add=5_000_000, by="kim"))
    assert room.ran_calls() == ["c2"]
    assert fold(room.entries)[0].digest() == room.core.digest()
