"""Ledger: decisions that must not be lost or made twice, chained as `chain` says, in stream LEDGER on `ledger.<run>`.

Every commit expects the subject's last sequence to be the one this owner knows. A new owner begins with a record of
its own, so from then on every commit of the old one is refused by the server: that is the fence. An effect is carried
out only after its record is acknowledged.
"""

import contextlib
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Final

import anyio
import msgspec
import nats.errors
from msgspec import Raw
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StoreCompression, StreamConfig

from crewkeeper_bus import subjects
from crewkeeper_supervisor.core.commands import AnswerCall, Command, Escalate, TellAgent
from crewkeeper_supervisor.shell import audit_keys, chain
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.chain import FIRST, FORMAT, Record, digest
from crewkeeper_supervisor.shell.errors import Fenced, LedgerDamaged, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence

STREAM: Final = "LEDGER"
BATCH_MAX: Final = 200
BATCH_MAX_BYTES: Final = 512 * 1024
COMMIT_LIMIT_S: Final = 10.0
_FETCH: Final = 500


_DECODER: Final = msgspec.json.Decoder(list[Record])


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
        self._ids: set[str] = set()

    @classmethod
    async def open(cls, link: Link, run: str, *, term: int, owner: str) -> "Ledger":
        """Read what is decided, and begin this owner's part; from here on earlier owners are fenced off.

        Raises:
            Fenced: An owner of a later term has begun already.
            LedgerDamaged: A stored message holds no records.
            StoreUnavailable: The server did not answer.
        """
        ledger = cls(link, run, term, owner)
        for seq, data in await stored(link, STREAM, ledger._subject):
            ledger._last_seq = seq
            for record in _decoded(run, seq, data):  # one by one: hundreds of thousands at once keep the collector busy
                ledger.n, ledger.head = record.n, record.hash
                ledger._ids.add(record.id)
                if record.term > term:
                    raise Fenced(f"run {run}: term {record.term} is writing; term {term} is over")
        begun = {"owner": owner, "key": "" if ledger.key is None else ledger.key.public}
        await ledger._commit([ledger._record(f"term-{term}", "Owner", chain.canonical(begun))])
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


async def open_stream(link: Link) -> None:
    """Create the ledger's stream if it is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    await ensure_kept(link, STREAM, "Decisions of the supervisors", "ledger.*")


async def ensure_kept(link: Link, stream: str, description: str, subject: str) -> None:
    """Create a stream from which nothing is ever deleted, if it is not there.

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
            deny_purge=True,
        )
    )


async def read(link: Link, run: str) -> list[Record]:
    """Every decision of a run, oldest first.

    Raises:
        LedgerDamaged: A stored message holds no records.
        StoreUnavailable: The server did not answer.
    """
    found = await stored(link, STREAM, subjects.ledger_subject(run))
    return [record for seq, data in found for record in _decoded(run, seq, data)]


def verify(records: Sequence[Record]) -> list[str]:
    """What is wrong with a run's records as far as that shows without a key; see `chain.check`. Empty: nothing is."""
    return [str(problem) for problem in chain.check(records)]


async def stored(link: Link, stream: str, subject: str) -> list[tuple[int, bytes]]:
    """Sequence and payload of every message that is stored on a subject now.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    last = await link.last(stream, subject)
    found: list[tuple[int, bytes]] = []
    if last is None:
        return found
    config = ConsumerConfig(
        name=f"stored-{secrets.token_hex(8)}",
        ack_policy=AckPolicy.NONE,
        filter_subject=subject,
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
