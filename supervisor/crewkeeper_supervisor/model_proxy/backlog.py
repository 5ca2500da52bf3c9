"""Backlog: what has come from a provider and has not been given to the client yet, up to a size."""

from collections import deque
from typing import Final

import anyio

BACKLOG_MAX_BYTES: Final = 16 * 1024 * 1024


class Backlog:
    """A queue of bytes between one writer and one reader; the writer waits while it is full."""

    def __init__(self, limit_bytes: int = BACKLOG_MAX_BYTES) -> None:
        """Hold up to so many bytes, and one item at least."""
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._limit_bytes = limit_bytes
        self._is_closed = False
        self._changed = anyio.Event()

    async def put(self, item: bytes) -> None:
        """Add an item, when there is room."""
        while self._items and self._bytes + len(item) > self._limit_bytes:
            await self._changed.wait()
        self._items.append(item)
        self._bytes += len(item)
        self._tell()

    def close(self) -> None:
        """Nothing more comes."""
        self._is_closed = True
        self._tell()

    async def get(self) -> bytes | None:
        """The next item; None: that was all."""
        while not self._items:
            if self._is_closed:
                return None
            await self._changed.wait()
        item = self._items.popleft()
        self._bytes -= len(item)
        self._tell()
        return item

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
