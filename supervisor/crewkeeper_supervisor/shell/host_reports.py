"""Host reports: what a host states in the journal of a run, seen to be stored; what it reports is decided elsewhere."""

import contextlib
from typing import Any, Final

import anyio

from crewkeeper_bus import codec
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.subjects import HOST, SUPERVISOR, stream_name
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link

REPORT_LIMIT_S: Final = 30.0
"""How long a report is tried while the server cannot be reached; then it is given up and logged."""
STORED_LIMIT_S: Final = 1.0
"""A report that is not stored within this time is published again."""
STORED_POLL_S: Final = 0.02


class HostReports:
    """The reports of one host about one run.

    Attributes:
        is_cut_off: Whether the server is gone for good, so that nothing can be reported.
    """

    def __init__(self, link: Link, run: str) -> None:
        self.is_cut_off = False
        self._link = link
        self._run = run

    async def state(self, message: Any, to: str = SUPERVISOR) -> None:
        """Publish a fact and see that it is stored: the journal does not acknowledge, and loses what it cannot take.

        Repeated under the same id until it is there, or given up when the server cannot be reached for long.
        """
        subject = journal.op_subject(self._run, sender=HOST, to=to)
        payload = codec.encode(message)
        with anyio.move_on_after(REPORT_LIMIT_S):
            while not self.is_cut_off:
                with contextlib.suppress(ConnectionLost, StoreUnavailable):
                    await journal.publish(self._link, subject, payload)
                    if await self._is_stored(subject):
                        return
                await anyio.sleep(STORED_POLL_S)
        if self.is_cut_off:
            return
        logger().error("host.report_lost", crew=self._run, kind=type(message).__name__, agent=to)

    async def _is_stored(self, subject: str) -> bool:
        with anyio.move_on_after(STORED_LIMIT_S):
            while await self._link.last(stream_name(self._run), subject) is None:  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(STORED_POLL_S)
            return True
        return False
