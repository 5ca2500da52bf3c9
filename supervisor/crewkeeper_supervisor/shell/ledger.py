"""Ledger: decisions that must not be lost or made twice, chained as `chain` says, in stream LEDGER on `ledger.<run>`.

Every commit expects the subject's last sequence to be the one this owner knows. A new owner begins with a record of
its own, so from then on every commit of the old one is refused by the server: that is the fence. An effect is carried
out only after its record is acknowledged.

A new owner need not read what it knows already: one that begins with a snapshot of the core is told the place in the
ledger at which that was taken, makes sure that the stream still has that record there, and reads on from it.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import anyio
import msgspec
import nats.errors
import nats.js.errors
from msgspec import Raw, Struct
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
)

from crewkeeper_bus import subjects
from crewkeeper_supervisor.core.commands import AnswerCall, Command, Escalate, TellAgent
from crewkeeper_supervisor.shell import audit_keys, chain
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.chain import FIRST, FORMAT, Record, digest
from crewkeeper_supervisor.shell.errors import Fenced, LedgerDamaged, StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence

STREAM: Final = "LEDGER"
BATCH_MAX: Final = 200
BATCH_MAX_BYTES: Final = 512 * 1024
COMMIT_LIMIT_S: Final = 10.0
IDS_MAX: Final = 100_000
"""Ids of recorded decisions that are remembered, beside those without a trace."""
_FETCH: Final = 500


_DECODER: Final = msgspec.json.Decoder(list[Record])


class Position(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place in one run's ledger: its last record there."""

    seq: int
    """Sequence, in the stream, of the message that it is the last record of."""
    n: int
    hash: str


class Ledger:
    """One owner's writing end of one run's ledger.

    Attributes:
        n: Number of the last record that is stored.
        head: Its hash.
        key: What records are authenticated with; None: they are not.
    """

    def __init__(self, link: Link, run: str, term: int, owner: str) -> None:
        self.n = 0
        self.head = FIRST
        self.key: AuditKey | None = audit_keys.make_or_warn(link.place.state)
        self._link = link
        self._run = run
        self._subject = subjects.ledger_subject(run)
        self._term = term
        self._owner = owner
        self._last_seq = 0
        self._newest_cause = 0
        self._ids: set[str] = set()

    @classmethod
    async def open(
        cls, link: Link, run: str, *, term: int, owner: str, behind: Position | None = None, known: Iterable[str] = ()
    ) -> "Ledger":
        """Read what is decided, and begin this owner's part; from here on earlier owners are fenced off.

        Args:
            link: The server.
            run: The run.
            term: The owner's term.
            owner: Its name.
            behind: Read on from here, if the ledger has that record there; None: read it whole.
            known: Decisions recorded up to there that may be asked for or committed again.

        Raises:
            Fenced: An owner of a later term has begun already.
            LedgerDamaged: A stored message holds no records.
            StoreUnavailable: The server did not answer.
        """
        ledger = cls(link, run, term, owner)
        if behind is not None and (cause := await ledger._misses(behind)):
            logger().warning("ledger.read_whole", crew=run, cause=cause)
        elif behind is not None:
            ledger._ids.update(known)
        for seq, data in await stored(link, STREAM, ledger._subject, ledger._last_seq):
            ledger._take(seq, data)
        begun = {"owner": owner, "key": "" if ledger.key is None else ledger.key.public}
        await ledger._commit([ledger._record(f"term-{term}", "Owner", chain.canonical(begun))])
        return ledger

    async def _misses(self, behind: Position) -> str:
        """Begin behind this place; returns why that cannot be, empty if it can.

        Raises:
            Fenced: An owner of a later term had begun by then.
            StoreUnavailable: The server did not answer.
        """
        try:
            found = await self._link.js.get_msg(STREAM, seq=behind.seq)
        except nats.js.errors.NotFoundError:
            return f"stream {STREAM} has no message {behind.seq}"
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"{self._subject}: {type(error).__name__}") from error
        try:
            last = _decoded(self._run, behind.seq, found.data or b"")[-1]
        except (LedgerDamaged, IndexError):
            return f"message {behind.seq} of stream {STREAM} holds no records"
        if found.subject != self._subject or (last.n, last.hash) != (behind.n, behind.hash) or not chain.is_sound(last):
            return f"message {behind.seq} of stream {STREAM} does not end with record {behind.n} as it was"
        self._take(behind.seq, found.data or b"")
        return ""

    def _take(self, seq: int, data: bytes) -> None:
        """Take in one stored message.

        Raises:
            Fenced: An owner of a later term has written it.
            LedgerDamaged: It holds no records.
        """
        self._last_seq = seq
        for record in _decoded(self._run, seq, data):  # by message: hundreds of thousands keep the collector busy
            self.n, self.head = record.n, record.hash
            self._ids.add(record.id)
            self._newest_cause = max(self._newest_cause, record.cause_seq)
            if record.term > self._term:
                raise Fenced(f"run {self._run}: term {record.term} is writing; term {self._term} is over")

    def has(self, command_id: str) -> bool:
        """Whether this decision is recorded, by whichever owner."""
        return command_id in self._ids

    def settled(self, seq: int) -> Position | None:
        """The place where the ledger ends now, if nothing in it follows from an entry of the journal behind `seq`.

        Records of later entries are there while an owner folds what the one before it had decided upon already.
        """
        if self._newest_cause > seq or not self._last_seq:
            return None
        return Position(seq=self._last_seq, n=self.n, hash=self.head)

    def forget_all_but(self, pending: Collection[str]) -> None:
        """Forget the ids of decisions that nobody asks for again, once there are many.

        Args:
            pending: Those decided, recorded or not, that have no trace yet. Nothing of later entries may be recorded.
        """
        if len(self._ids) > max(IDS_MAX, 2 * len(pending)):
            self._ids = {id_ for id_ in pending if id_ in self._ids}

    async def commit(self, commands: Iterable[Command]) -> None:
        """Record decisions, in order; returns when they are stored. Those that are recorded are skipped.

        Raises:
            Fenced: Another owner has written: stop acting on the run.
            StoreUnavailable: Not acknowledged within 10 s; some may be stored. Committing again is safe.
        """
        batch: list[Record] = []
        size = 0
        for command in commands:
            if command.id in self._ids:
                continue
            plain = chain.canonical(msgspec.json.decode(msgspec.json.encode(command)))
            length = len(plain)
            if batch and (len(batch) >= BATCH_MAX or size + length > BATCH_MAX_BYTES):
                await self._commit(batch)
                batch, size = [], 0
            previous = batch[-1] if batch else None
            batch.append(self._record(command.id, type(command).__name__, plain, command, previous))
            size += length
        if batch:
            await self._commit(batch)

    def _record(
        self, id_: str, kind: str, plain: bytes, command: Command | None = None, previous: Record | None = None
    ) -> Record:
        bound = Record(
            run=self._run,
            n=(previous.n if previous else self.n) + 1,
            id=id_,
            kind=kind,
            finding=_finding(command),
            cause_seq=_cause_seq(command),
            term=self._term,
            command=Raw(plain),
            digest=chain.digest_of_text(plain),
            prev=previous.hash if previous else self.head,
            v=FORMAT,
        )
        hash_ = digest(bound)
        mac = "" if self.key is None else self.key.code(hash_)
        return msgspec.structs.replace(bound, hash=hash_, mac=mac)

    async def _commit(self, batch: list[Record]) -> None:
        payload = msgspec.json.encode(batch)
        until_s = time.monotonic() + COMMIT_LIMIT_S
        while True:
            try:
                seq = await self._link.store(self._subject, payload, expected_last=self._last_seq)
                break
            except WrongLastSequence:
                # Ours may be the last one: stored, and its acknowledgement lost.
                last = await self._link.last(STREAM, self._subject)
                if last is None or last.data != payload:
                    raise Fenced(f"run {self._run}: another owner has written to the ledger") from None
                seq = int(last.seq or 0)
                break
            except StoreUnavailable:
                if time.monotonic() > until_s:
                    raise
                await anyio.sleep(0.1)
        self._last_seq = seq
        self.n, self.head = batch[-1].n, batch[-1].hash
        self._ids.update(record.id for record in batch)
        self._newest_cause = max(self._newest_cause, *(record.cause_seq for record in batch))


async def open_stream(link: Link) -> None:
    """Create the ledger's stream if it is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await ensure_kept(link, STREAM, "Decisions of the supervisors", "ledger.*", deny_purge=False)


async def ensure_kept(link: Link, stream: str, description: str, subject: str, *, deny_purge: bool = True) -> None:
    """Create a stream from which no message is deleted, if it is not there.

    Args:
        link: The server.
        stream: Its name.
        description: What it holds, for people.
        subject: What is stored in it.
        deny_purge: Whether the server also refuses to remove from its front, as `remove` does; for good.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await link.ensure_stream(
        StreamConfig(
            name=stream,
            description=description,
            subjects=[subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            compression=StoreCompression.S2,
            deny_delete=True,
            deny_purge=deny_purge,
        )
    )


async def read(link: Link, run: str, passed: Callable[[int], object] | None = None) -> list[Record]:
    """Every decision of a run, oldest first.

    Args:
        link: The server.
        run: The run.
        passed: Is told how many messages came each time, for a line of progress.

    Raises:
        LedgerDamaged: A stored message holds no records.
        StoreUnavailable: The server did not answer.
    """
    found = await stored(link, STREAM, subjects.ledger_subject(run), passed=passed)
    return [record for seq, data in found for record in _decoded(run, seq, data)]


async def end(link: Link, run: str) -> Position | None:
    """Where a run's ledger ends; None: there is none.

    Raises:
        LedgerDamaged: The last message holds no records.
        StoreUnavailable: The server did not answer.
    """
    last = await link.last(STREAM, subjects.ledger_subject(run))
    if last is None:
        return None
    seq = int(last.seq or 0)
    found = _decoded(run, seq, last.data or b"")
    return Position(seq=seq, n=found[-1].n, hash=found[-1].hash) if found else None


async def can_remove(link: Link) -> bool:
    """Whether the stream allows `remove`: one that an early version has made refuses for ever.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    try:
        return not (await link.js.stream_info(STREAM)).config.deny_purge
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"{STREAM}: {type(error).__name__}") from error


async def remove(link: Link, run: str, seq: int) -> None:
    """Remove a run's records for good, up to and with the message of this sequence; `retention` says when.

    Raises:
        StoreUnavailable: The server did not answer, or refuses.
    """
    try:
        await link.js.purge_stream(STREAM, seq=seq + 1, subject=subjects.ledger_subject(run))
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"{STREAM}: {type(error).__name__}") from error


def verify(records: Sequence[Record]) -> list[str]:
    """What is wrong with a run's records as far as that shows without a key; see `chain.check`. Empty: nothing is."""
    return [str(problem) for problem in chain.check(records)]


async def stored(
    link: Link, stream: str, subject: str, behind: int = 0, passed: Callable[[int], object] | None = None
) -> list[tuple[int, bytes]]:
    """Sequence and payload of every message that is stored on a subject now.

    Args:
        link: The server.
        stream: Its stream.
        subject: The subject.
        behind: Leave out those up to this sequence.
        passed: Is told how many came each time, for a line of progress.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    last = await link.last(stream, subject)
    found: list[tuple[int, bytes]] = []
    if last is None or int(last.seq or 0) <= behind:
        return found
    config = ConsumerConfig(
        name=f"stored-{secrets.token_hex(8)}",
        ack_policy=AckPolicy.NONE,
        filter_subject=subject,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if behind else DeliverPolicy.ALL,
        opt_start_seq=behind + 1 if behind else None,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=30,
    )
    try:
        info = await link.js.add_consumer(stream, config)
        pulled = await link.js.pull_subscribe_bind(consumer=info.name, stream=stream)
        try:
            while not found or found[-1][0] < int(last.seq or 0):
                fetched = await pulled.fetch(_FETCH, timeout=3)
                found.extend((msg.metadata.sequence.stream, msg.data) for msg in fetched)
                if passed is not None:
                    passed(len(fetched))
        finally:
            # A stream has room for a thousand consumers: left to expire, those of many readers keep out a new owner.
            with anyio.move_on_after(1, shield=True), contextlib.suppress(*LINK_ERRORS):
                await pulled.unsubscribe()
                await link.js.delete_consumer(stream, info.name)
    except (nats.errors.TimeoutError, *LINK_ERRORS) as error:
        raise StoreUnavailable(f"{subject}: {type(error).__name__}") from error
    return found


def _decoded(run: str, seq: int, data: bytes) -> list[Record]:
    """The records of one stored message.

    Raises:
        LedgerDamaged: It holds none.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise LedgerDamaged(
            f"the ledger of {run} is damaged: message {seq} of stream {STREAM} holds no records ({error}); what "
            "was decided cannot be read from it: restore the store from a backup, and compare with an export"
        ) from None


def _finding(command: Command | None) -> str:
    match command:
        case Escalate():
            return command.incident
        case TellAgent():
            return str(getattr(command.message, "finding", ""))
        case AnswerCall(error=error) if error is not None:
            return error.finding
        case _:
            return ""


def _cause_seq(command: Command | None) -> int:
    """Command ids begin with the journal sequence they follow from."""
    head = "" if command is None else command.id.partition("-")[0]
    return int(head) if head.isdecimal() else 0
