"""Stored: every message of one subject of a stream, oldest first; what they mean is for the caller."""

from typing import Final

import anyio
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig

from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

_FETCH: Final = 500


async def of_subject(link: Link, stream: str, subject: str) -> list[tuple[int, bytes]]:
    """Sequence and payload of every message that is stored on a subject now.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    last = await link.last(stream, subject)
    found: list[tuple[int, bytes]] = []
    if last is None:
        return found
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=30)
    try:
        pulled = await link.js.pull_subscribe(subject, stream=stream, config=config)
        try:
            while not found or found[-1][0] < int(last.seq or 0):
                fetched = await pulled.fetch(_FETCH, timeout=3)
                found.extend((msg.metadata.sequence.stream, msg.data) for msg in fetched)
        finally:
            with anyio.move_on_after(1, shield=True):
                await pulled.unsubscribe()
    except (nats.errors.TimeoutError, *LINK_ERRORS) as error:
        raise StoreUnavailable(f"{subject}: {type(error).__name__}") from error
    return found
