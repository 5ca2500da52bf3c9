"""MCP servers as tools of a crew: the process beside the tool host, and the tool host itself, over a bus in memory."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from crewkeeper_agents.mcp_source import McpSource
from crewkeeper_agents.tool_pool import WorkerGone
from crewkeeper_bus.tool_messages import ToolTold
from support.bus import until
from support.mcp import STUB


class Heard:
    def __init__(self) -> None:
        self.tools: dict[str, ToolTold] = {}
        self.failed: dict[str, str] = {}
        self.times = 0

    async def take(self, name: str, tools: dict[str, ToolTold], failed: dict[str, str]) -> None:
        assert name == "stub"
        self.tools, self.failed = tools, failed
        self.times += 1


@asynccontextmanager
async def source(tmp_path: Path, *command: str, **env: str) -> AsyncIterator[tuple[McpSource, Heard]]:
    heard = Heard()
    argv = command or (sys.executable, str(STUB), str(tmp_path / "stub.log"))
    made = McpSource("stub", argv, {**os.environ, **env}, tmp_path / "state", heard.take)
    async with anyio.create_task_group() as group:
        group.start_soon(made.run)
        await until(lambda: heard.times, "it says what it has")
        yield made, heard
        group.cancel_scope.cancel()


async def run(made: McpSource, tool: str, limit_bytes: int = 100_000, **args: Any) -> Any:
    told = await made.call(f"stub.{tool}", msgspec.Raw(json.dumps(args).encode()), limit_bytes)
    return (told.code, told.error) if told.code else msgspec.json.decode(told.result)


async def cut(made: McpSource, tool: str, tmp_path: Path) -> None:
    """Call a tool that answers nothing, and give up once the server has got the call."""
    async with anyio.create_task_group() as group:
        group.start_soon(run, made, tool)
        await until(lambda: f"call {tool} {{}}" in calls(tmp_path), f"{tool} is called")
        group.cancel_scope.cancel()


def calls(tmp_path: Path) -> list[str]:
    return [line for line in (tmp_path / "stub.log").read_text().splitlines() if line.startswith("call")]


async def test_a_server_tells_its_tools_and_runs_them(tmp_path: Path) -> None:
    async with source(tmp_path, CREWKEEPER_PASSWORD="secret") as (made, heard):
        echo = heard.tools["stub.echo"]
        assert (echo.declared, echo.description) == ("stub", "Say it again.")
        assert echo.schema is not None
        assert echo.schema["required"] == ["text"]
        assert "stub.remote" not in heard.tools
        assert "cannot be used" in heard.failed["stub.remote"]
        assert await run(made, "echo", text="x") == "x"
        assert await run(made, "fail") == ("tool_failed", "it did not work")
        assert (await run(made, "echo", 10, text="x" * 100))[0] == "too_large"
        assert await run(made, "env") == "[]"
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        assert (await made.call("stub.echo", msgspec.Raw(b'{"text":"x"}'), 1000, trace)).code == ""
        told = [line for line in (tmp_path / "stub.log").read_text().splitlines() if line.startswith("meta")]
        assert [trace in line for line in told] == [False] * (len(told) - 1) + [True]


async def test_a_hung_call_is_cut_and_a_hung_server_started_again(tmp_path: Path) -> None:
    async with source(tmp_path) as (made, _):
        await cut(made, "hang", tmp_path)
        assert await run(made, "echo", text="x") == "x"
        await until(lambda: "told notifications/cancelled" in (tmp_path / "stub.log").read_text(), "it is told")
        await cut(made, "freeze", tmp_path)
        assert await run(made, "echo", text="y") == "y"
        assert (tmp_path / "stub.log").read_text().count("started") == 2


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    async with source(tmp_path) as (made, heard):
        lost = ""
        try:
            lost = (await run(made, "crash"))[0]
        except WorkerGone:
            lost = "tool_lost"
        assert lost == "tool_lost"
        await until(lambda: heard.failed.keys() == {"stub"}, "it is known to be away")
        await until(lambda: "stub.echo" in heard.tools, "it is back")
        assert await run(made, "echo", text="x") == "x"


async def test_a_changed_definition_is_taken_out(tmp_path: Path) -> None:
    async with source(tmp_path) as (made, heard):
        assert await run(made, "change") == "changed"
        await until(lambda: "stub.echo" not in heard.tools, "it is taken out")
        assert "another than the pinned one" in heard.failed["stub.echo"]
        assert (await run(made, "echo", text="x"))[0] == "tool_failed"
        assert calls(tmp_path) == ["call change {}"]


async def test_a_server_that_always_says_that_its_tools_change_is_not_told_of_each_time(tmp_path: Path) -> None:
    async with source(tmp_path) as (made, heard):
        assert await run(made, "change", restless=True) == "changed"
        log = tmp_path / "stub.log"
        await until(lambda: log.read_text().count("listed") >= 4, "it is asked again")
        assert heard.times == 2  # what it had first, and what has truly changed
        assert "another than the pinned one" in heard.failed["stub.echo"]


async def test_servers_get_no_answers_from_us(tmp_path: Path) -> None:
    async with source(tmp_path) as (made, _):
        assert (await run(made, "need"))[0] == "tool_failed"


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with source(tmp_path, "no-such-program") as (made, heard):
        assert "no-such-program" in heard.failed["stub"]
        code, why = await run(made, "echo", text="x")
        assert code == "tool_failed"
        assert "was not run" in why


async def test_a_program_that_is_no_server_is_named(tmp_path: Path) -> None:
    async with source(tmp_path, sys.executable, "-c", "print('hello')") as (_, heard):
        assert "ended" in heard.failed["stub"]
