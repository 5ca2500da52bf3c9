"""Sentry: what the servers see of agents and refuse, noted as violations of whoever did it; it decides nothing.

It hears of denied publishes and subscriptions from the log of an embedded server (an existing one tells nobody), of
connections that were closed for what was sent on them, and of logins that nobody decided about in time, from events.
What the callout refuses, the callout notes. And a killed agent that was let in all the same is shown out.
"""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_bus.errors import ConnectionLost, SubjectError
from crewkeeper_bus.subjects import check_agent, check_token
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.server_log import ServerLog, denied
from crewkeeper_supervisor.shell.system_link import Event, SystemLink
from crewkeeper_supervisor.shell.violations import Violations

OFFENCES: Final = frozenset(
    {
        "Maximum Control Line Exceeded",
        "Maximum Payload Exceeded",
        "Maximum Subscriptions Exceeded",
        "Message Header Violation",
        "Parse Error",
        "Protocol Violation",
        "Slow Consumer (Pending Bytes)",
        "Slow Consumer (Write Deadline)",
    }
)
"""Why a server closes a connection for what its client did."""
UNDECIDED: Final = "Authentication Timeout"


class Sentry:
    """Notes what the servers see, for as long as `work` runs."""

    def __init__(self, system: SystemLink, access: Access, violations: Violations, *, log: Path | None = None) -> None:
        """Take what it works with.

        Args:
            system: The connection to the system account. It must be this sentry's alone to read events from.
            access: The access records.
            violations: Where to note what is seen.
            log: Log file of the embedded server; None: the server is not ours.
        """
        self._system = system
        self._access = access
        self._violations = violations
        self._log = None if log is None else ServerLog(log)

    async def work(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._hear)
            if self._log is not None:
                group.start_soon(self._read, self._log)

    async def _hear(self) -> None:
        async with contextlib.aclosing(self._system.events()) as batches:
            async for batch in batches:
                for event in batch:
                    await self._take(event)

    async def _take(self, event: Event) -> None:
        names = _names(event.user)
        if names is None:
            return
        if event.kind == "left" and event.reason in OFFENCES:
            self._violations.note(*names, "denied", f"the server closed its connection: {event.reason}")
        elif event.kind == "refused" and event.reason == UNDECIDED:
            # Whoever it was has proved nothing: it is held against nobody.
            detail = f"nobody decided in time about a login in the name of {names[1]!r}, from {event.host[:64]}"
            self._violations.note(names[0], "", "login_refused", detail)
        elif event.kind == "came":
            await self._look_at(event, *names)

    async def _look_at(self, event: Event, run: str, agent: str) -> None:
        """Show out a killed agent: a supervisor that was slow to answer may have let it in by an older record."""
        try:
            record = await self._access.get(run, agent)
            if record is None or record.state != "killed":
                return
            scan = await self._system.connections(event.user)
            self._system.kick(scan.connections)
        except (ConnectionLost, StoreUnavailable) as error:
            logger().warning("sentry.blind", crew=run, agent=agent, cause=type(error).__name__)
            return
        if scan.connections:
            logger().warning("sentry.shown_out", crew=run, agent=agent, count=len(scan.connections))
            self._violations.note(run, agent, "revoked_login", "it was killed, was let in, and was shown out again")

    async def _read(self, log: ServerLog) -> None:
        async with contextlib.aclosing(log.lines()) as batches:
            async for batch in batches:
                self._count(batch)

    def _count(self, lines: list[bytes]) -> None:
        counts: Counter[str] = Counter()
        latest: dict[str, str] = {}
        for line in lines:
            seen = denied(line)
            if seen is not None:
                counts[seen.user] += 1
                latest[seen.user] = f"{seen.what} refused: {seen.detail}"
        for user, count in counts.items():
            if names := _names(user):
                self._violations.note(*names, "denied", latest[user], count)


def _names(user: str) -> tuple[str, str] | None:
    """Run and agent of a user's name, if it is an agent's."""
    run, dot, agent = user.partition(".")
    try:
        return (check_token(run, "run"), check_agent(agent)) if dot else None
    except SubjectError:
        return None
