"""Upstream: one MCP server as a child process, and the requests it has not answered; what may be asked is not its part.

Theory of operation. Every request has one waiter, who is woken by the answer, by its own limit, or by the end of the
process; an answer that nobody waits for is dropped, so that a server can neither answer twice nor in another's stead.
A server that does not even answer a ping after one of its calls was cut hangs as a whole: it is killed, with all it
started, and started again.
"""

import contextlib
import hashlib
import os
import secrets
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import IO, Any, Final

import anyio
import anyio.abc
import structlog

from crewkeeper_bus.orphan_guard import kill_group, open_guarded_talking, release
from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.lines import Gone, LineReader, LineWriter, Stalled, TooLong, receive_from, send_to
from crewkeeper_supervisor.mcp.rpc import BadFrame, Frame

START_S: Final = 30.0
"""How long a request waits for a server that is being started again."""
PING_S: Final = 5.0
"""How long a server may take to show that it lives."""
GRACE_S: Final = 2.0
"""How long a server may take to end by itself, and again after SIGTERM."""
BAD_LINES_MAX: Final = 1000
"""Lines that are no messages, after which a server is taken for broken."""
RESTARTS_MAX: Final = 5
"""How often a server that hangs is started again."""
WAITING_MAX: Final = 1000
"""Requests that may wait for an answer."""
LABEL_MAX_CHARS: Final = 200
_OURS: Final = "CREWKEEPER_"

log = structlog.get_logger()


class ServerGone(Exception):  # noqa: N818 - what is the case
    """The server ended, or was ended, before it answered."""


class _Waiting:
    __slots__ = ("done", "frame")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.frame: Frame | None = None


class Upstream:
    """One server.

    Attributes:
        label: What it is called in logs and pins.
        dropped: Lines of the server that were no messages, or answers that nobody waited for.
    """

    def __init__(
        self,
        command: Sequence[str],
        on_frame: Callable[[Frame], Awaitable[None]],
        *,
        label: str,
        on_restart: Callable[[], Awaitable[None]] | None = None,
        stderr: IO[Any] | int | None = None,
        line_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        """Prepare; `run` starts it.

        Args:
            command: Program and arguments.
            on_frame: Called for each request and notification of the server, one at a time.
            label: What it is called.
            on_restart: Called when a hung server was started again, before anybody's requests reach it.
            stderr: Where its stderr goes; None: to our own.
            line_bytes: The longest message taken from it.
        """
        self.label = label
        self.dropped = 0
        self._command = tuple(command)
        self._on_frame = on_frame
        self._on_restart = on_restart
        self._stderr = stderr
        self._line_bytes = line_bytes
        self._waiting: dict[int | str, _Waiting] = {}
        self._process: anyio.abc.Process | None = None
        self._writer: LineWriter | None = None
        self._is_up = False
        self._is_open = False
        """Whether requests may be sent: not before a handshake, nor while it is seen whether the server lives."""
        self._changed = anyio.Event()
        self._is_over = False
        self._restarting = ""
        self._restarts = 0
        self._probing = False
        self._suspected = False
        self._bad_lines = 0
        self._lost = ""

    # --- its life ---

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the server until it ends; returns then. Cancel to end it.

        Raises:
            ServerGone: It cannot be started.
        """
        try:
            while True:
                async with self._started(), anyio.create_task_group() as group:
                    task_status.started()
                    group.start_soon(self._welcome)
                    await self._pump()
                    group.cancel_scope.cancel()
                if not self._restarting or self._restarts >= RESTARTS_MAX:
                    return
                self._restarts += 1
                log.warning("mcp.server_restarted", server=self.label, why=self._restarting, times=self._restarts)
        finally:
            self._is_over = True
            self._change(up=False)
            self._lose_all("the server has ended")

    async def _welcome(self) -> None:
        if self._restarting and self._on_restart is not None:
            self._restarting = ""
            try:
                await self._on_restart()
            except (ServerGone, TimeoutError) as error:
                await self.restart(f"it does not start properly: {error}")
                return
        self._restarting = ""
        self._change(up=True, open_=True)

    def _change(self, *, up: bool, open_: bool = False) -> None:
        self._is_up, self._is_open = up, open_
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[None]:
        if shutil.which(self._command[0]) is None:
            raise ServerGone(f"the MCP server cannot be started: there is no program {self._command[0]!r} on PATH")
        try:
            process = await open_guarded_talking(self._command, env=environment(os.environ), stderr=self._stderr)
        except OSError as error:
            raise ServerGone(f"the MCP server cannot be started: {error}") from None
        assert process.stdin is not None
        self._process = process
        self._writer = LineWriter(send_to(process.stdin))
        self._change(up=True)
        try:
            yield
        finally:
            self._writer = None
            self._change(up=False)
            self._lose_all(
                "the server has ended" if not self._restarting else f"the server was ended: {self._restarting}"
            )
            with anyio.CancelScope(shield=True):
                await _end(process, patient=not self._restarting)

    async def _pump(self) -> None:
        """Read until the server has no more to say."""
        assert self._process is not None
        assert self._process.stdout is not None
        reader = LineReader(receive_from(self._process.stdout), self._line_bytes)
        while (line := await reader.next()) is not None:
            frame = self._parsed(line)
            if self._bad_lines > BAD_LINES_MAX:
                log.error("mcp.server_garbled", server=self.label, lines=self._bad_lines)
                return
            if frame is None:
                continue
            if frame.kind == "answer":
                self._take_answer(frame)
            else:
                await self._on_frame(frame)

    def _parsed(self, line: bytes | TooLong) -> Frame | None:
        try:
            if isinstance(line, TooLong):
                raise BadFrame(f"a message of more than {self._line_bytes} bytes")
            return rpc.parse(line)
        except BadFrame as error:
            self._drop(str(error))
            return None

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self._bad_lines += 1
        if self._bad_lines <= 10:
            log.warning("mcp.line_dropped", server=self.label, why=why)

    def _take_answer(self, frame: Frame) -> None:
        waiting = None if frame.id is None else self._waiting.pop(frame.id, None)
        if waiting is None:
            self.dropped += 1
            log.debug("mcp.answer_dropped", server=self.label)
            return
        waiting.frame = frame
        waiting.done.set()

    def _lose_all(self, why: str) -> None:
        self._lost = why
        for waiting in self._waiting.values():
            waiting.done.set()
        self._waiting.clear()

    async def restart(self, why: str) -> None:
        """End the server with all it started, and start it again; everybody who waits for it is told."""
        if not self._restarting and self._process is not None:
            self._restarting = why
            kill_group(self._process.pid, signal.SIGKILL)

    # --- what is asked of it ---

    async def ask(self, frame: Frame, limit_s: float | None = None, *, greeting: bool = False) -> Frame:
        """Send a request and wait for its answer.

        Args:
            frame: The request; its id must not be in use.
            limit_s: How long; None: for ever. The server is told when it is given up.
            greeting: It is part of a handshake, so it goes before anybody else's.

        Raises:
            ServerGone: The server ended, or reads nothing, or too many requests wait.
            TimeoutError: No answer within the limit.
        """
        assert frame.id is not None
        if len(self._waiting) >= WAITING_MAX:
            raise ServerGone(f"{WAITING_MAX} requests wait for the server, the most there may: wait for some")
        await self._reachable(greeting)
        waiting = self._waiting[frame.id] = _Waiting()
        try:
            with anyio.fail_after(limit_s):
                await self._write(frame)
                await waiting.done.wait()
        except BaseException:
            if (
                self._waiting.pop(frame.id, None) is not None
                and self._writer is not None
                and frame.method != "initialize"
            ):
                with anyio.move_on_after(1.0, shield=True), contextlib.suppress(ServerGone):
                    await self._write(_cancelled(frame.id))
            raise
        if waiting.frame is None:
            raise ServerGone(self._lost)
        return waiting.frame

    async def say(self, frame: Frame) -> None:
        """Send a notification, or an answer to a request of the server.

        Raises:
            ServerGone: The server ended, or reads nothing.
        """
        await self._reachable(greeting=True)
        await self._write(frame)

    async def own(
        self, method: str, params: dict[str, Any] | None, limit_s: float, *, greeting: bool = False
    ) -> dict[str, Any]:
        """Ask something for ourselves.

        Raises:
            ServerGone: As `ask`; also where the answer is an error or no mapping.
            TimeoutError: No answer within the limit.
        """
        frame = rpc.request(f"crewkeeper-{secrets.token_hex(8)}", method, params)
        given = await self.ask(frame, limit_s, greeting=greeting)
        if given.error is not None:
            raise ServerGone(f"{method}: {rpc.error_text(given)}")
        try:
            return given.result_dict()
        except BadFrame as error:
            raise ServerGone(f"{method}: the result {error}") from None

    def suspect(self) -> None:
        """Let what is asked from now on wait for `probe`, so that it is not lost with a server that hangs."""
        if self._is_open:
            self._suspected = True
            self._change(up=True)

    async def probe(self, meta: dict[str, Any] | None) -> None:
        """See whether the server still answers anything; if it does not, start it again.

        Args:
            meta: `_meta` of a request in a version without handshake, which has no ping; None: it is pinged.
        """
        self.suspect()
        if self._probing or self._is_over or not self._suspected:
            return
        self._probing, self._suspected = True, False
        try:
            params = None if meta is None else {"_meta": meta}
            id_ = f"crewkeeper-{secrets.token_hex(8)}"
            method = "ping" if meta is None else "server/discover"
            await self.ask(rpc.request(id_, method, params), PING_S, greeting=True)
            self._change(up=True, open_=True)
        except TimeoutError:
            await self.restart(f"it answered nothing for {PING_S:g} s after a call was cut")
        except ServerGone:
            pass  # whoever waits for it is told
        finally:
            self._probing = False

    async def _reachable(self, greeting: bool) -> None:
        with anyio.move_on_after(START_S):
            while not self._is_over and not (self._is_up if greeting else self._is_open):
                await self._changed.wait()
        if self._is_over or self._writer is None:
            raise ServerGone("the server is not there")

    async def _write(self, frame: Frame) -> None:
        if self._writer is None:
            raise ServerGone("the server is not there")
        try:
            await self._writer.write(frame.encode())
        except Gone:
            raise ServerGone("the server has ended") from None
        except Stalled as error:
            await self.restart(str(error))
            raise ServerGone(f"the server does not read what it is told: {error}") from None


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a server may know of our environment: all but our own settings, which hold the agent's secret."""
    return {name: value for name, value in ours.items() if not name.startswith(_OURS)}


def _cancelled(id_: int | str) -> Frame:
    return rpc.notification("notifications/cancelled", {"requestId": id_, "reason": "no longer waited for"})


async def _end(process: anyio.abc.Process, *, patient: bool) -> None:
    """End a process and its group, in the order that the protocol asks for: end of input, SIGTERM, SIGKILL."""
    group = process.pid
    assert process.stdin is not None
    with (
        contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError),
        anyio.move_on_after(GRACE_S),
    ):
        await process.stdin.aclose()
    if patient:
        with anyio.move_on_after(GRACE_S):
            await process.wait()
        if process.returncode is None and kill_group(group, signal.SIGTERM):
            with anyio.move_on_after(GRACE_S):
                await process.wait()
    kill_group(group, signal.SIGKILL)
    with anyio.move_on_after(GRACE_S):
        await process.wait()
    release(group)
    with anyio.move_on_after(GRACE_S):
        await process.aclose()


def label_of(command: Sequence[str]) -> str:
    """What a server without a name is called: its command line, or the beginning of one with a digest of all."""
    text = shlex.join(command)
    if len(text) <= LABEL_MAX_CHARS:
        return text
    return f"{text[:LABEL_MAX_CHARS]}… {hashlib.sha256(text.encode()).hexdigest()[:12]}"
