"""What the rules of a run say of tools before their sources have told what they have."""

from typing import Any

import pytest

from crewkeeper_bus.tool_messages import ToolsReady, ToolTold
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.gate_rules import Refused
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.gate.rules import build

ALLOWED = ("pay", "files", "local")
TOOLS = {
    "pay": Tool(function="shop:pay"),
    "files": Tool(mcp=("server",)),
    "local": Tool(inside=True),
    "other": Tool(function="shop:other"),
}


def rules() -> Any:
    return build(Crew(name="shop", agents=(Agent(name="buyer", external=True, tools=ALLOWED),), tools=TOOLS))


def find(found: Any, name: str) -> Any:
    return found.find("buyer", ALLOWED, name)


def told(declared: str, *names: str) -> ToolsReady:
    return ToolsReady(host="h", tools={name: ToolTold(declared=declared, schema={"type": "object"}) for name in names})


@pytest.mark.parametrize("name", ["pya", "transfer", "files.read", "other", "pay"])
def test_an_unknown_name_waits_until_it_can_be_said_what_there_is(name: str) -> None:
    found = rules()
    assert find(found, name) == "later"
    assert find(found, "local").name == "local"
    assert found.tools_ready(told("pay", "pay")) == ()
    if name == "pay":
        assert find(found, name).name == name
        return
    assert find(found, name) == "later", "the server may have a tool of a similar name"
    assert found.tools_ready(told("files", "files.list")) == ()
    refused = find(found, name)
    assert isinstance(refused, Refused)
    assert refused.code == "unknown_tool"
    assert "files.list, local, pay" in refused.text


def test_a_source_that_cannot_be_had_is_not_waited_for() -> None:
    found = rules()
    found.tools_ready(told("pay", "pay"))
    found.tools_ready(ToolsReady(host="h", failed={"files": "no such program"}))
    assert find(found, "pya").code == "unknown_tool"
    assert "no such program" in find(found, "files.read").text
