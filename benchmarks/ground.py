"""The ground of every benchmark: one real server, a crew, and clients that are supervised or not."""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import crewkeeper_bus as bus
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.orphan_guard import popen_guarded
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.transport import Deliver
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry


class DirectTransport(NatsTransport):
    """Plain NATS: no journal, no supervisor. What is published is delivered as it is."""

    async def subscribe(self, subject: str, deliver: Deliver, queue: str = "") -> None:
        await super().subscribe(subject.removeprefix("out."), deliver, queue)


class Ground:
    """A server with one supervised run, and subjects beside it that nobody watches."""

    def __init__(self, server: EmbeddedServer, link: Link, run: str) -> None:
        self.server = server
        self.link = link
        self.run = run

    async def client(self, agent: str, *, supervised: bool) -> bus.Client:
        """A client of the supervised run, or the same client on subjects of its own."""
        own = self.server.credentials
        kind = NatsTransport if supervised else DirectTransport
        transport = await kind.open(credentials=lambda: own, name=agent)
        run = self.run if supervised else "plain"
        return bus.connect(self.server.url, run=run, agent=agent, transport=transport)


@contextlib.asynccontextmanager
async def ground(
    folder: Path,
    agents: Iterable[str],
    *,
    controller: bool = True,
    crew: Crew | None = None,
    serve: str = "crewkeeper_supervisor.cli.main",
) -> AsyncIterator[Ground]:
    """Start a server and, unless told not to, a controller process; declare a run of external agents.

    Args:
        folder: Where their files go.
        agents: Names, where no crew is given.
        controller: Whether there is one.
        crew: Another crew than one of these agents.
        serve: The module that is the `supervisor` command of the controller.
    """
    state = folder / "state"
    async with EmbeddedServer(state) as server:
        place = Place.find(state=state)
        async with connect(place, name="bench") as link:
            registry = Registry(link)
            await registry.open()
            crew = crew or Crew(name="bench", agents=tuple(Agent(name=name, external=True) for name in agents))
            await journal.create_run(link, "bench-1", crew, "bench")
            await registry.declare("bench-1", "bench", "bench")
            command = [sys.executable, "-m", serve, "serve", "--state", str(state)]
            process = None
            if controller:
                log = (folder / "controller.log").open("wb")
                process = popen_guarded(command, stdout=log, stderr=log)
            try:
                yield Ground(server, link, "bench-1")
            finally:
                if process is not None:
                    process.terminate()
                    process.wait(10)


def against(without: list[float], with_: list[float], unit: str) -> str:
    """Two medians and their ratio over alternating rounds: unsupervised first."""
    ratios = [w / wo for w, wo in zip(with_, without, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"{median(without):7.0f} {unit} : {median(with_):7.0f} {unit}   ratio 1 : {median(ratios):.2f}  [{spread}]"


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def report(title: str, rows: list[tuple[str, str]], note: str = "") -> None:
    """Print one block."""
    print(f"\n{title}")
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    if note:
        print(f"  {note}")


def load() -> str:
    """The machine and how busy it is, as a reader needs to know."""
    return f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def now_s() -> float:
    """A clock for durations, seconds."""
    return time.perf_counter()
