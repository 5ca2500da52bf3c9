"""Source: what is recorded of one run, from its server or from a file, for whoever goes through it once."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import anyio.lowlevel

from crewkeeper_supervisor.shell import heads, journal, ledger, recording, snapshots
from crewkeeper_supervisor.shell.chain import Record
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.snapshots import Kept

IMPORTED: Final = "imported"
"""Folder of imported recordings, in a state directory."""


class Source(Protocol):
    """What is recorded of one run.

    Attributes:
        run: Its id.
        where: Where it comes from, for people.
        records: Its ledger.
        heads: Its signed heads, oldest first.
        redacted: Numbers of records whose commands were redacted in this copy.
        altered: Sequences of journal entries that were redacted in this copy; complete at the end.
        wanted: Sequences at which the hash of the journal is to be noted.
        hashes: These hashes, in hexadecimal; complete at the end.
        passed: Is told of each batch of the journal how many entries it has; for a line of progress.
    """

    run: str
    where: str
    records: Sequence[Record]
    heads: Sequence[str]
    redacted: Collection[int]
    altered: Sequence[int]
    wanted: set[int]
    hashes: dict[int, str]
    passed: Callable[[int], object]

    def batches(self) -> AsyncIterator[list[Entry]]:
        """The journal from its first entry to the one that is newest now, in batches; once."""


class OfRun:
    """A run on a server. Make it with `of_run`."""

    def __init__(
        self,
        link: Link,
        run: str,
        records: Sequence[Record],
        tokens: Sequence[str],
        end: int | None = None,
        later: int = 0,
    ) -> None:
        """Read what is given here.

        Args:
            link: The server.
            run: The run.
            records: Its ledger.
            tokens: Its heads.
            end: The last entry of the journal that is read; None: the one that is newest when it is read.
            later: The last that there was when the records had been read.
        """
        self.run, self.where = run, f"run {run}"
        self.records, self.heads = records, tokens
        self.redacted: Collection[int] = ()
        self.altered: Sequence[int] = ()
        self.wanted: set[int] = set()
        self.hashes: dict[int, str] = {}
        self.passed: Callable[[int], object] = _unheard
        self._link, self._end, self._later = link, end, later
        self._behind = 0

    def begin_behind(self, seq: int) -> None:
        """Leave out the journal up to this entry. Hashes of the journal are not to be had then."""
        assert not self.wanted
        self._behind = seq

    def decided(self) -> Sequence[Record]:
        """The records of what was decided upon the entries that are read; a run that goes on has later ones."""
        return [record for record in self.records if not self._is_later(record)]

    def settled(self) -> Sequence[Record]:
        """The records up to the first of what was decided upon entries that are not read."""
        return list(itertools.takewhile(lambda record: not self._is_later(record), self.records))

    def _is_later(self, record: Record) -> bool:
        """Whether it came while the run was read; one that names an entry that there never was stays, to be seen."""
        return self._end is not None and self._end < record.cause_seq <= self._later

    async def snapshot(self) -> tuple[Kept, bytes]:
        """The newest snapshot, with the state.

        Raises:
            SnapshotError: There is none to go on from; the text says why.
            StoreUnavailable: The server did not answer.
        """
        return await snapshots.read(self._link, self.run)

    async def batches(self) -> AsyncIterator[list[Entry]]:
        """The journal.

        Raises:
            RunNotFound: It has none.
            JournalGap: Entries are missing.
            StoreUnavailable: The server did not answer.
        """
        end = await journal.last_seq(self._link, self.run) if self._end is None else self._end
        known, seq = heads.START, self._behind
        if end <= seq:
            return
        async with journal.follow(self._link, self.run, seq + 1) as entries:
            while seq < end:
                batch = [entry for entry in await entries.batch() if entry.seq <= end]
                for entry in batch if self.wanted else ():
                    known = heads.next_hash(known, *entry[:3], heads.sha256(entry.payload))
                    if entry.seq in self.wanted:
                        self.hashes[entry.seq] = known.hex()
                seq = batch[-1].seq if batch else seq
                self.passed(len(batch))
                yield batch


class OfFile:
    """A recording."""

    def __init__(self, reader: recording.Reader) -> None:
        self.reader = reader
        self.run, self.where = reader.header.run, str(reader.path)
        self.records: Sequence[Record] = reader.records
        self.heads: Sequence[str] = reader.heads
        self.redacted: Collection[int] = reader.redacted
        self.altered: Sequence[int] = reader.altered
        self.wanted, self.hashes = reader.wanted, reader.hashes
        self.passed: Callable[[int], object] = _unheard

    async def batches(self) -> AsyncIterator[list[Entry]]:
        """The journal.

        Raises:
            RecordingError: A limit is exceeded, or a line cannot be read.
        """
        for batch in self.reader.entries():
            await anyio.lowlevel.checkpoint()
            self.passed(len(batch))
            yield batch


def _unheard(_count: int) -> None:
    """Nobody wants to know."""


async def of_run(link: Link, run: str, passed: Callable[[int], object] | None = None) -> OfRun:
    """What a server has of a run, which may go on meanwhile.

    Heads are read first and records last: no head names what is not read, and what was done upon the entries that are
    read is recorded.

    Args:
        link: The server.
        run: The run.
        passed: Is told how many messages of the ledger came each time, for a line of progress.

    Raises:
        LedgerDamaged: A stored message holds no records.
        StoreUnavailable: The server did not answer.
    """
    tokens = await heads.read(link, run)
    end = await _end(link, run)
    records = await ledger.read(link, run, passed)
    if tokens and not records:  # removed by right, perhaps just now: the mark of that was stored before
        tokens = await heads.read(link, run)
    return OfRun(link, run, records, tokens, end, await _end(link, run) or 0)


async def _end(link: Link, run: str) -> int | None:
    """The newest entry of the journal; None: there is none, which is told when it is read."""
    with contextlib.suppress(RunNotFound):
        return await journal.last_seq(link, run)
    return None


@contextlib.contextmanager
def of_file(path: Path) -> Iterator[OfFile]:
    """What a recording has.

    Raises:
        RecordingError: It is none, or exceeds a limit.
        OSError: It cannot be read.
    """
    with recording.Reader(path) as reader:
        yield OfFile(reader)


def imported(state: Path, run: str) -> Path:
    """Where the imported recording of a run is, if there is one."""
    return state / IMPORTED / f"{run}{recording.SUFFIX}"
