"""MCP source: the tools of one MCP server, which runs in a process beside the tool host; the protocol is spoken there.

That process and this one talk in lines of JSON over its stdin and stdout. It belongs to the supervisor's package, which
knows definitions, pins and both versions of the protocol, and which agents do not import.
"""

import itertools
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
import structlog
from anyio.streams.buffered import BufferedByteReceiveStream

from crewkeeper_agents.tool_pool import WorkerGone
from crewkeeper_agents.tool_worker import Told
from crewkeeper_bus.orphan_guard import kill_group, open_guarded_talking, release
from crewkeeper_bus.tool_messages import ToolTold

if TYPE_CHECKING:
    from anyio.abc import Process

MODULE: Final = "crewkeeper_supervisor.mcp.tool_host"
LINE_MAX_BYTES: Final = 64 * 1024 * 1024
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
STEADY_S: Final = 60.0
"""How long a server must have run for its end to be the first one again."""
REAP_S: Final = 5.0

log = structlog.get_logger()


class RunCall(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """To the process: run this."""

    id: int
    tool: str
    """As the server names it."""
    args: msgspec.Raw
    result_bytes: int
    trace: str = ""
    """The context that it runs in, for the server to be told."""


class CutCall(msgspec.Struct, frozen=True, kw_only=True, tag="cut"):
    """To the process: nobody waits for it any more."""

    id: int


class ServerReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """From the process: the tools that there are, by the server's names, and what is wrong with others."""

    tools: dict[str, ToolTold]
    failed: dict[str, str] = {}


class ServerFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """From the process, its last word: why there are no tools."""

    why: str


class CallRan(msgspec.Struct, frozen=True, kw_only=True, tag="ran"):
    """From the process: how a call ended."""

    id: int
    told: Told


Order = RunCall | CutCall
Report = ServerReady | ServerFailed | CallRan
_REPORTS: Final = msgspec.json.Decoder(Report)


class _Open:
    __slots__ = ("done", "told")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.told: Told | None = None


class McpSource:
    """One MCP server of the crew.

    Args:
        name: The tool that declares it; its tools are `<name>.<theirs>`.
        command: Its command line.
        env: Its whole environment.
        state: The directory in which definitions are pinned.
        on_change: Called with its tools and what is wrong, whenever that changes; with no tools while it is away.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        state: Path,
        on_change: Callable[[str, dict[str, ToolTold], dict[str, str]], Awaitable[None]],
    ) -> None:
        self.name = name
        self._argv = (sys.executable, "-m", MODULE, "--name", name, "--state", str(state), "--", *command)
        self._env = dict(env)
        self._on_change = on_change
        self._process: Process | None = None
        self._sending = anyio.Lock()
        self._open: dict[int, _Open] = {}
        self._ids = itertools.count(1)
        self._why = "it does not run yet"

    async def run(self) -> None:
        """Keep it running, until this is cancelled."""
        delay_s = RETRY_MIN_S
        while True:
            began_s = anyio.current_time()
            try:
                if await self._run_once() and anyio.current_time() - began_s > STEADY_S:
                    delay_s = RETRY_MIN_S
            except OSError as error:
                self._why = f"it cannot be started: {error.strerror or error}"
            log.warning("tools.mcp_server_ended", tool=self.name, why=self._why)
            await self._on_change(self.name, {}, {self.name: self._why})
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MAX_S)

    async def _run_once(self) -> bool:
        """Run it until it ends; whether it has had tools to offer."""
        was_ready = False
        self._why = "its process has ended"
        process = await open_guarded_talking(self._argv, env=self._env, stderr=None)
        assert process.stdout is not None
        self._process = process
        reader = BufferedByteReceiveStream(process.stdout)
        try:
            while True:
                match _REPORTS.decode(await reader.receive_until(b"\n", LINE_MAX_BYTES)):
                    case ServerReady() as ready:
                        was_ready = True
                        tools = {
                            f"{self.name}.{name}": msgspec.structs.replace(told, declared=self.name)
                            for name, told in ready.tools.items()
                        }
                        failed = {f"{self.name}.{name}": why for name, why in ready.failed.items()}
                        await self._on_change(self.name, tools, failed)
                    case ServerFailed(why=why):
                        self._why = why
                    case CallRan(id=id_, told=told):
                        waiting = self._open.pop(id_, None)
                        if waiting is not None:
                            waiting.told = told
                            waiting.done.set()
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            return was_ready
        except (anyio.DelimiterNotFound, msgspec.MsgspecError) as error:
            self._why = f"its process says what cannot be read: {type(error).__name__}"
            return was_ready
        finally:
            self._process = None
            for waiting in self._open.values():
                waiting.done.set()
            self._open.clear()
            with anyio.CancelScope(shield=True):
                await _end(process)

    async def call(self, tool: str, args: msgspec.Raw, result_bytes: int, trace: str = "") -> Told:
        """Run one of its tools; the caller sets a limit.

        Args:
            tool: The tool, as the gate names it.
            args: A JSON object.
            result_bytes: The largest result that is taken.
            trace: W3C `traceparent` of what it is a part of.

        Raises:
            WorkerGone: It ended in the middle of the call.
        """
        if self._process is None:
            return Told(code="tool_failed", error=f"{tool} cannot be run now: {self._why}; it was not run")
        id_ = next(self._ids)
        waiting = self._open[id_] = _Open()
        bare = tool.removeprefix(f"{self.name}.")
        try:
            await self._send(RunCall(id=id_, tool=bare, args=args, result_bytes=result_bytes, trace=trace))
            await waiting.done.wait()
        except BaseException:
            if self._open.pop(id_, None) is not None:
                with anyio.CancelScope(shield=True), anyio.move_on_after(REAP_S):
                    await self._send(CutCall(id=id_))
            raise
        if waiting.told is None:
            raise WorkerGone(f"the process of the MCP server {self.name} ended in the middle of the call")
        return waiting.told

    async def _send(self, order: Order) -> None:
        line = msgspec.json.encode(order) + b"\n"
        with anyio.CancelScope(shield=True):
            async with self._sending:
                if self._process is None or self._process.stdin is None:
                    return
                with anyio.move_on_after(REAP_S) as limit:
                    try:
                        await self._process.stdin.send(line)
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        return  # its end is noticed where its words are read
                if limit.cancelled_caught and self._process is not None:
                    # Half a line may be on its way: nothing can be said after it.
                    kill_group(self._process.pid, signal.SIGKILL)


async def _end(process: "Process") -> None:
    """End it; the server ends with it, as it is guarded by it."""
    if process.stdin is not None:
        with anyio.move_on_after(1.0):
            await process.stdin.aclose()
    with anyio.move_on_after(REAP_S):
        await process.wait()
    kill_group(process.pid, signal.SIGKILL)
    with anyio.move_on_after(REAP_S):
        await process.wait()
    release(process.pid)
    with anyio.move_on_after(1.0):
        await process.aclose()
