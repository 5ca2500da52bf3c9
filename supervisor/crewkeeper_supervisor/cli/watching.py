"""Watching: `-w` shows what a command shows again and again, as it changes, until it is interrupted."""

import functools
import io
import re
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import IO, Any, Final, TypeVar

import click

from crewkeeper_supervisor.cli.output import is_live
from crewkeeper_supervisor.cli.place_options import kept_readers

EVERY_S: Final = 1.0
SHARE: Final = 4
"""Looking takes at most one part in so many of the time: a long journal is read less often."""
_AGE: Final = re.compile(r"\b\d+(?:\.\d)?(?:ms|s|m\d\ds|h\d\dm|d\d\dh)\b")
_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Page(io.StringIO):
    """What is written for a terminal, and not shown yet."""

    def __init__(self, of: IO[str]) -> None:
        super().__init__()
        self._of = of

    def isatty(self) -> bool:
        """As the stream that it is for, so that tables are drawn for that."""
        return self._of.isatty()

    def fileno(self) -> int:
        """As the stream that it is for: a console asks it how wide it is."""
        return self._of.fileno()


def watch_option(command: _Command) -> _Command:
    """Add `-w`, `--watch` to a command that shows something: it is called again as long as nobody interrupts it.

    On a terminal each page takes the place of the one before. Elsewhere only lines are written that the page before had
    not, so that `-o jsonl` and `-o name` tell what is new or changed; documents are written anew when they change.
    """

    @click.option("-w", "--watch", is_flag=True, help="Show it again as it changes, until interrupted.")
    @functools.wraps(command)
    def watched(*args: Any, watch: bool, **kwargs: Any) -> Any:
        if not watch:
            return command(*args, **kwargs)
        return repeat(lambda: command(*args, **kwargs), whole=kwargs.get("output") in ("json", "yaml"))

    return watched  # type: ignore[return-value]


def repeat(show: Callable[[], Any], *, whole: bool = False) -> None:
    """Show something again and again, until interrupted; see `watch_option`.

    Args:
        show: Writes it to stdout.
        whole: Whether it is one document, written anew when anything in it changes.
    """
    token = kept_readers.set({})
    try:
        _repeat(show, whole=whole)
    finally:
        kept_readers.reset(token)


def _repeat(show: Callable[[], Any], *, whole: bool) -> None:
    out = sys.stdout
    live = is_live(out)
    shown: list[str] | None = None
    while True:
        began_s = time.monotonic()
        page = _Page(out)
        with redirect_stdout(page), redirect_stderr(page if live else sys.stderr):
            show()
        text = page.getvalue()
        lines = text.splitlines(keepends=True)
        if live:
            out.write(_CLEAR + text)  # ages change even where nothing else does
        elif whole and lines != shown:
            out.write(text)
        elif not whole:
            known = {_ageless(line) for line in shown or ()}
            out.write("".join(line for line in lines if _ageless(line) not in known))
        out.flush()
        shown = lines
        time.sleep(max(EVERY_S, (SHARE - 1) * (time.monotonic() - began_s)))


def _ageless(line: str) -> str:
    """A line without what passing time alone changes."""
    return " ".join(_AGE.sub("", line).split())
