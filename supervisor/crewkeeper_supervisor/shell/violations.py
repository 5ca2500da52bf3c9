"""Violations: what was refused or noticed at the server, told to the run's journal at a bounded rate.

However fast somebody knocks, a run hears of one agent and one kind of thing once in `EVERY_S`, with a count. What it is
told about is decided by whoever notes it.
"""

import time
from typing import Final, Literal

import anyio

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import Violation
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import ENDED, Registry

EVERY_S: Final = 5.0
TALLIES_MAX: Final = 2000
"""Different things noted within `EVERY_S`; what exceeds it is counted in `dropped`."""
_DETAIL_MAX_CHARS: Final = 500

What = Literal["denied", "login_refused", "second_connection", "revoked_login", "not_joined", "flood"]
_Key = tuple[str, str, What]


class _Tally:
    def __init__(self) -> None:
        self.count = 0
        self.detail = ""
        self.next_s = 0.0


class Violations:
    """Tells runs what happened at the server.

    Attributes:
        dropped: How many were not told because too many different ones came at once.
    """

    def __init__(self, link: Link, every_s: float = EVERY_S) -> None:
        self.dropped = 0
        self._link = link
        self._registry = Registry(link)
        self._every_s = every_s
        self._tallies: dict[_Key, _Tally] = {}
        self._noted = anyio.Event()

    def note(self, run: str, agent: str, what: What, detail: str, count: int = 1) -> None:
        """Note something; it is published soon, or counted with the next.

        Args:
            run: The run it concerns; nothing comes of it if there is no such run or it is over.
            agent: Whose proven doing it was; empty: nobody's in particular.
            what: The kind.
            detail: What people should know: no secrets. The latest of a kind is told.
            count: How often it happened.
        """
        tally = self._tallies.get((run, agent, what))
        if tally is None:
            if len(self._tallies) >= TALLIES_MAX:
                self.dropped += count
                return
            tally = self._tallies[run, agent, what] = _Tally()
        tally.count += count
        tally.detail = detail[:_DETAIL_MAX_CHARS]
        self._noted.set()

    async def work(self) -> None:
        """Publish, for ever; what cannot be published now is tried again and goes on being counted."""
        while True:
            self._noted = anyio.Event()
            now_s = time.monotonic()
            waiting = [tally.next_s for tally in self._tallies.values() if tally.count]
            if waiting and min(waiting) > now_s:
                # What is noted meanwhile can be due sooner.
                with anyio.move_on_after(min(waiting) - now_s):
                    await self._noted.wait()
            elif not waiting:
                await self._noted.wait()
            await self._flush(time.monotonic())

    async def _flush(self, now_s: float) -> None:
        for key, tally in list(self._tallies.items()):
            if tally.next_s > now_s:
                continue
            if not tally.count:
                del self._tallies[key]
                continue
            count, tally.count, tally.next_s = tally.count, 0, now_s + self._every_s
            if not await self._tell(key, count, tally.detail):
                tally.count += count
                tally.next_s = now_s + min(1.0, self._every_s)

    async def _tell(self, key: _Key, count: int, detail: str) -> bool:
        run, agent, what = key
        try:
            info = await self._registry.get(run)
            if info is None or info.state in ENDED:
                return True
            fact = Violation(agent=agent, what=what, count=count, detail=detail)
            await journal.publish_op(self._link, run, fact)
        except (ConnectionLost, StoreUnavailable):
            return False
        logger().warning("violation.seen", crew=run, agent=agent, what=what, count=count)
        return True
