"""Brake: an agent that sends so much that the server itself suffers is held before its words are read.

Theory of operation. What agents send is counted where the journal is read (`core.rates`). But somebody can send faster
than a stream can store: then the server drops messages of everybody, and whoever reads the journal starves. So now and
then the servers are asked which connections have sent most. One that has sent more than `MESSAGES_PER_S` or
`BYTES_PER_S` in each of `TIMES` looks is held at once, whatever policy says, and the run is told; what becomes of the
agent then is policy again. Only the owner of a run acts on its agents.

A server does not hold a connection to the number of subscriptions in what it was let in with. So those that have more
than `SUBSCRIPTIONS_MAX` are closed, each time, and the run is told.
"""

import time
from typing import Final, NamedTuple

import anyio

from crewkeeper_bus import codec
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import Violation
from crewkeeper_bus.subjects import stream_name
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.enforcer import Enforcer
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.system_link import Connection, SystemLink
from crewkeeper_supervisor.shell.violations import Violations

MESSAGES_PER_S: Final = 10_000
BYTES_PER_S: Final = 64 * 1024 * 1024
LOOK_S: Final = 0.5
TIMES: Final = 2
"""In so many looks, one after the other, a connection must have been too fast."""
BUSIEST: Final = 32
"""Connections of each server that are looked at."""
SUBSCRIPTIONS_MAX: Final = 64
"""Subscriptions of one connection; an agent needs seven."""
SUBSCRIPTIONS_LOOK_S: Final = 2.0
AGAIN_S: Final = 5.0
"""An agent that was held is left alone for so long."""
STORED_S: Final = 2.0
"""What is told is told again if the journal does not show it within this time."""
TELL_S: Final = 60.0
"""How long it is tried to tell the run."""


class _Seen(NamedTuple):
    at_s: float
    connection: Connection
    times: int


class Brake:
    """Holds agents that are too fast for the server, for as long as `work` runs."""

    def __init__(self, link: Link, system: SystemLink, enforcer: Enforcer, violations: Violations) -> None:
        """Take what it works with.

        Args:
            link: The supervisor's connection.
            system: The connection to the system account.
            enforcer: Holds agents.
            violations: Where to note who subscribes too much.
        """
        self._link = link
        self._system = system
        self._enforcer = enforcer
        self._violations = violations
        self._terms: dict[str, int] = {}
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._held_s: dict[str, float] = {}

    def guard(self, run: str, term: int) -> None:
        """Act on the agents of this run, which is owned from now on."""
        self._terms[run] = term

    def leave(self, run: str, term: int) -> None:
        """Leave them alone: the run is no longer owned under this term."""
        if self._terms.get(run) == term:
            del self._terms[run]

    async def work(self) -> None:
        """Look until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_subscriptions)
            while True:
                await anyio.sleep(LOOK_S)
                if not self._terms:
                    self._seen.clear()
                    continue
                for connection, per_s in self._too_fast(await self._system.busiest(BUSIEST)):
                    run, _, agent = connection.user.partition(".")
                    now_s = time.monotonic()
                    if run in self._terms and now_s - self._held_s.get(connection.user, -AGAIN_S) >= AGAIN_S:
                        self._held_s[connection.user] = now_s
                        group.start_soon(self._hold, run, agent, connection, per_s)

    async def _watch_subscriptions(self) -> None:
        while True:
            await anyio.sleep(SUBSCRIPTIONS_LOOK_S)
            if not self._terms:
                continue
            for each in await self._system.busiest(BUSIEST, by="subs"):
                run, _, agent = each.user.partition(".")
                if run in self._terms and each.subscribed > SUBSCRIPTIONS_MAX:
                    self._system.kick([each])
                    text = f"its connection was closed: {each.subscribed} subscriptions, at most {SUBSCRIPTIONS_MAX}"
                    self._violations.note(run, agent, "denied", text)
                    logger().warning("brake.subscriptions", crew=run, agent=agent, count=each.subscribed)

    def _too_fast(self, busiest: list[Connection]) -> list[tuple[Connection, int]]:
        """Connections that have been too fast for long enough, with their messages in a second."""
        now_s = time.monotonic()
        seen, found = {}, []
        for each in busiest:
            key = each.server, each.cid
            before = self._seen.get(key)
            times, per_s = 0, 0.0
            if before is not None:
                passed_s = max(0.05, now_s - before.at_s)
                per_s = (each.sent - before.connection.sent) / passed_s
                bytes_per_s = (each.sent_bytes - before.connection.sent_bytes) / passed_s
                times = before.times + 1 if per_s > MESSAGES_PER_S or bytes_per_s > BYTES_PER_S else 0
            seen[key] = _Seen(now_s, each, times)
            if times >= TIMES:
                found.append((each, round(per_s)))
        self._seen = seen
        return found

    async def _hold(self, run: str, agent: str, connection: Connection, per_s: int) -> None:
        why = f"it sent {per_s} messages a second, more than a server can take"
        done = await self._enforcer.pause(run, agent, why=why, term=self._terms.get(run, 0), keep=False)
        logger().warning("brake.held", crew=run, agent=agent, per_s=per_s, ok=done.ok, latency_ms=done.took_ms)
        fact = Violation(agent=agent, what="flood", count=max(1, per_s), detail=why)
        subject, payload = journal.op_subject(run), codec.encode(fact)
        with anyio.move_on_after(TELL_S):
            while True:
                try:
                    await journal.publish(self._link, subject, payload)
                    with anyio.move_on_after(STORED_S):
                        while await self._link.last(stream_name(run), subject) is None:  # noqa: ASYNC110 - nothing tells
                            await anyio.sleep(0.05)
                        return
                except (ConnectionLost, StoreUnavailable) as error:
                    logger().warning("brake.unsaid", crew=run, agent=agent, cause=type(error).__name__)
                    await anyio.sleep(STORED_S)
