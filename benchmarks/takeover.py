"""Takeover: from kill -9 of the controller that owns a run to the first decision of the next, on one healthy server.

Twice: where the next one runs on the same machine and sees that the process is gone, and where it does not, as on
another machine, so that it waits for the lease to run out. `python -m benchmarks.takeover`.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import anyio

from benchmarks.ground import load, median, report
from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus.orphan_guard import popen_guarded
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.subjects import Kind
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.shell import journal, lease, members
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry

RUN = "bench-takeover"
TIMES = 6
LENGTHS = (200, 20_000)
LIMIT_S = 60.0
TARGET_S = 3.0
HERE = "from crewkeeper_supervisor.cli.main import main\nmain()\n"
ELSEWHERE = (
    "import os\nfrom crewkeeper_supervisor.shell import lease\n"
    "lease._machine = lambda: f'machine {os.getpid()}'\n" + HERE
)


class Pair:
    """Two controllers, one of which owns the run.

    Args:
        link: The server.
        state: Its state directory.
        program: What a controller is started with.
    """

    def __init__(self, link: Link, state: Path, program: str) -> None:
        self._link = link
        self._state = state
        self._program = program
        self._running: dict[str, Popen[bytes]] = {}
        self._heard = anyio.Event()
        self._started = self._taken = 0

    async def takes(self) -> float:
        """Kill the owner and ask for something; seconds until the next one has done it."""
        while len(self._running) < 2:
            self._start()
        owner = await self._ready()
        self._heard = anyio.Event()
        killed = self._running.pop(owner)
        os.kill(killed.pid, signal.SIGKILL)
        began_s = time.monotonic()
        killed.wait(10)
        self._taken += 1
        asked = m.OperatorAsked(action="pause", by="bench", agent=f"a{self._taken}")
        await journal.publish_op(self._link, RUN, asked)
        with anyio.fail_after(LIMIT_S):
            await self._heard.wait()
        return time.monotonic() - began_s

    async def heard(self, msg: Any) -> None:
        """Something was decided: perhaps what was asked for."""
        is_ours = subjects.parse(msg.subject).to == f"a{self._taken}"
        if is_ours and isinstance(codec.decode_supervisor(Kind.CTL, msg.data), m.Pause):
            self._heard.set()

    def end(self) -> None:
        """End what runs."""
        for process in self._running.values():
            process.kill()
            process.wait(10)

    def _start(self) -> None:
        self._started += 1
        name = f"c{self._started}"
        command = [sys.executable, "-c", self._program, "serve", "--state", str(self._state), "--name", name]
        with (self._state / f"{name}.log").open("wb") as log:
            self._running[name] = popen_guarded(command, stdout=log, stderr=log, env=dict(os.environ))

    async def _ready(self) -> str:
        """Wait until one owns the run and the other stands by; the owner's name."""
        with anyio.fail_after(LIMIT_S):
            while True:
                await anyio.sleep(0.2)
                there = {each.name: each.count for each in await members.ls(self._link)}
                holder = await lease.holder_of(self._link, RUN)
                if holder is not None and holder.owner in self._running and set(self._running) <= set(there):
                    await anyio.sleep(1.0)  # the one that stands by watches by now
                    return holder.owner


@contextlib.asynccontextmanager
async def pair(state: Path, length: int, program: str) -> AsyncIterator[Pair]:
    """A server with one run, whose journal has so many entries, and two controllers."""
    async with EmbeddedServer(state), connect(Place.find(state=state), name="bench") as link:
        registry = Registry(link)
        await registry.open()
        agents = tuple(Agent(name=f"a{number}", external=True) for number in range(1, TIMES + 1))
        await journal.create_run(link, RUN, Crew(name="bench", agents=agents, heartbeat_s=300), "here")
        await registry.declare(RUN, "bench", "here")
        for agent in agents:
            joined = m.Joined(inc="i1", seq=1, role=agent.name, heartbeat_s=300)
            await journal.publish(link, f"crew.{RUN}.note.{agent.name}._.j", codec.encode(joined))
        for _ in range(length):
            await journal.publish_op(link, RUN, m.Tick())
        await link.flush()
        made = Pair(link, state, program)
        await link.nc.subscribe(f"out.crew.{RUN}.ctl._.*.*", cb=made.heard)
        try:
            yield made
        finally:
            made.end()


async def run(times: int = TIMES) -> None:
    """Measure and print."""
    rows = []
    for where, program in (("same machine", HERE), ("another machine", ELSEWHERE)):
        for length in LENGTHS:
            with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
                async with pair(Path(folder), length, program) as both:
                    took = [await both.takes() for _ in range(times)]
            text = f"p50 {median(took):5.2f} s   max {max(took):5.2f} s"
            rows.append((f"{where}, {length:,} entries", text))
    report(f"kill -9 of the owner to the first decision of the next, {times} times each (target {TARGET_S:g} s)", rows)


if __name__ == "__main__":
    print(load())
    anyio.run(run)
