"""Tool host of one MCP server: `python -m crewkeeper_supervisor.mcp.tool_host --name N --state DIR -- COMMAND`.

It is the part of a run's tool host that speaks MCP: started by it, once for each server, and told in lines of JSON on
stdin what to run. It says on stdout which tools there are and how calls ended. What a call may cost and whether it
happens was decided before.
"""

import argparse
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import anyio.abc
import msgspec
import structlog

from crewkeeper_bus.tool_messages import ToolTold
from crewkeeper_bus.tracing import carrying
from crewkeeper_supervisor.mcp.lines import LineReader, LineWriter, Stalled, standard_streams
from crewkeeper_supervisor.mcp.offer import Offer, Refusal
from crewkeeper_supervisor.mcp.pins import Pins, PinsUnusable
from crewkeeper_supervisor.mcp.rpc import BadFrame
from crewkeeper_supervisor.mcp.session import Session
from crewkeeper_supervisor.mcp.stdio import log_to_stderr
from crewkeeper_supervisor.mcp.upstream import ServerGone

CALLS_MAX: Final = 1000
LINE_MAX_BYTES: Final = 64 * 1024 * 1024
WHY_MAX_CHARS: Final = 500
TEXT_MAX_CHARS: Final = 2000

log = structlog.get_logger()


class RunCall(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """Run this."""

    id: int
    tool: str
    args: msgspec.Raw
    result_bytes: Annotated[int, msgspec.Meta(ge=1)]
    trace: str = ""


class CutCall(msgspec.Struct, frozen=True, kw_only=True, tag="cut"):
    """End it; nobody waits for it."""

    id: int


_ORDERS: Final = msgspec.json.Decoder(RunCall | CutCall)


class Served:
    """One server, run for a tool host.

    Args:
        name: The tool that declares it.
        command: Its command line.
        pins: Where its definitions are pinned.
        lines: The two ways of the tool host.
    """

    def __init__(self, name: str, command: tuple[str, ...], pins: Pins, lines: tuple[LineReader, LineWriter]) -> None:
        """Nothing runs yet."""
        self._reader, self._writer = lines
        self._session = Session(command, Offer(pins, name), label=name, on_tools=self._say_tools)
        self._running: dict[int, anyio.CancelScope] = {}
        self._told: dict[str, Any] = {}
        """What was said last of the tools: it goes into the journal, so it is said once."""

    async def run(self) -> str:
        """Serve until the tool host ends this, or the server ends; returns why."""
        why = ""
        async with anyio.create_task_group() as group:

            async def serve() -> None:
                nonlocal why
                try:
                    await self._session.run()
                except (ServerGone, PinsUnusable) as gone:
                    why = str(gone)[:WHY_MAX_CHARS]
                    await self._say({"type": "failed", "why": why})
                group.cancel_scope.cancel()

            group.start_soon(serve)
            while isinstance(line := await self._reader.next(), bytes):
                self._obey(line, group)
            group.cancel_scope.cancel()
        return why

    def _obey(self, line: bytes, group: anyio.abc.TaskGroup) -> None:
        order = _ORDERS.decode(line)
        if isinstance(order, CutCall):
            scope = self._running.get(order.id)
            if scope is not None:
                scope.cancel()
                self._session.suspect()  # before the next order is obeyed
            return
        scope = self._running[order.id] = anyio.CancelScope()
        group.start_soon(self._carry_out, order, scope)

    async def _carry_out(self, order: RunCall, scope: anyio.CancelScope) -> None:
        told: dict[str, Any] = {"code": "tool_failed", "error": "it was cut"}
        try:
            with scope:
                told = await self._call(order)
        finally:
            del self._running[order.id]
        if not scope.cancel_called:
            await self._say({"type": "ran", "id": order.id, "told": told})

    async def _call(self, order: RunCall) -> dict[str, Any]:
        if len(self._running) > CALLS_MAX:
            return _failed("tool_failed", f"{CALLS_MAX} calls run already, the most there may; it was not run")
        try:
            with carrying(order.trace):
                result = await self._session.call(order.tool, msgspec.json.decode(order.args))
        except Refusal as refused:
            return _failed("tool_failed", str(refused))
        except (ServerGone, BadFrame) as gone:
            return _failed("tool_lost" if "ended" in str(gone) else "tool_failed", str(gone))
        if result.get("resultType", "complete") != "complete":
            return _failed("tool_failed", "the server asks for more than the arguments, which nobody gives it here")
        if result.get("isError") is True:
            return _failed("tool_failed", text_of(result) or "the tool says that it failed")
        raw = msgspec.json.encode(plain(result))
        if len(raw) > order.result_bytes:
            text = f"it ran, but its result has {len(raw)} bytes; the limit is {order.result_bytes} bytes"
            return _failed("too_large", text)
        return {"result": msgspec.Raw(raw)}

    async def _say_tools(self) -> None:
        offer = self._session.offer
        tools = {
            each.name: ToolTold(declared="", description=each.description[:TEXT_MAX_CHARS], schema=each.schema)
            for each in offer.tools
        }
        failed = {name: f"it cannot be used: {why}"[:WHY_MAX_CHARS] for name, why in offer.unusable.items()}
        for name in offer.changed:
            failed[name] = "its definition is another than the pinned one; look at `supervisor tools diff`"
        report = {"type": "ready", "tools": tools, "failed": failed}
        if report != self._told:
            self._told = report
            await self._say(report)

    async def _say(self, report: dict[str, Any]) -> None:
        try:
            await self._writer.write(msgspec.json.encode(report))
        except Stalled:
            log.warning("mcp.tool_host_gone")


def text_of(result: dict[str, Any]) -> str:
    """The texts of a result, together."""
    content = result.get("content")
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(part for part in parts if isinstance(part, str))[:TEXT_MAX_CHARS]


def plain(result: dict[str, Any]) -> Any:
    """A result as other tools give theirs: structured if it is, text if it is nothing else, else its content."""
    if isinstance(result.get("structuredContent"), dict):
        return result["structuredContent"]
    content = result.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        only = content[0]
        if only.get("type") == "text" and isinstance(only.get("text"), str):
            return only["text"]
    return content if isinstance(content, list) else []


def _failed(code: str, text: str) -> dict[str, Any]:
    return {"code": code, "error": text[:TEXT_MAX_CHARS]}


async def _main(name: str, state: Path, command: tuple[str, ...]) -> int:
    served = Served(name, command, Pins(state), await standard_streams(LINE_MAX_BYTES))
    why = await served.run()
    if why:
        log.error("mcp.server_failed", server=name, why=why)
    return 1 if why else 0


def main() -> None:
    """Serve one server for a tool host."""
    parser = argparse.ArgumentParser(prog="python -m crewkeeper_supervisor.mcp.tool_host")
    parser.add_argument("--name", required=True, help="the tool that declares the server")
    parser.add_argument("--state", required=True, type=Path, help="where definitions are pinned")
    parser.add_argument("command", nargs="+", help="the server's command line, after --")
    options = parser.parse_args()
    log_to_stderr()
    sys.exit(anyio.run(_main, options.name, options.state, tuple(options.command)))


if __name__ == "__main__":
    main()
