"""How fast the server does what is decided: kill and pause of an agent that obeys nothing, logins, renewals.

The offender is a process that publishes every 0.3 ms and comes back at once whenever it is cut off (`hostile`). What
is measured is the time from the decision to the last message of it that the server has taken, seen by a subscriber:
the way to that subscriber is part of it. `python -m benchmarks.enforcement` takes some minutes.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread

from benchmarks.ground import load, median, now_s, report
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.shell import journal, nats_link, powers
from crewkeeper_supervisor.shell.enforcer import Enforcer
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.powers import Powers
from crewkeeper_supervisor.shell.registry import Registry

HERE = Path(__file__).resolve().parent
RUN = "bench-1"
SIZES = (1, 100, 1000)
ROUNDS = 25
LIMIT_S = 30.0
ORDER = {"why": "benchmark", "term": 1}


class Field:
    """A server with idle agents, a supervisor's powers over it, and a subscriber who sees what is taken."""

    def __init__(self, link: Link, power: Powers) -> None:
        assert power.enforcer is not None
        self.link = link
        self.access = power.access
        self.enforcer: Enforcer = power.enforcer
        self.count: dict[str, int] = {}
        self.last_s: dict[str, float] = {}
        self.named = 0
        self.seen = anyio.Event()

    def see(self, subject: str, _payload: bytes, _headers: bytes | None) -> None:
        sender = subject.split(".")[3]
        self.count[sender] = self.count.get(sender, 0) + 1
        self.last_s[sender] = now_s()
        self.seen.set()

    async def issue(self) -> tuple[str, str, str]:
        """Name, user and password of a new agent."""
        self.named += 1
        name = f"a{self.named}"
        own = (await self.access.issue(RUN, name)).credentials
        return name, own.user, own.password

    async def until_more(self, agent: str, more: int = 50) -> None:
        """Wait until so much more of an agent was taken."""
        goal = self.count.get(agent, 0) + more
        with anyio.fail_after(LIMIT_S):
            while self.count.get(agent, 0) < goal:
                self.seen = anyio.Event()
                await self.seen.wait()


@contextlib.asynccontextmanager
async def field(folder: Path) -> AsyncIterator[Field]:
    state = folder / "state"
    async with EmbeddedServer(state, operator=True):
        place = Place.find(state=state)
        async with (
            nats_link.connect(place, name="bench") as link,
            powers.held(link, place.authority()) as power,
            anyio.create_task_group() as group,
        ):
            registry = Registry(link)
            await registry.open()
            await journal.create_run(link, RUN, Crew(name="bench", agents=(Agent(name="a", external=True),)), "bench")
            await registry.declare(RUN, "bench", "bench")
            await power.open()
            group.start_soon(power.work)
            where = Field(link, power)
            link.nc.subscribe_raw("crew.>", "", where.see)
            await link.flush()
            yield where
            group.cancel_scope.cancel()


@contextlib.contextmanager
def hostile(url: str, agent: str, user: str, password: str) -> Iterator["subprocess.Popen[bytes]"]:
    """An offender; it ends when it was refused twenty times in a row."""
    subject = f"crew.{RUN}.msg.{agent}.b"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "hostile.py"), url, user, password, subject, "1", "20"], stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)


@contextlib.contextmanager
def _idle_process(url: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "idle.py"), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.asynccontextmanager
async def idle(where: Field, count: int) -> AsyncIterator[None]:
    """So many agents that are logged in and do nothing."""
    agents = [(await where.issue())[1:] for _ in range(count)]
    with _idle_process(where.link.place.url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(agents).encode() + b"\n")
        process.stdin.flush()
        said = await anyio.to_thread.run_sync(process.stdout.readline)
        assert len(json.loads(said)) == count
        yield


async def _logins(where: Field, agents: list[tuple[str, str]]) -> list[float]:
    """Milliseconds that each of these logins took, one after the other."""
    command = [sys.executable, str(HERE / "idle.py"), where.link.place.url]

    def run() -> bytes:
        return subprocess.run(
            command, input=json.dumps(agents).encode() + b"\n", capture_output=True, check=True
        ).stdout

    return [each * 1000 for each in json.loads(await anyio.to_thread.run_sync(run))]


async def _kill(where: Field) -> tuple[float, int]:
    """Milliseconds from a decision to the last message, and how many came after it was reported."""
    agent, user, password = await where.issue()
    with hostile(where.link.place.url, agent, user, password) as process:
        await where.until_more(agent)
        decided_s = now_s()
        done = await where.enforcer.kill(RUN, agent, **ORDER)
        assert done.ok, done.detail
        before = where.count[agent]
        await anyio.to_thread.run_sync(process.wait, LIMIT_S)
        return max(0.0, where.last_s[agent] - decided_s) * 1000, where.count[agent] - before


async def _pauses(where: Field, rounds: int, *, keep: bool) -> tuple[list[float], list[float], int]:
    """Milliseconds to the last message after each pause and to the first after each resume; messages in between."""
    agent, user, password = await where.issue()
    paused, resumed, between = [], [], 0
    with hostile(where.link.place.url, agent, user, password):
        for _ in range(rounds):
            await where.until_more(agent)
            decided_s = now_s()
            done = await where.enforcer.pause(RUN, agent, **ORDER, keep=keep)
            assert done.ok, done.detail
            paused.append(max(0.0, where.last_s[agent] - decided_s) * 1000)
            before = where.count[agent]
            await anyio.sleep(0.1)
            between += where.count[agent] - before
            decided_s = now_s()
            async with anyio.create_task_group() as group:

                async def resume() -> None:
                    done = await where.enforcer.resume(RUN, agent, **ORDER)
                    assert done.ok, done.detail

                group.start_soon(resume)
                await where.until_more(agent, 1)
                resumed.append((where.last_s[agent] - decided_s) * 1000)
    return paused, resumed, between


async def _renewals(where: Field, rounds: int) -> list[float]:
    agent, user, password = await where.issue()
    transport = await NatsTransport.open(where.link.place.url, user=user, password=password, name=agent)
    took = []
    try:
        await transport.subscribe(f"out.crew.{RUN}.msg.*.{agent}.*", lambda *_: None)
        for _ in range(rounds):
            began_s = now_s()
            await transport.renew()
            took.append((now_s() - began_s) * 1000)
    finally:
        await transport.close()
    return took


def spread(values: list[float]) -> str:
    """Median and 99th percentile (of few values: the largest), in milliseconds."""
    ordered = sorted(values)
    return f"p50 {median(ordered):6.1f} ms   p99 {ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]:6.1f} ms"


async def measure(size: int, rounds: int) -> None:
    """One block: everything with so many agents connected."""
    with contextlib.redirect_stderr(io.StringIO()):  # what the supervisor logs
        await _measure(size, rounds)


async def _measure(size: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
        async with field(Path(folder)) as where, idle(where, size):
            logins = await _logins(where, [(await where.issue())[1:] for _ in range(4 * rounds)])
            kills = [await _kill(where) for _ in range(rounds)]
            held = await _pauses(where, rounds, keep=True)
            away = await _pauses(where, rounds, keep=False)
            renewals = await _renewals(where, rounds)
    report(
        f"Enforcement with {size} agents connected, {rounds} rounds",
        [
            ("kill: decision to last message", spread([took for took, _ in kills])),
            ("  messages after it was reported", f"{sum(after for _, after in kills)}"),
            ("pause, words kept: to last message", spread(held[0])),
            ("  messages while it was paused", f"{held[2]}"),
            ("  resume: to first message", spread(held[1])),
            ("pause, sent away: to last message", spread(away[0])),
            ("  messages while it was paused", f"{away[2]}"),
            ("  resume: to first message", spread(away[1])),
            ("login decided by the callout", spread(logins)),
            ("renewal, nothing lost", spread(renewals)),
        ],
    )


async def run(sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> None:
    """Print a block for each number of connected agents."""
    for size in sizes:
        await measure(size, rounds)


def main() -> None:
    """All sizes."""
    print(load())
    began_s = time.monotonic()
    anyio.run(run)
    print(f"\ntook {time.monotonic() - began_s:.0f} s; targets: kill 10 ms p99, login 10 ms p50, nothing after a kill")


if __name__ == "__main__":
    main()
