"""Registry: which runs there are, in KV bucket CREWS: what controllers look for and the command line lists."""

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Final, Literal

import anyio
import msgspec
from msgspec import Struct

from crewkeeper_supervisor.shell import bucket
from crewkeeper_supervisor.shell.contention import contend
from crewkeeper_supervisor.shell.errors import RunAmbiguous, RunNotFound, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import Link

BUCKET: Final = "CREWS"
_STREAM: Final = bucket.stream_of(BUCKET)
_PREFIX: Final = bucket.prefix_of(BUCKET)
SWEEP_S: Final = 5.0
"""A watch lists again this often even if it saw no change: a lost wake-up heals."""

State = Literal["running", "done", "failed", "stopped"]
ENDED: Final = ("done", "failed", "stopped")


class RunInfo(Struct, frozen=True, kw_only=True):
    """One run, as registered."""

    run: str
    crew: str
    host: str
    declared_at_s: float
    """Seconds since the Unix epoch, by the host's clock; for people only."""
    state: State = "running"
    spread: bool = False
    """Its agents are given to the hosts of the server one by one; `host` is empty."""
    unfinished: bool = False
    """Its host has recorded how it ended, and its owner has not yet: what was decided last may be undone."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended and nothing is left to do about it."""
        return self.state in ENDED and not self.unfinished


_DECODER: Final = msgspec.json.Decoder(RunInfo)


class Registry:
    """The registered runs of one server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def open(self) -> None:
        """Create the bucket if it is not there.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._link.ensure_bucket(BUCKET, "Runs of crews", republish=bucket.republished(BUCKET))

    async def declare(self, run: str, crew: str, host: str, *, spread: bool = False) -> RunInfo:
        """Register a run as running.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        info = RunInfo(run=run, crew=crew, host=host, declared_at_s=time.time(), spread=spread)
        await self._link.store(_PREFIX + run, msgspec.json.encode(info))
        return info

    async def set_state(self, run: str, state: State, *, unfinished: bool = False) -> RunInfo:
        """Record a run's state; an ended run stays as it ended.

        Args:
            run: The run.
            state: Its state.
            unfinished: Said by its host: an owner is still needed, unless one has recorded the end already.

        Raises:
            RunNotFound: The run is not registered.
            StoreUnavailable: The server did not answer, or others kept changing the entry.
        """

        async def attempt() -> RunInfo:
            last = await self._link.last(_STREAM, _PREFIX + run)
            info = _decode(last.data) if last is not None else None
            if last is None or info is None:
                raise RunNotFound(f"run {run!r} is not registered; `supervisor ps -a` lists the runs")
            known = state if info.state not in ENDED else info.state
            left = unfinished and (info.state not in ENDED or info.unfinished)
            if (known, left) == (info.state, info.unfinished):
                return info
            info = msgspec.structs.replace(info, state=known, unfinished=left)
            await self._link.store(_PREFIX + run, msgspec.json.encode(info), expected_last=last.seq)
            return info

        return await contend(f"registration of run {run!r}", attempt)

    async def get(self, run: str) -> RunInfo | None:
        """One run by its exact id.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        last = await self._link.last(_STREAM, _PREFIX + run)
        return None if last is None else _decode(last.data)

    async def ls(self) -> list[RunInfo]:
        """Every registered run, oldest first.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        decoded = [_decode(stored.value) for stored in await bucket.entries(self._link, BUCKET)]
        found = {info.run: info for info in decoded if info is not None}
        return sorted(found.values(), key=lambda info: (info.declared_at_s, info.run))

    async def resolve(self, name: str) -> RunInfo:
        """Find a run by its id, by a crew's name (its newest run), or by the only id that begins with `name`.

        Raises:
            RunNotFound: Nothing fits.
            RunAmbiguous: Several ids begin with it.
            StoreUnavailable: The server did not answer.
        """
        runs = await self.ls()
        exact = [info for info in runs if info.run == name]
        # A crew's newest run: one that still runs wins over a later one that has ended.
        of_crew = sorted((info for info in runs if info.crew == name), key=lambda info: info.state == "running")
        if exact or of_crew:
            return (exact or of_crew)[-1]
        fitting = [info for info in runs if name and info.run.startswith(name)]
        if not fitting:
            known = ", ".join(info.run for info in runs[-5:]) or "none"
            raise RunNotFound(f"no run or crew {name!r}; newest runs: {known}")
        if len(fitting) > 1:
            ids = [info.run for info in fitting]
            raise RunAmbiguous(f"{name!r} fits {len(ids)} runs: {', '.join(ids[:10])}; give more of the id", runs=ids)
        return fitting[0]

    async def watch(self) -> AsyncGenerator[list[RunInfo], None]:
        """Yield the whole list now and again after every change. Lasts until cancelled; heals after outages.

        Close it (`contextlib.aclosing`) when leaving early.
        """
        changed = anyio.Event()

        def wake(_: bucket.Stored) -> None:
            changed.set()

        async with bucket.heard(self._link, BUCKET, wake):
            shown: list[RunInfo] | None = None
            while True:
                changed = anyio.Event()
                with contextlib.suppress(StoreUnavailable):
                    runs = await self.ls()
                    if runs != shown:
                        shown = runs
                        yield runs
                with anyio.move_on_after(SWEEP_S):
                    await changed.wait()


def _decode(value: bytes | None) -> RunInfo | None:
    try:
        return _DECODER.decode(value) if value else None
    except msgspec.MsgspecError:
        return None
