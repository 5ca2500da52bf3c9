"""Log files of child processes: private, bounded, rotated once; what is written in them is the child's business."""

import os
from pathlib import Path
from typing import Final

LOG_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Size at which a log is moved to `<name>.1` and started anew, so one child keeps at most twice this."""


class LogFile:
    """One child's standard output and error, appended as bytes, mode 0600.

    A full or failing disk never reaches the caller: what cannot be written is counted and dropped, because a crew that
    works without a log is better than a crew that died of one.

    Attributes:
        path: Where it is.
        lost_bytes: How much could not be written.
    """

    def __init__(self, path: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
        """Open for appending; parents are made with mode 0700.

        Raises:
            OSError: The directory or file cannot be made.
        """
        self.path = path
        self.lost_bytes = 0
        self._limit_bytes = limit_bytes
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._open()
        self._size_bytes = os.fstat(self._file).st_size

    def write(self, chunk: bytes) -> None:
        """Append, rotating first where the chunk would pass the limit."""
        try:
            if self._size_bytes and self._size_bytes + len(chunk) > self._limit_bytes:
                self._rotate()
            written = 0
            while written < len(chunk):
                written += os.write(self._file, chunk[written:])
            self._size_bytes += written
        except OSError:
            self.lost_bytes += len(chunk)

    def close(self) -> None:
        """Close; idempotent, writing afterwards only counts as lost."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> int:
        # O_NOFOLLOW: the directory is ours, but an agent runs as the same user and could plant a link in it.
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        fresh = self._open()
        os.close(self._file)
        self._file = fresh
        self._size_bytes = 0
