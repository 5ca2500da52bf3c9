"""Ledger: decisions that must not be lost or made twice, hash-chained, in stream LEDGER on `ledger.<run>`.

Every commit expects the subject's last sequence to be the one this owner knows. A new owner begins with a record of
its own, so from then on every commit of the old one is refused by the server: that is the fence. An effect is carried
out only after its record is acknowledged.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import anyio
import msgspec
import nats.errors
from msgspec import Struct
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StoreCompression, StreamConfig

from crewkeeper_bus import subjects
from crewkeeper_supervisor.core.commands import AnswerCall, Command, Escalate, TellAgent
from crewkeeper_supervisor.shell.errors import Fenced, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence, replicas

STREAM: Final = "LEDGER"
BATCH_MAX: Final = 200
BATCH_MAX_BYTES: Final = 512 * 1024
COMMIT_LIMIT_S: Final = 10.0
FIRST: Final = "0" * 64
"""What the first record of a run has for its predecessor's hash."""
_FETCH: Final = 500


class Record(Struct, frozen=True, kw_only=True):
    """One decision, bound to the one before."""

    run: str
    n: int
    """1, 2, 3, … in this run."""
    id: str
    """Command id; `term-<n>` where an owner begins."""
    kind: str
    """Class of the command, or `Owner`."""
    finding: str = ""
    cause_seq: int = 0
    """Journal sequence of the event that the decision follows from."""
    term: int
    command: Any
    """The whole command as plain data."""
    prev: str
    hash: str = ""
    """SHA-256 over the canonical JSON of everything else."""


_DECODER: Final = msgspec.json.Decoder(list[Record])
_CANONICAL: Final = msgspec.json.Encoder(order="deterministic")


class Ledger:
    """One owner's writing end of one run's ledger."""

    def __init__(self, link: Link, run: str, term: int, owner: str) -> None:
        self._link = link
        self._run = run
        self._subject = subjects.ledger_subject(run)
        self._term = term
        self._owner = owner
        self._last_seq = 0
        self._n = 0
        self._head = FIRST
        self._ids: set[str] = set()

    @classmethod
    async def open(cls, link: Link, run: str, *, term: int, owner: str) -> "Ledger":
        """Read what is decided, and begin this owner's part; from here on earlier owners are fenced off.

        Raises:
            Fenced: An owner of a later term has begun already.
            StoreUnavailable: The server did not answer.
        """
        ledger = cls(link, run, term, owner)
        batches = await _read_batches(link, run)
        for seq, records in batches:
            ledger._last_seq = seq
            for record in records:
                ledger._n, ledger._head = record.n, record.hash
                ledger._ids.add(record.id)
                if record.term > term:
                    raise Fenced(f"run {run}: term {record.term} is writing; term {term} is over")
        await ledger._commit([ledger._record(f"term-{term}", "Owner", {"owner": owner})])
        return ledger

    def has(self, command_id: str) -> bool:
        """Whether this decision is recorded, by whichever owner."""
        return command_id in self._ids

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
            plain = msgspec.json.decode(msgspec.json.encode(command))
            length = len(_CANONICAL.encode(plain))
            if batch and (len(batch) >= BATCH_MAX or size + length > BATCH_MAX_BYTES):
                await self._commit(batch)
                batch, size = [], 0
            previous = batch[-1] if batch else None
            batch.append(self._record(command.id, type(command).__name__, plain, command, previous))
            size += length
        if batch:
            await self._commit(batch)

    def _record(
        self, id_: str, kind: str, plain: Any, command: Command | None = None, previous: Record | None = None
    ) -> Record:
        record = Record(
            run=self._run,
            n=(previous.n if previous else self._n) + 1,
            id=id_,
            kind=kind,
            finding=_finding(command),
            cause_seq=_cause_seq(command),
            term=self._term,
            command=plain,
            prev=previous.hash if previous else self._head,
        )
        return msgspec.structs.replace(record, hash=digest(record))

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
        self._n, self._head = batch[-1].n, batch[-1].hash
        self._ids.update(record.id for record in batch)


async def open_stream(link: Link) -> None:
    """Create the ledger's stream if it is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await link.ensure_stream(
        StreamConfig(
            name=STREAM,
            description="Decisions of the supervisors",
            subjects=["ledger.*"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            compression=StoreCompression.S2,
            deny_delete=True,
            deny_purge=True,
            num_replicas=replicas(),
        )
    )


async def read(link: Link, run: str) -> list[Record]:
    """Every decision of a run, oldest first.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    return [record for _, records in await _read_batches(link, run) for record in records]


def verify(records: Sequence[Record]) -> list[str]:
    """What is wrong with a run's records: edited, removed, swapped or inserted ones. Empty: nothing is.

    A cut-off end cannot be seen from the records alone; compare the last hash with one noted elsewhere.
    """
    problems: list[str] = []
    head, term = FIRST, 0
    for n, record in enumerate(records, start=1):
        if record.n != n:
            problems.append(f"record {n} has number {record.n}: one is missing, added or out of place")
        if record.prev != head:
            problems.append(f"record {n} ({record.id}) does not follow from the one before it")
        if record.hash != digest(record):
            problems.append(f"record {n} ({record.id}) was changed after it was written")
        if record.term < term:
            problems.append(f"record {n} ({record.id}) has term {record.term} after term {term}")
        head, term = record.hash, max(term, record.term)
    return problems


def digest(record: Record) -> str:
    """The hash a record should have."""
    return hashlib.sha256(_CANONICAL.encode(msgspec.structs.replace(record, hash=""))).hexdigest()


async def _read_batches(link: Link, run: str) -> list[tuple[int, list[Record]]]:
    subject = subjects.ledger_subject(run)
    last = await link.last(STREAM, subject)
    batches: list[tuple[int, list[Record]]] = []
    if last is None:
        return batches
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=30)
    try:
        pulled = await link.js.pull_subscribe(subject, stream=STREAM, config=config)
        try:
            while not batches or batches[-1][0] < int(last.seq or 0):
                fetched = await pulled.fetch(_FETCH, timeout=3)
                batches.extend((msg.metadata.sequence.stream, _DECODER.decode(msg.data)) for msg in fetched)
        finally:
            with anyio.move_on_after(1, shield=True):
                await pulled.unsubscribe()
    except (nats.errors.TimeoutError, *LINK_ERRORS) as error:
        raise StoreUnavailable(f"ledger of {run}: {type(error).__name__}") from error
    return batches


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
