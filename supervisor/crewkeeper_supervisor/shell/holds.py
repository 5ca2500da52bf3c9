"""Holds: who is held back, and the words of theirs that are kept meanwhile; who is to be held is decided elsewhere.

Theory of operation. In mode `operator` the server can send what an agent publishes somewhere else, by mapping its
subjects `crew.<run>.<kind>.<agent>.…` to `held.<run>.<kind>.<agent>.…`, without the agent noticing; there it is stored
in a stream of that agent alone, so that one that floods fills nothing but its own store. To let it go on, what is held
is stored again in stream REPLAY, whose server republishes it on `crew.…`: a mapping applies to what clients publish, so
this way leads past it, and what was held comes into the journal before what the agent says next.

Every mapping makes every publish of the account a little slower (0.1 µs each), so there are at most `MAPPED_MAX`.

Bucket HOLDS has a record for each hold, and one list of all mappings, changed by compare-and-set. Whoever changes it
pushes the whole list afterwards and looks whether it changed meanwhile: the last push has the last list.
"""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import anyio
import msgspec
import nats.js.errors
from msgspec import Struct
from nats.js.api import RePublish, StorageType, StreamConfig

from crewkeeper_bus.errors import SubjectError
from crewkeeper_bus.subjects import AGENT_KINDS, HELD, parse, stream_name
from crewkeeper_supervisor.shell import excerpt
from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.excerpt import Stored
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link

BUCKET: Final = "HOLDS"
MAPPED_MAX: Final = 20
"""Mappings that may be in force at a time: an agent is one, a pair of agents two."""
HELD_MAX: Final = 200_000
HELD_MAX_BYTES: Final = 128 * 1024 * 1024
"""What is kept of one agent's words; what it says beyond that is lost."""
REPLAYED_KEEP_S: Final = 3600.0
"""For so long a replay that was broken off can be repeated without a message coming twice."""
ARRIVE_S: Final = 15.0
"""How long what is replayed, 500 messages at a time, may take to be stored, and then into the journal."""
ARRIVE_POLL_S: Final = 0.002

_REPLAY: Final = "REPLAY"
_STREAM: Final = f"KV_{BUCKET}"
_PREFIX: Final = f"$KV.{BUCKET}."
_MAPPED: Final = f"{_PREFIX}mapped"


class Hold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One agent that is held, or two that are held apart."""

    run: str
    agent: str
    peer: str = ""
    """The other one of a pair, the greater name; empty: the agent is held towards everybody."""
    via: Literal["mapping", "permissions"]
    """`permissions`: the agent was made to log in again, to a login that lets it say nothing."""
    journal_seq: int = 0
    """Last entry of the journal when the hold began."""
    stayed: tuple[tuple[str, int], ...] = ()
    """Connections (server, number) that were there before: they have all their rights."""

    @property
    def key(self) -> str:
        """Its key in the bucket."""
        return ".".join(filter(None, (self.run, self.agent, self.peer)))


class Mapping(NamedTuple):
    """What one agent says, to everybody or to one other, is held."""

    run: str
    sender: str
    to: str = ""

    @property
    def source(self) -> str:
        """Where it is published, in server syntax."""
        return f"crew.{self.run}.*.{self.sender}.{self.to + '.' if self.to else ''}>"

    @property
    def target(self) -> str:
        """Where it goes instead."""
        return f"{HELD}.{self.run}.{{{{wildcard(1)}}}}.{self.sender}.{self.to + '.' if self.to else ''}>"

    def holds(self, run: str, sender: str, to: str) -> bool:
        """Whether a message is held by it."""
        return (self.run, self.sender) == (run, sender) and self.to in ("", to)


def mappings_of(hold: Hold) -> tuple[Mapping, ...]:
    """The mappings that a hold consists of."""
    if not hold.peer:
        return (Mapping(hold.run, hold.agent),)
    return (Mapping(hold.run, hold.agent, hold.peer), Mapping(hold.run, hold.peer, hold.agent))


class Holds:
    """The holds of one server. Cheap to make; holds no state of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def open(self, *, mapping: bool) -> None:
        """Create what is not there.

        Args:
            mapping: Whether words can be held.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_bucket(BUCKET, "Who is held back")
        if mapping:
            await self._link.ensure_stream(
                StreamConfig(
                    name=_REPLAY,
                    description="Words that were held, on their way into the journals",
                    subjects=["replay.>"],
                    republish=RePublish(src="replay.>", dest="crew.>"),
                    storage=StorageType.FILE,
                    max_age=REPLAYED_KEEP_S,
                    duplicate_window=REPLAYED_KEEP_S,
                    max_bytes=HELD_MAX_BYTES,
                )
            )

    # --- records ---

    async def get(self, run: str, agent: str, peer: str = "") -> Hold | None:
        """A hold that is recorded.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        key = ".".join(filter(None, (run, agent, peer)))
        last = await self._link.last(_STREAM, _PREFIX + key)
        try:
            return msgspec.json.decode(last.data, type=Hold) if last is not None and last.data else None
        except msgspec.MsgspecError:
            return None

    async def put(self, hold: Hold) -> None:
        """Record a hold.

        Raises:
            StoreUnavailable: The server did not store it.
        """
        await self._link.store(_PREFIX + hold.key, msgspec.json.encode(hold))

    async def drop(self, hold: Hold) -> None:
        """Forget a hold.

        Raises:
            StoreUnavailable: The server did not store it.
        """
        # An empty entry takes less than a deletion marker with its headers; both read as "none".
        await self._link.store(_PREFIX + hold.key, b"", headers={"KV-Operation": "DEL"})

    # --- mappings ---

    async def mapped(self) -> tuple[int, tuple[Mapping, ...]]:
        """All mappings that are to be in force, and the sequence of that list.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        last = await self._link.last(_STREAM, _MAPPED)
        if last is None:
            return 0, ()
        return int(last.seq or 0), msgspec.json.decode(last.data or b"[]", type=tuple[Mapping, ...])

    async def change_mapped(
        self, change: Callable[[tuple[Mapping, ...]], tuple[Mapping, ...] | None]
    ) -> tuple[Mapping, ...] | None:
        """Replace the list by what `change` makes of it; None if that is None: then nothing is changed.

        Raises:
            StoreUnavailable: The server did not answer, or others kept changing it.
        """

        async def attempt() -> tuple[Mapping, ...] | None:
            seq, before = await self.mapped()
            after = change(before)
            if after is not None and after != before:
                await self._link.store(_MAPPED, msgspec.json.encode(after), expected_last=seq)
            return after

        return await contend(f"bucket {BUCKET}, the list of mappings", attempt)

    # --- words ---

    async def make_store(self, run: str, sender: str) -> None:
        """Create the stream for what an agent says while it is held.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_stream(
            StreamConfig(
                name=_store_name(run, sender),
                description=f"What {sender} of run {run} said while it was held",
                subjects=[f"{HELD}.{run}.*.{sender}.>"],
                no_ack=True,  # an acknowledgement goes wherever the agent says
                storage=StorageType.FILE,
                max_msgs=HELD_MAX,
                max_bytes=HELD_MAX_BYTES,
                discard=nats.js.api.DiscardPolicy.NEW,
                duplicate_window=0.1,
                metadata={"id": secrets.token_hex(8)},
            )
        )

    async def replay(self, run: str, sender: str) -> tuple[int, bool]:
        """Put what was held of an agent and is held no longer into the journal, in its order.

        May be called while the mappings are still in force: then those that are in the list without being in force
        any longer are what counts, so change the list first.

        Returns:
            How many messages there were, and whether their store was full.

        Raises:
            StoreUnavailable: The server did not answer: repeat it; nothing comes twice.
        """
        name = _store_name(run, sender)
        try:
            info = await self._link.js.stream_info(name)
        except nats.js.errors.NotFoundError:
            return 0, False
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"{name}: {type(error).__name__}") from error
        full = info.state.messages >= HELD_MAX or info.state.bytes >= HELD_MAX_BYTES * 0.99
        _, still = await self.mapped()
        store = (info.config.metadata or {}).get("id", "")
        released = last_seq = 0
        receivers: dict[str, None] = {}
        all_free = True
        async with contextlib.aclosing(excerpt.read(self._link, name)) as batches:
            async for batch in batches:
                free = [each for each in batch if not _is_held(each, still)]
                await self._pass_on(run, store, free)
                receivers |= {each.subject.split(".")[4]: None for each in free}
                all_free = all_free and len(free) == len(batch)
                released += len(free)
                last_seq = batch[-1].seq
        # To one receiver either everything is held or nothing is.
        filters = [None] if all_free else [f"{HELD}.{run}.*.{sender}.{to}.>" for to in receivers]
        if released:
            try:
                for subject in filters:
                    await self._link.js.purge_stream(name, seq=last_seq + 1, subject=subject)
            except LINK_ERRORS as error:
                raise StoreUnavailable(f"{name}: {type(error).__name__}") from error
        return released, full

    async def discard(self, run: str, sender: str) -> None:
        """Delete the store of an agent's words with all that is in it.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        try:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                await self._link.js.delete_stream(_store_name(run, sender))
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"store of {sender}: {type(error).__name__}") from error

    async def _pass_on(self, run: str, store: str, messages: list[Stored]) -> None:
        """Store messages in REPLAY, and return when they are in the journal."""
        words = [each for each in messages if _is_word(each)]
        if not words:
            return
        try:
            acks = [
                await self._link.js.publish_async(
                    f"replay{each.subject.removeprefix(HELD)}",
                    each.payload,
                    headers={"Nats-Msg-Id": f"{store}.{each.seq}"},
                )
                for each in words
            ]
            with anyio.fail_after(ARRIVE_S):
                again = [each for each, ack in zip(words, acks, strict=True) if (await ack).duplicate]
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"stream {_REPLAY}: {type(error).__name__}") from error
        for each in again:  # passed on before, by somebody who did not see it arrive
            if not await self._has_arrived(run, each):
                await self._link.store(f"replay{each.subject.removeprefix(HELD)}", each.payload)
        until_s = time.monotonic() + ARRIVE_S
        while time.monotonic() < until_s:
            if await self._has_arrived(run, words[-1]):
                return
            await anyio.sleep(ARRIVE_POLL_S)
        raise StoreUnavailable(f"run {run}: what was held does not arrive in its journal")

    async def _has_arrived(self, run: str, word: Stored) -> bool:
        found = await self._link.last(stream_name(run), f"crew{word.subject.removeprefix(HELD)}")
        return found is not None and (found.data or b"") == word.payload


def _store_name(run: str, sender: str) -> str:
    # A name made of the two could be made of two others as well: both may hold any character that a name may.
    return "HELD_" + hashlib.sha256(f"{run}.{sender}".encode()).hexdigest()[:24]


def _is_word(stored: Stored) -> bool:
    """Whether it is something that an agent says."""
    try:
        return parse(f"crew{stored.subject.removeprefix(HELD)}").kind in AGENT_KINDS
    except SubjectError:
        return False


def _is_held(stored: Stored, mapped: tuple[Mapping, ...]) -> bool:
    tokens = stored.subject.split(".")
    return len(tokens) > 4 and any(each.holds(tokens[1], tokens[3], tokens[4]) for each in mapped)
