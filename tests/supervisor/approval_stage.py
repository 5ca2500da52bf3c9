"""A run on a real server in which an agent asks for calls that a person has to decide on, and a real controller."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
from nats_process import NatsProcess, linked, until

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import HOST, SUPERVISOR, TOOLS, Kind
from crewkeeper_supervisor.cli.main import run as command
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.shell import controller, journal, owner
from crewkeeper_supervisor.shell.approval_desk import Desk
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry

RUN = "desk-000001"
FAST = Settings(lease_ttl_s=30, retries_s=(0.01,) * 11, timing=owner.Timing(resend_s=30.0, ended_s=1))
RULES = (Rule(id="dear", do="approve", tools=("pay",), because="money leaves the house"),)
FREE: dict[str, Any] = {"type": "object"}


def crew(**fields: Any) -> Crew:
    """A payer whose payments a person decides on, and a boss who waits for it."""
    agents = (Agent(name="payer", run=("true",), tools=("pay",)), Agent(name="boss", run=("true",)))
    tools = {"pay": Tool(function="m:pay", cost_microusd=1_000_000, timeout_s=30)}
    fields = {"name": "desk", "agents": agents, "tools": tools, "rules": RULES, "approval_who": "finance"} | fields
    return Crew(**fields)


class Scene:
    """What the agents and the tool host of the run say."""

    def __init__(self, server: NatsProcess, link: Link, run: str) -> None:
        self.server = server
        self.link = link
        self.run = run
        self.desk = Desk(link, run)
        self._seqs: dict[str, int] = {}
        self._calls = 0

    async def say(
        self, agent: str, kind: Kind, message: type, to: str = SUPERVISOR, id_: str = "", **fields: Any
    ) -> None:
        self._seqs[agent] = self._seqs.get(agent, 0) + 1
        told = message(inc=f"inc-{agent}", seq=self._seqs[agent], **fields)
        id_ = id_ or f"n{agent}{self._seqs[agent]}"
        await journal.publish(self.link, subjects.build(self.run, kind, agent, to, id_), codec.encode(told))

    async def begin(self) -> None:
        await journal.publish_op(self.link, self.run, m.ProcessStarted(agent="payer", pid=1), sender=HOST)
        await journal.publish_op(self.link, self.run, m.ProcessStarted(agent="boss", pid=2), sender=HOST)
        for name in ("payer", "boss"):
            await self.say(name, Kind.NOTE, m.Joined, role=name)
            await self.say(name, Kind.NOTE, m.TaskBegan, task="t", name="work")
        told = t.ToolTold(declared="pay", schema=FREE)
        await journal.publish_op(self.link, self.run, t.ToolsReady(host="h1", tools={"pay": told}), sender=TOOLS)

        async def running() -> bool:
            await self.desk.catch_up()
            return self.desk.core.state == "running" and bool(self.desk.core.gate.host)

        await until(running)

    async def ask(
        self, args: Any = None, *, tool: str = "pay", deadline_s: float | None = None, **fields: Any
    ) -> Approval:
        """The payer calls a tool and waits for it; returns what a person is asked, once it is asked."""
        self._calls += 1
        call = f"c{self._calls}"
        raw = msgspec.Raw(msgspec.json.encode({"cents": 100} if args is None else args))
        fields = {"task": "t", "tool": tool, "args": raw, "deadline_s": deadline_s} | fields
        await self.say("payer", Kind.TOOL, t.ToolCall, id_=call, **fields)
        waits = m.OnTool(call=call, tool=tool)
        await self.say("payer", Kind.NOTE, m.WaitBegan, task="t", epoch=self._calls, condition=waits)

        async def asked() -> Approval | None:
            found = [each for each in await self.approvals() if each.call == call]
            return found[0] if found and not self.desk.core.pending else None

        found = await until(asked)
        assert isinstance(found, Approval)
        return found

    async def approvals(self) -> list[Approval]:
        await self.desk.catch_up()
        return list(self.desk.approvals.values())

    async def state(self, approval: Approval) -> str:
        await self.desk.catch_up()
        return self.desk.approvals[approval.id].state

    async def heard(self, kind: type) -> list[Any]:
        """What the supervisor side has said, of one type."""
        found = []
        for entry in await journal.read_all(self.link, self.run):
            address = subjects.parse(entry.subject)
            if address.sender.startswith("_"):
                message = codec.decode_supervisor(address.kind, entry.payload)
                found += [message] if isinstance(message, kind) else []
        return found

    async def ran(self) -> list[str]:
        """Calls that the tool host was told to run."""
        return [message.call for message in await self.heard(t.RunTool)]

    async def act(self, *arguments: str) -> int:
        """Run a command line, as from another process."""
        return await anyio.to_thread.run_sync(command, list(arguments))


@contextlib.asynccontextmanager
async def scene(directory: Path, declared: Crew | None = None, run: str = RUN) -> AsyncIterator[Scene]:
    """A run without a controller whose agents have not begun."""
    async with linked(directory) as (server, link):
        server.announce()
        registry = Registry(link)
        await registry.open()
        declared = declared or crew()
        await journal.create_run(link, run, declared, "here")
        await registry.declare(run, declared.name, "here")
        yield Scene(server, link, run)


@contextlib.asynccontextmanager
async def controlled(made: Scene) -> AsyncIterator[None]:
    """A controller in this process; its lease is given back at the end."""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: controller.serve(made.server.place, "one", settings=FAST))
        yield
        group.cancel_scope.cancel()


def items(out: str) -> list[dict[str, Any]]:
    """The items of a listing printed as JSON."""
    found: list[dict[str, Any]] = json.loads(out)["items"]
    return found
