"""Members: which controllers serve a server, what each has and how it is, in KV bucket CONTROLLERS.

Each writes its own entry every second, and the server lets an entry expire that is not renewed. Nothing is decided by
these entries that has to be right: who owns a run is said by its lease alone. They tell controllers how much the others
have (`sharing`), people who serves, and a controller that it should drain.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Final, Literal

import anyio
import msgspec
from msgspec import Struct

from crewkeeper_supervisor.shell import bucket
from crewkeeper_supervisor.shell.bucket import Stored
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.lease import clock_s
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link, WrongLastSequence

BUCKET: Final = "CONTROLLERS"
BEAT_S: Final = 1.0
SILENT_S: Final = 3.0
"""A controller of which nothing was heard for so long is called silent: it has missed as many beats."""
TTL_S: Final = 5
"""An entry that is not renewed for so long is gone."""
ASK_TTL_S: Final = 60
SWEEP_S: Final = 5.0
LISTED_MAX: Final = 500
"""Most runs that an entry names; how many there are is said in any case."""
_STREAM: Final = bucket.stream_of(BUCKET)
_PREFIX: Final = bucket.prefix_of(BUCKET)
_IS: Final = "is."
_ASK: Final = "ask."

State = Literal["serving", "draining"]


class Owned(Struct, frozen=True, kw_only=True):
    """One run that a controller owns."""

    run: str
    term: int
    seq: int
    """Journal entries that are folded."""
    behind: int
    """Entries that have arrived and are not folded yet."""
    age_s: float
    """Seconds since it was taken."""


class Member(Struct, frozen=True, kw_only=True):
    """One controller, as it says itself."""

    id: str
    """Unique to the process."""
    name: str
    """For people, not unique."""
    machine: str
    pid: int
    code: str
    """Version of the program."""
    began_at_s: float
    """Seconds since the Unix epoch, by its own clock; for people only."""
    state: State = "serving"
    count: int = 0
    """Runs that it owns."""
    runs: tuple[Owned, ...] = ()
    """At most 500 of them."""
    only: tuple[str, ...] = ()
    """Runs that it is confined to; empty: it takes any."""
    late_ms: int = 0
    """How late its event loop was at most since the entry before."""
    heard_at_s: float = 0.0
    """When the server stored the entry; set by readers."""

    def takes(self, run: str) -> bool:
        """Whether it would own this run."""
        return self.state == "serving" and (not self.only or run in self.only)


_DECODER: Final = msgspec.json.Decoder(Member)


class Members:
    """The controllers of one server, as one of them knows them.

    Attributes:
        id: Its own id.
    """

    def __init__(self, link: Link, describe: Callable[[str], Member], beat_s: float = BEAT_S) -> None:
        """Prepare; `work` does it.

        Args:
            link: The server.
            describe: Says what is to be said of this controller, given its id.
            beat_s: Seconds between two times that it is said.
        """
        self.id = secrets.token_hex(6)
        self.asked_to_drain = anyio.Event()
        self._link = link
        self._describe = describe
        self._beat_s = beat_s
        self._known: dict[str, tuple[Member, float]] = {}
        """By id: what was said, and when by the clock of this process."""

    async def open(self) -> None:
        """Create the bucket if it is not there, read who serves, and say that this controller does.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await open_bucket(self._link)
        await self._sweep()
        await self._say()

    def others(self) -> list[Member]:
        """Those of whom something was heard lately, but for this one."""
        now_s = clock_s()
        self._known = {id_: known for id_, known in self._known.items() if now_s - known[1] < TTL_S}
        return [member for id_, (member, _) in self._known.items() if id_ != self.id]

    async def work(self) -> None:
        """Say how this controller is and hear of the others until cancelled; then the entry is taken away."""
        try:
            async with bucket.heard(self._link, BUCKET, self._saw):
                await self._keep()
        finally:
            with anyio.move_on_after(1, shield=True), contextlib.suppress(StoreUnavailable):
                headers = {"KV-Operation": "DEL", "Nats-TTL": "1s"}
                await self._link.store(f"{_PREFIX}{_IS}{self.id}", b"", headers=headers)

    async def _keep(self) -> None:
        swept_s = clock_s()
        while True:
            try:
                await self._say()
                if clock_s() - swept_s > SWEEP_S:
                    await self._sweep()
                    swept_s = clock_s()
            except StoreUnavailable as error:
                logger().info("members.later", cause=type(error).__name__)
            await anyio.sleep(self._beat_s)

    async def _say(self) -> None:
        value = msgspec.json.encode(self._describe(self.id))
        await self._link.store(f"{_PREFIX}{_IS}{self.id}", value, headers={"Nats-TTL": f"{TTL_S}s"})

    async def _sweep(self) -> None:
        for member in await ls(self._link):
            if member.id not in self._known:
                self._known[member.id] = (member, clock_s())
        if await self._link.last(_STREAM, f"{_PREFIX}{_ASK}{self.id}") is not None:
            self.asked_to_drain.set()

    def _saw(self, stored: Stored) -> None:
        if stored.key == f"{_ASK}{self.id}" and stored.value:
            self.asked_to_drain.set()
        elif stored.key.startswith(_IS):
            member = _decode(stored.value)
            if member is None:
                self._known.pop(stored.key.removeprefix(_IS), None)
            else:
                self._known[member.id] = (member, clock_s())


async def open_bucket(link: Link) -> None:
    """Create the bucket if it is not there.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    republish = bucket.republished(BUCKET)
    await link.ensure_bucket(BUCKET, "Controllers that serve, and what they have", republish=republish)


async def ls(link: Link) -> list[Member]:
    """The controllers that serve now, oldest first.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    found: dict[str, Member] = {}
    for stored in await bucket.entries(link, BUCKET, f"{_IS}>"):
        if member := _decode(stored.value):
            found[member.id] = msgspec.structs.replace(member, heard_at_s=stored.at_s)
    return sorted(found.values(), key=lambda each: (each.began_at_s, each.id))


def heard_lately(there: Sequence[Member]) -> list[Member]:
    """Those of `ls` that are not silent, by the server's clock; one that was killed stays listed for a moment."""
    newest_s = max((each.heard_at_s for each in there), default=0.0)
    return [each for each in there if newest_s - each.heard_at_s <= SILENT_S]


async def ask_to_drain(link: Link, id_: str) -> None:
    """Ask a controller to give up all its runs and end.

    Raises:
        StoreUnavailable: The server did not answer; asking again is safe.
    """
    with contextlib.suppress(WrongLastSequence):
        await link.store(f"{_PREFIX}{_ASK}{id_}", b"{}", headers={"Nats-TTL": f"{ASK_TTL_S}s"})


def process() -> tuple[str, int]:
    """Machine and process id of this process, for people."""
    return socket.gethostname(), os.getpid()


def _decode(value: bytes | None) -> Member | None:
    try:
        return _DECODER.decode(value) if value else None
    except msgspec.MsgspecError:
        return None
