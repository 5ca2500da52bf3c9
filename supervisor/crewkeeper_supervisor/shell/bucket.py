"""Bucket: what several key-value buckets need alike: their entries one by one, and word of every change.

What a bucket holds, and who may change it, is the business of `registry`, `access`, `host_registry` and others.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import anyio
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import RePublish

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

_LEAVE_LIMIT_S: Final = 1.0


class Stored(NamedTuple):
    """One entry of a bucket."""

    key: str
    value: bytes
    """Empty for one that was removed and has left a mark."""
    at_s: float = 0.0
    """When it was stored, by the server's clock, seconds since the Unix epoch; 0 in what is `heard`."""


def stream_of(bucket: str) -> str:
    """The stream that a bucket is."""
    return f"KV_{bucket}"


def prefix_of(bucket: str) -> str:
    """What stands before the key in the subjects of a bucket."""
    return f"$KV.{bucket}."


def republished(bucket: str) -> RePublish:
    """What `Link.ensure_bucket` takes for a bucket whose changes can be heard."""
    return RePublish(src=f"{prefix_of(bucket)}>", dest=f"out.kv.{bucket}.>")


async def entries(link: Link, bucket: str, keys: str = ">") -> list[Stored]:
    """The entries of a bucket, those that were changed last at the end; none if the bucket is not there.

    It is read entry by entry: the library's watch can report "no more" before anything was delivered. An entry that
    changes meanwhile moves to the end, so that none is missed; it may then stand in the list twice.

    Args:
        link: The connection.
        bucket: The bucket.
        keys: Which keys, as a subject filter.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    found: list[Stored] = []
    seq, prefix = 1, prefix_of(bucket)
    while True:
        try:
            stored = await link.js.get_msg(stream_of(bucket), seq=seq, subject=prefix + keys, next=True)
        except nats.js.errors.NotFoundError:
            return found
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"bucket {bucket}: {type(error).__name__}") from error
        at_s = 0.0 if stored.time is None else stored.time.timestamp()
        found.append(Stored(str(stored.subject).removeprefix(prefix), stored.data or b"", at_s))
        seq = int(stored.seq or seq) + 1


@contextlib.asynccontextmanager
async def heard(link: Link, bucket: str, hear: Callable[[Stored], None]) -> AsyncIterator[None]:
    """Have every change of a bucket told, for as long as the block lasts. What is told is stored already.

    Raises:
        StoreUnavailable: The connection is closed for good.
    """
    prefix = f"out.kv.{bucket}."

    async def tell(message: Msg) -> None:
        hear(Stored(message.subject.removeprefix(prefix), message.data))

    async with _subscribed(link, f"{prefix}>", tell):
        yield


@contextlib.asynccontextmanager
async def answering(link: Link, subject: str) -> AsyncIterator[None]:
    """Answer whoever asks on this subject whether anybody is there, for as long as the block lasts.

    Raises:
        StoreUnavailable: The connection is closed for good.
    """

    async def answer(message: Msg) -> None:
        with contextlib.suppress(ConnectionLost):  # who asked asks again
            await link.publish(message.reply, b"here")

    async with _subscribed(link, subject, answer):
        yield


async def is_answered(link: Link, subject: str, limit_s: float) -> bool:
    """Whether anybody answers on this subject within `limit_s` seconds."""
    try:
        await link.nc.request(subject, b"", timeout=limit_s)
    except LINK_ERRORS:
        return False
    return True


@contextlib.asynccontextmanager
async def _subscribed(link: Link, subject: str, call: Callable[[Msg], object]) -> AsyncIterator[None]:
    try:
        subscription = await link.nc.subscribe(subject, cb=call)  # type: ignore[arg-type]
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"cannot listen on {subject}: {type(error).__name__}") from error
    try:
        yield
    finally:
        with anyio.move_on_after(_LEAVE_LIMIT_S, shield=True), contextlib.suppress(*LINK_ERRORS):
            await subscription.unsubscribe()
