"""Tool pool: worker processes with one environment, started when needed, kept for the next call, and really ended.

Each leads a process group of its own, which is killed as a whole, and which ends with this process however that ends.
"""

import asyncio
import contextlib
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import anyio

from crewkeeper_agents import tool_worker
from crewkeeper_agents.tool_worker import Load, Question, Told, frame
from crewkeeper_bus.orphan_guard import kill_group, open_guarded, release

if TYPE_CHECKING:
    from anyio.abc import Process

IDLE_MAX: Final = 4
"""Workers of one pool that are kept for the next call."""
GRACE_S: Final = 1.0
"""How long a call may clean up after its cancellation; then its whole process group is killed."""
REAP_S: Final = 10.0
_HEAD: Final = struct.Struct("!I")
_ANSWER_MAX_BYTES: Final = 64 * 1024 * 1024


class WorkerGone(Exception):  # noqa: N818 - what is the case
    """The process ended in the middle of a call; its text says how."""


class _Worker:
    """One process and the socket to it."""

    def __init__(self, process: "Process", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.process = process
        self.has_loaded = False
        self._reader = reader
        self._writer = writer

    @property
    def is_there(self) -> bool:
        """Whether it can be asked."""
        return self.process.returncode is None and not self._reader.at_eof()

    async def ask(self, question: Question) -> Told:
        """Ask and wait for the answer; the caller sets a limit.

        Raises:
            WorkerGone: It ended.
        """
        try:
            self._writer.write(frame(question))
            await self._writer.drain()
            (size,) = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if size > _ANSWER_MAX_BYTES:
                raise WorkerGone(f"its answer has {size} bytes")
            return tool_worker.ANSWERS.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            code = await self._status()
            how = f"exit status {code}" if code >= 0 else f"signal {-code}"
            raise WorkerGone(f"its process ended in the middle of the call ({how})") from None

    async def _status(self) -> int:
        with anyio.move_on_after(GRACE_S):
            await self.process.wait()
        return self.process.returncode if self.process.returncode is not None else -signal.SIGKILL

    async def end(self, grace_s: float) -> None:
        """Interrupt it, kill its group after the grace; it is gone on return, also when this is cancelled."""
        with anyio.CancelScope(shield=True):
            if grace_s and self.process.returncode is None:
                self.process.send_signal(signal.SIGINT)
                with anyio.move_on_after(grace_s):
                    await self.process.wait()
            kill_group(self.process.pid, signal.SIGKILL)
            with anyio.move_on_after(REAP_S):
                await self.process.wait()
            release(self.process.pid)
            self._writer.close()
            with contextlib.suppress(OSError), anyio.move_on_after(GRACE_S):
                await self._writer.wait_closed()
            await self.process.aclose()


class Pool:
    """Workers of one environment.

    Args:
        env: Their whole environment.
        secrets: Names of those variables in it that hold secrets.

    Attributes:
        functions: Functions that every worker imports before its first call.
    """

    def __init__(self, env: Mapping[str, str], secrets: Sequence[str]) -> None:
        self.functions: list[str] = []
        self._env = dict(env)
        self._secrets = tuple(secrets)
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}

    async def describe(self, function: str, limit_s: float) -> Told:
        """Have a function imported and described."""
        with anyio.move_on_after(limit_s):
            try:
                return await self._with(Load(function=function), loaded=False)
            except WorkerGone as gone:
                return Told(code="tool_failed", error=f"it cannot be imported: {gone}")
        return Told(code="tool_failed", error=f"it cannot be imported within {limit_s:g} s")

    async def run(self, job: Question) -> Told:
        """Have a call run. Cancelling it ends its worker.

        Raises:
            WorkerGone: The process ended in the middle of the call, which may have had its effects.
        """
        return await self._with(job, loaded=True)

    async def close(self) -> None:
        """End every worker now."""
        for worker in [*self._idle, *self._busy.values()]:
            await worker.end(0.0)
        self._idle.clear()

    async def _with(self, question: Question, *, loaded: bool) -> Told:
        worker = await self._take()
        self._busy[worker.process.pid] = worker
        kept = False
        try:
            if loaded and not worker.has_loaded:
                for function in self.functions:
                    await worker.ask(Load(function=function))
                worker.has_loaded = True
            told = await worker.ask(question)
            kept = len(self._idle) < IDLE_MAX
        except WorkerGone:
            await worker.end(0.0)
            raise
        except BaseException:
            await worker.end(GRACE_S)
            raise
        finally:
            del self._busy[worker.process.pid]
        if kept:
            self._idle.append(worker)
        else:
            await worker.end(0.0)
        return told

    async def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_there:
                return worker
            await worker.end(0.0)  # it ended between two calls, and harmed none
        return await self._start()

    async def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            try:
                process = await open_guarded(
                    (sys.executable, "-m", "crewkeeper_agents.tool_worker", str(theirs.fileno()), *self._secrets),
                    pass_fds=(theirs.fileno(),),
                    stdout=None,
                    stderr=None,
                    env=self._env,
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        return _Worker(process, reader, writer)
