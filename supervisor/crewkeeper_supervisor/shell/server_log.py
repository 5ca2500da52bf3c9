"""Server log: the lines that an embedded server writes about clients it refuses something; read as they come, bounded.

Denied publishes and subscriptions raise no event, only a line in the log. The server quotes everything in it that a
client has a say in, so that a line's own structure can be trusted if the quotes are honoured. Of several readers on one
machine, one reads: whoever has the lock on the file.

A server that refuses a hundred thousand things in a second fills, renames and deletes files faster than they can be
read. So what is counted here is a lower bound.
"""

import fcntl
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel

POLL_S: Final = 0.2
CHUNK_BYTES: Final = 256 * 1024
BEHIND_MAX_BYTES: Final = 32 * 1024 * 1024
"""Further behind than this, lines are skipped: what they say has been said often enough."""
LINE_MAX_BYTES: Final = 64 * 1024

_QUOTED: Final = rb'"(?:[^"\\]|\\.)*"'
_DENIED: Final = re.compile(
    rb"\[\d+\] \S+ \S+ \[ERR\] \S+ - cid:\d+ - (?:" + _QUOTED + rb' - )?"[^"\\ ]*/user:([^"\\/ ]+)" - '
    rb"(Publish|Subscription) Violation - (.*)"
)


class Denied(NamedTuple):
    """A publish or subscription that the server refused."""

    user: str
    """Name of the user, in full; true, since the server has let it in."""
    what: str
    """`publish` or `subscription`."""
    detail: str
    """The subject and what else the server says of it; hostile text."""


def denied(line: bytes) -> Denied | None:
    """What a line says, if it is about a refused publish or subscription of a named user."""
    if b" Violation - " not in line:
        return None
    found = _DENIED.match(line)
    if found is None:
        return None
    user, what, detail = (part.decode("utf-8", "replace") for part in found.groups())
    return Denied(user, what.lower(), detail[:300])


class ServerLog:
    """Follows the log of a server from its present end on, over rotations.

    Attributes:
        skipped_bytes: How much was not read because it came too fast.
    """

    def __init__(self, path: Path) -> None:
        self.skipped_bytes = 0
        self._path = path
        self._descriptor = -1
        self._rest = b""
        self._from_end = True

    async def lines(self) -> AsyncGenerator[list[bytes], None]:
        """Yield new lines in batches, for ever; while somebody else reads the file, nothing.

        Close it (`contextlib.aclosing`) when leaving.
        """
        try:
            while True:
                if self._descriptor < 0:
                    self._open()
                while self._descriptor >= 0 and (chunk := self._read()):
                    yield self._split(chunk)
                    await anyio.lowlevel.checkpoint()
                if self._descriptor >= 0 and not self._is_current():
                    self._close()
                    self._from_end = False  # another one begins, all of which is new
                else:
                    await anyio.sleep(POLL_S)
        finally:
            self._close()

    def _open(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except OSError:
            self._from_end = False  # there is none yet, so that all that will be there is new
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            self._from_end = True  # what is there is read by somebody else
            return
        self._descriptor, self._rest = descriptor, b""
        if self._from_end:
            os.lseek(descriptor, 0, os.SEEK_END)

    def _read(self) -> bytes:
        behind = os.fstat(self._descriptor).st_size - os.lseek(self._descriptor, 0, os.SEEK_CUR)
        if behind > BEHIND_MAX_BYTES or behind < 0:  # too much, or the file was cut
            self.skipped_bytes += max(0, behind)
            self._rest = b""
            os.lseek(self._descriptor, 0, os.SEEK_END)
            return b""
        return os.read(self._descriptor, CHUNK_BYTES)

    def _split(self, chunk: bytes) -> list[bytes]:
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest if len(rest) <= LINE_MAX_BYTES else b""
        return lines

    def _is_current(self) -> bool:
        """Whether the file that is open is still the log: the server renames it when it is full, and begins another."""
        own = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except OSError:
            return True  # between the two
        return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
