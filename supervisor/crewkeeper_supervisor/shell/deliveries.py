"""Deliveries: what is known of each escalation's way to each receiver, in stream HOOKS; nothing is sent here.

One record for each escalation and receiver, the newest on its subject: every attempt of the last round, and the
message itself, so that it can be sent again. Endpoints that said they are gone (410) are noted beside them. All of it
goes after thirty days, the oldest earlier when it is too much.
"""

import hashlib
import re
import secrets
import time
from typing import Final, Literal, NamedTuple

import msgspec
import nats.js.errors
from msgspec import Struct
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell import ledger, webhook
from crewkeeper_supervisor.shell.errors import SettingMissing, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence

OUTBOX: Final = "ESCALATIONS"
STREAM: Final = "HOOKS"
KEPT_S: Final = 30 * 86400.0
KEPT_BYTES: Final = 512 * 1024 * 1024
TRIES_MAX: Final = 20
READ_MAX: Final = 2000
"""Entries of the outbox that are looked into for when they are due."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")


class Entry(Struct, frozen=True, kw_only=True):
    """One escalation to one receiver. Addresses and secrets are kept as the crew file names them."""

    run: str
    command: str
    endpoint: int
    receiver: Webhook
    body: bytes
    incident: str = ""
    """What it is about: those about one incident arrive in order. Empty: it stands for itself."""
    closing: bool = False
    """Whether it says that what it is about is over: needless where nobody was told that it began."""
    due_s: float = 0.0
    """When it is sent at the earliest, in seconds since the epoch, unless somebody acknowledges before."""
    forced: bool = False
    """Whether a person sent it again: it is tried even at an endpoint that said it is gone."""
    digest: str = ""
    """Of what is said of a digest: the command that sent it. The digest itself has none."""
    acknowledged_by: str = ""
    """Whether it says that somebody knows: nobody else need be told."""

    @property
    def message_id(self) -> str:
        """The `webhook-id`: the same over all attempts and for all receivers."""
        return f"msg_{self.run}_{self.command}"

    @property
    def about(self) -> str:
        """The token of subjects that all entries about the same have in common."""
        return _UNFIT.sub("_", self.incident)[:64] or f"alone_{self.digest or self.command}"

    @property
    def tail(self) -> str:
        """The last tokens of its subjects: `<run>.<endpoint>.<about>.<command>`."""
        return f"{self.run}.{self.endpoint}.{self.about}.{self.command}"


State = Literal["waiting", "delivered", "dead", "needless"]
"""`needless`: somebody acknowledged, or it was over, before this receiver's turn came."""


class Try(Struct, frozen=True, kw_only=True):
    """One attempt, as it went."""

    at_s: float
    """Seconds since the epoch."""
    ok: bool
    text: str
    latency_ms: float = 0.0


class Delivery(Struct, frozen=True, kw_only=True):
    """The way of one escalation to one receiver."""

    entry: Entry
    state: State = "waiting"
    began_s: float
    """When this round of attempts began, in seconds since the epoch."""
    tries: tuple[Try, ...] = ()
    """The attempts of this round, the newest twenty."""
    count: int = 0
    """How many attempts this round has had."""
    next_s: float = 0.0
    """When it is tried again at the earliest."""

    def tried(self, attempt: webhook.Attempt, state: State, *, next_s: float = 0.0) -> "Delivery":
        """The same after one more attempt."""
        one = Try(at_s=time.time(), ok=attempt.ok, text=attempt.text[:300], latency_ms=round(attempt.latency_ms, 1))
        tries = (*self.tries, one)[-TRIES_MAX:]
        return msgspec.structs.replace(self, state=state, tries=tries, count=self.count + 1, next_s=next_s)


class Answered(Struct, frozen=True, kw_only=True):
    """Somebody knows of what people were told, or it is over: nobody else need be told."""

    by: str
    """Empty: nobody acknowledged it, for it was over."""
    at_s: float
    reason: str = ""


class Gone(Struct, frozen=True, kw_only=True):
    """An endpoint that said it will never take anything again, or that it did and came back."""

    webhook: str
    """As the crew file has it."""
    since_s: float
    gone: bool


class Counts(NamedTuple):
    """How many entries are in the outbox."""

    due: int
    """To be sent as soon as that goes."""
    later: int
    """For recipients whose turn comes later, unless somebody acknowledges before."""


_ENTRY: Final = msgspec.json.Decoder(Entry)
_DELIVERY: Final = msgspec.json.Decoder(Delivery)
_ANSWERED: Final = msgspec.json.Decoder(Answered)
_GONE: Final = msgspec.json.Decoder(Gone)


def endpoint_key(receiver: Webhook) -> str:
    """What an endpoint is known by: a digest of its real address, so that a new address is a new endpoint."""
    try:
        url = webhook.expand(receiver.webhook)
    except SettingMissing:
        url = receiver.webhook
    return hashlib.sha256(url.encode()).hexdigest()[:24]


class Deliveries:
    """The records of one server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def open(self) -> None:
        """Create the stream if it is not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_stream(
            StreamConfig(
                name=STREAM,
                description="What became of each escalation, and which endpoints are gone",
                subjects=["hooks.>"],
                retention=RetentionPolicy.LIMITS,
                discard=DiscardPolicy.OLD,
                storage=StorageType.FILE,
                max_msgs_per_subject=1,
                max_age=KEPT_S,
                max_bytes=KEPT_BYTES,
            )
        )

    async def get(self, entry: Entry) -> Delivery:
        """What is known of an entry; a new record if nothing is.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        stored = await self._link.last(STREAM, f"hooks.deliveries.{entry.tail}")
        if stored is not None and stored.data:
            try:
                return _DELIVERY.decode(stored.data)
            except msgspec.MsgspecError:
                pass  # of another version: what it says is worth less than the message
        return Delivery(entry=entry, began_s=time.time())

    async def put(self, delivery: Delivery) -> None:
        """Replace what is known.

        Raises:
            StoreUnavailable: Not acknowledged.
        """
        await self._link.store(f"hooks.deliveries.{delivery.entry.tail}", msgspec.json.encode(delivery))

    async def ls(self, run: str = "*") -> list[Delivery]:
        """All that is known, of a run or of all, oldest change first.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        found: list[Delivery] = []
        for _, data in await ledger.stored(self._link, STREAM, f"hooks.deliveries.{run}.>"):
            try:
                found.append(_DELIVERY.decode(data))
            except msgspec.MsgspecError:
                continue  # of another version
        return found

    async def is_ahead(self, entry: Entry, seq: int) -> bool:
        """Whether something older about the same still waits for this receiver.

        Args:
            entry: The entry.
            seq: Its sequence in the outbox.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        subject = f"escalations.{entry.run}.{entry.endpoint}.{entry.about}.*"
        try:
            first = await self._link.js.get_msg(OUTBOX, seq=1, subject=subject, next=True)
        except nats.js.errors.NotFoundError:
            return False
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"{OUTBOX}: {type(error).__name__}") from error
        return (first.seq or seq) < seq

    async def answer(self, entry: Entry, answered: Answered) -> None:
        """Note that nobody else need be told of what an entry is about.

        Raises:
            StoreUnavailable: Not acknowledged.
        """
        await self._link.store(f"hooks.answered.{entry.run}.{entry.about}", msgspec.json.encode(answered))

    async def answered(self, entry: Entry) -> Answered | None:
        """Who knows of what an entry is about, if anybody said so.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        stored = await self._link.last(STREAM, f"hooks.answered.{entry.run}.{entry.about}")
        if stored is None or not stored.data:
            return None
        try:
            return _ANSWERED.decode(stored.data)
        except msgspec.MsgspecError:
            return None

    async def has_heard(self, entry: Entry) -> bool:
        """Whether this receiver was told anything of what an entry is about.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        about = f"hooks.deliveries.{entry.run}.{entry.endpoint}.{entry.about}.*"
        for _, data in await ledger.stored(self._link, STREAM, about):
            try:
                if _DELIVERY.decode(data).state == "delivered":
                    return True
            except msgspec.MsgspecError:
                continue
        return False

    async def mark(self, receiver: Webhook, *, gone: bool) -> None:
        """Note that an endpoint is gone, or is there after all.

        Raises:
            StoreUnavailable: Not acknowledged.
        """
        noted = Gone(webhook=receiver.webhook, since_s=time.time(), gone=gone)
        await self._link.store(f"hooks.endpoints.{endpoint_key(receiver)}", msgspec.json.encode(noted))

    async def gone(self, receiver: Webhook) -> Gone | None:
        """What was noted if an endpoint is gone.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        stored = await self._link.last(STREAM, f"hooks.endpoints.{endpoint_key(receiver)}")
        if stored is None or not stored.data:
            return None
        try:
            noted = _GONE.decode(stored.data)
        except msgspec.MsgspecError:
            return None
        return noted if noted.gone else None

    async def again(self, delivery: Delivery) -> bool:
        """Put a message back into the outbox, under its old id, with all attempts before it; False if it waits already.

        Raises:
            StoreUnavailable: Not acknowledged; doing it again is safe.
        """
        if delivery.state == "waiting":
            return False
        entry = msgspec.structs.replace(delivery.entry, forced=True)
        await self.put(Delivery(entry=entry, began_s=time.time()))
        # An id of its own, for the server would take it for a copy of the first.
        return await enqueue(self._link, entry, f"again-{secrets.token_hex(8)}")


class Queue:
    """How long the outbox is, asked again and again; each entry is read once.

    Attributes:
        link: The server.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._due_s: dict[str, float] = {}
        """When an entry's turn is, by its subject."""

    async def count(self, now_s: float) -> Counts | None:
        """What waits; of more than `READ_MAX` entries the rest counts as due. None if nobody can say now.

        Args:
            now_s: Seconds since the epoch.
        """
        try:
            waiting = (await self.link.js.stream_info(OUTBOX)).state.messages
            if not waiting:
                self._due_s.clear()
                return Counts(0, 0)
            listed = (await self.link.js.stream_info(OUTBOX, subjects_filter="escalations.>")).state.subjects or {}
            subjects = list(listed)[:READ_MAX]
            self._due_s = {subject: self._due_s[subject] for subject in subjects if subject in self._due_s}
            for subject in subjects:
                if subject not in self._due_s:
                    self._due_s[subject] = await self._turn_s(subject)
        except LINK_ERRORS:  # also where the stream is not there
            return None
        later = sum(due_s > now_s for due_s in self._due_s.values())
        return Counts(max(0, len(listed) - later), later)

    async def _turn_s(self, subject: str) -> float:
        try:
            stored = await self.link.js.get_last_msg(OUTBOX, subject)
            entry = _ENTRY.decode(stored.data or b"")
        except (nats.js.errors.NotFoundError, msgspec.MsgspecError):
            return 0.0  # it was sent this moment, or nobody can read it
        is_news = entry.closing or entry.forced or bool(entry.acknowledged_by)
        return 0.0 if is_news else entry.due_s


async def enqueue(link: Link, entry: Entry, once: str) -> bool:
    """Put an entry into the outbox; False if it is waiting there.

    Args:
        link: The server.
        entry: The entry.
        once: By this the server knows copies, for two minutes.

    Raises:
        StoreUnavailable: Not acknowledged; doing it again is safe.
    """
    headers = {"Nats-Msg-Id": once}
    try:
        await link.store(f"escalations.{entry.tail}", msgspec.json.encode(entry), expected_last=0, headers=headers)
    except WrongLastSequence:
        return False
    return True
