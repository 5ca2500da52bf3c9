"""Link: the supervisor side's one connection to NATS, with the options that its recovery rests on.

Streams, buckets and consumers live in `journal`, `registry`, `lease`, `ledger` and `outbox`; nothing else in the
supervisor knows the NATS library.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio
import nats.errors
import nats.js
import nats.js.errors
from nats.js.api import KeyValueConfig, RawStreamMsg, RePublish, StorageType, StreamConfig, StreamInfo

from crewkeeper_bus.errors import ConfigError, ConnectionLost
from crewkeeper_bus.wire import WireClient, says_no
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.place import Place

CONNECT_LIMIT_S: Final = 5.0
REQUEST_LIMIT_S: Final = 3.0
MAKE_LIMIT_S: Final = 15.0
"""To make a stream or a bucket: a cluster that lacks a server takes 4 to 8 s for each."""
RECONNECT_EVERY_S: Final = 0.2
PING_EVERY_S: Final = 5
CLOSE_LIMIT_S: Final = 2.0
POSTED_MAX_BYTES: Final = 1024 * 1024
"""What may wait for `push`; beyond, publishing waits for the connection."""
WRONG_LAST_SEQUENCE: Final = (10071, 10164)
"""Error codes of the server for a failed `Nats-Expected-Last-Subject-Sequence`."""

EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"

SAFE_REPLICAS: Final = 3
NO_ROOM: Final = (10005, 10074)
"""Error codes of the server where it finds no servers for so many copies."""
NOT_STORED: Final = 10049
"""The server's code for a store that it cannot make: also of two who make the first ones of an account at a time."""
STORE_LIMIT_S: Final = 5.0
"""How long the other one may take with it; a server that cannot store anything answers the same."""
ROOM_LIMIT_S: Final = 5.0
"""How long a cluster that names three servers or more is asked for room on three; one that is starting lacks it."""
DOUBT_LIMIT_S: Final = 1.5
"""The same for a cluster that names fewer: it is smaller, or hides them behind one address."""
ROOM_LOOK_S: Final = 0.25
OPEN_LIMIT_S: Final = 60.0
"""How long a cluster is given to have a leader: several tries, as one that was put to a server that has just died waits
`MAKE_LIMIT_S` for nothing. Without a leader a cluster answers at once that it stores nothing."""
OPEN_PAUSE_S: Final = 0.25
WHY_MAX_CHARS: Final = 200
Made = TypeVar("Made")

LINK_ERRORS: Final = (nats.errors.Error, TimeoutError, OSError)
"""What a request over the link may raise when the server or the way to it is at fault."""


class WrongLastSequence(Exception):  # noqa: N818
    """A compare-and-set lost: the subject's last message is not the expected one."""


class Link:
    """One connection. Publishing while disconnected is an error here, never a buffered surprise.

    Attributes:
        nc: The client.
        js: Its JetStream context.
        making: The same, more patient, for making streams and buckets.
        place: Where it is connected to.
        closed: Set once the connection is closed for good.
        connections: How often it has been connected: it grows at every return.
        wake: Events that are set at every return.
        is_crowded: Whether the cluster was found to have room for one copy only, whatever it says of its size.
    """

    def __init__(self, nc: WireClient, place: Place) -> None:
        self.nc = nc
        self.js = nc.jetstream(timeout=REQUEST_LIMIT_S)
        self.making = nc.jetstream(timeout=MAKE_LIMIT_S)
        self.place = place
        self.closed = asyncio.Event()
        self.connections = 1
        self.wake: set[asyncio.Event] = set()
        self.is_crowded = False

    @property
    def is_connected(self) -> bool:
        """Whether a publish would leave now."""
        return self.nc.is_connected

    @property
    def is_clustered(self) -> bool:
        """Whether what is published reaches different clients by different routes, and so perhaps in another order."""
        return bool(self.nc._server_info.get("cluster"))

    @property
    def replicas(self) -> int:
        """How many servers are to keep each stream and bucket that is made from here on.

        What CREWKEEPER_REPLICAS says; else three where the cluster has room for that, for two are no safer than one:
        without a majority nothing is written. How many servers there are is not told to everybody (those behind one
        address advertise one, and one may advertise several), so it is tried.

        Raises:
            ConfigError: CREWKEEPER_REPLICAS is no number from 1 to 5.
        """
        if named := named_replicas():
            return named
        return SAFE_REPLICAS if self.is_clustered and not self.is_crowded else 1

    @property
    def advertised(self) -> int:
        """How many addresses the servers of the cluster tell clients; not always how many servers there are."""
        return len(self.nc._server_info.get("connect_urls") or ())

    async def publish(self, subject: str, payload: bytes, *, headers: dict[str, str] | None = None) -> None:
        """Publish one message without asking for an acknowledgement.

        Raises:
            ConnectionLost: There is no connection now.
        """
        if not self.nc.is_connected:
            raise ConnectionLost(f"not connected to {self.place.host}")
        try:
            await self.nc.publish(subject, payload, headers=headers)
        except LINK_ERRORS as error:
            raise ConnectionLost(f"publishing to {self.place.host} failed: {type(error).__name__}") from error

    async def post(self, subject: str, payload: bytes) -> None:
        """Publish one message as `publish` does, but leave it to `push` to send it, with everything before it.

        Raises:
            ConnectionLost: There is no connection now.
        """
        if self.nc.pending_data_size > POSTED_MAX_BYTES or len(payload) > self.nc.max_payload:
            await self.publish(subject, payload)
        elif self.nc.is_connected:
            self.nc.post(subject, payload)
        else:
            raise ConnectionLost(f"not connected to {self.place.host}")

    def push(self) -> None:
        """Send what was posted, now and not when the event loop comes round to it."""
        self.nc.push()

    async def flush(self) -> None:
        """Return when the server has read everything published before.

        Raises:
            ConnectionLost: The server did not answer.
        """
        try:
            await self.nc.flush(timeout=int(REQUEST_LIMIT_S))
        except LINK_ERRORS as error:
            raise ConnectionLost(f"{self.place.host} does not answer: {type(error).__name__}") from error

    async def store(
        self, subject: str, payload: bytes, *, expected_last: int | None = None, headers: dict[str, str] | None = None
    ) -> int:
        """Publish to a stream and return the sequence under which it is stored.

        Args:
            subject: A subject of a stream that acknowledges.
            payload: The bytes.
            expected_last: Store only if the last message of this subject has this sequence (0: there is none).
            headers: More headers.

        Raises:
            WrongLastSequence: The expectation failed.
            StoreUnavailable: No acknowledgement; it may be stored or not.
        """
        sent = dict(headers or {})
        if expected_last is not None:
            sent[EXPECTED_LAST] = str(expected_last)
        if not self.nc.is_connected:
            raise StoreUnavailable(f"not connected to {self.place.host}")
        try:
            ack = await self.js.publish(subject, payload, headers=sent or None, timeout=REQUEST_LIMIT_S)
        except nats.js.errors.APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise WrongLastSequence(str(error.description)) from None
            raise StoreUnavailable(f"{subject}: {error.description}") from error
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"{subject}: {type(error).__name__}") from error
        return ack.seq

    async def last(self, stream: str, subject: str) -> RawStreamMsg | None:
        """The last message stored on a subject, as the stream's leader knows it.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        if not self.nc.is_connected:
            raise StoreUnavailable(f"not connected to {self.place.host}")
        try:
            return await self.js.get_msg(stream, subject=subject)
        except nats.js.errors.NotFoundError:
            return None
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"{stream}: {type(error).__name__}") from error

    async def make_stream(self, config: StreamConfig) -> StreamInfo:
        """Create a stream, or take the one that is there if it is exactly this; `replicas` times unless it says.

        Raises:
            LINK_ERRORS: The server did not answer, or refuses it.
        """
        return await self._placed(
            lambda copies: self.making.add_stream(config.evolve(num_replicas=config.num_replicas or copies))
        )

    async def _placed(self, make: Callable[[int], Awaitable[Made]]) -> Made:
        """Make something on as many servers as is wanted, or on one where the cluster keeps saying that it lacks them.

        One that is starting has no room yet.
        """
        limit_s = ROOM_LIMIT_S if self.advertised >= SAFE_REPLICAS else DOUBT_LIMIT_S
        since_s, is_said = time.monotonic(), False
        while True:
            copies = self.replicas
            try:
                return await make(copies)
            except nats.js.errors.APIError as error:
                if error.err_code == NOT_STORED and time.monotonic() < since_s + STORE_LIMIT_S:
                    if not is_said:
                        logger().warning("store.again", server=self.place.host, cause=str(error.description))
                    is_said = True
                elif error.err_code not in NO_ROOM or copies == 1 or named_replicas():
                    raise
                elif time.monotonic() > since_s + limit_s:
                    self.is_crowded = True
                    logger().warning("store.one_copy", server=self.place.host, cause=str(error.description))
            await anyio.sleep(ROOM_LOOK_S)

    async def ensure_stream(self, config: StreamConfig) -> StreamInfo:
        """Create a stream, or take it as it is if it exists.

        Raises:
            StoreUnavailable: The server did not answer or refuses it.
        """
        try:
            return await self.make_stream(config)
        except nats.js.errors.BadRequestError:
            try:
                return await self.js.stream_info(str(config.name))
            except LINK_ERRORS as error:
                raise self._unavailable(f"stream {config.name}", error) from error
        except LINK_ERRORS as error:
            raise self._unavailable(f"stream {config.name}", error) from error

    async def ensure_bucket(
        self, bucket: str, description: str, *, republish: RePublish | None = None, ttl_s: float | None = None
    ) -> None:
        """Create a bucket that keeps the last value of each key, or take it as it is if it exists.

        Args:
            bucket: Its name.
            description: What it holds, for people.
            republish: Where changes are published again.
            ttl_s: Seconds after which a value goes by itself; None: never.

        Raises:
            StoreUnavailable: The server did not answer.
        """

        def config(copies: int) -> KeyValueConfig:
            return KeyValueConfig(
                bucket=bucket,
                description=description,
                history=1,
                storage=StorageType.FILE,
                replicas=copies,
                republish=republish,
                ttl=ttl_s,
            )

        try:
            with contextlib.suppress(nats.js.errors.BadRequestError):  # it is there, made by another version
                await self._placed(lambda copies: self.making.create_key_value(config(copies)))
        except LINK_ERRORS as error:
            raise self._unavailable(f"bucket {bucket}", error) from error

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        """What is said where something cannot be made, and whether that can change by itself."""
        if self.is_connected and not self.nc._server_info.get("jetstream") and not self.is_clustered:
            text = (
                f"{self.place.host} keeps no streams: add a jetstream block to its configuration, or start it with -js"
            )
            return StoreUnavailable(text, lasting=True)
        return StoreUnavailable(f"{what}: {error}")


async def insist(make: Callable[[], Awaitable[None]]) -> None:
    """Do what a server may not do at once that has just started, or whose cluster has lost one: for a minute.

    Args:
        make: Creates what is not there yet.

    Raises:
        StoreUnavailable: Not even then, or it never will.
    """
    until_s, told = time.monotonic() + OPEN_LIMIT_S, ""
    while True:
        try:
            return await make()
        except StoreUnavailable as error:
            if error.lasting or time.monotonic() > until_s:
                raise
            if (cause := str(error)[:WHY_MAX_CHARS]) != told:
                told = cause
                logger().info("store.later", cause=cause)
        await anyio.sleep(OPEN_PAUSE_S)


def named_replicas() -> int:
    """What CREWKEEPER_REPLICAS says; 0 where it is not set.

    Raises:
        ConfigError: It is no number from 1 to 5.
    """
    named = os.environ.get("CREWKEEPER_REPLICAS", "")
    if named and named not in ("1", "2", "3", "4", "5"):
        raise ConfigError(f"CREWKEEPER_REPLICAS: {named[:60]!r}: the copies of a stream are 1 to 5")
    return int(named or 0)


@contextlib.asynccontextmanager
async def connect(place: Place, *, name: str = "supervisor") -> AsyncIterator[Link]:
    """Connect to a place's server; reconnects by itself for as long as the block lasts.

    Args:
        place: The server and its credentials.
        name: Name of the connection, seen in the server's own reports.

    Raises:
        ConnectionLost: The server cannot be reached now, or refuses the credentials.
    """
    log = logger()
    nc = WireClient()
    link = Link(nc, place)

    leaving = True  # until it is open, whoever called hears of a failure by the exception alone
    last_error: tuple[str, int | None] | None = None

    async def failed(error: Exception) -> None:
        nonlocal last_error
        # One line for an outage, not one for every attempt; but another one where the trouble is another one.
        kind = type(error).__name__, getattr(error, "errno", None)
        if not leaving and kind != last_error:
            last_error = kind
            log.warning("link.error", server=place.host, error=kind[0], cause=_why(error))

    async def lost() -> None:
        if not leaving:
            log.warning("link.lost", server=place.host)

    async def closed() -> None:
        link.closed.set()

    async def back() -> None:
        nonlocal last_error
        last_error = None
        link.connections += 1
        for event in link.wake:
            event.set()
        log.info("link.back", server=place.host)

    await _open(nc, place, name, error_cb=failed, disconnected_cb=lost, reconnected_cb=back, closed_cb=closed)
    nc.options["max_reconnect_attempts"] = -1
    leaving = False
    try:
        yield link
    finally:
        leaving = True
        await _close(nc)


def _why(error: Exception) -> str:
    """What an error says, short and on one line: a server may have written it."""
    said = str(error)[:WHY_MAX_CHARS]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in said)


async def _open(
    nc: WireClient, place: Place, name: str, error_cb: Callable[[Exception], Awaitable[None]], **callbacks: Any
) -> None:
    options = place.credentials.options()
    refused = False

    async def failed(error: Exception) -> None:
        nonlocal refused
        refused = refused or says_no(error)
        await error_cb(error)

    try:
        with anyio.fail_after(CONNECT_LIMIT_S):
            await nc.connect(
                place.url,
                name=name,
                connect_timeout=2,
                allow_reconnect=True,
                # The first attempt must fail at once; later ones never give up (the caller sees to that).
                max_reconnect_attempts=1,
                reconnect_time_wait=RECONNECT_EVERY_S,  # type: ignore[arg-type]
                ping_interval=PING_EVERY_S,
                max_outstanding_pings=2,
                pending_size=8 * 1024 * 1024,
                error_cb=failed,
                **options,
                **callbacks,
            )
    except (*LINK_ERRORS, ValueError) as error:
        await _close(nc)
        if refused or says_no(error):
            raise ConnectionLost(
                f"the server at {place.host} is there and refuses this login; check user and password, or the keys: "
                "nats://USER:PASSWORD@HOST in CREWKEEPER_NATS_URL, or a context, says who logs in"
            ) from error
        raise ConnectionLost(
            f"cannot connect to {place.host}: {str(error)[:200] or type(error).__name__}; "
            "check that a NATS server listens there, and the address"
        ) from error


async def _close(nc: WireClient) -> None:
    if not nc.is_connected:  # nats-py would fail on sending what is left, and leave its tasks behind
        nc._pending, nc._pending_data_size = [], 0
    with anyio.move_on_after(CLOSE_LIMIT_S, shield=True), contextlib.suppress(*LINK_ERRORS):
        await nc.close()
