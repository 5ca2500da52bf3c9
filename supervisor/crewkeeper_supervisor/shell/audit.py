"""Audit: whether what is recorded of a run is what was written, and how much of that is proven; no server needed.

Three things are held against each other: the chain of the records, the signed heads (and one that was kept
elsewhere), and the journal's hash. What nothing vouches for is said.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct, field

from crewkeeper_bus import subjects
from crewkeeper_bus.subjects import SUPERVISOR, Kind
from crewkeeper_supervisor.shell import chain, heads, spending
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.chain import Problem, Record
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.heads import Head, HeadError
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.retention import kept_until_s, ledger_kept_until_s
from crewkeeper_supervisor.shell.source import OfFile, Source

SUMS_MAX: Final = 100
"""Bookings that do not add up; more are not named."""
BY_REPLAY: Final = "supervisor replay misses what was decided and is not recorded"
"""Where else a cut shows that no head tells of."""

Proof = Literal["none", "part", "whole"]


class Report(Struct, kw_only=True):
    """What an audit found."""

    run: str
    where: str
    records: int = 0
    removed: int = 0
    """Records up to this number are gone by retention; a signed mark says so."""
    unchained: int = 0
    """Records of the first format: one hash, no key."""
    redacted_records: int = 0
    entries: int = 0
    """Journal entries that were read."""
    redacted_entries: int = 0
    heads: int = 0
    final: bool = False
    """Whether a trusted head says that the run was over."""
    proof: Proof = "none"
    """How many records a trusted key vouches for."""
    proven: int = 0
    """Records up to this number are vouched for."""
    sealed_seq: int = 0
    """Journal entries up to this one are vouched for."""
    booked: int = 0
    """Calls whose bookings were added up."""
    last: str = ""
    """Hash of the last record."""
    signer: str = ""
    """Who signed the file, if it is one."""
    keys: tuple[str, ...] = ()
    """Public names of all keys that are named."""
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What is not wrong, and should be known."""
    schema_version: int = 1

    @property
    def first(self) -> Problem | None:
        """The first problem."""
        return self.problems[0] if self.problems else None


async def examine(
    source: Source,
    *,
    key: AuditKey | None = None,
    trusted: Collection[str] = (),
    kept: str = "",
    with_journal: bool = True,
    now_s: float | None = None,
) -> Report:
    """Examine what is recorded of a run.

    Args:
        source: Records, heads and journal.
        key: The key that records may be authenticated with.
        trusted: Public names of keys that are known to be the supervisors'; the one of `key` always is.
        kept: A head that was kept elsewhere; empty: none.
        with_journal: Whether to read the journal, too.
        now_s: Seconds since the Unix epoch; None: the clock's.

    Raises:
        HeadError: `kept` is no head of this run.
        RecordingError: The file cannot be read, or exceeds a limit.
    """
    return await _Audit(source, key, trusted, kept, time.time() if now_s is None else now_s).run(with_journal)


class _Audit:
    def __init__(self, source: Source, key: AuditKey | None, trusted: Collection[str], kept: str, now_s: float) -> None:
        self._source, self._key, self._now_s = source, key, now_s
        self._trusted = {*trusted, *([key.public] if key is not None else ())}
        self._kept = _kept(kept, source.run)
        if self._kept is not None:
            self._trusted.add(self._kept.iss)
        self._owners: dict[int, str] = {}
        """The key that the first record of each term names: a later one must not undo it."""
        for record in source.records:
            if record.kind == "Owner" and isinstance(record.command, dict):
                self._owners.setdefault(record.term, str(record.command.get("key", "")))
        self._found = Report(run=source.run, where=source.where)
        self._heads: list[Head] = []
        self._gone: Head | None = None
        """The mark of what was removed by retention."""

    async def run(self, with_journal: bool) -> Report:
        found, source = self._found, self._source
        found.records = len(source.records)
        found.unchained = sum(record.v == 1 for record in source.records)
        self._read_heads()
        self._check_chain()
        self._add_up()
        self._hold_against_heads()
        if with_journal:
            await self._read_journal()
        self._name_keys()
        self._prove()
        found.redacted_records, found.redacted_entries = len(source.redacted), len(source.altered)
        # The records are named before the file: its digest only says that something of it is wrong.
        found.problems.sort(key=lambda problem: problem.n == 0)
        return found

    def _check_chain(self) -> None:
        source, found = self._source, self._found
        records, behind = source.records, self._behind_removed()
        found.last = records[-1].hash if records else behind[1]
        check_mac = self._is_right if self._key is not None else None
        found.problems += chain.check(records, redacted=source.redacted, check_mac=check_mac, behind=behind)
        for record in records:
            if record.run != source.run:
                self._wrong("inserted", f"record {record.n} ({record.id}) is of run {record.run[:60]}", record.n)
                break
            if record.v == chain.FORMAT and not record.mac and record.term not in self._owners and not found.problems:
                text = f"record {record.n} ({record.id}) has no code, and no owner has begun its term {record.term}"
                self._wrong("inserted", text, record.n)
                break

    def _behind_removed(self) -> tuple[int, str]:
        """Number and hash of the record that the first one must follow; what was removed by right is said."""
        gone, records = self._gone, self._source.records
        if gone is None:
            return 0, chain.FIRST
        self._found.removed = gone.n
        until_s = ledger_kept_until_s(gone)
        if not until_s or gone.iat < until_s:
            kept = f"until {_when(until_s)}" if until_s else "for ever"
            text = f"records {_span(1, gone.n)} were removed on {_when(gone.iat)}; they are to be kept {kept}"
            self._wrong("deleted", text, 1)
        else:
            self._found.remarks.append(
                f"records {_span(1, gone.n)} are gone by retention: the crew wanted them kept until {_when(until_s)}; "
                "the hash of the last stands in a signed head, and an export made before can still be verified"
            )
        left = [record for record in records if 1 <= record.n <= gone.n]
        if not left or records[0] is not left[0]:
            return gone.n, gone.hash
        self._found.remarks.append(f"{len(left)} of these records are still stored: they go at the next look")
        return left[0].n - 1, left[0].prev

    def _is_right(self, record: Record) -> bool:
        named = self._owners.get(record.term, "")
        if self._key is None or (named and named != self._key.public):
            return True
        return not (named or record.mac) or self._key.is_right(record)

    def _add_up(self) -> None:
        """Whether the bookings agree with each other, and keep to the limits that they name, at every record."""
        if self._found.problems or self._source.redacted or self._gone is not None:
            return  # what is not what was written, or not all of it, adds up to nothing
        spent = spending.add_up(self._source.records)
        self._found.booked = sum(spent.grants.values())
        for n, text in spent.wrong[:SUMS_MAX]:
            self._found.problems.append(Problem(kind="overspent", n=n, id="", text=text))

    # --- heads ---

    def _read_heads(self) -> None:
        for token in self._source.heads:
            try:
                head = heads.read_token(token)
            except HeadError as error:
                self._wrong("edited", f"a stored head is wrong: {error}")
                continue
            if head.run != self._source.run:
                self._wrong("inserted", f"a stored head is of run {head.run}")
                continue
            self._heads.append(head)
        self._found.heads = len(self._heads)
        if self._kept is not None:
            self._heads.append(self._kept)
        self._heads.sort(key=lambda head: (head.n, head.seq))
        marks = [head for head in self._heads if head.removed and self._counts(head)]
        self._gone = marks[-1] if marks else None

    def _hold_against_heads(self) -> None:
        by_n = {record.n: record for record in self._source.records}
        gone_n = self._found.removed
        last = max(by_n, default=gone_n)
        good = 0
        for head in self._heads:
            if not self._counts(head) or self._is_of_removed(head, by_n):
                continue
            record = by_n.get(head.n)
            if head.n > last:
                self._wrong(
                    "truncated",
                    f"the ledger ends with record {last}; a signed head names record {head.n}: "
                    f"{'record' if head.n == last + 1 else 'records'} {_span(last + 1, head.n)} "
                    f"{'was' if head.n == last + 1 else 'were'} cut off",
                    last + 1,
                )
                return
            if record is None or record.hash != head.hash:
                if not self._found.problems:
                    what = f"records {_span(good + 1, head.n)} are not those of the head signed at record {head.n}"
                    self._wrong("edited", what, good + 1)
                return
            good = head.n
            self._found.proven = max(self._found.proven, good)
            self._found.final = self._found.final or head.final

    def _is_of_removed(self, head: Head, by_n: Mapping[int, Record]) -> bool:
        """Whether a head names a record that is gone by retention: only the last of them is known by its hash."""
        gone = self._gone
        if gone is None or head.n > gone.n or head.n in by_n:
            return False
        if head.n == gone.n and head.hash != gone.hash:
            self._wrong("edited", f"the mark of the removal is not of the record that a head was signed at: {head.n}")
        elif head.n < gone.n and head is self._kept:
            self._found.remarks.append(f"the head that was kept names record {head.n}, which is gone by retention")
        self._found.proven = max(self._found.proven, gone.n)
        self._found.final = self._found.final or head.final
        return True

    def _counts(self, head: Head) -> bool:
        """Whether a head can vouch for something: where no key is known, it is only held against the rest."""
        return not self._trusted or head.iss in self._trusted

    # --- the journal ---

    async def _read_journal(self) -> None:
        source, found = self._source, self._found
        sealed = {head.seq: head for head in self._heads if self._counts(head)}
        source.wanted.update(sealed)
        seq = 0
        try:
            async for batch in source.batches():
                found.entries += len(batch)
                seq = batch[-1].seq if batch else seq
                self._miss_records(batch)
        except RunNotFound:
            self._journal_gone()
            return
        if isinstance(source, OfFile):
            found.problems += source.reader.problems
            found.signer = source.reader.signer
            if not found.entries and any(sealed):
                self._journal_gone()
                return
        good = 0
        for at, head in sorted(sealed.items()):
            if at > seq:
                self._wrong("truncated", f"the journal ends with entry {seq}; a signed head names entry {at}", seq + 1)
                return
            if at and source.hashes.get(at) != head.journal:
                text = f"entries {_span(good + 1, at)} of the journal are not those of the head signed at entry {at}"
                self._wrong("edited", text, good + 1)
                return
            good = at
        found.sealed_seq = good

    def _miss_records(self, batch: Sequence[Entry]) -> None:
        """Where there are no records at all: does the journal show that there were?"""
        if self._source.records or self._gone is not None or self._found.problems:
            return
        orders = subjects.build(self._source.run, Kind.CTL, SUPERVISOR, "x", "x").removesuffix("x.x")
        order = next((entry for entry in batch if entry.subject.startswith(orders)), None)
        if order is not None:
            text = f"there is no record, and entry {order.seq} of the journal is an order of an owner, who had some"
            self._wrong("deleted", text, 1)

    def _journal_gone(self) -> None:
        """There is no journal: is that right?"""
        last = self._last_final()
        until_s = kept_until_s(last) if last is not None else 0.0
        if until_s and until_s <= self._now_s:
            self._found.remarks.append(
                f"the journal is gone by retention: the crew wanted it kept until {_when(until_s)}; its hash stands in "
                "the last head, and an export made before can still be verified"
            )
            return
        why = "no signed head of its end says for how long it is to be kept"
        if until_s:
            why = f"it is to be kept until {_when(until_s)}"
        elif last is not None:
            why = "it is to be kept for ever"
        self._wrong("deleted", f"the journal is gone, and {why}", 1)

    # --- what it is worth ---

    def _name_keys(self) -> None:
        found = self._found
        named = dict.fromkeys([*self._owners.values(), *(head.iss for head in self._heads), found.signer])
        found.keys = tuple(name for name in named if name)
        strangers = [name for name in found.keys if name not in self._trusted]
        if strangers and self._trusted:
            self._wrong(
                "edited",
                f"{', '.join(strangers)} signed or wrote part of it and is not known here; "
                "if it is a supervisor of yours, name it with --key",
            )

    def _prove(self) -> None:
        found, records = self._found, self._source.records
        total = max(found.removed, records[-1].n if records else 0)
        if not self._trusted:
            found.proven = found.sealed_seq = 0
            found.remarks.append(
                "nothing proves who wrote it: no key is known here; compare the key above with what you were told, "
                "and give it with --key"
            )
        elif self._key is not None:
            for record in records:
                if self._owners.get(record.term) == self._key.public and record.n == found.proven + 1:
                    found.proven = record.n
        if self._trusted and found.signer in self._trusted and not found.problems:
            found.proven, found.sealed_seq = total, found.entries
        whole = total > 0 and found.proven >= total
        found.proof = "whole" if whole else "part" if found.proven else "none"
        if found.unchained:
            found.remarks.append(
                f"{found.unchained} records are unchained: written before records had codes, so whoever could write "
                "the stream could change them with their hashes"
            )
        if bare := [record.n for record in records if record.v == chain.FORMAT and not record.mac]:
            found.remarks.append(
                f"{len(bare)} records have no code, number {bare[0]} is the first: their owner had no key, or somebody "
                "without one has written them"
            )
        if not found.removed:
            self._say_retention()
        if records and not self._heads:
            found.remarks.append(f"no head was signed yet: records cut off at the end would not be missed; {BY_REPLAY}")
        elif records and not found.final and not found.signer:
            newest = max((head.n for head in self._heads), default=0)
            found.remarks.append(
                f"the run goes on: records cut off after number {newest} would not be missed; {BY_REPLAY}"
            )

    def _last_final(self) -> Head | None:
        """The newest head that says that the run was over."""
        return next((head for head in reversed(self._heads) if head.final and self._counts(head)), None)

    def _say_retention(self) -> None:
        """Say for how long what is there is kept."""
        found, last = self._found, self._last_final()
        if last is None:
            return
        for what, until_s, count in (
            ("journal", kept_until_s(last), found.entries),
            ("ledger", ledger_kept_until_s(last), found.records),
        ):
            if until_s and count:
                found.remarks.append(f"the {what} is kept until {_when(until_s)}; then it is removed from the server")

    def _wrong(self, kind: Literal["edited", "deleted", "inserted", "truncated"], text: str, n: int = 0) -> None:
        self._found.problems.append(Problem(kind=kind, n=n, id="", text=text))


def _kept(token: str, run: str) -> Head | None:
    if not token:
        return None
    head = heads.read_token(token)
    if head.run != run:
        raise HeadError(f"the head is of run {head.run}, not of {run}")
    return head


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
