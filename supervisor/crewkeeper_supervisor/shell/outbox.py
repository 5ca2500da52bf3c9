"""Outbox: escalations that wait for delivery, in work-queue stream ESCALATIONS, and the worker that delivers them.

An entry's subject names its command and receiver, and is stored only if nothing is waiting there: enqueuing again is
harmless. Entries outlive controllers and servers; a delivery is tried until it succeeds, is final, or has failed
twelve times, and then is reported to the run's journal as an `Outcome` and taken out. A crash between the two means
a second delivery under the same `webhook-id`, never none.
"""

import contextlib
import random
from collections.abc import Sequence
from typing import Final

import anyio
import httpx2
import msgspec
import nats.errors
import nats.js.errors
from msgspec import Struct
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import Outcome
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell import journal, webhook
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence, replicas

STREAM: Final = "ESCALATIONS"
DEAD_STREAM: Final = "ESCALATIONS_DEAD"
CONSUMER: Final = "deliver"
RETRIES_S: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 14400.0, 28800.0, 43200.0, 86400.0)
"""Pauses after the first, second, … failed attempt; twelve attempts in all, over two days."""
TELL_AFTER: Final = 2
"""The failed attempt after which the journal is told that nobody has been reached yet."""
JITTER: Final = 0.2
CONCURRENT: Final = 16
ACK_WAIT_S: Final = 60.0
REPORT_LIMIT_S: Final = 20.0
_RETRY_MAX_S: Final = 5.0


class Entry(Struct, frozen=True, kw_only=True):
    """One escalation to one receiver. Addresses and secrets are kept as the crew file names them."""

    run: str
    command: str
    endpoint: int
    receiver: Webhook
    body: bytes

    @property
    def message_id(self) -> str:
        """The `webhook-id`: the same over all attempts and for all receivers."""
        return f"msg_{self.run}_{self.command}"


_DECODER: Final = msgspec.json.Decoder(Entry)


class Outbox:
    """The outbox of one server, shared by all its controllers."""

    def __init__(self, link: Link, retries_s: Sequence[float] = RETRIES_S) -> None:
        self._link = link
        self._retries_s = tuple(retries_s)

    async def open(self) -> None:
        """Create both streams and the consumer if they are not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_stream(
            StreamConfig(
                name=STREAM,
                description="Escalations to deliver",
                subjects=["escalations.>"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                num_replicas=replicas(),
                duplicate_window=120,
            )
        )
        await self._link.ensure_stream(
            StreamConfig(
                name=DEAD_STREAM,
                description="Escalations that could not be delivered",
                subjects=["dead.escalations.>"],
                storage=StorageType.FILE,
                num_replicas=replicas(),
                max_msgs=100_000,
            )
        )
        await self._ensure_consumer()

    async def enqueue(self, entry: Entry) -> bool:
        """Store an escalation for delivery; False if it is waiting already.

        Raises:
            StoreUnavailable: Not acknowledged; enqueuing again is safe.
        """
        subject = f"escalations.{entry.run}.{entry.endpoint}.{entry.command}"
        headers = {"Nats-Msg-Id": f"{entry.run}-{entry.command}-{entry.endpoint}"}
        try:
            await self._link.store(subject, msgspec.json.encode(entry), expected_last=0, headers=headers)
        except WrongLastSequence:
            return False
        return True

    async def work(self) -> None:
        """Deliver what is waiting, for ever; outages of the server are waited out."""
        log = logger()
        delay_s = 0.1
        async with webhook.client() as http, anyio.create_task_group() as group:
            slots = anyio.Semaphore(CONCURRENT)
            while True:
                try:
                    await self._ensure_consumer()
                    pulled = await self._link.js.pull_subscribe_bind(CONSUMER, stream=STREAM)
                    try:
                        while True:
                            await slots.acquire()
                            slots.release()
                            msgs = await _fetch(pulled, max(1, slots.value))
                            delay_s = 0.1
                            for msg in msgs:
                                await slots.acquire()
                                group.start_soon(self._handle, http, msg, slots)
                    finally:
                        with anyio.move_on_after(1, shield=True), contextlib.suppress(*LINK_ERRORS):
                            await pulled.unsubscribe()
                except (StoreUnavailable, *LINK_ERRORS) as error:
                    log.warning("outbox.retry", cause=type(error).__name__)
                    await anyio.sleep(delay_s)
                    delay_s = min(_RETRY_MAX_S, delay_s * 2)

    async def _ensure_consumer(self) -> None:
        config = ConsumerConfig(
            durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_S, max_ack_pending=10_000
        )
        try:
            await self._link.js.add_consumer(STREAM, config)
        except nats.js.errors.BadRequestError:
            return  # it is there, made by another version
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"consumer {CONSUMER}: {type(error).__name__}") from error

    async def _handle(self, http: httpx2.AsyncClient, msg: Msg, slots: anyio.Semaphore) -> None:
        """Deliver one entry; whatever goes wrong on our side, the server hands it out again after `ACK_WAIT_S`."""
        try:
            entry = _decode(msg)
            if entry is None:
                logger().error("outbox.unreadable", seq=msg.metadata.sequence.stream)
                await msg.term()
                return
            await self._deliver(http, msg, entry)
        except (StoreUnavailable, ConnectionLost, *LINK_ERRORS) as error:
            logger().warning("webhook.later", cause=type(error).__name__)
        except Exception:  # noqa: BLE001 - one entry must not end the worker
            logger().exception("webhook.broken")
        finally:
            slots.release()

    async def _deliver(self, http: httpx2.AsyncClient, msg: Msg, entry: Entry) -> None:
        number = msg.metadata.num_delivered or 1
        attempt = await webhook.deliver(http, entry.receiver, entry.message_id, entry.body)
        log = logger().bind(
            crew=entry.run,
            command_id=entry.command,
            host=attempt.host,
            attempt=number,
            latency_ms=round(attempt.latency_ms),
        )
        if attempt.ok:
            log.info("webhook.delivered", cause=attempt.text)
            await self._report(entry, ok=True, detail=attempt.text)
            await msg.ack()
            return
        if attempt.final or number > len(self._retries_s):
            log.error("webhook.dead", cause=attempt.text)
            await self._bury(entry, attempt.text)
            await self._report(entry, ok=False, detail=f"{attempt.text}; given up after {number} attempts")
            await msg.term()
            return
        # Not below what the receiver asked for; spread, so that many do not come back at once.
        wait_s = self._retries_s[number - 1] * (1 + random.uniform(0, JITTER))  # noqa: S311 - no secret
        wait_s = max(wait_s, attempt.retry_after_s)
        log.warning("webhook.failed", cause=attempt.text, retry_s=round(wait_s, 1))
        if number == TELL_AFTER:
            await self._report(entry, ok=False, detail=f"{attempt.text}; tried again in {wait_s:.0f} s")
        await msg.nak(delay=wait_s)

    async def _report(self, entry: Entry, *, ok: bool, detail: str) -> None:
        """Tell the run's journal; the entry stays in the outbox until that is done."""
        with anyio.fail_after(REPORT_LIMIT_S):
            while True:
                with contextlib.suppress(ConnectionLost):
                    await journal.publish_op(
                        self._link, entry.run, Outcome(command=entry.command, ok=ok, detail=detail[:500])
                    )
                    await self._link.flush()
                    return
                await anyio.sleep(0.2)

    async def _bury(self, entry: Entry, why: str) -> None:
        subject = f"dead.escalations.{entry.run}.{entry.endpoint}.{entry.command}"
        headers = {"Crew-Why": why.encode("ascii", "replace").decode()[:200]}
        await self._link.store(subject, msgspec.json.encode(entry), headers=headers)


async def _fetch(pulled: JetStreamContext.PullSubscription, most: int) -> list[Msg]:
    try:
        return await pulled.fetch(min(most, CONCURRENT), timeout=5)
    except nats.errors.TimeoutError:
        return []


def _decode(msg: Msg) -> Entry | None:
    try:
        return _DECODER.decode(msg.data)
    except msgspec.MsgspecError:
        return None
