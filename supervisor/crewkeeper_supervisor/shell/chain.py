"""Chain: the form of a ledger's records, how each is bound to the one before, and what is wrong with a list of them.

Theory of operation. A record has the SHA-256 of its command in canonical JSON (`digest`), and the SHA-256 of its own
fields with that digest and the hash of the record before (`hash`). So whoever has the records can check them, also
where a command was taken out of a copy and only its digest was left. Whoever may write the stream could compute all
that anew: therefore each hash is also authenticated with a key that is kept beside the store and not in it (`mac`,
HMAC-SHA256), and some hashes are signed and kept elsewhere (`heads`).

Format 1 had one hash over everything and no key; such records are read and said to be without. This file knows
neither streams nor files.
"""

import hashlib
import hmac
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

FORMAT: Final = 2
FIRST: Final = "0" * 64
"""What the first record of a run has for its predecessor's hash."""

_CANONICAL: Final = msgspec.json.Encoder(order="sorted")
_CANONICAL_1: Final = msgspec.json.Encoder(order="deterministic")


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
    digest: str = ""
    """SHA-256 over the canonical JSON of the command."""
    prev: str
    hash: str = ""
    mac: str = ""
    """HMAC-SHA256 over the hash, under the key that the record of the owner's beginning names; empty: without."""
    v: int = 1
    """Format."""


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a list of records."""

    kind: Literal["edited", "deleted", "swapped", "inserted", "truncated", "overspent"]
    n: int
    """Number of the first record that it is about."""
    id: str
    """Id of that record; empty where it is not there."""
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


CheckMac = Callable[[Record], bool]
"""Whether a record's code is right; true also where its key is not known."""


def canonical(plain: Any) -> bytes:
    """Plain data as the one JSON text that is hashed: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(plain)


def digest_of(plain: Any) -> str:
    """SHA-256 over the canonical JSON of plain data."""
    return digest_of_text(canonical(plain))


def digest_of_text(text: bytes) -> str:
    """SHA-256 over a JSON text that is canonical already."""
    return hashlib.sha256(text).hexdigest()


def digest(record: Record) -> str:
    """The hash that a record should have, by its format."""
    r = record
    if r.v == 1:
        first = {name: getattr(r, name) for name in _Record1.__struct_fields__ if name != "hash"}
        return hashlib.sha256(_CANONICAL_1.encode(_Record1(**first))).hexdigest()
    bound = (r.v, r.run, r.n, r.id, r.kind, r.finding, r.cause_seq, r.term, r.digest, r.prev)
    return hashlib.sha256(_CANONICAL.encode(bound)).hexdigest()


class _Record1(Struct, frozen=True, kw_only=True):
    """What a record of format 1 was hashed as."""

    run: str
    n: int
    id: str
    kind: str
    finding: str
    cause_seq: int
    term: int
    command: Any
    prev: str
    hash: str = ""


def code(key: bytes, hash_: str) -> str:
    """The authentication code of a hash."""
    return hmac.new(key, bytes.fromhex(hash_), hashlib.sha256).hexdigest()


def is_sound(record: Record, *, redacted: bool = False, check_mac: CheckMac | None = None) -> bool:
    """Whether a record is in itself as it was written.

    Args:
        record: The record.
        redacted: Its command was redacted after it was written: only the digest of it can be relied upon.
        check_mac: Checks its code.
    """
    if record.v not in (1, FORMAT) or record.hash != digest(record):
        return redacted and record.v == 1
    if record.v == 1:
        return True
    if not redacted and record.digest != digest_of(record.command):
        return False
    return check_mac is None or check_mac(record)


def check(
    records: Sequence[Record],
    *,
    redacted: Collection[int] = (),
    check_mac: CheckMac | None = None,
    behind: tuple[int, str] = (0, FIRST),
) -> list[Problem]:
    """What is wrong with a run's records, in order. Empty: nothing is.

    A cut-off end cannot be seen from the records alone; see `heads`.

    Args:
        records: All of them, in the order in which they are stored.
        redacted: Numbers of those whose commands were redacted in this copy.
        check_mac: Checks their codes.
        behind: Number and hash of the record that the first of them follows, where those before were removed.
    """
    return _Check(records, frozenset(redacted), check_mac, behind).run()


class _Check:
    """One walk over the records; after each problem it goes on from what the next records say."""

    def __init__(
        self, records: Sequence[Record], redacted: frozenset[int], check_mac: CheckMac | None, behind: tuple[int, str]
    ) -> None:
        self._left = list(records)
        self._redacted = redacted
        self._check_mac = check_mac
        self._problems: list[Problem] = []
        self._before, self._term, self._format = "", 0, 1
        self._n, self._head = behind[0] + 1, behind[1]

    def run(self) -> list[Problem]:
        at = 0
        while at < len(self._left):
            record = self._left[at]
            sound = self._is_sound(record)
            if sound and record.n == self._n and record.prev == self._head:
                self._accept(record, record.hash)
            elif not sound:
                self._unsound(record, self._left[at + 1] if at + 1 < len(self._left) else None)
            else:
                self._out_of_place(record, at)
            at += 1
        return self._problems

    def _is_sound(self, record: Record) -> bool:
        # Once records are authenticated, one without would be a way around it.
        redacted = record.n in self._redacted
        return record.v >= self._format and is_sound(record, redacted=redacted, check_mac=self._check_mac)

    def _accept(self, record: Record, head: str) -> None:
        if record.term < self._term:
            self._say("edited", record.n, record.id, f"record {record.n} has term {record.term} after {self._term}")
        self._before, self._head, self._n = self._head, head, record.n + 1
        self._term, self._format = max(self._term, record.term), max(self._format, record.v)

    def _unsound(self, record: Record, after: Record | None) -> None:
        if after is not None and (after.n, after.prev) == (self._n, self._head):
            self._say("inserted", self._n, record.id, f"a record was put in as number {self._n} ({record.id})")
            return
        self._say("edited", self._n, record.id, f"record {self._n} ({record.id}) is not as it was written")
        # What its hash was stands in the record after it.
        follows = after is not None and after.n == self._n + 1
        self._before, self._head = self._head, after.prev if after is not None and follows else record.hash
        self._n += 1

    def _out_of_place(self, record: Record, at: int) -> None:
        if record.n > self._n:
            if any(each.n == self._n for each in self._left[at:]):
                self._say("swapped", self._n, record.id, f"record {record.n} stands in the place of record {self._n}")
                self._left[at:] = sorted(self._left[at:], key=lambda each: each.n)
                first = self._left[at]
                self._accept(first, first.hash)
                return
            names = f"record {self._n} is" if record.n == self._n + 1 else f"records {self._n} to {record.n - 1} are"
            self._say("deleted", self._n, "", f"{names} missing before record {record.n} ({record.id})")
            self._accept(record, record.hash)
        elif record.n == self._n:
            wrong = max(1, self._n - 1)
            self._say("edited", wrong, "", f"record {wrong} was written anew: the next one does not follow from it")
            self._accept(record, record.hash)
        elif record.n == self._n - 1 and record.prev == self._before and record.hash != self._head:
            # Two records for one place: the true one is the one that the next record follows.
            after = self._left[at + 1] if at + 1 < len(self._left) else None
            other = self._left[at - 1]
            false, true = (other, record) if after is not None and after.prev == record.hash else (record, other)
            self._say("inserted", record.n, false.id, f"a second record was put in as number {record.n} ({false.id})")
            self._head = true.hash
        else:
            text = f"record {record.n} ({record.id}) stands once more after record {self._n - 1}"
            self._say("inserted", self._n, record.id, text)

    def _say(self, kind: Any, n: int, id_: str, text: str) -> None:
        self._problems.append(Problem(kind=kind, n=n, id=id_, text=text))
