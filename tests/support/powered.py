"""A server in operator mode, a controller in its own process, and a run of agents that tests play over raw sockets."""

import contextlib
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process

from crewkeeper_bus import messages as m
from crewkeeper_bus.codec import encode
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.shell import journal, nats_link
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.views.fold import Fold
from support.bus import until
from support.raw_nats import Raw, dial

RUN = "trip-1"
AGENTS = ("a", "b", "eve")


class Powered:
    """The run.

    Attributes:
        state: The state directory.
        link: A connection with the supervisor's rights.
        fold: The core's state, as of the last look.
    """

    def __init__(self, state: Path, link: Link) -> None:
        self.state = state
        self.link = link
        self.fold = Fold(RUN)
        self._tokens: dict[str, Credentials] = {}
        self._seqs: dict[str, int] = {}

    async def declare(self, crew: Crew) -> None:
        registry = Registry(self.link)
        await registry.open()
        await registry.declare(RUN, crew.name, "here")
        await journal.create_run(self.link, RUN, crew, "here")
        access = Access(self.link)
        await access.open()
        for agent in crew.agents:
            issued = await access.issue(RUN, agent.name, agent.name, ttl_s=600.0, by="test")
            self._tokens[agent.name] = issued.credentials

    def credentials(self, agent: str) -> Credentials:
        return self._tokens[agent]

    async def look(self) -> Fold:
        """Fold what is new."""
        for entry in await journal.read_all(self.link, RUN, self.fold.supervisor.seq + 1):
            self.fold.feed(entry)
        return self.fold

    async def until(self, condition: Any, what: str) -> Any:
        """Wait for something to become true of the core's state."""

        async def holds() -> Any:
            await anyio.sleep(0.02)
            return condition((await self.look()).supervisor)

        return await until(holds, what)

    async def enter(self, agent: str) -> Raw:
        """Log in once logins are answered, and join."""

        async def let_in() -> Raw | None:
            client = await dial(self._tokens[agent])
            if not client.is_closed:
                return client
            await client.close()
            return None

        client: Raw = await until(let_in, f"{agent} is let in")
        client.sub(f"out.crew.{RUN}.rep.*.{agent}.*")
        client.sub(f"out.crew.{RUN}.ctl.*.{agent}.*")
        self.say(client, agent, m.Joined, role=agent)
        await self.until(lambda core: core.agents[agent].present, f"{agent} has joined")
        return client

    def say(
        self, client: Raw, agent: str, type_: Any, /, *, kind: str = "note", to: str = "_", id_: str = "", **fields: Any
    ) -> None:
        """Say something in an agent's own stream."""
        seq = self._seqs[agent] = self._seqs.get(agent, 0) + 1
        message = type_(inc=f"i-{agent}", seq=seq, **fields)
        client.pub(f"crew.{RUN}.{kind}.{agent}.{to}.{id_ or uuid.uuid4().hex[:12]}", encode(message))

    async def cli(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run a command with `-o json`; its exit status and what it printed."""
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *arguments, "-o", "json"]
        done = await anyio.run_process([*command, "--state", str(self.state)], check=False)
        return done.returncode, json.loads(done.stdout or b"{}")


@asynccontextmanager
async def powered(directory: Path, **crew: Any) -> AsyncIterator[Powered]:
    """Everything, running."""
    state = directory / "state"
    agents = tuple(Agent(name=name, external=True) for name in AGENTS)
    async with EmbeddedServer(state), nats_link.connect(Place.find(state=state), name="test") as link:
        stage = Powered(state, link)
        await stage.declare(Crew(name="trip", agents=agents, **crew))
        async with controller(directory):
            yield stage


@asynccontextmanager
async def controller(directory: Path) -> AsyncIterator[Process]:
    """A controller for the server of this directory."""
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "serve", "--state", str(directory / "state")]
    with (directory / "controller.log").open("ab") as log:
        async with await anyio.open_process(command, stdout=log, stderr=log) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
