"""Tools as frameworks run them, in tasks and threads of their own; the test plays the framework and the gate."""

import asyncio
import inspect
import typing

import pytest
from msgspec import Raw

from crewkeeper_agents.model_tools import NO_ANSWER, model_tool
from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.errors import ConfigError, Killed
from support.crew import open_crew


def body(value):
    return Raw(codec.encode(value))


async def the_call(crew, type_):
    await crew.double.wait("a", type_)
    address, message = crew.double.sent("a", type_)[-1]
    return address.id, message


async def test_a_broken_wait_of_a_tool_is_told_to_the_model(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        @model_tool(a)
        async def detail(query: str, limit: int = 3) -> str:
            """Ask the planner.

            Args:
                query: What about.
            """
            return await a.ask("planner", query)

        assert str(inspect.signature(detail)) == "(query: str, limit: int = 3) -> str"
        assert typing.get_type_hints(detail) == {"query": str, "limit": int, "return": str}
        assert detail.__name__ == "detail"
        assert detail.__doc__.startswith("Ask the planner.")
        child = asyncio.create_task(detail("when?"))
        wait = await crew.double.wait("a", m.WaitBegan)
        (work,) = await crew.double.told("a", m.TaskBegan)
        assert wait.task == work.task, "it is the activity that waits"
        await crew.double.break_wait("a", wait, why="deadlock: a → planner → a")
        assert await child == f"{NO_ANSWER} (deadlock: a → planner → a)."


async def test_a_gated_tool_runs_with_the_arguments_of_the_grant(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):
        ran = []

        @model_tool(a, name="library.search", gate=True)
        async def search(query: str, limit: int = 3) -> list[str]:
            ran.append((query, limit))
            return [query]

        child = asyncio.create_task(search("my card 4111"))
        call, asked = await the_call(crew, t.ToolCall)
        assert (asked.tool, asked.inside) == ("library.search", True)
        assert codec.decode_body(asked.args, dict) == {"query": "my card 4111", "limit": 3}
        granted = {"args": {"query": "my card [redacted]", "limit": 3}, "limit_s": 60}
        await crew.double.answer("a", call, body=body(granted))
        assert await child == ["my card [redacted]"]
        assert ran == [("my card [redacted]", 3)]
        _, settled = await the_call(crew, t.Settled)
        assert (settled.ok, bytes(settled.result)) == (True, b'["my card [redacted]"]')


async def test_a_refusal_is_text_for_the_model_and_nothing_runs(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        @model_tool(a, gate=True)
        async def search(query: str) -> str:
            raise AssertionError("it ran")

        child = asyncio.create_task(search("x"))
        call, _ = await the_call(crew, t.ToolCall)
        await crew.double.answer("a", call, error=m.Fault(code="denied", text="no searches on Sundays"))
        assert await child == "no searches on Sundays"


async def test_what_the_supervisor_wants_read_follows_a_text(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        @model_tool(a)
        async def hello() -> str:
            return "hello"

        await crew.double.command("a", m.Nudge, nudge="n1", finding="F1", text="stop greeting")
        await crew.double.probe("a")
        assert await hello() == "hello\n\n[supervisor] stop greeting"
        assert await hello() == "hello"


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_blocking_tool_in_a_thread_waits_for_its_activity(tmp_path, is_async):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        async def asks(query: str) -> str:
            return await a.ask("planner", query)

        def blocks(query: str) -> str:
            return f"found {query}"

        tool = model_tool(a, blocking=True)(asks) if is_async else model_tool(a, gate=True)(blocks)
        assert not inspect.iscoroutinefunction(tool)
        child = asyncio.create_task(asyncio.to_thread(tool, "tides"))
        wait = await crew.double.wait("a", m.WaitBegan)
        (work,) = await crew.double.told("a", m.TaskBegan)
        assert wait.task == work.task
        call, _ = await the_call(crew, m.Request if is_async else t.ToolCall)
        told = "found tides" if is_async else {"args": {"query": "tides"}, "limit_s": 60}
        await crew.double.answer("a", call, body=body(told))
        assert await child == "found tides"


async def test_a_blocking_tool_in_the_event_loop_is_refused(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):

        @model_tool(a)
        def search(query: str) -> str:
            raise AssertionError("it ran")

        with pytest.raises(RuntimeError, match="'search' is called in the event loop"):
            search("x")


async def test_a_stopped_agent_ends_its_model(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,), a.task("work"):

        @model_tool(a)
        async def detail() -> str:
            return await a.ask("planner", 1)

        child = asyncio.create_task(detail())
        await crew.double.wait("a", m.WaitBegan)
        a.stop("enough")
        with pytest.raises(Killed):
            await child


async def test_the_gate_knows_arguments_by_their_names(tmp_path):
    async with open_crew("memory", tmp_path) as crew, crew.joined("a") as (a,):
        with pytest.raises(ConfigError, match="'words' has no name"):
            model_tool(a, gate=True)(lambda *words: words)
