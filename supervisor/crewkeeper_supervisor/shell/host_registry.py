"""Host registry: which hosts take agents on a server, in KV bucket HOSTS: one key a host, which expires if not renewed.

A host holds its name by compare-and-set, so no two processes have one name at a time. Whether a host whose key has
expired is really gone is asked of the host itself (`is_gone`); what follows from that for a run is not decided here.
"""

import contextlib
from typing import Final

import anyio
import msgspec
from msgspec import Struct

from crewkeeper_supervisor.shell import bucket
from crewkeeper_supervisor.shell.errors import HostNameTaken, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import Link, WrongLastSequence

BUCKET: Final = "HOSTS"
TTL_S: Final = 6
"""How long a registration lasts that is not renewed, unless it is said; the server counts whole seconds."""
BEATS: Final = 4
"""How often a host renews it in that time."""
PING_LIMIT_S: Final = 2.0
"""How long a host may take to answer."""
PING_PAUSE_S: Final = 0.5
"""Pause between two questions: a host may be on its way back from a lost connection."""
PINGS: Final = 3
"""So many questions in a row without an answer, and without a registration, and it is gone."""
LISTED_MAX: Final = 500
"""Agents that are listed in a registration; all are counted."""
_STREAM: Final = bucket.stream_of(BUCKET)
_PREFIX: Final = bucket.prefix_of(BUCKET)
_PING: Final = "crewkeeper.host."


class HostInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host says of itself."""

    name: str
    inc: str
    """Its incarnation."""
    labels: dict[str, str] = {}
    slots: int
    """How many agents it takes at a time."""
    since_s: float
    """Unix seconds, by its own clock; for people only."""
    machine: str = ""
    pid: int = 0
    leaving: bool = False
    """It is about to end and takes no more."""
    agents: tuple[tuple[str, str], ...] = ()
    """What it runs: (run, agent), at most `LISTED_MAX`."""
    counts: dict[str, int] = {}
    """How many agents it runs, by run."""

    @property
    def taken(self) -> int:
        """How many agents it runs."""
        return sum(self.counts.values())


_DECODER: Final = msgspec.json.Decoder(HostInfo)


def decode(data: bytes | None) -> HostInfo | None:
    """A registration as it is stored; None for one that was removed or cannot be read."""
    try:
        return _DECODER.decode(data) if data else None
    except msgspec.MsgspecError:
        return None


def ping_subject(inc: str) -> str:
    """Where an incarnation of a host answers to whoever asks whether it is there."""
    return _PING + inc


class HostRegistry:
    """The registered hosts of one server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def open(self) -> None:
        """Create the bucket if it is not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_bucket(BUCKET, "Hosts that take agents", republish=bucket.republished(BUCKET))

    async def get(self, name: str) -> HostInfo | None:
        """The host that is registered under a name now.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        last = await self._link.last(_STREAM, _PREFIX + name)
        return None if last is None else decode(last.data)

    async def ls(self) -> list[HostInfo]:
        """Every registered host, by name.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        last = {each.key: decode(each.value) for each in await bucket.entries(self._link, BUCKET)}
        found = {key: info for key, info in last.items() if info is not None}
        return sorted(found.values(), key=lambda info: info.name)

    async def is_gone(self, name: str, inc: str) -> bool | None:
        """Whether an incarnation of a host is gone: it has no registration, and does not answer when asked.

        None: that could not be found out, because the way to the server was interrupted meanwhile. A host that is
        there answers within `PING_LIMIT_S`; one that is not takes up to `PINGS` times that long to be called gone.
        """
        connections = self._link.connections
        for _ in range(PINGS):
            try:
                info = await self.get(name)
            except StoreUnavailable:
                return None
            if info is not None and info.inc == inc:
                return False
            if await bucket.is_answered(self._link, ping_subject(inc), PING_LIMIT_S):
                return False
            await anyio.sleep(PING_PAUSE_S)
            if not self._link.is_connected or self._link.connections != connections:
                return None
        return True


class Registration:
    """One host's own entry: `take`, then `renew` in time, and `release`.

    Attributes:
        inc: The incarnation that holds the name.
    """

    def __init__(self, link: Link, name: str, inc: str, ttl_s: int = TTL_S) -> None:
        self.inc = inc
        self._link = link
        self._name = name
        self._ttl_s = ttl_s
        self._seq = 0

    async def take(self, info: HostInfo) -> None:
        """Register, if nobody has the name.

        Raises:
            HostNameTaken: Another process has it.
            StoreUnavailable: The server did not answer, or not with what was stored last; asking again is safe.
        """
        last = await self._link.last(_STREAM, _PREFIX + self._name)
        other = decode(last.data) if last is not None else None
        if other is not None and other.inc != self.inc:
            raise HostNameTaken(
                f"host {self._name!r} is registered already, by process {other.pid} of {other.machine or 'somewhere'}; "
                "choose another name with --name"
            )
        self._seq = int(last.seq or 0) if last is not None else 0
        try:
            await self._put(info)
        except WrongLastSequence:
            # Another process was faster; or what was read is old, or an earlier try of ours is still on its way, where
            # the server that leads the bucket is cut off from the others. Who has the name is told by the next reading.
            raise StoreUnavailable(f"host {self._name!r}: its registration has changed since it was read") from None

    async def renew(self, info: HostInfo) -> None:
        """Write it again, also after it has expired.

        Raises:
            HostNameTaken: Another process has the name now.
            StoreUnavailable: The server did not answer.
        """
        try:
            await self._put(info)
        except WrongLastSequence:  # it has expired, or an acknowledgement was lost
            await self.take(info)

    async def release(self) -> None:
        """Remove it, within a second."""
        headers = {"KV-Operation": "DEL", "Nats-TTL": "1s"}
        with anyio.move_on_after(1, shield=True), contextlib.suppress(StoreUnavailable, WrongLastSequence):
            await self._link.store(_PREFIX + self._name, b"", expected_last=self._seq, headers=headers)

    async def _put(self, info: HostInfo) -> None:
        headers = {"Nats-TTL": f"{self._ttl_s}s"}
        data = msgspec.json.encode(info)
        self._seq = await self._link.store(_PREFIX + self._name, data, expected_last=self._seq, headers=headers)
