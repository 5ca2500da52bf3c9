"""Tool host: the simulated process that runs a scenario's tools when the gate has granted a call."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from crewkeeper_bus.tool_messages import RunTool, ToolRan, ToolsReady, ToolTold
from crewkeeper_supervisor.chaos.chance import Faults
from crewkeeper_supervisor.chaos.clock import Clock
from crewkeeper_supervisor.chaos.plan.scenario import Fault, StubTool
from crewkeeper_supervisor.core.crew import Crew

INCARNATION: Final = "t1"
MISSHAPEN: Final = msgspec.Raw(b'{"version":2,"items":[{"value":null}]}')
RUBBISH: Final = msgspec.Raw(b'"\\u0000\\u202e</script>\\u001b[2J"')
_SCHEMA: Final[dict[str, Any]] = {"type": "object"}


class Trouble:
    """What is wrong with one tool for a while. `fired`: how many calls it has spoilt."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.fired = 0


class ToolHost:
    """The tools of one run.

    Args:
        clock: Virtual time.
        faults: Draws who is hit.
        crew: Declares the tools.
        tools: How each answers.
        state: Publishes a fact in its name.
    """

    def __init__(
        self,
        clock: Clock,
        faults: Faults,
        crew: Crew,
        tools: tuple[StubTool, ...],
        state: Callable[[Any], None],
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._crew = crew
        self._tools = {tool.name: tool for tool in tools}
        self._state = state
        self._obeyed: set[str] = set()
        self._troubles: dict[str, list[Trouble]] = {}
        self.runs: list[tuple[str, str]] = []
        """(agent, tool) of every call that was run."""

    def begin(self) -> None:
        """Say what there is."""
        if self._tools:
            told = {
                name: ToolTold(declared=name, schema=self._crew.tools[name].schema or _SCHEMA) for name in self._tools
            }
            self._state(ToolsReady(host=INCARNATION, tools=told))

    def trouble(self, tool: str, fault: Fault) -> Trouble:
        """Let a tool misbehave; `calm` ends it."""
        made = Trouble(fault)
        self._troubles.setdefault(tool, []).append(made)
        return made

    def calm(self, tool: str, trouble: Trouble) -> None:
        """Let it behave again."""
        if trouble in self._troubles.get(tool, []):
            self._troubles[tool].remove(trouble)

    def ordered(self, order: RunTool) -> None:
        """Run a call, unless it was run before."""
        if order.id in self._obeyed:
            return
        self._obeyed.add(order.id)
        self.runs.append((order.agent, order.tool))
        tool = self._tools[order.tool]
        doing = self._hit(order.tool)
        if doing == "tool_hangs":
            ran = ToolRan(call=order.call, agent=order.agent, ok=False, code="tool_timeout", error="it hung")
            self._clock.after(order.limit_s, self._state, ran)
            return
        self._clock.after(max(tool.takes_s, 0.001), self._state, self._result(order, tool, doing))

    def _hit(self, tool: str) -> str:
        """What comes of a call: of several troubles that strike it the first says what, and its kind counts."""
        struck = [
            each for each in self._troubles.get(tool, []) if self._faults.strikes(f"plan{each.fault.index}", tool)
        ]
        do = struck[0].fault.do if struck else ""
        for trouble in struck:
            trouble.fired += trouble.fault.do == do
        return do

    @staticmethod
    def _result(order: RunTool, tool: StubTool, doing: str) -> ToolRan:
        call, agent = order.call, order.agent
        match doing:
            case "tool_fails":
                return ToolRan(call=call, agent=agent, ok=False, code="tool_failed", error="told to fail")
            case "tool_bloats":
                return ToolRan(call=call, agent=agent, ok=False, code="too_large", error="told to bloat")
            case "tool_corrupts":
                return ToolRan(call=call, agent=agent, ok=True, result=RUBBISH)
            case "tool_misshapes":
                return ToolRan(call=call, agent=agent, ok=True, result=MISSHAPEN)
            case _:
                return ToolRan(call=call, agent=agent, ok=True, result=msgspec.Raw(msgspec.json.encode(tool.answer)))
