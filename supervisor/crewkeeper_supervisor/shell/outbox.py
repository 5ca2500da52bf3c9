"""Outbox: escalations that wait for delivery, in work-queue stream ESCALATIONS, and the worker that delivers them.

An entry's subject names its command and receiver, and is stored only if nothing is waiting there: enqueuing again is
harmless. Entries outlive controllers and servers; a delivery is tried until it succeeds, is final, or has failed
twelve times or for three days, and then is reported to the run's journal as an `Outcome` and taken out. A crash between
the two means a second delivery under the same `webhook-id`, never none. To one receiver, entries about one incident go
one after the other: a later one is not tried while an earlier one waits. What an endpoint that fails is spared by its
`circuit` is no attempt.
"""

import contextlib
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import anyio
import httpx2
import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import Outcome
from crewkeeper_supervisor.shell import deliveries, fail_points, journal, webhook
from crewkeeper_supervisor.shell.circuit import Circuits
from crewkeeper_supervisor.shell.deliveries import OUTBOX as STREAM
from crewkeeper_supervisor.shell.deliveries import Answered, Deliveries, Delivery, Entry, endpoint_key
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link
from crewkeeper_supervisor.shell.observing import Observer

__all__ = ["DEAD_STREAM", "RETRIES_S", "STREAM", "Entry", "Outbox"]

DEAD_STREAM: Final = "ESCALATIONS_DEAD"
CONSUMER: Final = "deliver"
RETRIES_S: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 14400.0, 28800.0, 43200.0, 86400.0)
"""Pauses after the first, second, … failed attempt; twelve attempts in all, over two days."""
TELL_AFTER: Final = 2
"""The failed attempt after which the journal is told that nobody has been reached yet."""
JITTER: Final = 0.2
GIVE_UP_S: Final = 3 * 86400.0
"""How long a round of attempts lasts at most, however few it had."""
BEHIND_S: Final = 0.25
TURN_S: Final = 5.0
"""How long a later recipient's message waits at most before it looks again whether somebody has acknowledged."""
BEHIND_MAX_S: Final = 30.0
"""How long an entry waits at most before it looks again whether the one before it has arrived."""
CONCURRENT: Final = 16
LINES_MAX: Final = 10_000
ACK_WAIT_S: Final = 10.0
"""What a controller has in hand and does not mention for so long is given to another one: it has died."""
MENTION_S: Final = 3.0
REPORT_LIMIT_S: Final = 20.0
_RETRY_MAX_S: Final = 5.0


_OVER: Final = "it was over before anybody here had to be told"
_DECODER: Final = msgspec.json.Decoder(Entry)


class Outbox:
    """The outbox of one server, shared by all its controllers."""

    def __init__(self, link: Link, retries_s: Sequence[float] = RETRIES_S, observer: Observer | None = None) -> None:
        self._link = link
        self._observer = observer
        self._retries_s = tuple(retries_s)
        self._records = Deliveries(link)
        self._circuits = Circuits()
        self._in_hand: dict[str, Msg] = {}
        """What is being delivered, by the subject that the server is told on."""
        self._due_s: dict[str, float] = {}
        """When what is at the head of each incident's queue is tried again, by the clock of this process."""

    async def open(self) -> None:
        """Create the streams and the consumer if they are not there.

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
                duplicate_window=120,
            )
        )
        await self._link.ensure_stream(
            StreamConfig(
                name=DEAD_STREAM,
                description="Escalations that could not be delivered",
                subjects=["dead.escalations.>"],
                storage=StorageType.FILE,
                max_msgs=100_000,
            )
        )
        await self._records.open()
        await self._ensure_consumer()

    async def enqueue(self, entry: Entry) -> bool:
        """Store an escalation for delivery; False if it is waiting already.

        Raises:
            StoreUnavailable: Not acknowledged; enqueuing again is safe.
        """
        if entry.closing and entry.receiver.after_s:  # before it is stored: the message that it began waits ahead of it
            over = Answered(by="", at_s=time.time())
            await self._records.answer(entry, over)
        if entry.acknowledged_by:  # before it is stored, too, and also where this receiver is told at once
            known = Answered(by=entry.acknowledged_by, at_s=time.time())
            await self._records.answer(entry, known)
        is_new = await deliveries.enqueue(self._link, entry, f"{entry.run}-{entry.command}-{entry.endpoint}")
        fail_points.passed("escalation-stored")
        return is_new

    async def work(self) -> None:
        """Deliver what is waiting, for ever; outages of the server are waited out."""
        log = logger()
        delay_s = 0.1
        async with webhook.client() as http, anyio.create_task_group() as group:
            group.start_soon(self._mention)
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

    async def _mention(self) -> None:
        """Tell the server of what is in hand, for ever: an attempt may take longer than the dead are waited for."""
        while True:
            await anyio.sleep(MENTION_S)
            for msg in list(self._in_hand.values()):
                with contextlib.suppress(*LINK_ERRORS):
                    await msg.in_progress()

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
        self._in_hand[msg.reply] = msg
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
            self._in_hand.pop(msg.reply, None)
            slots.release()

    async def _deliver(self, http: httpx2.AsyncClient, msg: Msg, entry: Entry) -> None:
        line = f"{entry.run}.{entry.endpoint}.{entry.about}"
        if await self._records.is_ahead(entry, msg.metadata.sequence.stream):
            wait_s = self._due_s.get(line, 0.0) - time.monotonic()
            await msg.nak(delay=min(BEHIND_MAX_S, max(0.0, wait_s) + BEHIND_S))
            return
        if not entry.forced and (due := await self._turn(entry)) is not None:
            if isinstance(due, str):
                await self._spare(msg, entry, due)
            else:
                self._expect(line, due)
                await msg.nak(delay=due)
            return
        delivery = await self._records.get(entry)
        if delivery.state == "delivered":  # a copy, or a crash between the record and the report
            await self._report(entry, ok=True, detail=delivery.tries[-1].text)
            await msg.ack()
            return
        if (early_s := delivery.next_s - time.time()) > BEHIND_S:  # handed out by the server before its time
            await msg.nak(delay=early_s)
            return
        if not entry.forced and (gone := await self._records.gone(entry.receiver)) is not None:
            since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(gone.since_s))
            text = f"not sent: the endpoint said on {since} UTC that it is gone (410); see supervisor hooks ls"
            await self._give_up(msg, delivery, webhook.Attempt(ok=False, final=True, host="", text=text))
            return
        circuit = self._circuits.of(endpoint_key(entry.receiver))
        if wait_s := circuit.enter(time.monotonic()):
            self._expect(line, wait_s)
            await msg.nak(delay=wait_s)
            return
        attempt = webhook.Attempt(ok=False, host="", text="given up by this controller")
        try:
            attempt = await webhook.deliver(http, entry.receiver, entry.message_id, entry.body)
        finally:
            circuit.leave(time.monotonic(), ok=attempt.ok or attempt.final, retry_after_s=attempt.retry_after_s)
        if attempt.ok:
            fail_points.passed("webhook-sent")
        await self._settle(msg, delivery, attempt, line)

    async def _turn(self, entry: Entry) -> float | str | None:
        """Whether it is a later recipient's turn: None; or seconds until to ask again; or why it never will be."""
        if not entry.receiver.after_s:
            return None
        if entry.closing or entry.acknowledged_by:  # news for whoever was told, at once; for nobody else
            if await self._records.has_heard(entry):
                return None
            if entry.acknowledged_by:
                return f"acknowledged by {entry.acknowledged_by}"
            return _OVER
        left_s = entry.due_s - time.time()
        if (await self._records.get(entry)).count == 0:  # once it was tried, it is this one's
            answered = await self._records.answered(entry)
            if answered is not None:
                return f"acknowledged by {answered.by}" if answered.by else _OVER
        return min(left_s, TURN_S) if left_s > 0 else None

    async def _spare(self, msg: Msg, entry: Entry, why: str) -> None:
        """Take out what a later recipient need not be told."""
        text = f"recipient {entry.endpoint + 1} was not needed: {why}"
        delivery = await self._records.get(entry)
        await self._records.put(delivery.tried(webhook.Attempt(ok=True, host="", text=text), "needless"))
        await self._report(entry, ok=True, detail=text)
        await msg.ack()

    async def _settle(self, msg: Msg, delivery: Delivery, attempt: webhook.Attempt, line: str) -> None:
        """Draw the consequences of one attempt."""
        entry, number = delivery.entry, delivery.count + 1
        log = self._log(delivery, attempt)
        if attempt.ok:
            log.info("webhook.delivered", cause=attempt.text)
            self._observe(attempt, "delivered")
            if entry.forced:
                await self._records.mark(entry.receiver, gone=False)
            await self._records.put(delivery.tried(attempt, "delivered"))
            fail_points.passed("delivery-recorded")
            await self._report(entry, ok=True, detail=attempt.text)
            fail_points.passed("delivery-reported")
            self._due_s.pop(line, None)
            await msg.ack()
            return
        if attempt.gone:
            await self._records.mark(entry.receiver, gone=True)
        late = time.time() - delivery.began_s > GIVE_UP_S
        if attempt.final or late or number > len(self._retries_s):
            await self._give_up(msg, delivery, attempt)
            self._due_s.pop(line, None)
            return
        # Not below what the receiver asked for; spread, so that many do not come back at once.
        wait_s = self._retries_s[number - 1] * (1 + random.uniform(0, JITTER))  # noqa: S311 - no secret
        wait_s = max(wait_s, attempt.retry_after_s)
        log.warning("webhook.failed", cause=attempt.text, retry_s=round(wait_s, 1))
        self._observe(attempt, "failed")
        await self._records.put(delivery.tried(attempt, "waiting", next_s=time.time() + wait_s))
        if number == TELL_AFTER:
            await self._report(entry, ok=False, detail=f"{attempt.text}; tried again in {wait_s:.0f} s")
        self._expect(line, wait_s)
        await msg.nak(delay=wait_s)

    async def _give_up(self, msg: Msg, delivery: Delivery, attempt: webhook.Attempt) -> None:
        entry = delivery.entry
        self._log(delivery, attempt).error("webhook.dead", cause=attempt.text)
        self._observe(attempt, "dead")
        await self._bury(entry, attempt.text)
        await self._records.put(delivery.tried(attempt, "dead"))
        count = delivery.count + 1
        text = f"{attempt.text}; given up after {count} attempt{'s' * (count != 1)}"
        await self._report(entry, ok=False, detail=text)
        await msg.term()

    def _observe(self, attempt: webhook.Attempt, outcome: str) -> None:
        if self._observer is not None:
            self._observer.webhook(attempt.host, outcome)

    def _expect(self, line: str, wait_s: float) -> None:
        """Remember when the head of a line is tried again, so that those behind it need not ask before."""
        self._due_s[line] = time.monotonic() + wait_s
        while len(self._due_s) > LINES_MAX:
            del self._due_s[next(iter(self._due_s))]

    def _log(self, delivery: Delivery, attempt: webhook.Attempt) -> Any:
        return logger().bind(
            crew=delivery.entry.run,
            command_id=delivery.entry.command,
            host=attempt.host,
            attempt=delivery.count + 1,
            latency_ms=round(attempt.latency_ms),
        )

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
        subject = f"dead.escalations.{entry.tail}"
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
