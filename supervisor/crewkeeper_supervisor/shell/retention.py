"""Retention: journals of ended runs are removed when their crew wants it; nothing of an open run is, and no ledger.

Theory of operation. When a run is over its owner signs a last head, which says what the journal was and for how long
it is to be kept from then on. That head is the order: whoever looks finds the runs that have ended, and removes the
journal of each whose last head is of a key that is known here and says that the time has come. The head stays, so an
audit knows that the journal is gone by right, and since when.
"""

import time
from collections.abc import Callable
from typing import Final

import anyio

from crewkeeper_supervisor.shell import audit_keys, heads, journal, snapshots
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.heads import Head, HeadError
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import ENDED, Registry

LOOK_S: Final = 600.0
"""How often a controller looks: a journal is removed so much late."""
KNOWN_MAX: Final = 100_000
_NEVER: Final = float("inf")


class Retention:
    """Removes what is no longer to be kept.

    Args:
        link: The server.
        registry: Its runs.
        is_needed: Whether somebody has yet to do with an ended run, as while it holds a share of what all may spend.
        look_s: Seconds between two looks.
        clock: Seconds since the Unix epoch.
    """

    def __init__(
        self,
        link: Link,
        registry: Registry,
        is_needed: Callable[[str], bool],
        *,
        look_s: float = LOOK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link, self._registry, self._is_needed = link, registry, is_needed
        self._look_s, self._clock = look_s, clock
        self._until_s: dict[str, float] = {}
        """Ended runs that were looked at, with the time until which the journal is kept."""

    async def work(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                logger().warning("retention.retry", cause=str(error)[:200])
            await anyio.sleep(self._look_s)

    async def look(self) -> list[str]:
        """Remove every journal whose time has come; returns the runs whose were.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        removed = []
        for info in await self._registry.ls():
            if info.state not in ENDED or self._is_needed(info.run):
                continue
            if await self._kept_until_s(info.run) <= self._clock():
                if await self._remove(info.run):
                    removed.append(info.run)
                self._until_s[info.run] = _NEVER
        while len(self._until_s) > KNOWN_MAX:
            del self._until_s[next(iter(self._until_s))]
        return removed

    async def _kept_until_s(self, run: str) -> float:
        known = self._until_s.get(run)
        if known is None:
            last = await self._link.last(heads.STREAM, f"heads.{run}")
            head = self._trusted(run, last.data if last is not None else None)
            if head is None or not head.final:
                return _NEVER  # its last head may come yet
            known = self._until_s[run] = kept_until_s(head) or _NEVER
        return known

    def _trusted(self, run: str, token: bytes | None) -> Head | None:
        key = audit_keys.load(self._link.place.state)
        try:
            head = heads.read_token((token or b"").decode("ascii", "replace"))
        except HeadError:
            return None
        return head if key is not None and head.iss == key.public and head.run == run else None

    async def _remove(self, run: str) -> bool:
        await snapshots.remove(self._link, run)
        removed = await journal.remove(self._link, run)
        if removed:
            logger().info("journal.removed", crew=run, cause="its retention is over")
        return removed


def kept_until_s(head: Head) -> float:
    """Until when the journal of an ended run is kept, seconds since the Unix epoch; 0: for ever."""
    return head.iat + head.retain_journal_s if head.final and head.retain_journal_s > 0 else 0.0
