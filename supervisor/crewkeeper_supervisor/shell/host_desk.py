"""Host desk: tells a run whose agents are spread which hosts there are and which are gone; what follows is the core's.

Level-triggered: what the fold knows is held against what is registered, again and again, and what differs is stated in
the journal. A host is stated to be gone only when its registration has expired and it does not answer any more.
"""

from collections.abc import Callable
from typing import Final

import anyio
import anyio.abc

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import HostLost, HostSeen, HostsSeen
from crewkeeper_supervisor.core.hosting_state import Hosting
from crewkeeper_supervisor.shell import bucket, journal
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.host_registry import BUCKET, HostInfo, HostRegistry, decode
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link

LOOK_S: Final = 1.0
"""How often the two are held against each other, at least."""
SWEEP_S: Final = 2.0
"""How often the registrations are read: in between, renewals and ends are heard of."""
SETTLE_S: Final = 0.2
"""After something was heard, before it is stated: hosts that come together are stated together."""
AGAIN_S: Final = 5.0
"""After an agent was refused by a host: when hosts are stated again, so that it is asked again."""
LISTED_MAX: Final = 1000

Known = Callable[[], Hosting | None]


class HostDesk:
    """What one run is told of hosts, by its owner."""

    def __init__(self, link: Link, run: str, known: Known, may_act: Callable[[], bool]) -> None:
        """Prepare; `work` does it.

        Args:
            link: The owner's connection.
            run: The run.
            known: What the fold knows; None as long as it is not folded, and for runs that have one host.
            may_act: Whether this owner may act now.
        """
        self._link = link
        self._run = run
        self._known = known
        self._may_act = may_act
        self._registry = HostRegistry(link)
        self._live: dict[str, HostInfo] = {}
        """By incarnation, as last read or heard."""
        self._asked: set[str] = set()
        """Incarnations that are being asked whether they are there."""
        self._heard = anyio.Event()
        self._stated_s = float("-inf")
        """When hosts were last stated."""

    async def work(self) -> None:
        """State what is to be stated, until cancelled.

        Raises:
            StoreUnavailable: The connection is closed for good.
        """
        while self._known() is None:  # noqa: ASYNC110 - most runs have one host, and look no further
            await anyio.sleep(LOOK_S)
        async with bucket.heard(self._link, BUCKET, self._hear), anyio.create_task_group() as group:
            read_s = float("-inf")
            while True:
                self._heard = anyio.Event()
                if anyio.current_time() - read_s >= SWEEP_S and await self._read():
                    read_s = anyio.current_time()
                if read_s > float("-inf"):
                    await self._compare(group)
                with anyio.move_on_after(LOOK_S):
                    await self._heard.wait()
                    await anyio.sleep(SETTLE_S)

    def _hear(self, stored: bucket.Stored) -> None:
        name, info = stored.key, decode(stored.value)
        before = {inc for inc, each in self._live.items() if each.name == name}
        known = self._live.get(info.inc) if info is not None else None
        for inc in before - ({info.inc} if info is not None else set()):
            del self._live[inc]
        if info is not None:
            self._live[info.inc] = info
        if (
            known is None
            or info is None
            or (known.taken, known.slots, known.leaving)
            != (
                info.taken,
                info.slots,
                info.leaving,
            )
        ):
            self._heard.set()

    async def _read(self) -> bool:
        try:
            self._live = {info.inc: info for info in await self._registry.ls()}
        except StoreUnavailable:
            return False  # the next turn reads them
        return True

    async def _compare(self, group: anyio.abc.TaskGroup) -> None:
        hosting = self._known()
        if hosting is None:
            return
        takers = sorted(
            (info for info in self._live.values() if not info.leaving), key=lambda info: (info.name, info.inc)
        )
        again = any(place.step == "wanted" and place.refused for place in hosting.places.values())
        again = again and anyio.current_time() - self._stated_s >= AGAIN_S
        if again or any(self._is_news(hosting, info) for info in takers):
            self._stated_s = anyio.current_time()
            hosts = tuple(self._seen(info) for info in takers[:LISTED_MAX])
            await self._state(HostsSeen(hosts=hosts))
        for host in list(hosting.hosts.values()):
            if not host.lost and host.inc not in self._live and host.inc not in self._asked:
                self._asked.add(host.inc)
                group.start_soon(self._ask, host.name, host.inc)

    def _is_news(self, hosting: Hosting, info: HostInfo) -> bool:
        host = hosting.hosts.get(info.inc)
        if host is None or host.lost:
            return True
        return hosting.waits and (host.taken != self._others(info) or host.slots != info.slots)

    def _others(self, info: HostInfo) -> int:
        return info.taken - info.counts.get(self._run, 0)

    def _seen(self, info: HostInfo) -> HostSeen:
        return HostSeen(
            host=info.name, inc=info.inc, labels=info.labels, slots=info.slots, taken=max(0, self._others(info))
        )

    async def _ask(self, name: str, inc: str) -> None:
        try:
            if await self._registry.is_gone(name, inc):
                hosting = self._known()
                host = hosting.hosts.get(inc) if hosting is not None else None
                if host is not None and not host.lost and inc not in self._live:
                    logger().warning("host.lost", crew=self._run, host=name)
                    why = "its registration has expired, and it does not answer"
                    await self._state(HostLost(host=name, inc=inc, why=why))
        finally:
            self._asked.discard(inc)

    async def _state(self, fact: HostsSeen | HostLost) -> None:
        if not self._may_act():
            return
        try:
            await journal.publish_op(self._link, self._run, fact)
        except ConnectionLost:
            logger().warning("hosts.unsaid", crew=self._run, kind=type(fact).__name__)
