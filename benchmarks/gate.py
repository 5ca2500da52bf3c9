"""Gate: a grant against a plain NATS request and against the journal alone, with the commit and without; the rates.

Calls are published and answers received by bare NATS connections, so that the gate is measured and not the client. The
plain request goes to a responder in another process, as a call does; one in the caller's own process is shown, too.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import msgspec
import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from benchmarks import echo
from benchmarks.ground import Ground, ground, load, median, report
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.codec import encode
from crewkeeper_bus.orphan_guard import popen_guarded
from crewkeeper_supervisor.core.crew import Agent, Budget, Crew, Rate, Response, Responses
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Tool

ROUNDS = 5
CALLS = 200
AGENTS = 10
BURST = 500
"""Calls that each agent has under way at once."""
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string", "maxLength": 200}, "lines": {"type": "integer"}},
    "required": ["path"],
    "additionalProperties": False,
}
ARGS = msgspec.Raw(b'{"path":"out/report.md","lines":12}')
LIMIT_S = 60.0
_NEAR = "plain.near"
WAYS = (
    ("through the journal, no gate", "benchmarks.no_gate"),
    ("granted, no commit", "benchmarks.no_commit"),
    ("granted and committed", "crewkeeper_supervisor.cli.main"),
)


def crew() -> Crew:
    """Agents with one tool of their own, rules that have to be evaluated, and a budget that is never spent."""
    # The same call again and again is what is measured here: nobody is to be held for it.
    warned = {kind: Response() for kind in ("loop", "retry_storm", "fan_out", "misuse", "stall")}
    conditions = ("args.path.startsWith('/')", "args.lines > 1000", "depth > 10 && role != 'lead'")
    return Crew(
        name="bench",
        agents=tuple(Agent(name=f"a{number}", external=True, tools=("look",)) for number in range(AGENTS)),
        tools={"look": Tool(inside=True, schema=SCHEMA, cost_microusd=10, concurrency=10_000, timeout_s=300)},
        rules=tuple(Rule(id=f"r{number}", do="deny", when=when) for number, when in enumerate(conditions)),
        budget=Budget(microusd=10**15, tool_calls=10**12),
        responses=Responses(**warned),
        rate=Rate(messages_per_s=1_000_000, burst=10_000_000, bytes_per_s=2**40),
    )


class Caller:
    """One agent, as bare as can be."""

    def __init__(self, nc: Nats, run: str, name: str) -> None:
        self.nc, self.run, self.name = nc, run, name
        self._seq = 0
        self._calls = 0
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def join(self) -> None:
        """Join the run."""
        await self.nc.subscribe(f"out.crew.{self.run}.rep._.{self.name}.*", cb=self._answered)
        await self.nc.flush()
        await self.say("note", m.Joined, "j", role=self.name, heartbeat_s=300.0)
        await self.say("note", m.TaskBegan, "t", task="t", slot=False)

    async def _answered(self, msg: Msg) -> None:
        waiting = self._waiting.pop(msg.subject.rpartition(".")[2], None)
        if waiting is not None:
            waiting.set_result(msg.data)

    async def say(self, kind: str, type_: type, id_: str, **fields: object) -> None:
        """Publish one message of its stream."""
        self._seq += 1
        message = type_(inc=f"i{self.name}", seq=self._seq, **fields)
        await self.nc.publish(f"crew.{self.run}.{kind}.{self.name}._.{id_}", encode(message))

    async def ask(self) -> tuple[str, "asyncio.Future[bytes]"]:
        """Ask for a grant."""
        self._calls += 1
        id_ = f"c{self._calls}"
        answer = self._waiting[id_] = asyncio.get_running_loop().create_future()
        await self.say("tool", t.ToolCall, id_, task="t", tool="look", args=ARGS, inside=True)
        return id_, answer

    async def settle(self, id_: str) -> "asyncio.Future[bytes]":
        """Settle a grant."""
        answer = self._waiting[id_] = asyncio.get_running_loop().create_future()
        await self.say("tool", t.Settled, id_, ok=True)
        return answer

    async def granted(self) -> str:
        """One grant; returns the call."""
        id_, answer = await self.ask()
        reply = msgspec.json.decode(await asyncio.wait_for(answer, LIMIT_S), type=m.SupervisorReply)
        if reply.error is not None:
            raise RuntimeError(f"refused: {reply.error.code}: {reply.error.text}")
        return id_


async def _p50(once: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        await once()
        taken.append(time.perf_counter() - begun)
    return 1e6 * median(taken)


async def _ready(caller: Caller) -> None:
    """Wait until a controller owns the run."""
    with anyio.fail_after(LIMIT_S):
        await caller.granted()


class _Measured(msgspec.Struct):
    """Of alternating rounds: microseconds of one request or grant, and grants per second."""

    plain: list[float] = []
    """A request to another process."""
    near: list[float] = []
    """A request to the caller's own process."""
    grants: list[float] = []
    per_s: list[float] = []


@contextlib.asynccontextmanager
async def _echoing(asking: Nats, echoing: Nats, state: Path) -> AsyncIterator[None]:
    """Two responders: one in a process of its own, one here on another connection."""
    await echoing.subscribe(_NEAR, cb=echo.answer)
    await echoing.flush()
    process = popen_guarded([sys.executable, "-m", "benchmarks.echo", "--state", str(state)])
    try:
        with anyio.fail_after(LIMIT_S):
            while True:
                with contextlib.suppress(nats.errors.NoRespondersError):
                    await asking.request(echo.SUBJECT, b"", timeout=5)
                    break
        yield
    finally:
        process.terminate()
        process.wait(10)


async def _measure(where: Ground, state: Path) -> _Measured:
    own = where.server.credentials
    names = [f"a{number}" for number in range(AGENTS)]
    given = own.options()
    async with (
        await nats.connect(where.server.url, **given) as asking,
        await nats.connect(where.server.url, **given) as echoing,
        _echoing(asking, echoing, state),
    ):
        callers = [Caller(asking, where.run, name) for name in names]
        for caller in callers:
            await caller.join()
        await _ready(callers[0])
        measured, open_ = _Measured(), []

        async def grant() -> None:
            open_.append(await callers[0].granted())

        for _ in range(ROUNDS):
            measured.near.append(await _p50(lambda: asking.request(_NEAR, bytes(ARGS), timeout=5)))
            measured.plain.append(await _p50(lambda: asking.request(echo.SUBJECT, bytes(ARGS), timeout=5)))
            measured.grants.append(await _p50(grant))
            await asyncio.wait_for(asyncio.gather(*[await callers[0].settle(id_) for id_ in open_]), LIMIT_S)
            open_.clear()
            measured.per_s.append(await _rate(callers[1:]))
        return measured


async def _rate(callers: list[Caller]) -> float:
    """Grants a second with many under way; they are settled afterwards, which is not measured."""
    begun = time.perf_counter()
    asked = [(caller, *await caller.ask()) for _ in range(BURST) for caller in callers]
    await asyncio.wait_for(asyncio.gather(*(answer for _, _, answer in asked)), LIMIT_S)
    per_s = len(asked) / (time.perf_counter() - begun)
    settled = [await caller.settle(id_) for caller, id_, _ in asked]
    await asyncio.wait_for(asyncio.gather(*settled), LIMIT_S)
    return per_s


def _against(plain: list[float], gate: list[float]) -> str:
    ratios = [with_ / without for without, with_ in zip(plain, gate, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"{median(plain):6.0f} µs : {median(gate):6.0f} µs   ratio 1 : {median(ratios):.2f}  [{spread}]"


async def run() -> None:
    """Measure and print."""
    rows = []
    for title, serve in WAYS:
        with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
            async with ground(Path(folder), (), crew=crew(), serve=serve) as where:
                found = await _measure(where, Path(folder) / "state")
        per_s = found.per_s
        rows.append((f"{title}, p50", _against(found.plain, found.grants)))
        rows.append(("  responder in the caller's process", _against(found.near, found.grants)))
        rows.append((f"{title}, calls", f"{median(per_s):6.0f} /s   [{min(per_s):.0f} to {max(per_s):.0f}]"))
    report(
        f"Gate, {ROUNDS} alternating rounds (plain NATS request : a call)",
        rows,
        f"{(AGENTS - 1) * BURST} calls under way for the rates; three conditions, one schema, four accounts each.",
    )


if __name__ == "__main__":
    print(load())
    anyio.run(run)
