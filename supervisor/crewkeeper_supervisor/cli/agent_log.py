"""Logs of agents: where they are and how they are shown; read from files, on the machine of the run's host."""

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from crewkeeper_supervisor.cli.failure import NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import stdout, use_color
from crewkeeper_supervisor.cli.place_options import opened
from crewkeeper_supervisor.shell.errors import NothingRuns
from crewkeeper_supervisor.shell.place import state_dir
from crewkeeper_supervisor.views.wording import safe

POLL_S: Final = 0.2
LINE_MAX_BYTES: Final = 64 * 1024
WORDS_MAX_CHARS: Final = 300
COLORS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
"""Of the names before lines; on a terminal alone."""


def log_path(state: Path, run: str, agent: str) -> Path:
    """Where the host of a run writes an agent's log."""
    return state / "runs" / run / "logs" / f"{agent}.log"


async def find_logs(run: str | None, agent: str | None, state: Path | None, nats: str | None) -> dict[str, Path]:
    """The logs of an agent, or of all that have one, by agent; of a run that is over, too, while its files are there.

    Raises:
        Failure: No such run, agent or log (exit 5).
    """
    from crewkeeper_supervisor.cli.agent import find_agent, told

    directory = state_dir(state)
    try:
        async with opened(state, nats, stored=True) as link:
            story = await told(link, run)
        if agent is not None:
            find_agent(story, agent)
        name = story.fold.run
    except NothingRuns:
        if run is None or not (directory / "runs" / run).is_dir():
            raise
        name = run
    folder = log_path(directory, name, agent or "").parent
    found = {path.stem: path for path in sorted(folder.glob("*.log")) if agent in (None, path.stem)}
    if not found:
        raise Failure(
            f"there is no log {folder / f'{agent}.log' if agent else f'in {folder}'}",
            code=NOT_FOUND,
            remedy="run this on the machine of the run's host, with its --state",
        )
    return found


def print_logs(logs: Mapping[str, Path], follow: bool, tail: int | None, raw: bool, *, every: bool = False) -> None:
    """Print logs one after the other, and go on with what is added to them if asked to.

    Of several each line begins with its agent's name. A rotated log is followed into its new file.

    Args:
        logs: The logs, by agent.
        follow: Whether to go on.
        tail: Only the last so many lines of each.
        raw: Whether bytes are printed as they are.
        every: Whether they are all logs of a run: those of agents that come later are followed, too.
    """
    width = max(map(len, logs))
    named = len(logs) > 1 or (every and follow)
    tails: dict[str, _Tail] = {}

    def begin(name: str, path: Path) -> "_Tail":
        color = COLORS[len(tails) % len(COLORS)] if use_color() else None
        tails[name] = _Tail(path, click.style(f"{name:<{width}} | ", fg=color) if named else "", raw)
        return tails[name]

    before = None
    for name, path in logs.items():
        if before is not None and not before.begins:
            click.echo()  # what it wrote last is no whole line
        before = begin(name, path)
        before.print_new(tail, goes_on=follow)
    folder = next(iter(logs.values())).parent
    while follow:
        time.sleep(POLL_S)
        for path in sorted(folder.glob("*.log")) if every else ():
            if path.stem not in tails:
                begin(path.stem, path)
        for each in tails.values():
            each.print_new(None, goes_on=True)


def last_words(path: Path) -> str:
    """The newest line of a log that tells of an error, or comes from no logger, on one line; empty if there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - LINE_MAX_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((safe(words, WORDS_MAX_CHARS) for line in reversed(lines) if (words := _words(line))), "")


def _words(line: str) -> str:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return line.strip()
    if not isinstance(told, dict):
        return line.strip()
    if told.get("level") not in ("error", "critical"):
        return ""
    words = told.get("exception") or told.get("error") or told.get("event") or ""
    return next((each.strip() for each in reversed(str(words).splitlines()) if each.strip()), "")


class _Tail:
    """One log, printed as far as it has been written."""

    def __init__(self, path: Path, head: str, raw: bool) -> None:
        self._path = path
        self._head = head
        self._raw = raw
        self._position = 0
        self._identity = 0
        self.begins = True
        """Whether what comes next begins a line."""

    def print_new(self, tail: int | None, *, goes_on: bool) -> None:
        """Print what is new.

        Args:
            tail: Only the last so many lines of it.
            goes_on: Whether it is looked at again: where logs stand together, a line is then printed when it is whole.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:  # it is just being rotated
            return
        if status.st_ino != self._identity or status.st_size < self._position:
            self._position, self._identity = 0, status.st_ino
        if status.st_size == self._position:
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            lines = iter(lambda: file.readline(LINE_MAX_BYTES), b"")
            for line in lines if tail is None else deque(lines, maxlen=tail):
                if goes_on and self._head and not line.endswith(b"\n") and len(line) < LINE_MAX_BYTES:
                    file.seek(-len(line), os.SEEK_CUR)
                    break
                self._print(line)
            self._position = file.tell()
        stdout().flush()

    def _print(self, line: bytes) -> None:
        if self.begins and self._head:
            click.echo(self._head, nl=False)
        self.begins = line.endswith(b"\n")
        if self._raw:
            click.echo(line, nl=False)
        else:
            text = line.decode("utf-8", "backslashreplace")
            stdout().write(safe(text.rstrip("\r\n"), None) + ("\n" if self.begins else ""))
