"""A crew that talks, in memory: agents that ask, answer, tell, call tools and models, in words."""

from typing import Any

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import MODEL
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.tools import Price, Tool
from support.gate_room import Room

GOAL = "Plan three days in Lisbon for a family of four, with a list of museums, restaurants and the cost of each day"
ANYTHING = {"type": "object"}


def company(*names: str, **fields: Any) -> Crew:
    """A crew of these agents, `a` and `b` unless others are given, with tools to look things up."""
    tools = {
        "search": Tool(inside=True, schema=ANYTHING, timeout_s=60),
        "page": Tool(inside=True, schema=ANYTHING, timeout_s=60),
        "deploy": Tool(inside=True, schema=ANYTHING, timeout_s=60),
        "job": Tool(inside=True, schema=ANYTHING, timeout_s=60, poll=True),
    }
    agents = tuple(Agent(name=name, tools=tuple(tools), concurrency=8) for name in names or ("a", "b"))
    fields = {"tools": tools, "objective": GOAL, "budget": Budget(warn_percent=100)} | fields
    fields.setdefault("prices", {"m1": Price(input_microusd=1, output_microusd=1)})
    return Crew(name="company", agents=fields.pop("agents", agents), **fields)


def raw(value: Any) -> msgspec.Raw:
    """A body."""
    return msgspec.Raw(msgspec.json.encode(value))


class Company(Room):
    """A journal of a crew that talks. Every step takes `step_s`."""

    def __init__(self, crew: Crew | None = None, **kwargs: Any) -> None:
        self._calls = 0
        self.step_s = 1.0
        super().__init__(crew or company(), ready=False, **kwargs)

    def _next(self) -> str:
        self._calls += 1
        self.now_s = round(self.now_s + self.step_s, 6)
        return f"n{self._calls}"

    def asks(self, agent: str, to: str, asked: Any, answer: Any = None, *, error: str = "", task: str = "t") -> None:
        """An agent asks another, which answers, or fails."""
        call = self._next()
        self.mirrors[agent].calls[call] = (to, task)
        self.say(agent, m.Request, to=to, id_=call, task=task, verb="ask", body=raw(asked))
        self.begin_call(to, call, f"h{call}")
        del self.mirrors[to].tasks[f"h{call}"]
        fields = {"error": m.Fault(code="handler_failed", text=error)} if error else {"body": raw(answer)}
        self.say(to, m.Reply, to=agent, id_=call, **fields)

    def tells(self, agent: str, to: str, text: Any, *, task: str = "t") -> None:
        """An agent tells another something, who takes it."""
        id_ = self._next()
        self.say(agent, m.Message, to=to, id_=id_, task=task, body=raw(text))
        self.take(to, "t", id_)

    def uses(self, agent: str, tool: str, args: dict[str, Any], result: Any = None, *, error: str = "") -> None:
        """An agent carries out a tool that it has asked the gate for."""
        call = self._next()
        self.ask(call, tool, args, agent=agent)
        if self.code(call) == "ok":
            self.settle(call, agent=agent, ok=not error, **({"error": error} if error else {"result": raw(result)}))

    def thinks(self, agent: str, digest: str, made: int, *, given: int = 500, proxy: bool = False) -> None:
        """An agent calls a model: by itself, or through the model proxy."""
        call = self._next()
        asked: dict[str, Any] = {"model": "m1", "input_tokens": given, "max_output_tokens": 1000, "digest": digest}
        if proxy:
            self.op(t.SpendAsked(agent=agent, task="t", call=call, **asked), sender=MODEL)
            self.spent(call, given, made, agent=agent)
        else:
            self.say(agent, t.ModelCall, id_=call, task="t", **asked)
            self.settle(call, agent=agent, input_tokens=given, output_tokens=made)

    def passes(self, seconds: float, step_s: float = 1.0) -> None:
        """Time passes; agents say that they are alive, and the owner ticks when it is asked to."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = round(min(until_s, self.now_s + step_s), 6)
            for name in self.mirrors:
                self.heartbeat(name)
            due_s = self.core.next_tick_at_s()
            if due_s is not None and due_s <= self.now_s:
                self.op(m.Tick())

    # --- what was found ---

    def found(self, kind: str = "") -> list[Incident]:
        """Incidents of a kind, or of every kind of conduct."""
        return [each for each in self.core.incidents.values() if not kind or each.finding.kind == kind]
