"""Callout: answers the server's question who is let in, and as what; what is true of an agent stands in `access`.

For every connection that presents a user and a password the server asks on `$SYS.REQ.USER.AUTH`, in an account where
nobody else may publish or listen. One of the supervisors that serve answers. Everything that an answer rests on is read
from the store at that moment, by its leader: what a kill has written is not missed. Whatever goes wrong here, nobody is
let in: no answer, too late an answer and a refusal are the same to whoever knocks. Connections that are open go on.
"""

import time
from typing import Final, NamedTuple, Protocol

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct

from crewkeeper_bus import claims
from crewkeeper_bus.claims import ClaimsError, LoginRequest
from crewkeeper_bus.errors import ConnectionLost, SubjectError
from crewkeeper_bus.subjects import check_member, check_token
from crewkeeper_supervisor.core.scope import Grant, Login, Record, Refusal, RefusalReason, decide
from crewkeeper_supervisor.shell import nats_link, tokens
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.sessions import Session, Sessions
from crewkeeper_supervisor.shell.system_link import SystemLink
from crewkeeper_supervisor.shell.violations import Violations, What

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
QUEUE: Final = "crewkeeper"
AT_ONCE: Final = 16
"""Logins judged at a time; each waits for the store a few times."""
WAITING_MAX: Final = 4096
"""Logins that may wait for their turn; more are refused at once."""
LATE_S: Final = 1.8
"""Who had to wait for so long is refused unread: the server, which waits 2 s, has given up or is about to."""

FRESH_S: Final = 0.1
"""How old a record may be when it is answered from: less than a kill waits for its last look at the connections."""

_TOLD: Final[dict[RefusalReason, tuple[What, str] | None]] = {
    "unknown": ("login_refused", "nothing was issued to {agent!r}"),
    "wrong_token": ("login_refused", "a wrong token for {agent!r}"),
    "expired": ("login_refused", "a token that has expired"),
    "revoked": ("revoked_login", "a token that was revoked"),
    "killed": ("revoked_login", "a token of a killed agent"),
    "run_over": None,
}


class Counts(Struct):
    """What came of the questions so far, in this process."""

    asked: int = 0
    granted: int = 0
    refused: int = 0
    """By what the records say."""
    unread: int = 0
    """Refused because the question could not be read, or is of no use by its form."""
    overflowed: int = 0
    """Refused because too many waited, or for too long."""
    failed: int = 0
    """Refused because the store did not answer, or through a defect."""
    unsent: int = 0
    """Answers that found no connection."""


class Asked(Protocol):
    """A question as it came from the server."""

    data: bytes
    reply: str


class _Question(NamedTuple):
    message: Asked
    asked_s: float


class Callout:
    """Decides about logins, for as long as `serve` runs.

    Attributes:
        counts: What came of it.
    """

    def __init__(
        self,
        link: Link,
        access: Access,
        authority: Authority,
        *,
        system: SystemLink | None = None,
        violations: Violations | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        """What it works with.

        Args:
            link: A connection in the agents' account, for facts and records.
            access: The records.
            authority: Signs; of mode `operator` or `config`.
            system: A connection to the system account. Without it, several connections of one agent go unnoticed.
            violations: Where to note refusals; if not given, this callout has its own.
            sessions: The rule of one process for each agent; if not given, made from `system`.
        """
        self.counts = Counts()
        self._link = link
        self._access = access
        self._authority = authority
        self._own_violations = violations is None
        self._violations = violations or Violations(link)
        self._sessions = sessions
        if sessions is None and system is not None:
            self._sessions = Sessions(link, system, self._violations)

    async def open(self) -> None:
        """Create the buckets if they are not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._access.open()
        if self._sessions is not None:
            await self._sessions.open()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer every question until cancelled; started once the server sends questions here.

        Raises:
            ConnectionLost: The server cannot be reached at the start, or has closed the connection for good.
        """
        place = Place.of(self._link.place.state, self._authority.callout)
        send, receive = anyio.create_memory_object_stream[_Question](WAITING_MAX)
        async with (
            nats_link.connect(place, name="callout") as asking,
            send,
            receive,
            anyio.create_task_group() as group,
        ):
            for _ in range(AT_ONCE):
                group.start_soon(self._work, receive, asking)
            if self._own_violations:
                group.start_soon(self._violations.work)
            if self._sessions is not None:
                group.start_soon(self._sessions.work)
            await self._listen(asking, send)
            task_status.started()
            await asking.closed.wait()
            group.cancel_scope.cancel()
        raise ConnectionLost(f"{place.host} has closed the connection on which it asks about logins")

    async def _listen(self, asking: Link, send: MemoryObjectSendStream[_Question]) -> None:
        async def asked(message: Asked) -> None:
            self.counts.asked += 1
            try:
                send.send_nowait(_Question(message, time.monotonic()))
            except anyio.WouldBlock:
                self.counts.overflowed += 1
                await self._refuse_unread(asking, message)

        try:
            await asking.nc.subscribe(SUBJECT, queue=QUEUE, cb=asked)
            await asking.flush()
        except LINK_ERRORS as error:
            raise ConnectionLost(f"{asking.place.host} does not answer: {type(error).__name__}") from error

    async def _work(self, receive: MemoryObjectReceiveStream[_Question], asking: Link) -> None:
        async for question in receive:
            if time.monotonic() - question.asked_s > LATE_S:
                self.counts.overflowed += 1
                await self._refuse_unread(asking, question.message)
            else:
                await self._answer(asking, question.message)

    async def _answer(self, asking: Link, message: Asked) -> None:
        request = self._read(message)
        if request is None:
            return  # there is nobody to make an answer out to
        why, jwt = "the records cannot be read now", ""
        try:
            why, jwt = await self._judge(request)
        except StoreUnavailable as error:
            self.counts.failed += 1
            logger().warning("callout.blind", cause=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one question must not end the answering of all others
            # The type alone: the text of an error can quote what it failed on, and that holds a password.
            self.counts.failed += 1
            logger().error("callout.failed", cause=type(error).__name__)
        await self._send(asking, message, request, why, jwt)

    def _read(self, message: Asked) -> LoginRequest | None:
        try:
            return claims.login_request(message.data)
        except ClaimsError as error:
            self.counts.unread += 1
            logger().warning("callout.unread", cause=str(error)[:200])
            return None

    async def _judge(self, request: LoginRequest) -> tuple[str, str]:
        """Why it is refused, or the JWT to let it in with; one of the two is empty."""
        names = _names(request.user)
        if names is None:
            self.counts.unread += 1
            return "the user is no <run>.<agent>", ""
        login = tokens.parse(request.password)
        recorded = False
        while True:
            read_s = time.monotonic()
            record = await self._access.get(*names)
            verdict = decide(record, login, time.time())
            if isinstance(verdict, Refusal) or record is None or login is None:
                refusal = verdict if isinstance(verdict, Refusal) else Refusal(reason="unknown")
                self._note(*names, refusal, request.host)
                self.counts.refused += 1
                return refusal.reason, ""
            if self._sessions is not None and not recorded:
                await self._sessions.record(record.user, _session(request, login))
                recorded = True
            # A kill looks for new connections for a moment after it is written; one that is let in by an older record
            # must appear within that moment.
            if time.monotonic() - read_s < FRESH_S:
                self.counts.granted += 1
                return "", self._sign(request, record, verdict)

    def _sign(self, request: LoginRequest, record: Record, grant: Grant) -> str:
        return self._authority.user_jwt(
            subject=request.user_nkey,
            name=record.user,
            permissions=grant.permissions,
            expires_at=grant.expires_at,
            payload_bytes=grant.payload_bytes,
            subs=grant.subscriptions,
        )

    def _note(self, run: str, agent: str, refusal: Refusal, host: str) -> None:
        told = _TOLD[refusal.reason]
        if told is None:
            return
        what, text = told
        # Anybody can give anybody's name: without the right secret it is held against nobody.
        doer = agent if refusal.proven else ""
        self._violations.note(run, doer, what, f"{text.format(agent=agent)}, from {host[:64]}")

    async def _refuse_unread(self, asking: Link, message: Asked) -> None:
        request = self._read(message)
        if request is not None:
            await self._send(asking, message, request, "too many logins at once", "")

    async def _send(self, asking: Link, message: Asked, request: LoginRequest, why: str, jwt: str) -> None:
        answer = self._authority.response(
            subject=request.user_nkey, server_id=request.server_id, jwt=jwt, error="" if jwt else why
        )
        try:
            await asking.publish(message.reply, answer)
        except ConnectionLost:
            self.counts.unsent += 1


def _session(request: LoginRequest, login: Login) -> Session:
    return Session(
        server=request.server_id, cid=request.cid, nonce=login.nonce, host=request.host[:64], at_s=time.time()
    )


def _names(user: str) -> tuple[str, str] | None:
    """Run and agent of a user name, if it is one of ours."""
    run, dot, agent = user.partition(".")
    try:
        return (check_token(run, "run"), check_member(agent)) if dot else None
    except SubjectError:
        return None
