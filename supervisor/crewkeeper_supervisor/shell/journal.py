"""Journal: one run's log-first stream: declare it, publish to it, follow it in order without gaps.

A follower owns one ephemeral push consumer. The server is asked to number, to pace (flow control) and to beat (idle
heartbeat) it; whatever goes wrong (lost connection, restarted server, vanished consumer, dropped message) shows as a
gap, as silence, or as heartbeats without what was stored before, where its server has not caught up with the others.
The follower then starts a new consumer at the entry it needs next. So what it yields is the stream itself: consecutive
sequences, each once.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anyio
import anyio.lowlevel
import msgspec
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
)

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.errors import CodecError, ConnectionLost
from crewkeeper_bus.messages import RunDeclared
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell.errors import JournalGap, RunExists, RunNotFound, StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

DECLARE_LIMIT_S: Final = 30.0
DECLARE_AGAIN_S: Final = 1.5
"""What is published on a connection that lasts arrives, unless a cluster does not know yet where; a slow server needs a
moment to store it, and what is said again too early stands in the journal twice."""
DECLARE_LOOK_S: Final = 0.02
DUPLICATE_WINDOW_S: Final = 0.1
"""As short as the server allows in practice: agents must not be able to hide a message as a duplicate."""
HEARTBEAT_S: Final = 0.5
SILENCE_S: Final = 2.0
"""Without a message or a heartbeat for this long the consumer is taken for lost."""
LAG_S: Final = 3.0
"""A consumer that beats and has nothing for this long, though there is more, stands on a server that is behind."""
RETRY_MAX_S: Final = 2.0
BATCH_MAX: Final = 500
"""Most entries handed out at once, so that other runs get their turn."""
BATCH_MAX_BYTES: Final = 1024 * 1024
"""The same: what is long takes long to read, and the lease waits."""
_BACKLOG_MAX: Final = 200_000
_BACKLOG_MAX_BYTES: Final = 128 * 1024 * 1024


class Entry(NamedTuple):
    """One stored message."""

    seq: int
    """1, 2, 3, …"""
    at_s: float
    """When it was stored, seconds since the Unix epoch, by the server's clock."""
    subject: str
    payload: bytes


async def create_run(link: Link, run: str, crew: Crew, host: str, *, spread: bool = False) -> None:
    """Create a run's journal and store `RunDeclared` as its entry 1; `spread`: its agents are given to many hosts.

    Raises:
        RunExists: The run id is taken.
        StoreUnavailable: The server did not store it in time.
    """
    name = subjects.stream_name(run)
    config = StreamConfig(
        name=name,
        description=f"Journal of run {run} of crew {crew.name}",
        subjects=[subjects.run_filter(run)],
        republish=RePublish(src=subjects.run_filter(run), dest=f"{subjects.OUT}.{subjects.run_filter(run)}"),
        no_ack=True,
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        compression=StoreCompression.S2,
        deny_delete=True,
        deny_purge=True,
        duplicate_window=DUPLICATE_WINDOW_S,
        allow_direct=True,
        metadata={"crew": crew.name},
    )
    try:
        info = await link.make_stream(config)
    except nats.js.errors.BadRequestError as error:
        raise RunExists(f"run {run}: its journal cannot be created: {error.description}") from error
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"run {run}: its journal cannot be created: {error}") from error
    if info.state.last_seq:
        raise RunExists(f"run {run} is already declared; choose another id")
    await _declare(link, run, RunDeclared(crew=msgspec.to_builtins(crew), host=host, spread=spread))


async def _declare(link: Link, run: str, declared: RunDeclared) -> None:
    """Publish until entry 1 is there: the stream does not acknowledge."""
    with anyio.move_on_after(DECLARE_LIMIT_S):
        while True:
            connections, again_s = link.connections, anyio.current_time() + DECLARE_AGAIN_S
            with contextlib.suppress(ConnectionLost):
                await publish_op(link, run, declared, sender=HOST)
            while link.connections == connections and anyio.current_time() < again_s:
                with contextlib.suppress(*LINK_ERRORS):
                    first = await link.js.get_msg(subjects.stream_name(run), seq=1)
                    return _check_first(run, str(first.subject), first.data or b"")
                await anyio.sleep(DECLARE_LOOK_S)
    raise StoreUnavailable(f"run {run}: the server did not store its declaration within {DECLARE_LIMIT_S:g} s")


def _check_first(run: str, subject: str, payload: bytes) -> None:
    address = subjects.parse(subject)
    try:
        declared = address.kind == Kind.OP and isinstance(codec.decode_supervisor(Kind.OP, payload), RunDeclared)
    except CodecError:
        declared = False
    if not declared:
        raise RunExists(f"run {run}: somebody else published first ({subject}); choose another id")


def op_subject(run: str, *, sender: str = SUPERVISOR, to: str = SUPERVISOR, id_: str = "") -> str:
    """The subject of one `op` message; a random id of 96 bits unless one is given."""
    return subjects.build(run, Kind.OP, sender, to, id_ or secrets.token_urlsafe(12))


async def publish_op(
    link: Link, run: str, message: Any, *, sender: str = SUPERVISOR, to: str = SUPERVISOR, id_: str = ""
) -> str:
    """Publish a fact of the supervisor side to the journal; returns its id. Not acknowledged.

    Raises:
        ConnectionLost: There is no connection now.
    """
    subject = op_subject(run, sender=sender, to=to, id_=id_)
    await link.publish(subject, codec.encode(message))
    return subject.rpartition(".")[2]


async def publish(link: Link, subject: str, payload: bytes) -> None:
    """Publish to a journal by subject. Not acknowledged.

    Raises:
        ConnectionLost: There is no connection now.
    """
    await link.publish(subject, payload)


async def last_seq(link: Link, run: str) -> int:
    """Sequence of the newest entry.

    Raises:
        RunNotFound: There is no such journal.
        StoreUnavailable: The server did not answer.
    """
    try:
        return (await link.js.stream_info(subjects.stream_name(run))).state.last_seq
    except nats.js.errors.NotFoundError:
        raise _gone(run) from None
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"journal of {run}: {type(error).__name__}") from error


def _gone(run: str) -> RunNotFound:
    return RunNotFound(
        f"run {run!r} has no journal; `supervisor ps -a` lists the runs, and if it is one of them "
        f"`supervisor audit verify {run}` says whether its journal was to go by now"
    )


async def remove(link: Link, run: str) -> bool:
    """Remove a run's journal for good, whole; returns whether there was one.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    try:
        return bool(await link.js.delete_stream(subjects.stream_name(run)))
    except nats.js.errors.NotFoundError:
        return False
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"journal of {run}: {type(error).__name__}") from error


async def read_all(link: Link, run: str, start_seq: int = 1) -> list[Entry]:
    """Every entry from `start_seq` to the one that is newest now.

    Raises:
        RunNotFound: There is no such journal.
        StoreUnavailable: The server did not answer.
        JournalGap: Entries are missing.
    """
    end = await last_seq(link, run)
    read: list[Entry] = []
    if end < start_seq:
        return read
    async with follow(link, run, start_seq) as entries:
        while not read or read[-1].seq < end:
            read += await entries.batch()
    return [entry for entry in read if entry.seq <= end]


def follow(link: Link, run: str, start_seq: int = 1) -> "Follower":
    """Follow a run's journal from an entry on, for ever.

    Use it as `async for entry in follow(...)`, or as a context manager that also stops the consumer at once.
    """
    return Follower(link, run, start_seq)


class Follower:
    """Yields a journal's entries in order; see the module's theory of operation.

    Attributes:
        seq: Sequence of the last entry handed out.
        caught_up: Whether everything that was stored when the follower started has been handed out.
    """

    def __init__(self, link: Link, run: str, start_seq: int) -> None:
        self.seq = start_seq - 1
        self._link = link
        self._run = run
        self._stream = subjects.stream_name(run)
        self._waiting: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._heard_s = self._got_s = 0.0
        self._stored = 0
        """The last entry that there was when the consumer was made."""
        self._connection = 0
        self._goal: int | None = None
        self._resumed = False

    @property
    def _follows(self) -> bool:
        return self._subscription is not None

    @property
    def behind(self) -> int:
        """Entries that have arrived and are not handed out yet."""
        return len(self._waiting)

    @property
    def caught_up(self) -> bool:
        """Whether everything that was stored when the follower started has been handed out."""
        return self._goal is not None and self.seq >= self._goal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[Entry]:
        try:
            while True:
                for entry in await self.batch():
                    yield entry
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop the consumer, within a second. Idempotent."""
        self._link.wake.discard(self._wake)
        with anyio.move_on_after(1, shield=True):
            await self._stop()

    async def batch(self, timeout_s: float | None = None) -> list[Entry]:
        """The next entries, at least one; none only when `timeout_s` passed first.

        Raises:
            RunNotFound: There is no such journal.
            JournalGap: The journal no longer has the next entry.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        delay_s = 0.05
        # A reader with a backlog, or one that never waits, must not keep everybody else from running.
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                if not self._follows:
                    await self._start()
                entries = await self._drain()
            except (*LINK_ERRORS, ConnectionLost) as error:
                logger().warning("journal.retry", crew=self._run, seq=self.seq, error=type(error).__name__)
                await self._stop_quietly()
                if until_s is not None and time.monotonic() >= until_s:
                    return []
                await anyio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
                continue
            if entries:
                return entries
            if not self._follows:
                continue
            now_s = time.monotonic()
            if until_s is not None and now_s >= until_s:
                return []
            if self._connection != self._link.connections or now_s - self._heard_s > SILENCE_S:
                await self._restart("silence" if self._connection == self._link.connections else "reconnected")
                continue
            if self.seq < self._stored and now_s - self._got_s > LAG_S:
                await self._restart("lag")
                continue
            limit_s = SILENCE_S if until_s is None else min(SILENCE_S, until_s - now_s)
            with anyio.move_on_after(limit_s):
                await self._wake.wait()

    async def _start(self) -> None:
        inbox = self._link.nc.new_inbox()
        self._connection = self._link.connections
        self._link.wake.add(self._wake)
        self._waiting.clear()
        self._wake.clear()
        self._subscription = await self._link.nc.subscribe(
            inbox, cb=self._arrived, pending_msgs_limit=_BACKLOG_MAX, pending_bytes_limit=_BACKLOG_MAX_BYTES
        )
        config = ConsumerConfig(
            name=f"follow-{secrets.token_hex(8)}",
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self.seq + 1,
            ack_policy=AckPolicy.NONE,
            idle_heartbeat=HEARTBEAT_S,
            flow_control=True,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=10,
        )
        try:
            info = await self._link.js.add_consumer(self._stream, config)
        except nats.js.errors.NotFoundError as error:
            if error.err_code == 10059:  # the stream itself
                raise _gone(self._run) from None
            raise
        self._consumer = info.name
        self._stored = (await self._link.js.stream_info(self._stream)).state.last_seq
        self._heard_s = self._got_s = time.monotonic()
        if self._goal is None:
            self._goal = self._stored

    async def _arrived(self, msg: Msg) -> None:
        self._waiting.append(msg)
        self._wake.set()

    async def _drain(self) -> list[Entry]:
        """Take what has arrived, up to a batch; a gap ends it and restarts the consumer."""
        self._wake.clear()
        entries: list[Entry] = []
        size_bytes = 0
        while self._waiting and len(entries) < BATCH_MAX and size_bytes < BATCH_MAX_BYTES:
            msg = self._waiting.popleft()
            size_bytes += len(msg.data)
            self._heard_s = time.monotonic()
            # A journal entry keeps its own subject; only the server writes to the consumer's inbox. The status
            # header would not tell: an agent can put one into what it publishes.
            if not msg.subject.startswith("crew."):
                await self._control(msg)
                if not self._follows:
                    break
                continue
            seq, at_s, delivered = _position(msg.reply)
            if seq <= self.seq:
                continue
            if seq != self.seq + 1:
                await self._gap(seq, is_first=delivered == 1)
                break
            self._resumed = False
            self.seq = seq
            self._got_s = self._heard_s
            entries.append(Entry(seq, at_s, msg.subject, msg.data))
        if self._waiting:
            self._wake.set()
        return entries

    async def _control(self, msg: Msg) -> None:
        headers = msg.headers or {}
        if msg.reply:  # flow control: answered once everything before it is taken
            await self._link.publish(msg.reply, b"")
        elif stalled := headers.get("Nats-Consumer-Stalled"):
            await self._link.publish(stalled, b"")
        elif int(headers.get("Nats-Last-Stream", "0") or 0) > self.seq:
            await self._restart("missed")

    async def _gap(self, seq: int, *, is_first: bool) -> None:
        # A fresh consumer that was asked for the next entry begins after it. What it delivers later may lack entries
        # because the connection was lost in between: those are in the store.
        if self._resumed and is_first:
            raise JournalGap(
                f"journal of {self._run}: entries {self.seq + 1} to {seq - 1} are gone; the store is damaged or was "
                "cut, and the run's state cannot be derived from it",
                first=self.seq + 1,
                last=seq - 1,
            )
        await self._restart("gap")
        self._resumed = True

    async def _restart(self, why: str) -> None:
        logger().info("journal.resume", crew=self._run, seq=self.seq, cause=why)
        await self._stop_quietly()

    async def _stop_quietly(self) -> None:
        with anyio.move_on_after(1):
            await self._stop()

    async def _stop(self) -> None:
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        self._waiting.clear()
        if subscription is None or self._link.nc.is_closed:
            return
        with contextlib.suppress(*LINK_ERRORS):
            await subscription.unsubscribe()
        if consumer and self._link.is_connected:
            with contextlib.suppress(*LINK_ERRORS):
                await self._link.js.delete_consumer(self._stream, consumer)


def _position(reply: str) -> tuple[int, float, int]:
    """Stream sequence, time and number in its consumer of a delivered message, from its acknowledgement subject."""
    tokens = reply.split(".")
    # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<delivery>.<time>.<pending>, or with <domain>.<account> after ACK
    at = 5 if len(tokens) < 11 else 7
    return int(tokens[at]), int(tokens[at + 2]) / 1e9, int(tokens[at + 1])
