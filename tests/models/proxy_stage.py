"""A model proxy before a stub provider, with a gate whose decisions the test makes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.messages import Fault
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.subjects import MODEL, SUPERVISOR, Kind
from crewkeeper_bus.tool_messages import SpendAsked, SpendBooked, SpendGranted, SpendRefused, Spent, Withhold
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.core.model_proxy import ModelProxy, Upstream
from crewkeeper_supervisor.model_proxy import serving
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import until
from support.stub_provider import Provider, provider

RUN = "trip-1"
CANARY = "sk-canary-0123456789abcdef"
KEYS = {"OPENAI_API_KEY": CANARY, "ANTHROPIC_API_KEY": CANARY + "-2"}

Rule = Callable[[SpendAsked], Any]


def grant(asked: SpendAsked) -> Any:
    """The rule that lets everything through."""
    return SpendGranted(
        id="x", call=asked.call, agent=asked.agent, max_output_tokens=asked.max_output_tokens, limit_s=300
    )


def refuse(code: str, text: str = "no") -> Rule:
    """The rule that refuses everything."""
    return lambda asked: SpendRefused(id="x", call=asked.call, agent=asked.agent, fault=Fault(code=code, text=text))


class StubGate:
    """Answers in the gate's place, and remembers what it was told.

    Attributes:
        rule: What becomes of a question; None: silence.
        asked: Questions, each id once.
        spent: Costs by call.
        costs: The calls of all costs that were said, as often as they were said.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.rule: Rule | None = grant
        self.asked: dict[str, SpendAsked] = {}
        self.spent: dict[str, Spent] = {}
        self.costs: list[str] = []
        self.books = True
        self._ids = 0

    @property
    def told(self) -> int:
        """How often a cost was said."""
        return len(self.costs)

    async def open(self) -> None:
        await self.link.nc.subscribe(f"out.crew.{RUN}.op.{MODEL}.{SUPERVISOR}.*", cb=self._heard)
        await self.link.flush()

    async def _heard(self, msg: Any) -> None:
        said = codec.decode_supervisor(Kind.OP, msg.data)
        if isinstance(said, SpendAsked):
            self.asked[said.call] = said
            if self.rule is not None:
                await self.say(self.rule(said))
        elif isinstance(said, Spent):
            self.costs.append(said.call)
            self.spent[said.call] = said
            if self.books:
                await self.say(SpendBooked(id="x", call=said.call, agent=said.agent))

    async def say(self, message: Any) -> None:
        self._ids += 1
        subject = subjects.build(RUN, Kind.CTL, SUPERVISOR, MODEL, f"c{self._ids}")
        await self.link.publish(subject, codec.encode(message))

    async def withhold(self, asked: SpendAsked) -> None:
        await self.say(Withhold(id="x", call=asked.call, agent=asked.agent, why="waits for people"))

    async def settled(self, count: int = 1) -> list[Spent]:
        """What calls have cost, once there are so many."""
        await until(lambda: len(self.spent) >= count, f"{count} costs")
        return list(self.spent.values())


class Stage:
    """Everything a test needs."""

    def __init__(self, link: Link, gate: StubGate, stub: Provider, state: Path) -> None:
        self.link = link
        self.gate = gate
        self.provider = stub
        self.state = state
        self.access = Access(link)
        self.address = ""
        self.keys: dict[str, str] = {}

    async def issue(self, agent: str) -> str:
        credentials = (await self.access.issue(RUN, agent)).credentials
        self.keys[agent] = f"{credentials.user}:{credentials.password}"
        return self.keys[agent]

    def key(self, agent: str = "ann") -> str:
        return self.keys[agent]


@asynccontextmanager
async def stage(tmp_path: Path, **options: Any) -> AsyncIterator[Stage]:
    """A server, a run of the agents ann and bob, a stub provider, and a proxy in this process."""
    async with provider() as stub, EmbeddedServer(tmp_path / "server") as server:
        place = Place.of(tmp_path / "server", server.credentials)
        upstreams = {
            "openai": Upstream(url=f"{stub.url}/v1", key="${OPENAI_API_KEY}"),
            "anthropic": Upstream(url=stub.url, key="${ANTHROPIC_API_KEY}"),
        }
        proxy = ModelProxy(**(upstreams | options))  # type: ignore[arg-type]
        agents = tuple(Agent(name=name, external=True) for name in ("ann", "bob"))
        crew = Crew(name="trip", agents=agents, model_proxy=proxy)
        async with connect(place) as link, anyio.create_task_group() as tasks:
            await journal.create_run(link, RUN, crew, "here")
            made = Stage(link, StubGate(link), stub, tmp_path)
            await made.access.open()
            for agent in ("ann", "bob"):
                await made.issue(agent)
            await made.gate.open()
            ready = asyncio.Event()

            def listens(address: str) -> None:
                made.address = address
                ready.set()

            async def run() -> None:
                await serving.serve(place, RUN, KEYS, ready=listens)

            tasks.start_soon(run)
            await _soon(ready.wait())
            yield made
            tasks.cancel_scope.cancel()


async def _soon(awaited: Awaitable[Any]) -> None:
    with anyio.fail_after(120):
        await awaited
