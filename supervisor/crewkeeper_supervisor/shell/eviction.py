"""Eviction: closing the connections of an agent that has to log in again; shutting it out is `enforcer`'s business."""

import time
from typing import Final, NamedTuple

import anyio

from crewkeeper_supervisor.shell.system_link import Connection, SystemLink

LOOKS_S: Final = (0.0, 0.05, 0.25)
"""When connections are looked for: a login that was decided just before may not be listed at once."""


class Evicted(NamedTuple):
    """What came of it."""

    connections: int
    """How many were closed."""
    silent: tuple[str, ...]
    """Servers that did not answer: what is open there goes on until its login ends."""


async def evict(system: SystemLink, user: str) -> Evicted:
    """Close every connection that a user has opened up to now. Those it opens afterwards stay.

    Raises:
        ConnectionLost: There is no connection to the system account.
    """
    began_s, asked_at_s = time.monotonic(), time.time()
    closed: set[tuple[str, int]] = set()
    silent: tuple[str, ...] = ()
    for look_s in LOOKS_S:
        await anyio.sleep(max(0.0, began_s + look_s - time.monotonic()))
        scan = await system.connections(user)
        silent = scan.silent
        found = [each for each in scan.connections if _is_older(each, asked_at_s, closed)]
        if found:
            system.kick(found)
            closed |= {(each.server, each.cid) for each in found}
    return Evicted(len(closed), silent)


def _is_older(connection: Connection, asked_at_s: float, closed: set[tuple[str, int]]) -> bool:
    # On its way when it was asked: the TCP connection began before, or the login was decided a moment ago.
    began_before = connection.started_at_s < asked_at_s + LOOKS_S[1]
    return began_before and (connection.server, connection.cid) not in closed
