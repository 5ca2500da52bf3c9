"""Lease: who owns a run, in KV bucket LEASES: one key a run, compare-and-set, expiring by the server's clock.

The revision of the acquisition is the term: it only grows, and it stands on every command. An owner trusts its lease
for 0.8 of the time to live, counted from the moment before its last good renewal was sent, on a clock that also runs
while the machine sleeps. Who stands by and watches its renewals takes a lease 0.9 of the time to live after the last
one came; so the owner has stopped before anybody else is let in. What it had decided by then and sends late is
refused by the ledger (see there) and ignored by agents that have seen a newer term.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg, RePublish

from crewkeeper_supervisor.shell import fail_points
from crewkeeper_supervisor.shell.errors import LeaseLost, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, WrongLastSequence

BUCKET: Final = "LEASES"
TTL_S: Final = 3.0
"""Default time to live; the server counts whole seconds, at least one."""
TRUST: Final = 0.8
"""Share of the time to live after which an owner that could not renew stops acting."""
LAPSED: Final = 0.9
"""Share of the time to live after which a lease whose renewals were watched is taken: its owner acts no more."""
LOOK_EVERY_S: Final = 0.25
"""How often a standby checks whether an owner on its own machine is still a process."""
_NEVER_SEEN: Final = (0.0, 0)
_STREAM: Final = f"KV_{BUCKET}"
_PREFIX: Final = f"$KV.{BUCKET}."
_STORED: Final = f"out.kv.{BUCKET}."


class Holder(Struct, frozen=True, kw_only=True):
    """What a lease says of its owner."""

    owner: str
    """Name for people, not unique."""
    nonce: str
    """Unique to one acquisition."""
    machine: str = ""
    """Where `pid` means something; empty: unknown."""
    pid: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be gone: it was a process of this machine and is none any more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        return False


class Lease:
    """One owned run.

    Attributes:
        run: The run.
        term: The fencing token: revision at which this ownership began.
    """

    def __init__(self, link: Link, run: str, holder: Holder, revision: int, asked_s: float, ttl_s: float) -> None:
        self.run = run
        self.term = revision
        self._link = link
        self._holder = holder
        self._revision = revision
        self._good_s = asked_s
        self._ttl_s = ttl_s
        self._over = False

    def still_mine(self) -> bool:
        """Whether this process may act on the run now."""
        return not self._over and clock_s() - self._good_s < TRUST * self._ttl_s

    def check(self) -> None:
        """Return if this process may act on the run now.

        Raises:
            LeaseLost: It may not.
        """
        if not self.still_mine():
            raise LeaseLost(f"run {self.run}: the lease of term {self.term} is over")

    async def renew(self) -> bool:
        """Renew once; False if the server could not be asked in time.

        Raises:
            LeaseLost: Somebody else has it, or it has expired.
        """
        asked_s = clock_s()
        try:
            with anyio.move_on_after(self._ttl_s / 3):
                self._revision = await self._put(self._revision)
                self._good_s = asked_s
                return True
        except WrongLastSequence:
            # Perhaps an earlier renewal was stored although its acknowledgement was lost.
            last = await self._last()
            if last is None or _holder(last) != self._holder:
                self._over = True
                raise LeaseLost(f"run {self.run}: the lease of term {self.term} has gone to another owner") from None
            self._revision = int(last.seq or 0)
        except StoreUnavailable:
            pass
        return False

    async def keep(self) -> None:
        """Renew in time, for as long as it is ours.

        Raises:
            LeaseLost: It no longer is; always how this ends.
        """
        while True:
            self.check()
            with contextlib.suppress(StoreUnavailable):
                renewed = await self.renew()
                await anyio.sleep(self._ttl_s / 4 if renewed else self._ttl_s / 20)
                continue
            await anyio.sleep(self._ttl_s / 20)

    async def release(self) -> None:
        """Give it up, so that another may take it at once. Within a second; idempotent."""
        if self._over:
            return
        self._over = True
        headers = {"KV-Operation": "DEL", "Nats-TTL": "1s"}
        with anyio.move_on_after(1, shield=True), contextlib.suppress(StoreUnavailable, WrongLastSequence):
            await self._link.store(_PREFIX + self.run, b"", expected_last=self._revision, headers=headers)
            fail_points.passed("lease-released")

    async def _put(self, expected: int) -> int:
        return await _store(self._link, self.run, self._holder, expected, self._ttl_s)

    async def _last(self) -> RawStreamMsg | None:
        with anyio.move_on_after(self._ttl_s / 3):
            return await self._link.last(_STREAM, _PREFIX + self.run)
        raise StoreUnavailable(f"run {self.run}: its lease cannot be read")


class Leases:
    """Acquires leases for one owner, and watches those of others.

    Args:
        link: The server.
        owner: Name of the owner.
        ttl_s: Time to live.
        hold_back_s: Seconds for which a lease that is found free is left to others first, given the run.
    """

    def __init__(
        self, link: Link, owner: str, ttl_s: float = TTL_S, hold_back_s: Callable[[str], float] = lambda _: 0.0
    ) -> None:
        self._link = link
        self._hold_back_s = hold_back_s
        self._owner = owner
        self._ttl_s = float(max(1, round(ttl_s)))
        self._seen: dict[str, tuple[float, int]] = {}
        """The last renewal of each lease waited for that was watched: when it came, and its revision."""
        self._changed: dict[str, asyncio.Event] = {}
        self._stopping = asyncio.Event()
        self._watches = False

    async def open(self) -> None:
        """Create the bucket if it is not there, and begin to watch; may be called again where it failed.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        republish = RePublish(src=f"{_PREFIX}>", dest=f"{_STORED}>")
        await self._link.ensure_bucket(BUCKET, "Owners of runs", republish=republish)
        if self._watches:
            return
        try:
            await self._link.nc.subscribe(f"{_STORED}>", cb=self._saw)
            self._watches = True
        except LINK_ERRORS as error:
            raise StoreUnavailable(f"bucket {BUCKET}: {error}") from error

    async def acquire(self, run: str) -> Lease | None:
        """Take the lease if it is free, or if its owner is known to be dead; else None.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        lease, _ = await self._try(run)
        return lease

    async def wait(self, run: str) -> Lease | None:
        """Take the lease as soon as it is free. Lasts until it is, or cancelled, or `stop_waiting`: None then.

        A held lease costs the server nothing: its renewals are watched, and it is tried again when they stop.
        """
        try:
            while not self._stopping.is_set():
                changed = self._changed[run] = asyncio.Event()
                holder: Holder | None = None
                with contextlib.suppress(StoreUnavailable):
                    lease, holder = await self._try(run)
                    if lease is not None:
                        return lease
                # A lease whose renewals were watched is over at a known moment, and then is asked for more often.
                again_s = clock_s() + min(1.0, self._ttl_s / (30 if run in self._seen else 10))
                while True:
                    # Who was faster than we is read again soon: only of a known holder can be told that it is dead.
                    over_s = 0.0 if holder is None else self._seen.get(run, _NEVER_SEEN)[0] + LAPSED * self._ttl_s
                    if (left_s := max(again_s, over_s) - clock_s()) <= 0:
                        break
                    if changed.is_set() or (holder is not None and holder.is_dead):
                        break
                    with anyio.move_on_after(min(LOOK_EVERY_S, left_s)):
                        await changed.wait()
        finally:
            self._changed.pop(run, None)
            self._seen.pop(run, None)
        return None

    def stop_waiting(self) -> None:
        """Take no more leases: whoever waits for one is told so."""
        self._stopping.set()
        for changed in self._changed.values():
            changed.set()

    async def _try(self, run: str) -> tuple[Lease | None, Holder | None]:
        last = await self._link.last(_STREAM, _PREFIX + run)
        held = None if last is None else _holder(last)
        if last is not None and held is not None and not held.is_dead and not self._has_lapsed(run, int(last.seq or 0)):
            return None, held
        if (pause_s := self._hold_back_s(run)) > 0:
            with anyio.move_on_after(pause_s):
                await self._stopping.wait()
                return None, None
        holder = Holder(owner=self._owner, nonce=secrets.token_hex(8), machine=_machine(), pid=os.getpid())
        asked_s = clock_s()
        try:
            expected = 0 if last is None else int(last.seq or 0)
            revision = await _store(self._link, run, holder, expected, self._ttl_s)
        except WrongLastSequence:
            return None, None
        return Lease(self._link, run, holder, revision, asked_s, self._ttl_s), None

    def _has_lapsed(self, run: str, revision: int) -> bool:
        """Whether a lease was renewed to this revision so long ago that its owner has stopped trusting it.

        The owner counts from before the renewal was sent, we from after it was stored and passed on to us, so ours is
        the later end. Had it been renewed since, its revision would be another, at the latest when we try to take it.
        """
        seen_s, seen = self._seen.get(run, _NEVER_SEEN)
        return seen == revision and clock_s() - seen_s >= LAPSED * self._ttl_s

    async def _saw(self, msg: Msg) -> None:
        run = msg.subject.removeprefix(_STORED)
        changed = self._changed.get(run)
        if changed is None:
            return
        if msg.data:
            self._seen[run] = (clock_s(), int((msg.headers or {}).get("Nats-Sequence", "0")))
        else:  # released
            self._seen.pop(run, None)
            changed.set()


async def holder_of(link: Link, run: str) -> Holder | None:
    """Who has the lease of a run now; None: nobody.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    last = await link.last(_STREAM, _PREFIX + run)
    return None if last is None else _holder(last)


def clock_s() -> float:
    """Seconds on a clock that never steps back and, where the system has one, goes on while it sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


async def _store(link: Link, run: str, holder: Holder, expected: int, ttl_s: float) -> int:
    value = msgspec.json.encode(holder)
    return await link.store(_PREFIX + run, value, expected_last=expected, headers={"Nats-TTL": f"{int(ttl_s)}s"})


def _holder(message: RawStreamMsg) -> Holder | None:
    """The holder an entry names; None for a released lease."""
    if not message.data:
        return None
    try:
        return msgspec.json.decode(message.data, type=Holder)
    except msgspec.MsgspecError:
        return Holder(owner="?", nonce="?")


def _machine() -> str:
    """Names where process ids are shared: this boot of this machine, this process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - not a path: pid:[…]
    return " ".join(parts)
