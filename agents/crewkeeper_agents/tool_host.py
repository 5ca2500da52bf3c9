"""Tool host: `python -m crewkeeper_agents.tool_host TOOLS.json` runs a crew's functions and programs for the gate.

It decides nothing: the gate orders each call, here it is carried out at most once, in a process that can be ended, and
what came of it is reported. `supervisor up` starts it; agents never see it, nor what its tools log in with.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import anyio
import anyio.abc
import msgspec
import structlog

from crewkeeper_agents.mcp_source import McpSource
from crewkeeper_agents.runtime import Status, configure_logs
from crewkeeper_agents.tool_pool import Pool, WorkerGone
from crewkeeper_agents.tool_worker import Job, Told
from crewkeeper_bus import codec, subjects, trace_export
from crewkeeper_bus.errors import BusError, ConfigError
from crewkeeper_bus.outgoing import clip
from crewkeeper_bus.tool_messages import CutTool, RunTool, ToolRan, ToolTold
from crewkeeper_bus.tool_service import ToolService, open_transport
from crewkeeper_bus.tracing import Tracing, tracing_of
from crewkeeper_bus.transport import Transport

LOAD_S: Final = 30.0
"""How long importing the module of one tool may take."""
AT_ONCE_MAX: Final = 64
"""Calls that run at once, of all tools together; others wait, and their time runs."""
OPEN_MAX: Final = 1000
"""Calls that run or wait; further ones fail at once."""
ORDERS_MAX: Final = 10_000
"""Orders that came and were not looked at yet."""
SERVICE: Final = "crewkeeper-tools"
"""What this process is called in traces."""
RESULT_NESTING_MAX: Final = codec.NESTING_MAX - 4
"""Deepest nesting of a result: it is inside of messages on its way, which have their own limit."""
SECRETS: Final = "CREWKEEPER_TOOL_ENV"
"""Variable with the environment of each tool, as JSON: `{"pay": {"KEY": "…"}}`; taken out before anything starts."""

log = structlog.get_logger()


class HostedTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the host needs to know of one declared tool."""

    function: str = ""
    """`module:name`; its folder is the working directory."""
    command: tuple[str, ...] = ()
    mcp: tuple[str, ...] = ()
    """Command line of an MCP server, whose tools are `<name>.<theirs>`."""
    state: str = ""
    """With `mcp`: the directory in which the definitions of its tools are pinned."""
    concurrency: int = 16
    result_bytes: int = 1024 * 1024


TOOLS: Final = msgspec.json.Decoder(dict[str, HostedTool])


class ToolHost:
    """Runs the calls of one run's tools.

    Args:
        tools: What it runs, by declared name.
        env: The environment of every tool.
        own: What each tool has beyond that: its secrets.
    """

    def __init__(
        self,
        tools: dict[str, HostedTool],
        env: dict[str, str] | None = None,
        own: dict[str, dict[str, str]] | None = None,
    ) -> None:
        self._tools = tools
        self._pools: dict[str, Pool] = {}
        self._good: dict[str, ToolTold] = {}
        self._failed: dict[str, str] = {}
        self._slots = {name: anyio.Semaphore(tool.concurrency) for name, tool in tools.items()}
        self._at_once = anyio.Semaphore(AT_ONCE_MAX)
        self._running: dict[tuple[str, str], anyio.CancelScope] = {}
        self._cut: dict[tuple[str, str], str] = {}
        self._orders: asyncio.Queue[RunTool | CutTool | None] = asyncio.Queue(ORDERS_MAX)
        """What the bus brought, in its order; None: the connection is back."""
        self._service: ToolService | None = None
        self._tracing: Tracing | None = None
        self._sources: dict[str, McpSource] = {}
        self._of_source: dict[str, tuple[dict[str, ToolTold], dict[str, str]]] = {}
        """What each MCP server has said last: its tools, and what is wrong."""
        pools: dict[str, Pool] = {}
        for name, tool in tools.items():
            extra = (own or {}).get(name, {})
            if tool.mcp:
                all_env = {**(env or {}), **extra}
                self._sources[name] = McpSource(name, tool.mcp, all_env, Path(tool.state), self._heard)
                continue
            # Tools that have the same secrets share processes; nobody else sees them.
            key = json.dumps(extra, sort_keys=True)
            pools.setdefault(key, Pool({**(env or {}), **extra}, tuple(extra)))
            self._pools[name] = pools[key]

    async def serve(self, transport: Transport, run: str, *, stopped: anyio.Event | None = None) -> None:
        """Load the tools, say so, and run what is ordered until `stopped` is set or this is cancelled.

        Args:
            transport: Connected as the tool host; not closed here.
            run: The run.
            stopped: Set to end in order: what runs is cut, and the gate is told that it is lost.
        """
        service = self._service = ToolService(transport, run, self._take, self._take)
        self._tracing = tracing_of(run, subjects.TOOLS)
        try:
            await service.open()
            await self._load()
            await service.ready(self._good, self._failed)
            log.info("tools.ready", tools=sorted(self._good), failed=self._failed)
            transport.on_change(lambda connected: self._take(None) if connected else None)
            async with anyio.create_task_group() as group:
                group.start_soon(self._obey, group)
                for source in self._sources.values():
                    group.start_soon(source.run)
                await (stopped or anyio.Event()).wait()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                for pool in self._pools.values():
                    await pool.close()
                with anyio.move_on_after(2.0):
                    await service.gone("it was told to end")

    async def _load(self) -> None:
        of_pool: dict[int, list[str]] = {}
        for name, tool in self._tools.items():
            if tool.command:
                self._good[name] = ToolTold(declared=name)
            elif not tool.mcp:
                of_pool.setdefault(id(self._pools[name]), []).append(name)
        async with anyio.create_task_group() as loading:
            for names in of_pool.values():
                loading.start_soon(self._load_all, names)

    async def _load_all(self, names: list[str]) -> None:
        for name in names:
            async with self._at_once:
                await self._load_one(name, self._tools[name])

    async def _load_one(self, name: str, tool: HostedTool) -> None:
        told = await self._pools[name].describe(tool.function, LOAD_S)
        if told.described is None:
            self._failed[name] = f"{tool.function}: {told.error}"
            return
        self._pools[name].functions.append(tool.function)
        described = told.described
        self._good[name] = ToolTold(declared=name, description=described.description, schema=described.schema)

    async def _heard(self, name: str, tools: dict[str, ToolTold], failed: dict[str, str]) -> None:
        """An MCP server says which tools it has now."""
        assert self._service is not None
        self._of_source[name] = tools, failed
        log.info("tools.mcp_server", tool=name, tools=len(tools), failed=failed)
        await self._service.ready(tools, failed)

    def _all(self) -> tuple[dict[str, ToolTold], dict[str, str]]:
        good, failed = dict(self._good), dict(self._failed)
        for tools, wrong in self._of_source.values():
            good |= tools
            failed |= wrong
        return good, failed

    # --- calls ---

    def _take(self, order: RunTool | CutTool | None) -> None:
        try:
            self._orders.put_nowait(order)
        except asyncio.QueueFull:
            log.exception("tools.order_dropped", limit=ORDERS_MAX)  # its time runs out, and the gate charges it

    async def _obey(self, group: anyio.abc.TaskGroup) -> None:
        assert self._service is not None
        while True:
            match await self._orders.get():
                case RunTool() as order:
                    scope = anyio.CancelScope(deadline=anyio.current_time() + order.limit_s)
                    self._running[order.agent, order.call] = scope
                    group.start_soon(self._carry_out, order, scope)
                case CutTool() as order:
                    self._cut_off(order)
                case None:  # what was said while the connection broke may not have been stored
                    await self._service.ready(*self._all())

    def _cut_off(self, order: CutTool) -> None:
        scope = self._running.get((order.agent, order.call))
        if scope is not None:
            self._cut[order.agent, order.call] = order.why or "nobody waits for it"
            scope.cancel()

    async def _carry_out(self, order: RunTool, scope: anyio.CancelScope) -> None:
        began_s = time.monotonic()
        if self._tracing is None:
            told = await self._concluded(order, scope)
        else:
            with self._tracing.ran(order.tool, order.call, order.agent, order.trace) as span:
                told = await self._concluded(msgspec.structs.replace(order, trace=span.traceparent), scope)
                if told.code:
                    span.fail(told.code)
        took_ms = int(1000 * (time.monotonic() - began_s))
        log.info("tools.ran", agent=order.agent, call=order.call, tool=order.tool, code=told.code, latency_ms=took_ms)
        assert self._service is not None
        with anyio.CancelScope(shield=True), anyio.move_on_after(5.0):
            await self._service.ran(_report(order, told, took_ms))

    async def _concluded(self, order: RunTool, scope: anyio.CancelScope) -> Told:
        """Run it; whatever becomes of it is an answer."""
        key = order.agent, order.call
        told = Told(code="tool_timeout", error=f"it was cut after {order.limit_s:g} s; what it did until then is done")
        with scope:
            try:
                told = await self._run(order)
            except WorkerGone as gone:
                told = Told(code="tool_lost", error=str(gone))
            except OSError as error:
                told = Told(code="tool_failed", error=f"its process cannot be started: {error.strerror or error}")
        self._running.pop(key, None)
        why = self._cut.pop(key, "")
        if why and scope.cancelled_caught:
            return Told(code="tool_failed", error=f"it was cut: {why}; what it did until then is done")
        return told

    async def _run(self, order: RunTool) -> Told:
        assert self._service is not None
        source = self._sources.get(order.tool.partition(".")[0])
        if source is not None:
            return await self._run_there(source, order)
        tool = self._tools.get(order.tool)
        if tool is None or order.tool not in self._good:
            why = self._failed.get(order.tool, "it is not declared")
            return Told(code="tool_failed", error=f"{order.tool} cannot be run here: {why}")
        if len(self._running) > OPEN_MAX:
            return Told(code="tool_failed", error=f"{OPEN_MAX} calls run or wait already, the most there may; not run")
        limit_bytes = min(tool.result_bytes, self._service.result_limit_bytes)
        job = Job(
            args=order.args,
            result_bytes=limit_bytes,
            function=tool.function,
            command=tool.command,
            trace=order.trace,
        )
        async with self._slots[order.tool], self._at_once:
            return await self._pools[order.tool].run(job)

    async def _run_there(self, source: McpSource, order: RunTool) -> Told:
        """Run a tool of an MCP server."""
        assert self._service is not None
        if len(self._running) > OPEN_MAX:
            return Told(code="tool_failed", error=f"{OPEN_MAX} calls run or wait already, the most there may; not run")
        limit_bytes = min(self._tools[source.name].result_bytes, self._service.result_limit_bytes)
        async with self._slots[source.name], self._at_once:
            return await source.call(order.tool, order.args, limit_bytes, order.trace)


def _report(order: RunTool, told: Told, took_ms: int) -> ToolRan:
    if not told.code and codec.nesting(bytes(told.result), RESULT_NESTING_MAX) > RESULT_NESTING_MAX:
        error = f"it ran, but its result nests deeper than {RESULT_NESTING_MAX} levels, which cannot be sent"
        told = Told(code="tool_failed", error=error)
    if told.code:
        return ToolRan(
            call=order.call, agent=order.agent, ok=False, code=told.code, error=clip(told.error), took_ms=took_ms
        )
    return ToolRan(
        call=order.call,
        agent=order.agent,
        ok=True,
        result=told.result,
        took_ms=took_ms,
        cost_microusd=told.cost_microusd,
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
    )


async def _main(file: Path) -> Status:
    try:
        tools = TOOLS.decode(await anyio.Path(file).read_bytes())
        own = msgspec.json.decode(os.environ.pop(SECRETS, "{}"), type=dict[str, dict[str, str]])
        host = ToolHost(tools, _environment(), own)
        transport, run = await open_transport()
    except (OSError, msgspec.MsgspecError, ConfigError) as error:
        log.error("tools.misconfigured", error=str(error))  # noqa: TRY400 - the message says what there is to say
        return Status.MISCONFIGURED
    except BusError as error:
        log.error("tools.bus_failed", error=str(error))  # noqa: TRY400
        return Status.FAILED
    configure_logs(crew=run, agent=subjects.TOOLS)
    stopped = anyio.Event()
    refused: list[BusError] = []

    def ended(error: BusError) -> None:
        refused.append(error)
        stopped.set()

    transport.on_end(ended)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        await host.serve(transport, run, stopped=stopped)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5.0):
            await transport.close()
    if refused:
        log.error("tools.refused", error=str(refused[0]))
        return Status.FAILED
    return Status.LEFT


def _environment() -> dict[str, str]:
    """What tools inherit: everything but what this process logs in with."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEPER_")}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the tools that a file lists; never returns. Exit status as `Agent.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m crewkeeper_agents.tool_host",
        description="Run a crew's tools for the gate. Started by `supervisor up`; where to connect is in CREWKEEPER_*.",
    )
    parser.add_argument("tools", type=Path, metavar="TOOLS.json", help="the tools: name to function or command")
    options = parser.parse_args(argv)
    configure_logs(agent=subjects.TOOLS)
    with trace_export.exported(SERVICE, os.environ.get("CREWKEEPER_RUN", "")):
        status = anyio.run(_main, options.tools)
    sys.exit(int(status))


if __name__ == "__main__":
    main()
