"""Tap: entries of a journal as the server delivers them when it has stored them, ahead of any consumer.

That is the shortest way from the stream to whoever follows it, and promises nothing: what is delivered can be lost on
the way, and nobody paces it. So a tap keeps one unbroken row of entries, and `journal.Follower` joins it where its own
place in the stream meets the row; until then, and after every gap, a consumer brings what is missing.
"""

from calendar import timegm
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from crewkeeper_bus.subjects import OUT, run_filter
from crewkeeper_supervisor.shell.nats_link import Link

ENTRIES_MAX: Final = 100_000
BYTES_MAX: Final = 64 * 1024 * 1024
"""What is kept for a slow reader; beyond, the row begins anew and the reader has to catch up by a consumer."""
_SEQUENCE: Final = b"\r\nNats-Sequence: "
_TIME: Final = b"\r\nNats-Time-Stamp: "


class Entry(NamedTuple):
    """One stored message."""

    seq: int
    """1, 2, 3, …"""
    at_s: float
    """When it was stored, seconds since the Unix epoch, by the server's clock."""
    subject: str
    payload: bytes


class Tap:
    """The unbroken row of entries that were delivered last.

    Args:
        link: The connection.
        run: The run.
        arrived: Called after each new entry, from the read loop.
    """

    def __init__(self, link: Link, run: str, arrived: Callable[[], None]) -> None:
        self._link = link
        self._arrived = arrived
        self._row: deque[Entry] = deque()
        self._size_bytes = 0
        self._last = 0
        self._stream_subject = run_filter(run)
        self._sid = link.nc.subscribe_raw(f"{OUT}.{self._stream_subject}", "", self._heard)

    def close(self) -> None:
        """Listen no more. Idempotent."""
        self._link.nc.unsubscribe_raw(self._sid)
        self._row.clear()

    def reaches(self, after: int) -> bool:
        """Whether the row goes on from the entry numbered `after`. What it holds up to there is dropped."""
        row = self._row
        while row and row[0].seq <= after:
            self._size_bytes -= len(row.popleft().payload)
        return bool(row) and row[0].seq == after + 1

    def take(self, most: int) -> list[Entry]:
        """The first entries of the row, at most so many."""
        taken = [self._row.popleft() for _ in range(min(most, len(self._row)))]
        self._size_bytes -= sum(len(entry.payload) for entry in taken)
        return taken

    def __len__(self) -> int:
        """How many entries wait."""
        return len(self._row)

    def _heard(self, subject: str, payload: bytes, headers: bytes | None) -> None:
        # Only the supervisor side and the server itself deliver on `out`; answers given ahead of the journal and what
        # is delivered again have no time stamp.
        mark = marks(headers)
        if mark is None or mark[0] <= self._last:
            return
        seq, at_s = mark
        if seq != self._last + 1 or len(self._row) >= ENTRIES_MAX or self._size_bytes > BYTES_MAX:
            self._row.clear()
            self._size_bytes = 0
        self._last = seq
        self._row.append(Entry(seq, at_s, subject[len(OUT) + 1 :], payload))
        self._size_bytes += len(payload)
        self._arrived()


@lru_cache(maxsize=2)
def _whole(seconds: str) -> int:
    """A time without fraction, in nanoseconds since the Unix epoch: the same for all that is stored within a second."""
    return timegm(datetime.fromisoformat(seconds).timetuple()) * 10**9


def marks(headers: bytes | None) -> tuple[int, float] | None:
    """Sequence and time that the server has put on what it delivers from a stream; None: it has not.

    A sender's own headers come before the server's, so where it has forged some the last ones are true.
    """
    if headers is None:
        return None
    at = headers.rfind(_SEQUENCE)
    if at < 0:
        return None
    at += len(_SEQUENCE)
    end = headers.find(b"\r\n", at)
    if not headers.startswith(_TIME, end):
        return None
    begin = end + len(_TIME)
    return int(headers[at:end]), _seconds(headers[begin : headers.find(b"\r\n", begin)].decode("ascii"))


def _seconds(stamp: str) -> float:
    """A time as the server writes it, `2026-01-31T12:00:00.123456789Z`, exactly as a consumer would give it."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return (_whole(whole) + int(fraction.ljust(9, "0"))) / 1e9
