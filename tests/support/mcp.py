"""An MCP client for tests that sees the frames, over a proxy in this process or one in its own; a gate in memory."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.lines import LineReader, LineWriter
from crewkeeper_supervisor.mcp.offer import Offer, Refusal
from crewkeeper_supervisor.mcp.pins import Pins
from crewkeeper_supervisor.mcp.proxy import Proxy
from crewkeeper_supervisor.mcp.upstream import Upstream
from support.bus import until

STUB = Path(__file__).parent.parent / "mcp" / "stub_server.py"
LIMIT_S = 120.0
MODERN_META = {
    rpc.VERSION_KEY: rpc.MODERN,
    rpc.CLIENT_KEY: {"name": "test", "version": "1"},
    rpc.CAPABILITIES_KEY: {"sampling": {}, "roots": {}},
}


class Grant:
    def __init__(self, args: dict[str, Any]) -> None:
        self.args = args
        self.result: Any = None


class MemoryDoor:
    """A gate that allows what it is told to, and remembers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.settled: list[tuple[str, bool, Any]] = []
        self.on_joined: Callable[[], None] = lambda: None
        self.unknown: list[str] = []
        self.unsafe: list[str] = []
        self.never: frozenset[str] | None = frozenset()
        self.refuse: dict[str, Refusal] = {}
        self.replace: dict[str, dict[str, Any]] = {}
        self.limit_s = LIMIT_S
        self.running: anyio.CancelScope | None = None
        self.hold: anyio.Event | None = None
        self.nudges: list[str] = []

    def nudged(self, result: dict[str, Any]) -> dict[str, Any]:
        texts, self.nudges = self.nudges, []
        told = [{"type": "text", "text": text} for text in texts]
        return result | {"content": [*result["content"], *told]} if told else result

    async def hidden(self, names: Sequence[str], kind: str = "tool") -> frozenset[str] | None:
        return None if self.never is None else frozenset(names) & self.never

    @asynccontextmanager
    async def grant(self, tool: str, args: dict[str, Any], kind: str = "tool") -> AsyncIterator[Grant]:
        self.asked.append((tool, args) if kind == "tool" else (f"{kind} {tool}", args))
        if self.hold is not None:
            await self.hold.wait()
        if tool in self.refuse:
            raise self.refuse[tool]
        granted = Grant(self.replace.get(tool, args))
        try:
            with anyio.fail_after(self.limit_s) as self.running:
                yield granted
        except TimeoutError:
            self.settled.append((tool, False, "cut"))
            raise Refusal("tool_timeout", f"{tool} was cut.") from None
        except BaseException as error:
            self.settled.append((tool, False, str(error)))
            raise
        self.settled.append((tool, True, granted.result))

    def cut(self) -> None:
        """The limit of the call that was granted last is over."""
        assert self.running is not None
        self.running.deadline = anyio.current_time()

    async def tell_unknown(self, tool: str) -> None:
        self.unknown.append(tool)

    async def tell_unsafe(self, tools: Sequence[str], why: str) -> None:
        self.unsafe += tools


class McpClient:
    """Speaks frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines = LineReader(reader.read, 64 * 1024 * 1024)
        self._writer = writer
        self._ids = 0
        self._answers: dict[Any, dict[str, Any]] = {}
        self.told: list[dict[str, Any]] = []
        self.meta: dict[str, Any] | None = None

    async def send(self, message: dict[str, Any] | bytes) -> None:
        line = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0"} | message).encode()
        self._writer.write(line + b"\n")
        await self._writer.drain()

    async def next(self) -> dict[str, Any]:
        """The next frame of any kind."""
        with anyio.fail_after(LIMIT_S):
            line = await self._lines.next()
        assert isinstance(line, bytes), "the other side has ended"
        return dict(json.loads(line))

    async def begin(self, method: str, params: dict[str, Any] | None = None) -> int:
        self._ids += 1
        if self.meta is not None:
            params = {"_meta": self.meta} | (params or {})
        await self.send({"id": self._ids, "method": method} | ({} if params is None else {"params": params}))
        return self._ids

    async def answer(self, id_: Any) -> dict[str, Any]:
        """The answer to a request; what else comes is kept in `told`."""
        while id_ not in self._answers:
            frame = await self.next()
            if "method" in frame:
                self.told.append(frame)
            else:
                self._answers[frame["id"]] = frame
        return self._answers.pop(id_)

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return await self.answer(await self.begin(method, params))

    async def call(self, name: str, **args: Any) -> dict[str, Any]:
        """The result of a tool's call."""
        given = await self.ask("tools/call", {"name": name, "arguments": args})
        assert "result" in given, given
        return dict(given["result"])

    async def handshake(self, **capabilities: Any) -> dict[str, Any]:
        info = {"name": "test", "version": "1"}
        given = await self.ask(
            "initialize", {"protocolVersion": rpc.LEGACY, "capabilities": capabilities, "clientInfo": info}
        )
        await self.send({"method": "notifications/initialized"})
        return dict(given["result"])

    async def greet(self, era: str) -> dict[str, Any]:
        """Begin in one of the versions; what the server says of itself."""
        if era == rpc.MODERN:
            self.meta = MODERN_META
            return dict((await self.ask("server/discover")).get("result", {}))
        return await self.handshake(sampling={}, roots={})

    async def tools(self) -> list[str]:
        """Names of all tools that are shown."""
        names: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            result = (await self.ask("tools/list", cursor))["result"]
            names += [tool["name"] for tool in result["tools"]]
            if "nextCursor" not in result:
                return names
            cursor = {"cursor": result["nextCursor"]}

    def close(self) -> None:
        self._writer.close()


def text_of(result: dict[str, Any]) -> str:
    """The text of a result."""
    return str(result["content"][0]["text"])


class Stage:
    """A proxy in this process with a client and a server."""

    def __init__(self, client: McpClient, door: MemoryDoor, proxy: Proxy, log: Path) -> None:
        self.client = client
        self.door = door
        self.proxy = proxy
        self._log = log
        self.ended: list[str] = []

    async def cut(self, tool: str) -> dict[str, Any]:
        """Call a tool that answers nothing, and have it cut once the server has got the call; the result."""
        call = await self.client.begin("tools/call", {"name": tool, "arguments": {}})
        await until(lambda: self.said(f"call {tool}"), f"{tool} is called")
        self.door.cut()
        return dict((await self.client.answer(call))["result"])

    def said(self, begin: str = "") -> list[str]:
        """What the stub server was asked."""
        if not self._log.exists():
            return []
        return [line for line in self._log.read_text().splitlines() if line.startswith(begin)]


@asynccontextmanager
async def proxied(
    tmp_path: Path,
    *,
    command: Sequence[str] = (),
    door: MemoryDoor | None = None,
    strict: bool = False,
    prefix: str = "",
    only: Sequence[str] = ("*",),
    allow: tuple[str, ...] = (),
    line_bytes: int = 1024 * 1024,
) -> AsyncIterator[Stage]:
    """A proxy in front of the stub server, or of `command`, with the gate in memory."""
    log = tmp_path / "stub.log"
    gate = door or MemoryDoor()
    make = partial(Upstream, command or (sys.executable, str(STUB), str(log)), label="stub", line_bytes=line_bytes)
    offer = Offer(Pins(tmp_path / "state", strict=strict), "stub", prefix=prefix, only=only)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs, limit=2**20)
    client = McpClient(*await asyncio.open_connection(sock=ours, limit=2**20))

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    proxy = Proxy(make, offer, gate, (LineReader(reader.read), LineWriter(send)), allow=allow)
    stage = Stage(client, gate, proxy, log)

    over = anyio.Event()

    async def run() -> None:
        stage.ended.append(await proxy.run())
        writer.close()
        over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            yield stage
        finally:
            client.close()
            writer.close()
            with anyio.move_on_after(LIMIT_S, shield=True):
                await over.wait()
            group.cancel_scope.cancel()
