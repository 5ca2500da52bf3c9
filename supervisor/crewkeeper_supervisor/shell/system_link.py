"""System link: what the servers themselves are asked and told, through their system account; no decision is made here.

Theory of operation. A question to "every server" is answered by each one that hears it, and silence looks like "nothing
to report". So every question is sent along with one for statistics, in which each server names the servers it has
routes to: an answer is whole when every server has answered that answered before or that an answering one names. A
server that has left without a goodbye counts as one that does not answer until no login it ever let in can still be
alive (`FORGET_S`), since it may be cut off and not dead.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

import anyio
import msgspec
from msgspec import Struct

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.shell import nats_link
from crewkeeper_supervisor.shell.errors import ClaimsRefused
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.place import Place

SCAN_S: Final = 2.0
"""How long servers may take to answer; the default."""
FORGET_S: Final = 600.0
"""A server that left without a goodbye is expected to answer for so long: as long as a login may live."""
PAGE_MAX: Final = 1024
"""Connections listed by one server in one answer; the server's own limit."""
EVENTS_MAX: Final = 10_000
"""Events that may wait to be read; more are dropped and counted."""

_PING: Final = "$SYS.REQ.SERVER.PING."
_REFUSED: Final = "$SYS.SERVER.*.CLIENT.AUTH.ERR"
_CAME: Final = "$SYS.ACCOUNT.*.CONNECT"
_LEFT: Final = "$SYS.ACCOUNT.*.DISCONNECT"
_GOODBYE: Final = "$SYS.SERVER.*.SHUTDOWN"
_QUEUE: Final = "crewkeeper"
"""Of several supervisors one takes each event."""
_REFUSED_REASON: Final = "Authentication Failure"


class Connection(NamedTuple):
    """One connection of a client, as its server lists it."""

    server: str
    """The server's id."""
    cid: int
    """Its number there."""
    user: str
    started_at_s: float
    """Seconds since the Unix epoch, by that server's clock."""
    age_s: float = 0.0
    """How long it was there when its server answered, by that server's clock."""
    subjects: tuple[str, ...] = ()
    """What it is subscribed to, where that was asked for."""
    pending_bytes: int = 0
    """What the client has not read."""
    sent: int = 0
    """Messages that the client has sent."""
    sent_bytes: int = 0
    subscribed: int = 0
    """How many subscriptions it has."""


class Scan(NamedTuple):
    """What the servers answered."""

    connections: tuple[Connection, ...]
    silent: tuple[str, ...]
    """Names of the servers that did not answer."""


class Event(NamedTuple):
    """Something that happened to a client."""

    kind: Literal["refused", "came", "left"]
    user: str
    """Whose name the client gave; where `kind` is `refused`, that is all it is: a claim."""
    server: str
    cid: int
    host: str
    reason: str


class _Named(Struct, frozen=True):
    id: str
    name: str = ""


class _Listed(Struct, frozen=True):
    cid: int
    start: datetime
    authorized_user: str = ""
    subscriptions_list: tuple[str, ...] = ()
    pending_bytes: int = 0
    in_msgs: int = 0
    in_bytes: int = 0
    subscriptions: int = 0


class _Page(Struct, frozen=True):
    now: datetime | None = None
    connections: tuple[_Listed, ...] = ()


class _Route(Struct, frozen=True):
    name: str = ""


class _Statistics(Struct, frozen=True):
    routes: tuple[_Route, ...] = ()


class _Failure(Struct, frozen=True):
    code: int = 0
    description: str = ""


class _Answer(Struct, frozen=True):
    server: _Named
    data: _Page | None = None
    statsz: _Statistics | None = None
    error: _Failure | None = None


class _Client(Struct, frozen=True):
    id: int = 0
    user: str = ""
    host: str = ""


class _Happened(Struct, frozen=True):
    server: _Named
    client: _Client = _Client()
    reason: str = ""


class _Question:
    """The answers to one question, by server."""

    def __init__(self, taken: Callable[[_Answer], None] | None) -> None:
        self._taken = taken
        self.statistics: dict[str, _Statistics] = {}
        self.answers: dict[str, _Answer] = {}
        self.names: dict[str, str] = {}
        self.arrived = anyio.Event()

    def take(self, payload: bytes) -> None:
        """Take one answer, of either of the two that each server gives."""
        with contextlib.suppress(msgspec.MsgspecError):
            answer = _ANSWER.decode(payload)
            self.names[answer.server.id] = answer.server.name
            if answer.statsz is not None:
                self.statistics[answer.server.id] = answer.statsz
            elif answer.server.id not in self.answers:
                self.answers[answer.server.id] = answer
                if self._taken is not None:
                    self._taken(answer)
            self.arrived.set()

    def silent(self, known: Iterable[str]) -> tuple[str, ...]:
        """Names of servers that are known, or that an answering one names, and have not answered in full."""
        named = {route.name for each in self.statistics.values() for route in each.routes} - {""}
        whole = {self.names[id_] for id_ in self.answers if id_ in self.statistics}
        return tuple(sorted((named | set(known) | set(self.names.values())) - whole))


def _connection(server: str, listed: _Listed, now: datetime | None) -> Connection:
    return Connection(
        server=server,
        cid=listed.cid,
        user=listed.authorized_user,
        started_at_s=listed.start.timestamp(),
        age_s=(now - listed.start).total_seconds() if now is not None else math.inf,
        subjects=listed.subscriptions_list,
        pending_bytes=listed.pending_bytes,
        sent=listed.in_msgs,
        sent_bytes=listed.in_bytes,
        subscribed=listed.subscriptions,
    )


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_HAPPENED: Final = msgspec.json.Decoder(_Happened)


class SystemLink:
    """A connection to the system account. Make it with `connect`; belongs to one event loop.

    Attributes:
        dropped_events: How many events nobody read in time.
    """

    def __init__(self, link: Link) -> None:
        self.dropped_events = 0
        self._link = link
        self._inbox = link.nc.new_inbox()
        self._questions: dict[str, _Question] = {}
        self._asked = 0
        self._heard: dict[str, float] = {}
        """By name of a server: when it answered last, by our monotonic clock."""
        self._events: deque[Event] = deque()
        self._happened = anyio.Event()
        self._listens = False

    def _open(self) -> None:
        self._link.nc.subscribe_raw(f"{self._inbox}.*", "", self._answered)
        self._link.nc.subscribe_raw(_GOODBYE, "", self._said_goodbye)

    @property
    def is_connected(self) -> bool:
        """Whether a question would leave now."""
        return self._link.is_connected

    # --- asking and telling ---

    async def connections(
        self,
        user: str,
        *,
        subjects: bool = False,
        limit_s: float = SCAN_S,
        found: Callable[[Connection], None] | None = None,
    ) -> Scan:
        """The connections of a user on every server, at most `PAGE_MAX` of each.

        Args:
            user: Name of the user, in full.
            subjects: Whether to ask for their subscriptions as well.
            limit_s: How long to wait for servers that do not answer.
            found: Called with each connection as soon as its server has answered, while others are waited for.

        Raises:
            ConnectionLost: There is no connection now.
        """
        wanted = {"user": user, "auth": True, "limit": PAGE_MAX, "subscriptions": subjects}
        listed: list[Connection] = []

        def take(answer: _Answer) -> None:
            page = answer.data or _Page()
            for each in page.connections:
                if each.authorized_user == user:
                    connection = _connection(answer.server.id, each, page.now)
                    listed.append(connection)
                    if found is not None:
                        found(connection)

        question, silent = await self._ask(_PING + "CONNZ", msgspec.json.encode(wanted), limit_s, take)
        failed = {answer.server.name for answer in question.answers.values() if answer.data is None}
        return Scan(tuple(listed), tuple(sorted({*silent, *failed})))

    async def busiest(
        self, count: int, *, by: Literal["msgs_from", "subs"] = "msgs_from", limit_s: float = SCAN_S
    ) -> list[Connection]:
        """On each server that answers in time, the connections that have most of something.

        Args:
            count: How many of each server.
            by: Of what: messages sent, or subscriptions.
            limit_s: How long to wait for servers that do not answer.

        Raises:
            ConnectionLost: There is no connection now.
        """
        wanted = {"sort": by, "auth": True, "limit": count}
        question, _ = await self._ask(_PING + "CONNZ", msgspec.json.encode(wanted), limit_s)
        found: list[Connection] = []
        for answer in question.answers.values():
            page = answer.data or _Page()
            found += [_connection(answer.server.id, each, page.now) for each in page.connections]
        return found

    def kick(self, connections: Iterable[Connection]) -> None:
        """Have the servers close these connections. Whoever was on them may come back: see that it is not let in.

        Raises:
            ConnectionLost: There is no connection now.
        """
        for each in connections:
            # A request without a reply subject is not even read. What is answered shows in the next scan.
            self._send(f"$SYS.REQ.SERVER.{each.server}.KICK", b'{"cid":%d}' % each.cid, f"{self._inbox}.0")

    async def push_account(self, jwt: str, *, limit_s: float = SCAN_S) -> tuple[str, ...]:
        """Replace an account's claims on every server; connections stay.

        Returns:
            Names of the servers that did not answer.

        Raises:
            ClaimsRefused: A server does not take them.
            ConnectionLost: There is no connection now.
        """
        question, silent = await self._ask("$SYS.REQ.CLAIMS.UPDATE", jwt.encode("ascii"), limit_s)
        for answer in question.answers.values():
            if answer.error is not None:
                raise ClaimsRefused(f"{answer.server.name} refuses the account's claims: {answer.error.description}")
        return silent

    async def _ask(
        self, subject: str, payload: bytes, limit_s: float, take: Callable[[_Answer], None] | None = None
    ) -> tuple[_Question, tuple[str, ...]]:
        self._asked += 1
        token = str(self._asked)
        question = self._questions[token] = _Question(take)
        try:
            # The statistics come first, so that an answer never stands without the servers it must be compared with.
            for to, what in ((_PING + "STATSZ", b""), (subject, payload)):
                self._send(to, what, f"{self._inbox}.{token}")
            with anyio.move_on_after(limit_s):
                while not question.answers or question.silent(self._known()):
                    question.arrived = anyio.Event()
                    await question.arrived.wait()
        finally:
            del self._questions[token]
        now_s = time.monotonic()
        self._heard.update((question.names[id_], now_s) for id_ in question.answers)
        return question, question.silent(self._known()) or (() if question.answers else (self._link.place.host,))

    def _send(self, subject: str, payload: bytes, reply: str) -> None:
        if not self._link.is_connected:
            raise ConnectionLost(f"not connected to the system account of {self._link.place.host}")
        head = f"PUB {subject} {reply} {len(payload)}"
        self._link.nc.send(b"%b\r\n%b\r\n" % (head.encode("ascii"), payload))

    def _known(self) -> list[str]:
        horizon_s = time.monotonic() - FORGET_S
        return [name for name, heard_s in self._heard.items() if heard_s > horizon_s]

    def _answered(self, subject: str, payload: bytes, _headers: bytes | None) -> None:
        question = self._questions.get(subject.rpartition(".")[2])
        if question is not None:
            question.take(payload)

    def _said_goodbye(self, _subject: str, payload: bytes, _headers: bytes | None) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            self._heard.pop(msgspec.json.decode(payload, type=_Named).name, None)

    # --- hearing ---

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """Yield what happens to clients, in batches, for as long as the connection lasts. For one reader.

        Of several supervisors that listen, one gets each event. Close it (`contextlib.aclosing`) when leaving.
        """
        if not self._listens:
            self._listens = True
            for pattern in (_REFUSED, _CAME, _LEFT):
                self._link.nc.subscribe_raw(pattern, _QUEUE, self._take_event)
        while True:
            self._happened = anyio.Event()
            if not self._events:
                await self._happened.wait()
            batch = list(self._events)
            self._events.clear()
            yield batch

    def _take_event(self, subject: str, payload: bytes, _headers: bytes | None) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.dropped_events += 1
            return
        try:
            told = _HAPPENED.decode(payload)
        except msgspec.MsgspecError:
            return
        kind: Literal["refused", "came", "left"] = "refused"
        if not subject.endswith(".AUTH.ERR"):
            kind = "came" if subject.endswith(".CONNECT") else "left"
            if told.reason == _REFUSED_REASON:
                return  # it never was in, and is told of on the other subject
        client = told.client
        self._events.append(Event(kind, client.user, told.server.id, client.id, client.host, told.reason))
        self._happened.set()


@contextlib.asynccontextmanager
async def connect(credentials: Credentials, *, name: str = "supervisor-system") -> AsyncIterator[SystemLink]:
    """Connect to the system account; reconnects by itself for as long as the block lasts.

    Args:
        credentials: A user of the system account.
        name: Name of the connection, seen in the server's own reports.

    Raises:
        ConnectionLost: The server cannot be reached now, or refuses the credentials.
    """
    place = Place.of(Path(), credentials)
    async with nats_link.connect(place, name=name) as link:
        system = SystemLink(link)
        system._open()
        if not await link.nc.barrier(SCAN_S):
            raise ConnectionLost(f"{link.place.host} does not answer")
        yield system
