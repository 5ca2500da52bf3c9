"""Which run a command is about: by id, unique beginning of an id, crew name, or the only one there is."""

import contextlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.place_options import kept_readers
from crewkeeper_supervisor.cli.progress import Progress
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.registry import ENDED, Registry, RunInfo
from crewkeeper_supervisor.views.fold import Fold, JournalEntry

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link

NAMED_MAX: Final = 10
"""Runs that a message names; of more it says how many there are."""
KEPT_MAX: Final = 200
"""Readers that a watched command keeps; runs beyond that are read anew each time."""
LONG_ENTRIES: Final = 10_000
"""A run of fewer has no snapshot worth asking for."""


class Reader(Protocol):
    """What takes in a journal."""

    def feed(self, entry: JournalEntry) -> Any:
        """Take in the next entry."""


_Reader = TypeVar("_Reader", bound=Reader)


class _Reading:
    """A reader, and how far it has come."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.seq = 0


def choose(runs: Sequence[RunInfo], name: str | None) -> RunInfo:
    """The run that `name` means among these, oldest first.

    Raises:
        Failure: None fits (exit 5, with near names), or several do (exit 2, with their ids).
    """
    active = [info for info in runs if info.state not in ENDED]
    if not name:
        candidates = active or list(runs[-1:])
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            raise Failure("there are no runs", code=NOT_FOUND, remedy="supervisor up crew.yaml")
        raise Failure(f"{len(candidates)} runs are active: {_some(candidates)}", code=USAGE, remedy="name one of them")
    exact = [info for info in runs if info.run == name]
    of_crew = [info for info in active if info.crew == name] or [info for info in runs if info.crew == name]
    if exact or of_crew:
        return (exact or of_crew)[-1]
    fitting = [info for info in runs if info.run.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Failure(f"{name!r} fits {len(fitting)} runs: {_some(fitting)}", code=USAGE, remedy="give more of the id")
    raise Failure(
        f"no run or crew {name[:60]!r}{near(name, _names(runs))}", code=NOT_FOUND, remedy="supervisor ps --all"
    )


def _some(runs: Sequence[RunInfo]) -> str:
    more = f" and {len(runs) - NAMED_MAX} more" if len(runs) > NAMED_MAX else ""
    return ", ".join(info.run for info in runs[:NAMED_MAX]) + more


def _names(runs: Sequence[RunInfo]) -> list[str]:
    return list(dict.fromkeys(name for info in reversed(runs) for name in (info.crew, info.run)))


def near(name: str, names: Sequence[str]) -> str:
    """A hint at names that look alike, to end a message with; empty where there are none."""
    close = get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(repr(each) for each in close)}?" if close else ""


def choose_active(runs: Sequence[RunInfo], names: Sequence[str], *, every: bool) -> tuple[list[RunInfo], list[RunInfo]]:
    """The runs that a command on several is about: those that go on, and those named that have ended already.

    Args:
        runs: All runs, oldest first.
        names: As for `choose`; without any, the only active one.
        every: Every active run, whatever the names.

    Raises:
        Failure: As `choose`.
    """
    active = [info for info in runs if info.state not in ENDED]
    if every or (not names and not active):
        return active, []
    if not names and len(active) > 1:
        raise Failure(f"{len(active)} runs are active: {_some(active)}", code=USAGE, remedy="name some, or --all")
    chosen = list({info.run: info for info in (choose(runs, name) for name in names or (None,))}.values())
    return [info for info in chosen if info.state not in ENDED], [info for info in chosen if info.state in ENDED]


async def find_run(link: "Link", name: str | None) -> RunInfo:
    """The run that `name` means on this server.

    Raises:
        Failure: As `choose`.
    """
    return choose(await Registry(link).ls(), name)


async def named_or_active(link: "Link", name: str | None) -> list[RunInfo]:
    """The run that `name` means on this server; without one, every active run.

    Raises:
        Failure: As `choose`.
    """
    runs = await Registry(link).ls()
    return [choose(runs, name)] if name else [info for info in runs if info.state not in ENDED]


async def folded(link: "Link", run: str) -> Fold:
    """The run's state as of now; of a long run, from its newest snapshot on."""
    return await read_into(link, run, Fold)


async def folded_if_there(link: "Link", info: RunInfo) -> Fold | None:
    """As `folded`; None where the run has ended and its journal is gone, as its crew may want."""
    try:
        return await folded(link, info.run)
    except RunNotFound:
        if info.state in ENDED:
            return None
        raise


async def _go_on(link: "Link", run: str, reading: _Reading) -> None:
    """Begin behind the newest snapshot that is certain; without one, or with doubts, with entry 1."""
    from crewkeeper_supervisor.core.snapshot import SnapshotError
    from crewkeeper_supervisor.shell import snapshots
    from crewkeeper_supervisor.shell.errors import StoreUnavailable

    with contextlib.suppress(SnapshotError, StoreUnavailable):
        kept, data = await snapshots.read(link, run)
        reading.reader.begin(data, kept.state)
        reading.seq = kept.seq


async def read_into(link: "Link", run: str, begin: Callable[[str], _Reader], *, told: bool = True) -> _Reader:
    """A reader that has taken in the run's journal up to now; where that takes long, stderr says how far it is.

    Of a command that is watched it is the one of the last look, which reads on from where it stood.

    Args:
        link: The connection.
        run: The run.
        begin: Makes a reader that has seen nothing; the same function each time.
        told: Whether stderr says how far it is.

    Raises:
        RunNotFound: There is no such journal.
        StoreUnavailable: The server did not answer.
        JournalGap: Entries are missing.
    """
    kept, key = kept_readers.get(), (begin, run)
    reading: _Reading | None = None if kept is None else kept.get(key)
    end = await journal.last_seq(link, run)
    if reading is None or end < reading.seq:  # a journal never becomes shorter: it is another one
        reading = _Reading(begin(run))
        if begin is Fold and end > LONG_ENTRIES:  # what looks at more than the state needs every entry
            await _go_on(link, run, reading)
    if kept is not None and len(kept) < KEPT_MAX:
        kept[key] = reading
    if reading.seq < end:
        with Progress(f"reading run {run}", end - reading.seq, told=told) as progress:
            async with journal.follow(link, run, reading.seq + 1) as entries:
                while reading.seq < end:
                    batch = await entries.batch()
                    for entry in batch:
                        reading.reader.feed(entry)
                        reading.seq = entry.seq
                    progress.add(len(batch))
    found: _Reader = reading.reader
    return found
