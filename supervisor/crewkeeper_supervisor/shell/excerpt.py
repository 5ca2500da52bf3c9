"""Excerpt: part of a stream as it is now, read once and in order; following a stream on and on is `journal`'s."""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple

import nats.js.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, REQUEST_LIMIT_S, Link

BATCH: Final = 500


class Stored(NamedTuple):
    """One message of a stream."""

    seq: int
    subject: str
    payload: bytes


async def last_seq(link: Link, stream: str) -> int:
    """Sequence of the last message of a stream; 0 if it has none or is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    try:
        return (await link.js.stream_info(stream)).state.last_seq
    except nats.js.errors.NotFoundError:
        return 0
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"stream {stream}: {type(error).__name__}") from error


async def read(
    link: Link, stream: str, *, start_seq: int = 1, filters: Sequence[str] = ()
) -> AsyncGenerator[list[Stored], None]:
    """Yield what is stored from a sequence on, up to what was stored when the reading began, in batches.

    Close it (`contextlib.aclosing`) when leaving early.

    Args:
        link: The connection.
        stream: Name of the stream; one that is not there has nothing stored.
        start_seq: The first sequence that is of interest.
        filters: Subjects that are of interest, disjoint; empty: all.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    config = ConsumerConfig(
        name=f"read-{secrets.token_hex(8)}",
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=max(1, start_seq),
        ack_policy=AckPolicy.NONE,
        filter_subjects=list(filters) or None,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=30,
    )
    try:
        info = await link.js.add_consumer(stream, config)
        left = info.num_pending or 0
        if not left:
            await link.js.delete_consumer(stream, info.name)
            return
        consumer = await link.js.pull_subscribe_bind(consumer=info.name, stream=stream)
        try:
            while left > 0:
                messages = await consumer.fetch(min(BATCH, left), timeout=REQUEST_LIMIT_S)
                left -= len(messages)
                yield [Stored(each.metadata.sequence.stream, each.subject, each.data) for each in messages]
        finally:
            with contextlib.suppress(*LINK_ERRORS):
                await consumer.unsubscribe()
                await link.js.delete_consumer(stream, info.name)
    except nats.js.errors.NotFoundError:
        return
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"stream {stream}: {type(error).__name__}") from error
