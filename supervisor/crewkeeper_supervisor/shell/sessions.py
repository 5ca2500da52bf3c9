"""Sessions: which connections the callout has let in for each agent, and what happens when two are not of one process.

The server lists a user's connections, but not what they logged in with. So each login is recorded in KV bucket
SESSIONS, before it is answered, with the nonce of the client process; the list of a user is in the order in which its
logins were decided, whoever of several supervisors decided them. Soon after a login, whoever decided the newest
compares the list with the connections that are there:

- an older one with the newest's nonce is the same process that renews: it gets `RENEWAL_S` to end by itself;
- an older one with another nonce, or with none, is a second holder of the same token: it is closed, and the run is
  told. Which of the two is the thief is not known; but it cannot be done unseen.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import anyio
import msgspec
import nats.js.errors
from msgspec import Struct

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.core.scope import SESSION_S
from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence
from crewkeeper_supervisor.shell.system_link import Connection, SystemLink
from crewkeeper_supervisor.shell.violations import Violations

BUCKET: Final = "SESSIONS"
RENEWAL_S: Final = 30.0
"""How long a process may keep its old connection beside the new one."""
CHECKS_S: Final = (0.05, 0.5)
"""When the connections are looked at after a login: at once for the usual case, and again for those that logged in at
the same moment and were not listed yet."""
SETTLE_S: Final = 10.0
"""A connection that is listed for so long and was never recorded is an old one."""
SESSIONS_MAX: Final = 64
"""Logins of one user that are remembered."""
CHECKS_AT_ONCE: Final = 8
_PENDING_MAX: Final = 10_000
_STREAM: Final = f"KV_{BUCKET}"
_PREFIX: Final = f"$KV.{BUCKET}."


class Session(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One login that was let in."""

    server: str
    cid: int
    nonce: str = ""
    host: str = ""
    at_s: float = 0.0
    """Unix seconds."""


class Verdict(NamedTuple):
    """What becomes of the older connections of a user."""

    rivals: tuple[Connection, ...]
    """Of another process: close them now."""
    leftovers: tuple[Connection, ...]
    """Of the process that has just renewed: close them later."""


_DECODER: Final = msgspec.json.Decoder(tuple[Session, ...])


def judge(sessions: Sequence[Session], live: Iterable[Connection], now_s: float) -> Verdict:
    """Compare what was let in with what is there.

    Args:
        sessions: The logins of one user, oldest first; at least one. The last is the one that stays.
        live: The user's connections, as the servers list them.
        now_s: Unix seconds.
    """
    newest = sessions[-1]
    nonces = {(each.server, each.cid): each.nonce for each in sessions}
    rivals, leftovers = [], []
    for connection in live:
        at = (connection.server, connection.cid)
        if at == (newest.server, newest.cid):
            continue
        if at not in nonces:
            # Perhaps newer than the newest known, on its way into the list: whoever let it in looks after that.
            if now_s - connection.started_at_s > SETTLE_S:
                rivals.append(connection)
        elif newest.nonce and nonces[at] == newest.nonce:
            leftovers.append(connection)
        else:
            rivals.append(connection)
    return Verdict(tuple(rivals), tuple(leftovers))


async def is_there(link: Link) -> bool:
    """Whether a supervisor has ever decided about logins on this server.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    try:
        await link.js.stream_info(_STREAM)
    except nats.js.errors.NotFoundError:
        return False
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"bucket {BUCKET}: {type(error).__name__}") from error
    return True


class Sessions:
    """The logins of every user, and the rule of one process each.

    Attributes:
        kicked: How many connections this process has had closed.
    """

    def __init__(
        self,
        link: Link,
        system: SystemLink,
        violations: Violations,
        *,
        renewal_s: float = RENEWAL_S,
        checks_s: tuple[float, ...] = CHECKS_S,
    ) -> None:
        self.kicked = 0
        self._link = link
        self._system = system
        self._violations = violations
        self._renewal_s = renewal_s
        self._checks_s = checks_s
        self._recent: dict[str, tuple[int, tuple[Session, ...]]] = {}
        """The record of a user as it was last seen, with its sequence: a guess, never taken for the truth."""
        self._own: dict[str, Session] = {}
        """The newest login decided here, by user that is to be looked at."""
        self._due: dict[str, deque[float]] = {}
        self._leaving: dict[tuple[str, int], tuple[float, Connection]] = {}
        self._changed = anyio.Event()

    async def open(self) -> None:
        """Create the bucket if it is not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        # By the end of its life every connection has logged in again, or is gone.
        await self._link.ensure_bucket(BUCKET, "Logins that were let in", ttl_s=2 * SESSION_S)

    async def record(self, user: str, session: Session) -> None:
        """Record a login before it is answered, and look at the user's connections soon after.

        Raises:
            StoreUnavailable: The server did not store it: let nobody in.
        """
        # What was read or written last is good until the store says otherwise: one question instead of two.
        seq, known = self._recent.get(user, (0, ()))
        is_guess = True

        async def attempt() -> None:
            nonlocal seq, known, is_guess
            if not is_guess:
                seq, known = await self._read(user)
            is_guess = False
            await self._store(user, (*known, session)[-SESSIONS_MAX:], seq)

        await contend(f"sessions of {user}", attempt)
        if known:
            self._look_at(user, session)

    def _look_at(self, user: str, session: Session) -> None:
        if len(self._due) >= _PENDING_MAX and user not in self._due:
            return
        now_s = time.monotonic()
        due = self._due.setdefault(user, deque())
        # Whoever logs in without a pause must not push the look away before itself.
        first = due[0] if due else now_s + self._checks_s[0]
        self._due[user] = deque([first, *(now_s + after_s for after_s in self._checks_s[1:])])
        self._own[user] = session
        self._changed.set()

    async def work(self) -> None:
        """Look at connections when it is time to, for ever."""
        while True:
            self._changed = anyio.Event()
            times = [due[0] for due in self._due.values()] + [at_s for at_s, _ in self._leaving.values()]
            if not times:
                await self._changed.wait()
            elif (wait_s := min(times) - time.monotonic()) > 0:
                with anyio.move_on_after(wait_s):
                    await self._changed.wait()
            await self._turn()

    async def _turn(self) -> None:
        now_s = time.monotonic()
        gone = [key for key, (at_s, _) in self._leaving.items() if at_s <= now_s]
        self._kick([self._leaving.pop(key)[1] for key in gone])
        ready = [user for user, due in self._due.items() if due[0] <= now_s][:CHECKS_AT_ONCE]
        async with anyio.create_task_group() as group:
            for user in ready:
                due = self._due[user]
                due.popleft()
                own = self._own[user]
                if not due:
                    del self._due[user], self._own[user]
                group.start_soon(self._look, user, own)

    async def _look(self, user: str, own: Session) -> None:
        log = logger()
        try:
            seq, sessions = await self._read(user)
            if not sessions or (sessions[-1].server, sessions[-1].cid) != (own.server, own.cid):
                return  # a newer login has been decided elsewhere, and is looked after there
            scan = await self._system.connections(user)
            now_s = time.time()
            rivals, leftovers = judge(sessions, scan.connections, now_s)
            self._kick(rivals)
            if rivals:
                run, _, agent = user.partition(".")
                text = f"another process logged in from {own.host}; {len(rivals)} older connections were closed"
                self._violations.note(run, agent, "second_connection", text, len(rivals))
                log.warning("session.second", crew=run, agent=agent, count=len(rivals))
            until_s = time.monotonic() + self._renewal_s
            for connection in leftovers[: max(0, _PENDING_MAX - len(self._leaving))]:
                self._leaving.setdefault((connection.server, connection.cid), (until_s, connection))
            if scan.silent:
                log.warning("session.partial", agent=user, silent=", ".join(scan.silent)[:500])
                return
            there = {(each.server, each.cid) for each in scan.connections}
            # Those of this moment may not be listed yet.
            kept = tuple(each for each in sessions if (each.server, each.cid) in there or now_s - each.at_s < SETTLE_S)
            if kept and len(kept) < len(sessions):
                with contextlib.suppress(WrongLastSequence):  # the next login does it
                    await self._store(user, kept, seq)
        except (ConnectionLost, StoreUnavailable) as error:
            log.warning("session.unseen", agent=user, cause=type(error).__name__)

    def _kick(self, connections: Sequence[Connection]) -> None:
        if not connections:
            return
        try:
            self._system.kick(connections)
        except ConnectionLost:
            logger().warning("session.kick_failed", count=len(connections))
        else:
            self.kicked += len(connections)

    async def _read(self, user: str) -> tuple[int, tuple[Session, ...]]:
        last = await self._link.last(_STREAM, _PREFIX + user)
        if last is None:
            return 0, ()
        try:
            return int(last.seq or 0), _DECODER.decode(last.data or b"[]")
        except (msgspec.MsgspecError, ValueError):
            return int(last.seq or 0), ()

    async def _store(self, user: str, sessions: tuple[Session, ...], expected: int) -> None:
        self._recent.pop(user, None)
        seq = await self._link.store(_PREFIX + user, msgspec.json.encode(sessions), expected_last=expected)
        if len(self._recent) >= _PENDING_MAX:
            del self._recent[next(iter(self._recent))]
        self._recent[user] = (seq, sessions)
