"""A run with a gate, in memory: agents that call tools, a tool host, a model proxy, people who decide."""

from typing import Any

import msgspec

from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import MODEL, TOOLS
from crewkeeper_supervisor.core.booking import Booking
from crewkeeper_supervisor.core.commands import AnswerCall, AskApproval, Command, TellService
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.core.tools import Price, Tool
from crewkeeper_supervisor.shell.chain import Record
from support.journal import Journal

NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["n"],
    "additionalProperties": False,
}
PAY = Tool(function="m:pay", cost_microusd=1_000_000, timeout_s=10, concurrency=100, args_bytes=2048)
LOOK = Tool(inside=True, schema=NUMBER, timeout_s=10)


def crew_of(*agents: Agent, **fields: Any) -> Crew:
    """A crew that may pay and look, with one agent `a` unless others are given."""
    fields = {"budget": Budget(microusd=5_000_000), "tools": {"pay": PAY, "look": LOOK}} | fields
    fields.setdefault("prices", {"m1": Price(input_microusd=1_000_000, output_microusd=2_000_000)})
    return Crew(name="room", agents=agents or (Agent(name="a", tools=("pay", "look")),), **fields)


def bookings(commands: list[Command]) -> list[Booking]:
    """Bookings of commands, in order."""
    found = [getattr(command, "booking", None) for command in commands]
    return [booking for booking in found if booking is not None]


def records(room: "Room") -> list[Record]:
    """A room's commands as the ledger has them: plain data."""
    return [
        Record(run="r", n=n, id=each.id, kind=type(each).__name__, term=1, prev="", command=plain(each))
        for n, each in enumerate((each for each in room.commands if each.durable), start=1)
    ]


def plain(command: Command) -> Any:
    """A command as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(command))


class Room(Journal):
    """A journal whose crew has begun, and whose tool host is ready unless told otherwise."""

    def __init__(self, crew: Crew | None = None, *, ready: bool = True, **kwargs: Any) -> None:
        super().__init__(crew or crew_of(), **kwargs)
        self.start()
        for name in self.mirrors:
            self.task(name, "t", name="work")
        if ready:
            self.ready()

    def ready(self, host: str = "h1", **failed: str) -> list[Command]:
        """The tool host tells its tools."""
        tools = {
            name: t.ToolTold(declared=name, schema=NUMBER)
            for name, tool in self.crew.tools.items()
            if tool.function and name not in failed
        }
        return self.op(t.ToolsReady(host=host, tools=tools, failed=failed), sender=TOOLS)

    def ask(self, call: str, tool: str = "pay", args: Any = None, *, agent: str = "a", **fields: Any) -> list[Command]:
        """An agent calls a tool, or asks a grant for one that runs in itself, as the crew file has it."""
        raw = msgspec.Raw(msgspec.json.encode({"n": 1} if args is None else args))
        if tool in self.crew.tools and self.crew.tools[tool].inside:
            fields = {"inside": True} | fields
        return self.say(agent, t.ToolCall, id_=call, task="t", tool=tool, args=raw, **fields)

    def ran(self, call: str, result: Any = 7, *, agent: str = "a", **fields: Any) -> list[Command]:
        """The tool host has run a call."""
        fields = {"ok": True, "result": msgspec.Raw(msgspec.json.encode(result))} | fields
        return self.op(t.ToolRan(call=call, agent=agent, **fields), sender=TOOLS)

    def model(
        self, call: str, *, agent: str = "a", given: int = 100, most: int = 100, model: str = "m1"
    ) -> list[Command]:
        """The model proxy asks."""
        asked = t.SpendAsked(agent=agent, task="t", call=call, model=model, input_tokens=given, max_output_tokens=most)
        return self.op(asked, sender=MODEL)

    def spent(self, call: str, given: int, made: int, *, agent: str = "a", **fields: Any) -> list[Command]:
        """The model proxy says what was used."""
        said = t.Spent(call=call, agent=agent, ok=True, input_tokens=given, output_tokens=made, **fields)
        return self.op(said, sender=MODEL)

    def settle(self, call: str, *, agent: str = "a", **fields: Any) -> list[Command]:
        """An agent settles what it was granted."""
        return self.say(agent, t.Settled, id_=call, **({"ok": True} | fields))

    def decide(self, approval: Approval, decision: str = "approve", **fields: Any) -> list[Command]:
        """A person decides."""
        said = {"approval": approval.id, "decision": decision, "digest": approval.digest, "by": "kim"} | fields
        return self.op(t.ApprovalDecided(**said))

    # --- what came of it ---

    def answers(self, call: str) -> list[AnswerCall]:
        """What the caller of a call was told, in order."""
        return [each for each in self.commands if isinstance(each, AnswerCall) and each.call == call]

    def code(self, call: str) -> str:
        """The code of the last answer to a call; `ok` without an error, empty without an answer."""
        found = self.answers(call)
        return "" if not found else "ok" if found[-1].error is None else found[-1].error.code

    def text(self, call: str) -> str:
        """The text of the last answer's error."""
        error = self.answers(call)[-1].error
        return "" if error is None else error.text

    def body(self, call: str) -> Any:
        """The body of the last answer."""
        body = self.answers(call)[-1].body
        return None if body is None else msgspec.json.decode(body)

    def told(self, kind: type[Any]) -> list[Any]:
        """What the tool host or the model proxy was told, of one kind."""
        found = [each.message for each in self.commands if isinstance(each, TellService)]
        return [message for message in found if isinstance(message, kind)]

    def ran_calls(self) -> list[str]:
        """Calls that the tool host was told to run."""
        return [message.call for message in self.told(t.RunTool)]

    def approval(self) -> Approval:
        """The newest approval."""
        return list(self.core.gate.approvals.values())[-1]

    def approvals_asked(self) -> list[AskApproval]:
        """Every request to a person."""
        return [each for each in self.commands if isinstance(each, AskApproval)]

    def spending(self, account: str = "crew") -> tuple[int, int]:
        """Micro-USD settled and held of an account."""
        accounts = self.core.gate.accounts
        found = accounts.crew if account == "crew" else accounts.agents[account]
        return found.settled.get("microusd", 0), found.held.get("microusd", 0)

    def kinds(self) -> list[str]:
        """Kinds of findings, in order."""
        return [each.finding.kind for each in self.core.incidents.values()]
