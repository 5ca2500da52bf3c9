"""NATS transport: one logical connection to a nats-server that outlives its sockets and its credentials.

Theory of operation. A *link* is one socket, a `WireClient` that neither reconnects nor closes on its own. The keeper,
the one background task, makes links: it waits until the link is lost or a renewal is due, then opens the next with
credentials read anew, replays the subscriptions on it and sends what was held meanwhile.

A renewal opens the new link before it gives up the old one, so that nothing is missed: subscribe on the new, wait until
that is in force, unsubscribe on the old, wait until all that was on its way has come and all that was published is in.
What arrives in between is collected from both, put into the journal's order by the sequence number the server adds,
freed of doubles, and delivered. Outside a renewal no header is looked at.

Where a supervisor decides about every login, a link lives for one *session*. The transport's links then bear one mark,
`~` and a random text behind the password, so that its renewals can be told from a thief of its password.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from nats.errors import Error as NatsError

from crewkeeper_bus.addresses import Addresses
from crewkeeper_bus.credentials import Credentials, redacted
from crewkeeper_bus.errors import BusError, CodecError, ConfigError, ConnectionLost, Refused
from crewkeeper_bus.overlap import Arrival, Subscription, in_order
from crewkeeper_bus.pattern import check_subject
from crewkeeper_bus.redial import REFUSED_MAX_S, Redial, Renewal, is_refusal
from crewkeeper_bus.transport import Deliver
from crewkeeper_bus.wire import WireClient, quiet

log = structlog.get_logger(__name__)

CONNECT_S: Final = 5
"""Limit of one attempt to connect."""
PING_S: Final = 5
PINGS_MAX: Final = 2
"""A link that owes this many answers is lost."""
BARRIER_S: Final = 10.0
CLOSE_S: Final = 5.0
"""How long `close` waits for the server to have taken what is pending."""
HELD_MAX_BYTES: Final = 8 * 1024 * 1024
"""How much is kept while there is no link; beyond it, `publish` raises."""
UNSENT_MAX_BYTES: Final = 2 * 1024 * 1024
"""How much may wait for a slow server before `publish` waits too."""
PAYLOAD_MAX_BYTES: Final = 1024 * 1024
"""Assumed until a server has said what it takes."""


class NatsTransport:
    """A connection to a nats-server; implements `transport.Transport`. Make it with `open`; belongs to one event loop.

    Attributes:
        dropped: How many received messages could not be read or delivered and were dropped.
    """

    def __init__(self, credentials: Callable[[], Credentials], name: str) -> None:
        self.dropped = 0
        self._read_credentials = credentials
        self._name = name
        self._link: WireClient | None = None
        self._credentials = Credentials(url="")
        self._mark = "~" + secrets.token_urlsafe(15)
        self._redial = Redial()
        self._addresses = Addresses()
        self._renewal = Renewal(self._credentials)
        self._subscriptions: list[Subscription] = []
        self._listeners: list[Callable[[bool], None]] = []
        self._end_listeners: list[Callable[[Refused], None]] = []
        self._end: Refused | None = None
        self._held: deque[tuple[str, bytes]] = deque()
        self._held_bytes = 0
        self._flowing = asyncio.Event()  # cleared while a change-over holds what is published
        self._flowing.set()
        self._next: WireClient | None = None
        self._arrivals: list[Arrival] | None = None
        self._closed = False
        self._max_payload_bytes = PAYLOAD_MAX_BYTES
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._renewing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str = "",
        *,
        user: str = "",
        password: str = "",
        credentials: Callable[[], Credentials] | None = None,
        name: str = "",
        on_change: Callable[[bool], None] | None = None,
        session_s: float | None = None,
        limit_s: float = CONNECT_S,
    ) -> "NatsTransport":
        """Connect.

        Args:
            url: The server, if `credentials` is not given; it may carry user and password.
            user: Who connects.
            password: Its secret.
            credentials: Read at every connect, so that it can return fresh ones; an empty `url` in them means `url`.
            name: Shown in the server's list of connections.
            on_change: As the method `on_change`.
            session_s: As in `Credentials`, where those have none.
            limit_s: How long to try while nobody listens at the address, or nobody decides about logins there.

        Raises:
            ConfigError: `credentials` cannot be read.
            ConnectionLost: No connection; says where to and what to do.
        """

        def given() -> Credentials:
            if credentials is None:
                return Credentials(url=url, user=user, password=password, session_s=session_s)
            try:
                read = credentials()
            except BusError:
                raise
            except Exception as error:
                raise ConfigError(f"cannot read the credentials of {name!r}: {error}") from error
            missing: dict[str, Any] = {} if read.url else {"url": url}
            if read.session_s is None and session_s is not None:
                missing["session_s"] = session_s
            return msgspec.structs.replace(read, **missing) if missing else read

        transport = cls(given, name)
        if on_change is not None:
            transport.on_change(on_change)
        link = await transport._first_link(limit_s)
        transport._install(link)
        # The keeper must outlive this call, so no task group can own it; `close` ends it and waits for it.
        transport._keeper = asyncio.get_running_loop().create_task(transport._keep(), name=f"bus keeper {name}")
        return transport

    async def _first_link(self, limit_s: float) -> WireClient:
        until = time.monotonic() + limit_s
        while True:
            started = time.monotonic()
            try:
                link = await self._dial(self._read_credentials())
                if link.is_connected:
                    return link
            except ConnectionLost as error:
                now = time.monotonic()
                if now >= until or is_refusal(error, now - started):
                    raise
            await asyncio.sleep(self._redial.pause_s())

    # --- what the client uses ---

    @property
    def is_connected(self) -> bool:
        """Whether a publish would leave now."""
        return self._connected.is_set() and not self._closed and self._end is None

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload that the server takes."""
        return self._max_payload_bytes

    async def publish(self, subject: str, payload: bytes) -> None:
        """Publish one message. While there is no connection it is held for the next, up to `HELD_MAX_BYTES`.

        Raises:
            CodecError: The payload is larger than `max_payload_bytes`.
            ConnectionLost: Closed, or the server is away and too much is held already.
            SubjectError: Not a subject to publish on.
        """
        check_subject(subject)
        if len(payload) > self._max_payload_bytes:
            raise CodecError(
                f"payload has {len(payload)} bytes; the server takes {self._max_payload_bytes}: send a reference"
            )
        self._check_open()
        size = len(subject) + len(payload)
        while not self._flowing.is_set() and self._held_bytes + size > HELD_MAX_BYTES:
            await self._flowing.wait()  # a change-over takes milliseconds, and at most its steps' limits
        link = self._link
        if link is None or not self._flowing.is_set():
            if self._held_bytes + size > HELD_MAX_BYTES:
                raise self._gone(f"{self._held_bytes} bytes wait for the connection", "publish again once connected")
            self._held_bytes += size
            self._held.append((subject, payload))
            return
        _send(link, subject, payload)
        if link.pending_data_size > UNSENT_MAX_BYTES:
            await link._flush_pending(force_flush=True)

    async def subscribe(self, subject: str, deliver: Deliver, queue: str = "") -> None:
        """Deliver what matches `subject`; with `queue`, to one member of the group. Lives until `close`.

        Raises:
            ConnectionLost: Closed.
            SubjectError: Not a subject or pattern.
        """
        check_subject(subject, wildcards=True)
        if queue:
            check_subject(queue)
        self._check_open()
        subscription = Subscription(subject, queue, deliver)
        self._subscriptions.append(subscription)
        for link in (self._link, self._next):
            if link is not None:
                self._attach(link, subscription)

    async def barrier(self, limit_s: float = BARRIER_S) -> None:
        """Return when the server has processed everything sent before; waits for a lost connection to return.

        Raises:
            ConnectionLost: Closed, or no answer within `limit_s`.
        """
        try:
            async with asyncio.timeout(limit_s):
                while not self._closed:
                    self._check_open()
                    if self._link is None:
                        await self._connected.wait()
                    elif not self._flowing.is_set():
                        await self._flowing.wait()
                    elif await self._settled(self._link, limit_s):
                        return
        except TimeoutError:
            pass
        raise self._gone(f"no answer within {limit_s} s", "check that the server runs")

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(is_connected)` at every loss and every return of the connection."""
        self._listeners.append(changed)

    def on_end(self, ended: Callable[[Refused], None]) -> None:
        """Call `ended(error)` once, if the server refuses these credentials for so long that it is final."""
        self._end_listeners.append(ended)

    async def renew(self) -> None:
        """Change over to a new connection with credentials read anew; nothing published or delivered is lost.

        Raises:
            ConfigError: The credentials cannot be read; the connection stays as it is.
            ConnectionLost: Closed, or the server does not take them; the connection stays as it is.
        """
        async with self._renewing:
            self._check_open()
            if self._link is None:
                return  # the keeper is about to connect, with credentials read anew
            credentials = self._read_credentials()
            await self._change_over(await self._dial(credentials, self._addresses.here(credentials.url)))

    async def close(self) -> None:
        """Send what is pending, then close. Idempotent."""
        if self._closed:
            return
        link = self._link
        if link is not None and self._flowing.is_set():
            await self._settled(link, CLOSE_S)
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper}, timeout=CLOSE_S)
        for each in (self._link, self._next):
            if each is not None:
                each.abandon()
        self._link = self._next = None
        self._connected.set()  # whoever waits for it finds the transport closed
        await asyncio.sleep(0)  # sockets and their tasks end in the loop's next round

    # --- links ---

    def _check_open(self) -> None:
        if self._closed or self._end is not None:
            raise self._gone("the connection is closed", "open a new one") from self._end

    async def _dial(self, credentials: Credentials, url: str = "") -> WireClient:
        url = url or self._addresses.following(credentials.url)
        guarded = credentials.password and credentials.session_s is not None
        link = WireClient()
        link.on_lost = lambda reason: self._on_lost(link, reason)
        try:
            async with asyncio.timeout(CONNECT_S):
                await link.connect(
                    url,
                    **credentials.options(mark=self._mark if guarded else ""),
                    name=self._name or None,
                    connect_timeout=CONNECT_S,  # the server's own verdict on a login, after 2 s, must come first
                    allow_reconnect=False,
                    ping_interval=PING_S,
                    max_outstanding_pings=PINGS_MAX,
                    skip_subject_validation=True,  # done here, once
                    error_cb=quiet,
                )
        except (OSError, NatsError, ValueError) as error:  # a greeting that is too long is a ValueError
            link.abandon()
            remedy = "check that the server runs"
            if isinstance(error, NatsError):
                remedy = "check user and password, and that a supervisor runs"
            what = f"cannot connect: {str(error) or type(error).__name__}"
            raise _gone(msgspec.structs.replace(credentials, url=url), what, remedy) from error
        except BaseException:
            link.abandon()
            raise
        self._credentials = credentials
        self._addresses.linked(url)
        return link

    def _gone(self, what: str, remedy: str) -> ConnectionLost:
        return _gone(self._credentials, what, remedy)

    def _install(self, link: WireClient) -> None:
        """Make a link that is not yet subscribed the current one."""
        self._made(link)
        for subscription in self._subscriptions:
            self._attach(link, subscription)
        self._release_held(link)
        self._tell(connected=True)

    def _made(self, link: WireClient) -> None:
        self._link = link
        self._redial.linked()
        self._renewal = Renewal(self._credentials)

    def _release_held(self, link: WireClient) -> None:
        self._max_payload_bytes = link.max_payload
        while self._held:
            _send(link, *self._held.popleft())
        self._held_bytes = 0

    def _attach(self, link: WireClient, subscription: Subscription) -> None:
        def arrived(subject: str, payload: bytes, headers: bytes | None) -> None:
            if self._arrivals is None:
                self._deliver(subscription, subject, payload)
            else:
                self._arrivals.append(Arrival(link, subscription, subject, payload, headers or b""))

        link.subscribe_raw(subscription.subject, subscription.queue, arrived)

    def _deliver(self, subscription: Subscription, subject: str, payload: bytes) -> None:
        try:
            subscription.deliver(subject, payload)
        except Exception:
            self.dropped += 1
            log.exception("bus.deliver_failed", subject=subject)

    def _on_lost(self, link: WireClient, reason: str) -> None:
        self._take_back(link)
        if link is not self._link:
            return
        self._link = None
        self._redial.lost()
        self._addresses.named(each.netloc for each in link.discovered_servers)
        log.warning("bus.connection_lost", url=redacted(self._addresses.current), name=self._name, reason=reason)
        self._tell(connected=False)
        self._lost.set()

    def _take_back(self, link: WireClient) -> None:
        """Close a link; what it had not sent is held again, ahead of what came later."""
        self.dropped += link.dropped
        link.dropped = 0
        for line in reversed(link.abandon()):
            if line.startswith(b"PUB "):
                head, _, rest = line.partition(b"\r\n")
                message = (head.split(b" ")[1].decode(), rest[:-2])
                self._held.appendleft(message)
                self._held_bytes += len(message[0]) + len(message[1])

    def _tell(self, *, connected: bool) -> None:
        if connected:
            self._connected.set()
        else:
            self._connected.clear()
        for listener in self._listeners:
            listener(connected)

    # --- the keeper ---

    async def _keep(self) -> None:
        while not self._closed and self._end is None:
            try:
                async with asyncio.timeout(self._renewal.due_s()):
                    await self._lost.wait()
            except TimeoutError:
                await self._renew_if_due()
                continue
            async with self._renewing:
                await self._reconnect()

    async def _renew_if_due(self) -> None:
        looked = self._renewal
        try:
            if looked.is_session_due or self._read_credentials() != self._credentials:
                await self.renew()
        except BusError as error:  # the link still stands; the next look comes soon
            log.warning("bus.renewal_failed", name=self._name, reason=str(error))
        if self._renewal is looked:
            looked.put_off()

    async def _reconnect(self) -> None:
        self._lost.clear()
        while self._link is None and not self._closed:  # the end that `close` makes of this task may not be heard
            await asyncio.sleep(self._redial.pause_s())
            attempts, started = self._redial.attempts, time.monotonic()
            try:
                link = await self._dial(self._read_credentials())
            except BusError as error:
                if attempts == 1 or attempts % 100 == 0:
                    log.warning("bus.reconnect_failed", name=self._name, attempts=attempts, reason=str(error))
                if self._redial.failed(error, time.monotonic() - started):
                    self._give_up()
                    return
                continue
            if self._closed:
                link.abandon()
            elif link.is_connected:  # it may have been lost again before its turn came
                self._install(link)
                log.info("bus.connection_back", name=self._name, attempts=attempts)

    def _give_up(self) -> None:
        self._end = Refused(
            f"{redacted(self._credentials.url)} has refused {self._credentials.user!r} for {REFUSED_MAX_S:g} s: it was "
            "killed, its token was revoked or has expired, or its run is over; ask for new credentials, and see "
            "`supervisor creds ls`",
            reason="login",
        )
        log.error("bus.refused", name=self._name, user=self._credentials.user, limit_s=REFUSED_MAX_S)
        self._connected.set()  # whoever waits for it finds the transport closed
        for listener in self._end_listeners:
            listener(self._end)

    # --- the change-over ---

    async def _settled(self, link: WireClient, limit_s: float) -> bool:
        """Twice, because the second answer also follows whatever the server's other threads had in hand."""
        return await link.barrier(limit_s) and await link.barrier(limit_s)

    async def _change_over(self, new: WireClient) -> None:
        old = self._link
        self._arrivals = []  # bounded by time: each of the three steps below has a limit
        self._next = new
        try:
            for subscription in self._subscriptions:
                self._attach(new, subscription)
            if not await self._settled(new, BARRIER_S):
                raise self._gone("the new connection did not answer", "renew again")
            self._flowing.clear()
            if old is not None and old is self._link:
                old.unsubscribe_raw()
                await self._settled(old, BARRIER_S)  # lost instead: what it had not sent is held, and goes out below
                # What the old one has brought may still be on its way to the new one: without this it comes twice.
                await self._settled(new, BARRIER_S)
            if not new.is_connected:
                raise self._gone("the new connection was lost at once", "renew again")
            was_connected = self._link is not None
            self._made(new)
            self._lost.clear()
            if old is not None:
                self._take_back(old)
            self._release_held(new)
            if not was_connected:
                self._tell(connected=True)
        except BaseException:
            new.abandon()
            if (
                not self._flowing.is_set() and self._link is not None
            ):  # the old one has lost its subscriptions: make another
                self._on_lost(self._link, "renewal failed half-way")
            raise
        finally:
            self._flowing.set()
            self._next = None
            arrivals, self._arrivals = self._arrivals, None
            for subscription, subject, payload in in_order(arrivals, new):
                self._deliver(subscription, subject, payload)


def _gone(credentials: Credentials, what: str, remedy: str) -> ConnectionLost:
    return ConnectionLost(f"{redacted(credentials.url)} as {credentials.user!r}: {what}; {remedy}")


def _send(link: WireClient, subject: str, payload: bytes) -> None:
    link.send(b"PUB %b %d\r\n%b\r\n" % (subject.encode("ascii"), len(payload), payload))
