"""Logs of agents: where they are and how they are shown; read from files, on the machine of the run's host."""

import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, Final

import click

from crewkeeper_supervisor.cli.failure import NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import stdout
from crewkeeper_supervisor.cli.place_options import opened
from crewkeeper_supervisor.shell.errors import NothingRuns
from crewkeeper_supervisor.shell.place import state_dir
from crewkeeper_supervisor.views.wording import safe

POLL_S: Final = 0.2
CHUNK_BYTES: Final = 64 * 1024
LINE_MAX_BYTES: Final = 64 * 1024


def log_path(state: Path, run: str, agent: str) -> Path:
    """Where the host of a run writes an agent's log."""
    return state / "runs" / run / "logs" / f"{agent}.log"


async def find_log(run: str | None, agent: str, state: Path | None, nats: str | None) -> Path:
    """The log of an agent; of a run that is over, too, as long as its files are there.

    Raises:
        Failure: No such run, agent or log (exit 5).
    """
    from crewkeeper_supervisor.cli.agent import find_agent, told

    directory = state_dir(state)
    try:
        async with opened(state, nats, stored=True) as link:
            story = await told(link, run)
        find_agent(story, agent)
        name = story.fold.run
    except NothingRuns:
        if run is None or not (directory / "runs" / run).is_dir():
            raise
        name = run
    path = log_path(directory, name, agent)
    if not path.is_file():
        raise Failure(
            f"there is no log {path}",
            code=NOT_FOUND,
            remedy="run this on the machine of the run's host, with its --state",
        )
    return path


def print_log(path: Path, follow: bool, tail: int | None, raw: bool) -> None:
    """Print a log, and go on with what is added to it if asked to; a rotated log is followed into its new file."""
    with path.open("rb") as file:
        _print_to_end(file, tail, raw)
        position, identity = file.tell(), path.stat().st_ino
    while follow:
        time.sleep(POLL_S)
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_ino != identity or status.st_size < position:
            position, identity = 0, status.st_ino
        if status.st_size > position:
            with path.open("rb") as file:
                file.seek(position)
                _print_to_end(file, None, raw)
                position = file.tell()


def _print_to_end(file: BinaryIO, tail: int | None, raw: bool) -> None:
    lines = iter(lambda: file.readline(LINE_MAX_BYTES), b"")
    chosen = lines if tail is None else deque(lines, maxlen=tail)
    out = stdout()
    for line in chosen:
        if raw:
            click.echo(line, nl=False)
        else:
            text = line.decode("utf-8", "backslashreplace")
            out.write(safe(text.rstrip("\r\n"), None) + ("\n" if text.endswith("\n") else ""))
    out.flush()
