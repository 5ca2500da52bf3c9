"""Tools in a crew that `supervisor up` runs: refused, cut, charged, lost; what ran is counted where it ran."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from live_crews import the_run, up

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.messages import ProcessStarted
from crewkeeper_bus.subjects import TOOLS, Kind
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import LIMIT_S, until

pytestmark = pytest.mark.live

TOOLS_MODULE = """
import asyncio, pathlib, time

def mark(name):
    with open(f"ran-{name}", "a") as file:
        file.write(".")

def pay(item: str, count: int = 1) -> str:
    mark("pay")
    return f"{count} {item}"

def hang() -> None:
    mark("hang")
    time.sleep(600)

async def hang_async() -> None:
    mark("hang_async")
    await asyncio.sleep(600)

def crash() -> None:
    mark("crash")
    raise RuntimeError("the bank says no")
"""

BUYER = """
import asyncio, json, pathlib
from crewkeeper_agents import Agent
from crewkeeper_bus import ToolRefused

agent = Agent("buyer")
told = {}

async def attempt(crew, key, name, args, **options):
    try:
        told[key] = ["ok", await crew.call_tool(name, args, **options)]
    except ToolRefused as refused:
        told[key] = [type(refused).__name__, refused.text]

@agent.main
async def main(crew):
    for key, name, args in json.loads(pathlib.Path("wrong.json").read_text()):
        await attempt(crew, key, name, args)
    await attempt(crew, "large", "pay", {"item": "x" * 1024 * 1024})
    await attempt(crew, "larger than the tool takes", "pay", {"item": "x" * 100_000})
    told["ran before"] = len(list(pathlib.Path().glob("ran-*")))
    await attempt(crew, "failed", "crash", {})
    await asyncio.gather(attempt(crew, "hung", "hang", {}), attempt(crew, "hung async", "hang_async", {}))
    for key in ("first", "again"):
        await attempt(crew, key, "pay", {"item": "milk"}, call_id="order-1")
    await attempt(crew, "reused", "pay", {"item": "beer"}, call_id="order-1")
    told["ran once"] = len(pathlib.Path("ran-pay").read_text())
    await asyncio.gather(*(attempt(crew, f"order {n}", "pay", {"item": "bread"}) for n in range(20)))
    pathlib.Path("told.json").write_text(json.dumps(told))

if __name__ == "__main__":
    agent.run()
"""

WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("invented", "transfer_money", {"to": "me"}, "UnknownTool"),
    ("near miss", "pya", {"item": "x"}, "UnknownTool"),
    ("not allowed", "secret_tool", {}, "UnknownTool"),
    ("missing", "pay", {}, "BadArguments"),
    ("extra", "pay", {"item": "x", "urgent": True}, "BadArguments"),
    ("mistyped", "pay", {"item": 7, "count": "two"}, "BadArguments"),
]


def function(name: str, **options: Any) -> dict[str, Any]:
    return {"function": f"tools_here:{name}", **options}


def write_crew(folder: Path, program: str, **tools: Any) -> dict[str, Any]:
    (folder / "tools_here.py").write_text(TOOLS_MODULE)
    (folder / "buyer.py").write_text(program)
    (folder / "wrong.json").write_text(json.dumps([each[:3] for each in WRONG]))
    return {
        "crew": "shop",
        "agents": {"buyer": {"run": "python buyer.py", "tools": [name for name in tools if name != "secret_tool"]}},
        "tools": tools,
    }


async def test_wrong_calls_run_nothing_and_twenty_payments_stop_at_five(tmp_path: Path) -> None:
    crew = write_crew(
        tmp_path,
        BUYER,
        pay=function("pay", cost_usd=1),
        crash=function("crash"),
        hang=function("hang", timeout="1s"),
        hang_async=function("hang_async", timeout="1s"),
        secret_tool=function("crash"),
    ) | {"budget": {"usd": 6}}
    told_file = tmp_path / "told.json"
    async with up(tmp_path, crew, "--fleet-budget", "usd=20,tool_calls=100") as (state, process):
        with anyio.fail_after(LIMIT_S):
            assert await process.wait() == 0, (tmp_path / "up.log").read_text()
    told = json.loads(told_file.read_text())
    assert {key: told[key][0] for key, *_ in WRONG} == {key: kind for key, _, _, kind in WRONG}
    assert "Did you mean 'pay'?" in told["near miss"][1]
    assert "'urgent' is no argument" in told["extra"][1]
    assert told["large"][0] == told["larger than the tool takes"][0] == "BadArguments"
    assert told["ran before"] == 0, "nothing was executed"
    assert told["failed"] == ["ToolFailed", "RuntimeError: the bank says no"]
    assert (told["hung"][0], told["hung async"][0]) == ("ToolTimeout", "ToolTimeout")
    assert told["first"] == told["again"] == ["ok", "1 milk"]
    assert told["ran once"] == 1
    assert (told["reused"][0], "order-1" in told["reused"][1]) == ("ToolRefused", True)
    # One of six dollars was paid for milk.
    orders = [told[f"order {number}"][0] for number in range(20)]
    assert sorted(orders) == ["BudgetSpent"] * 15 + ["ok"] * 5
    assert len((tmp_path / "ran-pay").read_text()) == 6
    # Nothing runs any more; the books are shown all the same, and every dollar stands in them once.
    fleet, run = await shown(state, "fleet"), await shown(state, "shop")
    assert (
        fleet["fleet"]["microusd"] | {"limit": 20_000_000, "settled": 6_000_000, "left": 14_000_000}
        == (fleet["fleet"]["microusd"])
    )
    assert (fleet["runs"], fleet["ended_count"]) == ({}, 1)
    assert run["crew"]["microusd"]["settled"] == fleet["ended"]["microusd"] == 6_000_000
    assert run["projection"]["microusd"]["at_end"] == 6_000_000


async def shown(state: Path, what: str) -> dict[str, Any]:
    """The budget of a run, or of the fleet."""
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "budget", "show", what, "-o", "json"]
    with anyio.fail_after(120):
        return json.loads((await anyio.run_process([*command, "--state", str(state)])).stdout)


WAITER = """
import json, pathlib
from crewkeeper_agents import Agent
from crewkeeper_bus import ToolLost

agent = Agent("buyer")

@agent.main
async def main(crew):
    told = []
    for _ in range(2):
        try:
            await crew.call_tool("hang", {}, call_id="c1")
        except ToolLost as lost:
            told.append(lost.text)
    told.append(await crew.call_tool("pay", {"item": "milk"}))
    pathlib.Path("told.json").write_text(json.dumps(told))

if __name__ == "__main__":
    agent.run()
"""


async def tool_host_pid(link: Link, run: str) -> int:
    for entry in reversed(await journal.read_all(link, run)):
        if subjects.parse(entry.subject).kind == Kind.OP:
            message = codec.decode_supervisor(Kind.OP, entry.payload)
            if isinstance(message, ProcessStarted) and message.agent == TOOLS:
                return message.pid
    raise AssertionError("no tool host was started")


async def test_a_call_that_dies_with_the_tool_host_is_told_as_lost_and_never_repeated(tmp_path: Path) -> None:
    crew = write_crew(tmp_path, WAITER, pay=function("pay"), hang=function("hang"))
    hung = tmp_path / "ran-hang"
    async with up(tmp_path, crew) as (state, process):
        await until(lambda: hung.exists() and hung.read_text(), "the call runs")
        async with connect(Place.find(state)) as link:
            os.kill(await tool_host_pid(link, (await the_run(link)).run), signal.SIGKILL)
            with anyio.fail_after(LIMIT_S):
                assert await process.wait() == 0, (tmp_path / "up.log").read_text()
    first, again, paid = json.loads((tmp_path / "told.json").read_text())
    assert first == again
    assert "not run again" in first
    assert paid == "1 milk"
    assert hung.read_text() == "."


async def test_the_example_tells_what_its_page_says(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "tools"
    shutil.copytree(example, tmp_path, dirs_exist_ok=True)
    async with up(tmp_path, None) as (state, process):
        with anyio.fail_after(LIMIT_S):
            assert await process.wait() == 0, (tmp_path / "up.log").read_text()
    (log,) = state.glob("runs/*/logs/buyer.log")
    said = log.read_text()
    page = (example / "README.md").read_text()
    shown = page.split("```\n")[3].removesuffix("```").splitlines()
    assert len(shown) >= 7
    for line in shown:
        assert line.removesuffix(" …") in said, line
