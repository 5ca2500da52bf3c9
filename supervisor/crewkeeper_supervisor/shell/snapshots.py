"""Snapshots: the core's state of a run, kept by its owner so that a successor need not fold the journal from the start.

Theory of operation. A snapshot saves time and decides nothing: whoever cannot be certain that it is the very state of
the very journal folds that from its first entry instead. Certain means: signed with the audit key of this state
directory, written by the same sources, over the entry that the journal still has at that place, and giving back the
same bytes and the same digest when it is read. The state is taken between two turns of the owner, so seldom that it
takes a small share of the time, and packed and stored by a task beside it. It is stored in parts under a subject of its
own, then the head that names it, and then the one before is removed.

It also names the place where the ledger ended then. It is taken only when everything that the state has decided is
recorded up to there, and nothing that it has not: so a successor knows which of the decisions without a trace are
recorded, and reads the ledger on from there.
"""

import hashlib
import math
import time
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
import msgspec
import nats.js.errors
from msgspec import Struct
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from crewkeeper_bus import claims, subjects
from crewkeeper_bus.claims import ClaimsError
from crewkeeper_bus.errors import ServerError
from crewkeeper_supervisor.core.snapshot import SnapshotError
from crewkeeper_supervisor.shell import audit_keys, ledger
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.code_version import code_version
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.heads import PLACE
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.ledger import Position
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

STREAM: Final = "SNAPSHOTS"
FORMAT: Final = 2
SHARE: Final = 50
"""The next one is taken after so many times what this one took, so that they take 2 % of the time at most."""
STATE_MAX_BYTES: Final = 256 * 1024**2
PART_BYTES: Final = 512 * 1024
_LEVEL: Final = 1


class Folded(Protocol):
    """What is kept of the core."""

    def digest(self) -> str:
        """SHA-256 over the state."""

    def snapshot(self) -> bytes:
        """The whole state."""

    def restore(self, data: bytes, digest: str = "") -> None:
        """Go on from a state."""


class Kept(Struct, frozen=True, kw_only=True):
    """What the head of a snapshot says."""

    run: str
    format: int
    code: str
    """Which sources have written it, see `code_version`."""
    seq: int
    """Journal sequence of the last entry that is folded."""
    entry: str
    """Digest of that entry, with its place and time."""
    journal: str
    """Hash of the journal up to it, see `heads`."""
    state: str
    """Digest of the core's state."""
    bytes: int
    """Of the state, unpacked."""
    sha256: str
    """Of the packed state."""
    parts: int
    at: str
    """Last token of the subject that the parts are on."""
    ledger: Position | None = None
    """Where the ledger ended then."""
    iss: str


class Pace(Struct, frozen=True, kw_only=True):
    """How often the state is taken."""

    entries: int = 20_000
    """After so many entries: a successor folds about so many at most."""
    gap_s: float = 10.0
    """No sooner after the one before."""


class _Taken(Struct):
    seq: int
    told: dict[str, Any]
    data: bytes


class Snapshots:
    """Keeps the snapshots of one run that is owned here, and begins with the newest.

    Args:
        link: Where they are stored.
        run: The run.
        term: The owner's term.
        pace: How often.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        link: Link,
        run: str,
        term: int,
        pace: Pace | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._run, self._term = link, run, term
        self._pace, self._clock = pace or Pace(), clock
        self._key: AuditKey | None = audit_keys.make_or_warn(link.place.state)
        self._seq = 0
        self._next_s = clock() + self._pace.gap_s
        self._taken: _Taken | None = None
        self._is_due = anyio.Event()
        self._log = logger().bind(crew=run, term=term)

    async def load(self, fold: Folded) -> Kept | None:
        """Have a fold that has taken nothing yet go on from the newest snapshot that is certain; None: from entry 1."""
        begun_s = self._clock()
        try:
            found = await newest(self._link, self._run, self._key)
            if isinstance(found, Kept):
                data = await _data(self._link, found)
                fold.restore(data, found.state)
                self._seq = found.seq
                took_ms = round((self._clock() - begun_s) * 1000, 1)
                self._log.info("snapshot.loaded", seq=found.seq, bytes=found.bytes, latency_ms=took_ms)
                return found
        except (SnapshotError, StoreUnavailable) as error:
            found = str(error)[:300]
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the journal is there
            self._log.exception("snapshot.unused")
            return None
        if found:
            self._log.warning("snapshot.unused", cause=found)
        return None

    def look(
        self, fold: Folded, place: tuple[int, bytes], entry: Entry | None, position: Position | None = None
    ) -> None:
        """Take the state if it is time.

        Args:
            fold: The state; everything up to `entry` is folded.
            place: Sequence of `entry`, and the hash of the journal up to it.
            entry: The last one that is folded.
            position: Where the ledger ends: it has every decision of the state, and none of a later entry.
        """
        seq, hash_ = place
        if seq - self._seq < self._pace.entries or self._taken is not None or self._key is None or entry is None:
            return
        begun_s = self._clock()
        if begun_s < self._next_s:
            return
        assert entry.seq == seq
        try:
            data = fold.snapshot()
            if len(data) > STATE_MAX_BYTES:
                raise SnapshotError(f"the state has {len(data)} bytes, more than {STATE_MAX_BYTES}")
            told = {
                "run": self._run,
                "format": FORMAT,
                "code": code_version(),
                "seq": seq,
                "entry": _digest(entry),
                "journal": hash_.hex(),
                "state": fold.digest(),
                "bytes": len(data),
            }
            if position is not None:
                told["ledger"] = msgspec.structs.asdict(position)
            self._taken = _Taken(seq, told, data)
            self._is_due.set()
        except SnapshotError as error:
            self._log.warning("snapshot.failed", seq=seq, cause=str(error)[:300])
        except Exception:  # noqa: BLE001 - a run goes on without
            self._log.exception("snapshot.failed", seq=seq)
        took_s = self._clock() - begun_s
        self._seq, self._next_s = seq, self._clock() + max(self._pace.gap_s, SHARE * took_s)

    async def work(self) -> None:
        """Store what was taken; until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due = anyio.Event()
            if self._taken is not None:
                try:
                    await self._store(self._taken)
                except StoreUnavailable as error:  # the next one will do
                    self._log.warning("snapshot.unstored", seq=self._taken.seq, cause=str(error)[:200])
                self._taken = None

    async def _store(self, taken: _Taken) -> None:
        assert self._key is not None
        begun_s = self._clock()
        packed = await anyio.to_thread.run_sync(zlib.compress, taken.data, _LEVEL)
        at = f"{taken.seq}-{self._term}"
        count = math.ceil(len(packed) / PART_BYTES)
        for number in range(count):
            part = packed[number * PART_BYTES : (number + 1) * PART_BYTES]
            await self._link.store(_subject(self._run, at), part)
        more = {"sha256": hashlib.sha256(packed).hexdigest(), "parts": count, "at": at}
        await self._link.store(_subject(self._run, "head"), self._key.sign(taken.told | more).encode())
        took_ms = round((self._clock() - begun_s) * 1000, 1)
        self._log.info("snapshot.stored", seq=taken.seq, bytes=len(packed), latency_ms=took_ms)
        await _remove_others(self._link, self._run, taken.seq)


async def open_stream(link: Link) -> None:
    """Create the stream of snapshots if it is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await link.ensure_stream(
        StreamConfig(
            name=STREAM,
            description="States of runs, from which a new owner goes on",
            subjects=["snapshots.*.*"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
        )
    )


async def newest(link: Link, run: str, key: AuditKey | None) -> Kept | str:
    """The newest snapshot of a run, if it is one to go on from; else why it is not, empty if there is none.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    last = await link.last(STREAM, _subject(run, "head"))
    if last is None:
        return ""
    try:
        told = claims.signed_by((last.data or b"").decode("ascii", "replace"), "server")
        kept = msgspec.convert(told, Kept)
    except (ClaimsError, msgspec.ValidationError, UnicodeError) as error:
        return f"its head cannot be read: {error}"
    if key is None or kept.iss != key.public:
        return "it was signed with a key that is not known here"
    if (kept.format, kept.code) != (FORMAT, code_version()):
        return "another version of the program has written it"
    if kept.run != run:
        return f"it is of run {kept.run[:100]}"
    try:
        stored = await link.js.get_msg(subjects.stream_name(run), seq=kept.seq)
    except nats.js.errors.NotFoundError:
        return f"the journal has no entry {kept.seq}"
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"journal of {run}: {type(error).__name__}") from error
    if _digest_of(kept.seq, str(stored.subject), stored.data or b"") != kept.entry:
        return f"entry {kept.seq} of the journal is not the one it was taken at"
    return kept


async def read(link: Link, run: str) -> tuple[Kept, bytes]:
    """The newest snapshot of a run, with the state, which is yet to be restored.

    Raises:
        SnapshotError: There is none, or none to go on from; the text says why.
        StoreUnavailable: The server did not answer.
    """
    try:
        key = audit_keys.load(link.place.state)
    except ServerError as error:
        raise SnapshotError(str(error)) from error
    found = await newest(link, run, key)
    if not isinstance(found, Kept):
        raise SnapshotError(found or "there is none yet")
    return found, await _data(link, found)


async def remove(link: Link, run: str) -> None:
    """Remove every snapshot of a run.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await _purge(link, _subject(run, "*"))


async def _data(link: Link, kept: Kept) -> bytes:
    parts = [data for _, data in await ledger.stored(link, STREAM, _subject(kept.run, kept.at))]
    packed = b"".join(parts)
    if len(parts) != kept.parts or hashlib.sha256(packed).hexdigest() != kept.sha256:
        raise SnapshotError("its parts are not what its head names")
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(packed, min(kept.bytes, STATE_MAX_BYTES) + 1)
    except zlib.error as error:
        raise SnapshotError(f"it cannot be unpacked: {error}") from None
    if len(data) != kept.bytes:
        raise SnapshotError("it unpacks to another size than its head names")
    return data


async def _remove_others(link: Link, run: str, seq: int) -> None:
    """Remove what older snapshots have left; a newer one, and one that is being stored, stays."""
    try:
        found = await link.js.stream_info(STREAM, subjects_filter=_subject(run, "*"))
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"{STREAM}: {type(error).__name__}") from error
    for subject in found.state.subjects or {}:
        at = subject.rpartition(".")[2].partition("-")[0]
        if at.isdecimal() and int(at) < seq:
            await _purge(link, subject)
    await _purge(link, _subject(run, "head"), keep=1)


async def _purge(link: Link, subject: str, keep: int | None = None) -> None:
    try:
        await link.js.purge_stream(STREAM, subject=subject, keep=keep)
    except nats.js.errors.NotFoundError:  # nobody has ever taken one here
        return
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"{STREAM}: {type(error).__name__}") from error


def _subject(run: str, last: str) -> str:
    return f"snapshots.{run}.{last}"


def _digest(entry: Entry) -> str:
    return _digest_of(entry.seq, entry.subject, entry.payload)


def _digest_of(seq: int, subject: str, payload: bytes) -> str:
    place = PLACE.pack(seq, 0.0)
    return hashlib.sha256(place + hashlib.sha256(payload).digest() + subject.encode()).hexdigest()
