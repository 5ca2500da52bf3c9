"""Progress: a line on stderr about work that takes long, on a terminal alone."""

import os
import sys
import time
from collections.abc import AsyncIterator, Sized
from typing import Final, TypeVar

from crewkeeper_supervisor.cli.output import is_live

AFTER_S: Final = 0.5
"""What is over before is not worth a line."""
EVERY_S: Final = 0.1
_ERASED: Final = "\r\x1b[2K"

_Batch = TypeVar("_Batch", bound=Sized)


class Progress:
    """One line that takes the place of the one before; used as a context manager, it is gone at the end.

    Args:
        what: What is done, as `reading run trip-1`.
        total: How much there is of it; 0: unknown.
        told: Whether to say anything: not where what is read is itself shown on the terminal meanwhile.
    """

    def __init__(self, what: str, total: int = 0, *, told: bool = True) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._live = told and is_live(sys.stderr) and not os.environ.get("CREWKEEPER_QUIET")
        self._next_s = time.monotonic() + AFTER_S
        self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write(_ERASED)
            sys.stderr.flush()

    def add(self, count: int) -> None:
        """Say that so much more is done."""
        self._done += count
        if not self._live or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + EVERY_S
        self._shown = True
        of = f" of {self._total}" if self._total else ""
        sys.stderr.write(f"{_ERASED}{self._what}: {self._done}{of}")
        sys.stderr.flush()


async def counted(batches: AsyncIterator[_Batch], what: str) -> AsyncIterator[_Batch]:
    """The batches, with a line about how many items have passed."""
    with Progress(what) as progress:
        async for batch in batches:
            progress.add(len(batch))
            yield batch
