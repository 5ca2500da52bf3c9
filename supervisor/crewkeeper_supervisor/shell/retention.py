"""Retention: what is recorded of ended runs is removed when their crew wants it; nothing of an open run is.

Theory of operation. When a run is over its owner signs a last head, which says what journal and ledger were and for
how long each is to be kept from then on. That head is the order: whoever looks finds the runs that have ended, and
removes the journal, and later the ledger, of each whose last head is of a key that is known here and says that the time
has come. Before records are removed the head is signed once more, as a mark that they are gone up to the last of them,
and stored beside the others. Heads and marks stay, so an audit knows what is gone by right and since when, and what is
not. A ledger that does not end as the head says is not removed.
"""

import time
from collections.abc import Callable
from typing import Final

import anyio

from crewkeeper_bus.errors import ServerError
from crewkeeper_supervisor.shell import audit_keys, heads, journal, ledger, snapshots
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.errors import LedgerDamaged, StoreUnavailable
from crewkeeper_supervisor.shell.heads import Head, HeadError
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry

LOOK_S: Final = 600.0
"""How often a controller looks: what is to go is removed so much late."""
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
        self._due_s: dict[str, float] = {}
        """Ended runs that were looked at, with the time at which the next thing of them is to go."""

    async def work(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                logger().warning("retention.retry", cause=str(error)[:200])
            await anyio.sleep(self._look_s)

    async def look(self) -> list[str]:
        """Remove every journal and ledger whose time has come; returns the runs of which something was.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        removed: list[str] = []
        try:
            key = audit_keys.load(self._link.place.state)
        except ServerError as error:
            logger().warning("retention.no_key", cause=str(error)[:300])
            return removed
        if key is None:
            return removed
        for info in await self._registry.ls():
            if not info.is_over or self._is_needed(info.run):
                continue
            if self._due_s.get(info.run, 0.0) <= self._clock() and await self._see_to(info.run, key):
                removed.append(info.run)
        while len(self._due_s) > KNOWN_MAX:
            del self._due_s[next(iter(self._due_s))]
        return removed

    async def _see_to(self, run: str, key: AuditKey) -> bool:
        """Remove what is to go of an ended run, and note when the next is; returns whether anything was."""
        last = await self._link.last(heads.STREAM, f"heads.{run}")
        head = _trusted(run, key, last.data if last is not None else None)
        if head is None or not head.final:
            return False  # its last head may come yet
        journal_s, ledger_s = kept_until_s(head) or _NEVER, ledger_kept_until_s(head) or _NEVER
        self._due_s[run] = journal_s
        if journal_s > self._clock():
            return False
        await snapshots.remove(self._link, run)
        removed = await journal.remove(self._link, run)
        if removed:
            logger().info("journal.removed", crew=run, cause="its retention is over")
        self._due_s[run] = ledger_s
        if ledger_s <= self._clock():
            removed = await self._remove_ledger(run, head, key) or removed
            self._due_s[run] = _NEVER
        return removed

    async def _remove_ledger(self, run: str, head: Head, key: AuditKey) -> bool:
        """Remove a ledger that ends with this head's record, and leave a mark; returns whether there was one."""
        try:
            end = await ledger.end(self._link, run)
        except LedgerDamaged as error:
            logger().warning("ledger.kept", crew=run, cause=str(error)[:300])
            return False
        if end is None:
            return False
        if (end.n, end.hash) != (head.n, head.hash):
            cause = f"it ends with record {end.n} and not as its last head says: see `supervisor audit verify {run}`"
            logger().warning("ledger.kept", crew=run, cause=cause)
            return False
        if not await ledger.can_remove(self._link):
            cause = f"stream {ledger.STREAM} was made by a version that let nothing be removed from it, for good"
            logger().warning("ledger.kept", crew=run, cause=cause)
            return False
        if not head.removed:  # else whoever has left the mark came no further
            await self._link.store(f"heads.{run}", heads.mark_of_removal(head, key).encode())
        await ledger.remove(self._link, run, end.seq)
        logger().info("ledger.removed", crew=run, records=end.n, cause="its retention is over")
        return True


def _trusted(run: str, key: AuditKey, token: bytes | None) -> Head | None:
    try:
        head = heads.read_token((token or b"").decode("ascii", "replace"))
    except HeadError:
        return None
    return head if head.iss == key.public and head.run == run else None


def kept_until_s(head: Head) -> float:
    """Until when the journal of an ended run is kept, seconds since the Unix epoch; 0: for ever."""
    return _until_s(head, head.retain_journal_s)


def ledger_kept_until_s(head: Head) -> float:
    """Until when the ledger of an ended run is kept, seconds since the Unix epoch; 0: for ever."""
    return _until_s(head, head.retain_ledger_s)


def _until_s(head: Head, kept_s: float) -> float:
    return (head.ended_at or head.iat) + kept_s if head.final and kept_s > 0 else 0.0
