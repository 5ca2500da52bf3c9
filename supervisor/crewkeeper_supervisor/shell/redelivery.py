"""Redelivery: what was addressed to an agent while it could not listen, delivered again from the journal.

A subscription cannot begin in the past, so the time around its beginning is delivered by both ways, and something may
come twice: with the sequence number of its first delivery, and under its own id, by which clients know it again.
"""

import contextlib
from typing import Final

from crewkeeper_bus.errors import ConnectionLost, SubjectError
from crewkeeper_bus.subjects import OUT, RECEIVED_KINDS, Kind, parse, stream_name
from crewkeeper_supervisor.shell import excerpt
from crewkeeper_supervisor.shell.excerpt import Stored
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

_AGAIN: Final = tuple(kind for kind in RECEIVED_KINDS if kind is not Kind.CTL)
"""Commands are left out: whoever gave them repeats them until they are obeyed, and a held agent hears them."""


async def redeliver(link: Link, run: str, agent: str, *, after: int, role: str = "") -> int:
    """Deliver again what the journal holds for an agent, in its order; returns how much that was.

    Args:
        link: The connection.
        run: The run.
        agent: The agent, subscribed already.
        after: The last entry that it surely has.
        role: Its role, if calls to the role are to be delivered again too: nobody else of the role could take them.

    Raises:
        ConnectionLost: The server did not take it.
        StoreUnavailable: The journal could not be read.
    """
    delivered = 0
    batches = excerpt.read(link, stream_name(run), start_seq=after + 1, filters=_filters(run, agent, role))
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for stored in batch:
                if _is_sound(stored):
                    await _deliver(link, run, stored)
                    delivered += 1
    await link.flush()
    return delivered


async def count(link: Link, run: str, agent: str, *, after: int, role: str = "") -> int:
    """How much there is to be delivered again; arguments as of `redeliver`.

    Raises:
        StoreUnavailable: The journal could not be read.
    """
    found = 0
    batches = excerpt.read(link, stream_name(run), start_seq=after + 1, filters=_filters(run, agent, role))
    async with contextlib.aclosing(batches):
        async for batch in batches:
            found += len(batch)
    return found


def _filters(run: str, agent: str, role: str) -> list[str]:
    filters = [f"crew.{run}.{kind}.*.{agent}.*" for kind in _AGAIN]
    if role and role != agent:
        filters.append(f"crew.{run}.{Kind.REQ}.*.{role}.*")
    return filters


async def _deliver(link: Link, run: str, stored: Stored) -> None:
    headers = {"Nats-Stream": stream_name(run), "Nats-Subject": stored.subject, "Nats-Sequence": str(stored.seq)}
    if not link.is_connected:
        raise ConnectionLost(f"not connected to {link.place.host}")
    try:
        await link.nc.publish(f"{OUT}.{stored.subject}", stored.payload, headers=headers)
    except LINK_ERRORS as error:
        raise ConnectionLost(f"publishing to {link.place.host} failed: {type(error).__name__}") from error


def _is_sound(stored: Stored) -> bool:
    """Whether it is a message at all: an agent can put anything into the last tokens of its subject."""
    try:
        return parse(stored.subject).kind in _AGAIN
    except SubjectError:
        return False
