"""What is recorded of a run, for the commands that look back at one: RUN on a server, a FILE, or what was imported."""

import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crewkeeper_supervisor.cli.failure import INVALID, NOT_FOUND, Failure
from crewkeeper_supervisor.cli.place_options import opened
from crewkeeper_supervisor.cli.progress import Progress

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.source import Source

_Command = TypeVar("_Command")


@contextlib.asynccontextmanager
async def recorded(target: str | None, state: Path | None, nats: str | None) -> "AsyncIterator[Source]":
    """What is recorded of the run that `target` means.

    Raises:
        Failure: There is no such run and no such file (exit 5), or the file is no recording (exit 3).
        NothingRuns: No server, no store, and nothing imported under that name.
    """
    from crewkeeper_supervisor.shell import source
    from crewkeeper_supervisor.shell.errors import NothingRuns

    gc.set_threshold(100_000, 20, 20)  # as `serve` does: a fold makes many objects and hardly a cycle
    file = _file(target, state)
    if file is not None:
        with _readable(file), source.of_file(file) as found:
            yield found
        return
    if target and ("/" in target or target.endswith(".gz")):
        raise Failure(f"there is no file {target[:200]!r}", code=NOT_FOUND)
    from crewkeeper_supervisor.cli.runs import find_run

    try:
        async with opened(state, nats, stored=True) as link:
            run = (await find_run(link, target)).run
            with Progress(f"reading the ledger of {run}") as progress:
                there = await source.of_run(link, run, progress.add)
            yield there
    except NothingRuns as error:
        if target:
            raise NothingRuns(f"{error}; nor is {target[:60]!r} a file or an imported run") from None
        raise


def is_file(target: str | None, state: Path | None) -> bool:
    """Whether `target` means a recording, of which nothing more will come, and not a run on a server."""
    return _file(target, state) is not None


def _file(target: str | None, state: Path | None) -> Path | None:
    if not target:
        return None
    from crewkeeper_supervisor.shell import source
    from crewkeeper_supervisor.shell.place import state_dir

    named = Path(target)
    if named.is_file():
        return named
    known = source.imported(state_dir(state), target) if "/" not in target else named
    return known if known.is_file() else None


@contextlib.contextmanager
def _readable(file: Path) -> Any:
    from crewkeeper_supervisor.shell.recording import RecordingError

    try:
        yield
    except RecordingError as error:
        raise Failure(str(error), code=INVALID) from error
