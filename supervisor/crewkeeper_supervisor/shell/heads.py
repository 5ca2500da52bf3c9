"""Heads: signed statements of how far a run's ledger and journal had come and what their hashes were then.

A head is a JWT signed with the audit key, small enough to be kept anywhere. Heads are stored in a stream of their own
(HEADS, subject `heads.<run>`), so that whoever cuts the end off a ledger has to know the head that names it, too; one
that is kept elsewhere tells in any case. The journal's hash is a chain over its entries, so a head also shows that
what stood in the journal then stands there still.
"""

import hashlib
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from crewkeeper_bus import claims
from crewkeeper_bus.claims import ClaimsError
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.core.crew import Retain
from crewkeeper_supervisor.shell import fail_points, ledger
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.code_version import code_version
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.ledger import Ledger
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link

STREAM: Final = "HEADS"
EVERY_RECORDS: Final = 1000
EVERY_S: Final = 30.0
GAP_S: Final = 5.0
"""Least pause between two heads, however many records there are: signing must not slow down what is signed."""
TOKEN_MAX_CHARS: Final = 4096
START: Final = bytes(32)
"""Hash of a journal without entries."""

PLACE: Final = struct.Struct(">Qd")
"""Sequence and time of an entry, as they go into the journal's hash."""


class HeadError(ValueError):
    """This is no head, or nobody's."""


class Head(Struct, frozen=True, kw_only=True):
    """What one head says."""

    run: str
    n: int
    """Number of the last record then."""
    hash: str
    """Its hash."""
    seq: int
    """Journal sequence of the last entry then."""
    journal: str
    """Hash of the journal up to it, in hexadecimal."""
    state: str
    """Digest of the core's state then."""
    code: str
    """Which program has it so, see `code_version`."""
    term: int
    final: bool = False
    """Whether the run was over."""
    retain_journal_s: float = 0.0
    """How long the journal is kept after that; 0: for ever."""
    retain_ledger_s: float = 0.0
    """How long the ledger is kept after that; 0: for ever."""
    ended_at: int = 0
    """When the run was over, seconds since the Unix epoch; 0: when this was signed."""
    removed: bool = False
    """Whether the records up to this one are removed, because the time for which they were kept is over."""
    iat: int
    """When it was signed, seconds since the Unix epoch, by the clock of the signer; for people only."""
    iss: str
    """Public name of the key that signed it."""
    token: str = ""
    """The whole head, signed."""


def sha256(payload: bytes) -> bytes:
    """The digest of a payload, as `next_hash` takes it."""
    return hashlib.sha256(payload).digest()


def next_hash(before: bytes, seq: int, at_s: float, subject: str, payload_sha256: bytes) -> bytes:
    """The journal's hash after one more entry."""
    return hashlib.sha256(before + PLACE.pack(seq, at_s) + payload_sha256 + subject.encode()).digest()


def read_token(token: str) -> Head:
    """What a head says; whether its signer is one to trust is for the caller.

    Raises:
        HeadError: It is none, or its signature is wrong.
    """
    token = token.strip()
    if len(token) > TOKEN_MAX_CHARS:
        raise HeadError(f"a head has at most {TOKEN_MAX_CHARS} characters; this has {len(token)}")
    try:
        return msgspec.convert(claims.signed_by(token, "server") | {"token": token}, Head)
    except (ClaimsError, msgspec.ValidationError, UnicodeError) as error:
        raise HeadError(f"this is no signed head: {error}") from None


def mark_of_removal(last: Head, key: AuditKey) -> str:
    """What is signed before records are removed: the last head of the run again, and that they are gone up to there."""
    told = {**msgspec.structs.asdict(last), "removed": True, "ended_at": last.ended_at or last.iat}
    return key.sign({name: value for name, value in told.items() if name not in ("iat", "iss", "token")})


async def open_stream(link: Link) -> None:
    """Create the stream of heads if it is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await ledger.ensure_kept(link, STREAM, "Signed heads of ledgers and journals", "heads.*")


async def read(link: Link, run: str) -> list[str]:
    """Every stored head of a run, oldest first, as tokens.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    return [data.decode("ascii", "replace") for _, data in await ledger.stored(link, STREAM, f"heads.{run}")]


class Folded(Protocol):
    """What is signed of the core's state."""

    def digest(self) -> str:
        """SHA-256 over it."""


class Sealer:
    """Keeps the journal's hash as an owner folds it, and signs heads now and then.

    Args:
        link: Where heads are stored.
        run: The run.
        term: The owner's term.
        clock: Monotonic seconds.
    """

    def __init__(self, link: Link, run: str, term: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._link, self._run, self._term, self._clock = link, run, term, clock
        self._hash, self._seq = START, 0
        self._sealed_n, self._sealed_seq, self._sealed_s = 0, 0, clock()

    @property
    def place(self) -> tuple[int, bytes]:
        """Sequence of the last entry taken in, and the journal's hash up to it."""
        return self._seq, self._hash

    def go_on(self, seq: int, hash_: bytes) -> None:
        """Begin behind this entry, up to which the journal has this hash."""
        self._seq, self._hash = seq, hash_

    def take(self, entries: Iterable[tuple[int, float, str, bytes]]) -> None:
        """Take in journal entries, each once and in order."""
        sha256, pack = hashlib.sha256, PLACE.pack
        known = self._hash
        for seq, at_s, subject, payload in entries:
            known = sha256(known + pack(seq, at_s) + sha256(payload).digest() + subject.encode()).digest()
            self._seq = seq
        self._hash = known

    def token(self, book: Ledger, fold: Folded, retain: Retain | None = None) -> str:
        """A head for what is known now; empty where there is no key to sign with.

        Args:
            book: The ledger.
            fold: The core.
            retain: The run is over, and this is kept of it; None: it goes on.
        """
        if book.key is None:
            return ""
        told: dict[str, Any] = {
            "run": self._run,
            "n": book.n,
            "hash": book.head,
            "seq": self._seq,
            "journal": self._hash.hex(),
            "state": fold.digest(),
            "code": code_version(),
            "term": self._term,
        }
        if retain is not None:
            told |= {"final": True, "retain_journal_s": retain.journal_s, "retain_ledger_s": retain.ledger_s}
        return book.key.sign(told)

    async def seal(self, book: Ledger, fold: Folded) -> None:
        """Sign and publish a head if it is time; not acknowledged, for the next one covers it."""
        since_s = self._clock() - self._sealed_s
        if since_s < GAP_S or self._seq == self._sealed_seq:
            return
        if since_s < EVERY_S and book.n - self._sealed_n < EVERY_RECORDS:
            return
        self._sealed_n, self._sealed_seq, self._sealed_s = book.n, self._seq, self._clock()
        token = self.token(book, fold)
        fail_points.passed("head-due")
        try:
            await self._link.publish(f"heads.{self._run}", token.encode())
        except ConnectionLost:
            logger().warning("head.unsaid", crew=self._run, seq=self._seq)

    async def seal_the_end(self, book: Ledger, fold: Folded, retain: Retain) -> None:
        """Sign and store the head of a run that is over, and for how long what is recorded of it is kept."""
        token = self.token(book, fold, retain)
        if not token:
            return
        fail_points.passed("head-due")
        try:
            await self._link.store(f"heads.{self._run}", token.encode())
        except StoreUnavailable as error:
            logger().warning("head.unsaid", crew=self._run, seq=self._seq, cause=str(error)[:200])
