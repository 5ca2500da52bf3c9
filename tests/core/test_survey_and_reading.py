"""Which tools could be called at all, and resources and prompts as calls that policy alone decides."""

from typing import Any

import msgspec

from crewkeeper_bus import tool_messages as t
from crewkeeper_supervisor.core.commands import AnswerCall
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.gate.rules import _KNOWN_MAX, Rules
from support.gate_room import Room, bookings, crew_of

AGENT = Agent(name="a", tools=("pay", "look"))


def never(room: Room, *names: str, kind: str = "tool") -> list[str]:
    commands = room.say("a", t.Survey, id_=f"s{room.mirrors['a'].seq}", task="t", names=names, what=kind)
    (answer,) = [each for each in commands if isinstance(each, AnswerCall)]
    assert not bookings(commands), "nothing is decided"
    return [names[place] for place in msgspec.json.decode(bytes(answer.body))["never"]]


def read(room: Room, call: str, name: str, **args: Any) -> tuple[AnswerCall, list[Any]]:
    raw = msgspec.Raw(msgspec.json.encode(args))
    commands = room.say("a", t.ToolCall, id_=call, task="t", tool=name, args=raw, what="resource", inside=True)
    (answer,) = [each for each in commands if isinstance(each, AnswerCall)]
    return answer, bookings(commands)


def test_only_what_no_call_can_come_of_is_hidden() -> None:
    deny = {"tools": ("pay",), "do": "deny"}
    for rules, hidden in (
        ((), []),
        ((Rule(id="r", **deny),), ["pay"]),
        ((Rule(id="r", when="args.n > 1", **deny),), []),
        ((Rule(id="r", shadow=True, **deny),), []),
        ((Rule(id="r", agents=("b",), **deny),), []),
        ((Rule(id="first", do="approve", tools=("pay",), when="args.n > 1"), Rule(id="r", **deny)), []),
        ((Rule(id="first", do="warn", tools=("pay",)), Rule(id="r", **deny)), ["pay"]),
        ((Rule(id="first", do="deny", tools=("pay",), when="args.n > 1"), Rule(id="r", **deny)), ["pay"]),
    ):
        room = Room(crew_of(AGENT, rules=rules))
        assert never(room, "pay", "look", "steal") == [*hidden, "steal"], rules
    room = Room(
        crew_of(AGENT, rules=(Rule(id="r", do="allow", tools=("look",), when="args.n > 1"),), policy_default="deny")
    )
    assert never(room, "pay", "look") == ["pay"]


def test_resources_are_allowed_unless_a_rule_or_the_default_denies_them() -> None:
    secret = Rule(id="quiet", hop="resource", do="deny", to=("files.*secret*",), because="not for agents")
    room = Room(crew_of(AGENT, rules=(secret,)))
    assert never(room, "files.secret", "files.plan", kind="resource") == ["files.secret"]
    assert never(room, "files.secret", kind="prompt") == []
    answer, booked = read(room, "c1", "files.plan", uri="plan")
    assert msgspec.json.decode(bytes(answer.body))["args"] == {"uri": "plan"}
    assert [(each.act, each.what, each.amounts) for each in booked] == [("reserve", "files.plan", {})]
    (settled,) = bookings(room.settle("c1"))
    assert (settled.act, settled.amounts) == ("settle", {})
    answer, booked = read(room, "c2", "files.secret", uri="secret")
    assert answer.error is not None
    assert (answer.error.code, "not for agents (rule quiet)" in answer.error.text) == ("denied", True)
    assert [(each.act, each.rule) for each in booked] == [("refuse", "quiet")]
    assert room.kinds() == ["policy_denied"]
    shut = Room(crew_of(AGENT, policy_default="deny"))
    assert read(shut, "c1", "files.plan")[0].error is not None


def test_names_that_an_agent_makes_up_are_not_kept_for_ever() -> None:
    tools = {"files": Tool(inside=True)}
    room = Room(crew_of(Agent(name="a", tools=("files",)), tools=tools))
    for begin in range(0, _KNOWN_MAX + 1000, 128):
        assert never(room, *(f"files.made_up_{number}" for number in range(begin, begin + 128))) == []
    rules = room.core.gate.rules
    assert isinstance(rules, Rules)
    assert len(rules._found) <= _KNOWN_MAX


def test_the_same_id_is_not_a_tool_and_a_resource() -> None:
    room = Room(crew_of(AGENT))
    read(room, "c1", "look", n=1)
    (answer,) = [each for each in room.ask("c1", "look") if isinstance(each, AnswerCall)]
    assert answer.error is not None
    assert answer.error.code == "call_id_reused"
