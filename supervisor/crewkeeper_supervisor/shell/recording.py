"""Recordings: one run in one compressed file, written once and read back within limits: ledger, heads, journal.

The format stands in docs/ledger.md: gzip over lines of JSON, the last of which has the SHA-256 of all before it and
its signature. Whatever a file holds, reading it takes bounded memory and a bounded time; what is wrong with it is
collected in `Reader.problems`, so that whoever audits can name it.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec import Struct

from crewkeeper_bus import claims
from crewkeeper_bus.claims import ClaimsError
from crewkeeper_supervisor.shell.chain import Problem, Record
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.heads import PLACE, START, next_hash
from crewkeeper_supervisor.shell.journal import Entry

FORMAT: Final = 1
SUFFIX: Final = ".audit.gz"
MARK_CHARS: Final = 8
"""Of the journal's hash, beside each entry: enough to say where a change begins."""
FILE_MAX_BYTES: Final = 8 * 1024**3
"""Unpacked."""
LINE_MAX_BYTES: Final = 32 * 1024**2
RATIO_MAX: Final = 300
"""Most that a file may unpack to, as a multiple of itself, beyond the first `FREE_BYTES`: a journal of nothing but
heartbeats reaches a hundred, a bomb a thousand."""
FREE_BYTES: Final = 64 * 1024**2
RECORDS_MAX: Final = 10_000_000
CHUNK_BYTES: Final = 256 * 1024
_OUT_BYTES: Final = 1024 * 1024


class RecordingError(ShellError):
    """A file is no recording, or exceeds a limit; the text says where and what to do."""


class Header(Struct, frozen=True, kw_only=True):
    """The first line."""

    crewkeeper: str
    """Always `audit`."""
    format: int
    run: str
    crew: str
    exported_at: str
    """For people."""
    key: str
    """Public name of the key that signs the file; empty: it is not signed."""
    redacted: tuple[str, ...]
    """Classes and kinds that were taken out; empty: it is whole."""
    note: str = ""


class End(Struct, frozen=True, kw_only=True):
    """The last line."""

    lines: int
    """Before this one."""
    sha256: str
    """Over their bytes, line feeds included."""
    heads: int
    records: int
    entries: int
    redacted_records: int
    redacted_entries: int
    journal: str
    """Hash of the journal as it was before anything was taken out."""


class _Line(Struct, kw_only=True, gc=False):
    head: str = ""
    record: Record | None = None
    entry: tuple[int, float, str, str] | None = None
    mark: str = ""
    b64: bool = False
    was: str = ""
    end: End | None = None
    signed: str = ""


_LINES: Final = msgspec.json.Decoder(_Line)
_MADE: Final = msgspec.json.Encoder()
_END: Final = b'{"end"'
"""What the last line begins with."""


class Reader:
    """One file, read from its beginning to its end, once.

    Attributes:
        header: The first line.
        heads: Tokens.
        records: The ledger.
        redacted: Numbers of records whose commands were redacted.
        altered: Journal sequences of entries that were redacted; complete once all entries are read.
        journal: Hash of the journal as far as it was read.
        chains: Whether the hash is kept and each entry held against it; to be set before they are read. Without, an
            edited entry shows by the digest of the file alone, not which one it is, and there are no hashes.
        hashes: That hash at the sequences in `wanted`.
        problems: What is wrong with the file; complete once all entries are read.
        end: The last line, once it was read.
        signer: Who has signed the file, as far as the signature is right; once it was read.
    """

    def __init__(self, path: Path) -> None:
        """Open a file and read it up to the journal.

        Raises:
            RecordingError: It is no recording, or exceeds a limit.
            OSError: It cannot be read.
        """
        self.path = path
        self.heads: list[str] = []
        self.records: list[Record] = []
        self.redacted: set[int] = set()
        self.altered: list[int] = []
        self.journal = START
        self.chains = True
        self.wanted: set[int] = set()
        self.hashes: dict[int, str] = {}
        self.problems: list[Problem] = []
        self.end: End | None = None
        self.signer = ""
        self._file = path.open("rb")
        self._count = self._bytes = self._seq = 0
        self._sha256 = hashlib.sha256()
        self._ended = False
        self._first: list[_Line] = []
        try:
            self._lines = self._unpacked()
            self.header = self._header()
            self._read_front()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def entries(self) -> Iterator[list[Entry]]:
        """The journal, in batches; once.

        Raises:
            RecordingError: A limit is exceeded, or a line cannot be read.
        """
        batch, self._first = self._first, []
        if batch:
            yield [self._entry(line) for line in batch]
        for lines in self._lines:
            if self.end is None and not lines[-1].startswith(_END):
                found = self._plain(lines)
            else:
                parsed = self._parsed(lines)
                found = [self._entry(line) for line in parsed if line.entry is not None or self._is_entry(line)]
            if found:
                yield found
        self._finish()

    def _plain(self, lines: list[bytes]) -> list[Entry]:
        """Lines without the last one of the file, as `_parsed` and `_entry` take them, with less work for each."""
        text = b"\n".join(lines)
        self._sha256.update(text)
        self._sha256.update(b"\n")
        try:
            parsed = _LINES.decode_lines(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            where = f"lines {self._count + 1} to {self._count + len(lines)}"
            raise RecordingError(f"{self.path}: {where} cannot be read: {error}") from None
        self._count += len(lines)
        found: list[Entry] = []
        sha256, pack, wanted, chains = hashlib.sha256, PLACE.pack, self.wanted, self.chains
        for line in parsed:
            if line.entry is None:
                self._is_entry(line)
                continue
            seq, at_s, subject, payload_text = line.entry
            if line.was or line.b64 or seq != self._seq + 1 or seq in wanted or self._has_wrong_mark:
                found.append(self._entry(line))
                continue
            payload = payload_text.encode()
            if not chains:
                self._seq = seq
                found.append(Entry(seq, at_s, subject, payload))
                continue
            known = sha256(self.journal + pack(seq, at_s) + sha256(payload).digest() + subject.encode()).digest()
            if known[: MARK_CHARS // 2].hex() != line.mark:
                found.append(self._entry(line))
                continue
            self.journal, self._seq = known, seq
            found.append(Entry(seq, at_s, subject, payload))
        return found

    # --- the parts of it ---

    def _header(self) -> Header:
        first = next(self._lines, None)
        if first:
            line = first.pop(0)
            self._lines = _joined(first, self._lines)
            try:
                header = msgspec.json.decode(line, type=Header)
            except msgspec.MsgspecError:
                header = None
            if header is not None and header.crewkeeper == "audit" and header.format == FORMAT:
                self._counted(line)
                return header
            if header is not None and header.crewkeeper == "audit":
                raise RecordingError(f"{self.path}: has format {header.format}; this program reads format {FORMAT}")
        raise RecordingError(f"{self.path}: is no recording of a run; `supervisor audit export` writes one")

    def _read_front(self) -> None:
        """Heads and records: whatever stands before the first entry."""
        for lines in self._lines:
            self._first = [line for line in self._parsed(lines) if self._is_entry(line)]
            if self._first or self.end is not None:
                return

    def _parsed(self, lines: list[bytes]) -> Iterator[_Line]:
        for line in lines:
            if self.end is not None:
                self._wrong("inserted", f"line {self._count + 2} stands after the end of the file")
                return
            try:
                made = _LINES.decode(line)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise RecordingError(f"{self.path}: line {self._count + 1} cannot be read: {error}") from None
            if made.end is not None:
                self._close(made.end, made.signed)
            else:
                self._counted(line)
            yield made

    def _counted(self, line: bytes) -> None:
        self._sha256.update(line + b"\n")
        self._count += 1

    def _is_entry(self, line: _Line) -> bool:
        if line.entry is not None:
            return True
        if line.record is not None:
            if len(self.records) >= RECORDS_MAX:
                raise RecordingError(f"{self.path}: has more than {RECORDS_MAX} records")
            self.records.append(line.record)
            if line.was:
                self.redacted.add(line.record.n)
        elif line.head:
            self.heads.append(line.head)
        return False

    def _entry(self, line: _Line) -> Entry:
        assert line.entry is not None
        seq, at_s, subject, text = line.entry
        try:
            payload = base64.b64decode(text, validate=True) if line.b64 else text.encode()
            was = bytes.fromhex(line.was) if line.was else hashlib.sha256(payload).digest()
        except (binascii.Error, ValueError):
            raise RecordingError(f"{self.path}: entry {seq} of the journal cannot be read") from None
        if line.was:
            self.altered.append(seq)
        if seq != self._seq + 1:
            kind, what = ("deleted", "missing") if seq > self._seq else ("inserted", "there twice or out of place")
            self._wrong(kind, f"the journal goes from entry {self._seq} to {seq}: some are {what}", self._seq + 1)
        self.journal = known = next_hash(self.journal, seq, at_s, subject, was)
        if self.chains and line.mark != known[: MARK_CHARS // 2].hex() and not self._has_wrong_mark:
            self._has_wrong_mark = True
            self._wrong("edited", f"entry {seq} of the journal is not as it was exported", seq)
        self._seq = seq
        if seq in self.wanted:
            self.hashes[seq] = known.hex()
        return Entry(seq, at_s, subject, payload)

    _has_wrong_mark = False

    def _close(self, end: End, signed: str) -> None:
        self.end = end
        said = self._sha256.hexdigest()
        if (end.sha256, end.lines) != (said, self._count):
            self._wrong("edited", "the file is not as it was exported: its digest is another than its last line says")
        if not signed:
            return
        try:
            told = claims.signed_by(signed, "server")
        except (ClaimsError, UnicodeError):
            self._wrong("edited", "the signature of the file is wrong")
            return
        if (told.get("sha256"), told.get("run")) != (said, self.header.run):
            self._wrong("edited", "the file is not what its signature is for")
            return
        self.signer = str(told["iss"])

    def _finish(self) -> None:
        if self.end is None:
            self._wrong("truncated", f"the file ends after line {self._count}, without its last line", self._seq + 1)
        elif self.end.entries != self._seq:
            self._wrong("truncated", f"the journal ends at entry {self._seq} of {self.end.entries}", self._seq + 1)
        elif self.chains and self.end.journal != self.journal.hex() and not self.problems:
            self._wrong("edited", "the journal is not as it was exported")

    def _wrong(self, kind: Any, text: str, n: int = 0) -> None:
        self.problems.append(Problem(kind=kind, n=n, id="", text=text))

    # --- unpacking ---

    def _unpacked(self) -> Iterator[list[bytes]]:
        """Whole lines, in batches."""
        unpack = zlib.decompressobj(wbits=31)
        read_bytes, rest = 0, b""
        while packed := self._file.read(CHUNK_BYTES):
            read_bytes += len(packed)
            while packed:
                try:
                    data = unpack.decompress(packed, _OUT_BYTES)
                except zlib.error as error:
                    if not read_bytes or not self._bytes:
                        raise RecordingError(f"{self.path}: is not packed with gzip") from None
                    self._wrong("edited", f"the file cannot be unpacked after {self._bytes} bytes: {error}")
                    return
                packed = unpack.unconsumed_tail
                self._check_size(len(data), read_bytes)
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_MAX_BYTES:
                    raise RecordingError(f"{self.path}: has a line longer than {LINE_MAX_BYTES >> 20} MiB")
                if lines:
                    yield lines
                if unpack.eof:
                    self._after(unpack.unused_data, rest)
                    return
        if self.end is not None:  # without it the end is missed anyhow
            self._wrong("truncated", "the packed data is cut off after its last line")

    def _after(self, unused: bytes, rest: bytes) -> None:
        if unused or self._file.read(1):
            self._wrong("inserted", "something follows the packed data")
        if rest:
            self._wrong("truncated", "the last line is not whole")

    def _check_size(self, more: int, read_bytes: int) -> None:
        self._bytes += more
        if self._bytes > FILE_MAX_BYTES:
            raise RecordingError(f"{self.path}: unpacks to more than {FILE_MAX_BYTES >> 30} GiB")
        if self._bytes > FREE_BYTES and self._bytes > RATIO_MAX * read_bytes:
            raise RecordingError(
                f"{self.path}: unpacks to more than {RATIO_MAX} times its size, as no recording does; it is not read on"
            )


def _joined(first: list[bytes], rest: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    if first:
        yield first
    yield from rest


class Writer:
    """Writes one recording to a stream of bytes: heads, then records, then entries, then `close`.

    Args:
        write: Takes bytes.
        header: The first line.
        sign: Signs claims; None: the file is not signed.
    """

    def __init__(
        self, write: Callable[[bytes], Any], header: Header, sign: Callable[[dict[str, object]], str] | None = None
    ) -> None:
        self.altered = 0
        """Entries written with something taken out."""
        self.redacted = 0
        """Records written with something taken out."""
        self._write, self._sign, self._run = write, sign, header.run
        self._pack = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._sha256 = hashlib.sha256()
        self._heads = self._records = self._entries = self._lines = 0
        self._journal = START
        self._put(_MADE.encode(header))

    def head(self, token: str) -> None:
        """Write a head."""
        self._heads += 1
        self._put(_MADE.encode({"head": token}))

    def record(self, record: Record, clean: Any = None) -> None:
        """Write a record; with `clean` as its command, if that is given."""
        self._records += 1
        if clean is None:
            self._put(_MADE.encode({"record": record}))
            return
        self.redacted += 1
        left = msgspec.structs.replace(record, command=clean)
        self._put(_MADE.encode({"record": left, "was": record.digest or record.hash}))

    def entry(self, entry: Entry, clean: bytes | None = None) -> None:
        """Write an entry; with `clean` as its payload, if that is given."""
        self._entries += 1
        was = hashlib.sha256(entry.payload).digest()
        self._journal = next_hash(self._journal, entry.seq, entry.at_s, entry.subject, was)
        payload = entry.payload if clean is None else clean
        more: dict[str, Any] = {"mark": self._journal.hex()[:MARK_CHARS]}
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            text = base64.b64encode(payload).decode()
            more["b64"] = True
        if clean is not None:
            self.altered += 1
            more["was"] = was.hex()
        self._put(_MADE.encode({"entry": (entry.seq, entry.at_s, entry.subject, text), **more}))

    def close(self) -> End:
        """Write the last line, and what is left."""
        sha256 = self._sha256.hexdigest()
        end = End(
            lines=self._lines,
            sha256=sha256,
            heads=self._heads,
            records=self._records,
            entries=self._entries,
            redacted_records=self.redacted,
            redacted_entries=self.altered,
            journal=self._journal.hex(),
        )
        signed = "" if self._sign is None else self._sign({"run": self._run, "sha256": sha256})
        self._put(_MADE.encode({"end": end, "signed": signed}))
        self._write(self._pack.flush())
        return end

    def _put(self, line: bytes) -> None:
        self._sha256.update(line + b"\n")
        self._lines += 1
        if packed := self._pack.compress(line + b"\n"):
            self._write(packed)
