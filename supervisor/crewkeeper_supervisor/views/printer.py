"""Prints the story, line by line."""

from typing import IO, Final

from rich.text import Text

from crewkeeper_supervisor.views.story import Line
from crewkeeper_supervisor.views.tables import new_console
from crewkeeper_supervisor.views.wording import safe

WEIGHT_STYLES: Final = {"detail": "dim", "normal": "", "good": "green", "bad": "bold red"}


class StoryPrinter:
    """Prints lines of the story, each at once, styled by weight on a terminal."""

    def __init__(self, out: IO[str], *, color: bool = True, name_runs: bool = False, show_all: bool = False) -> None:
        self._out = out
        self._console = new_console(out, color=color) if out.isatty() else None
        self._name_runs = name_runs
        self._show_all = show_all

    def write(self, line: Line) -> None:
        """Print the line, unless it is a detail and details are not wanted."""
        if line.weight == "detail" and not self._show_all:
            return
        head, _, rest = str(line).partition(" ")
        text = f"{head} {safe(line.run)}: {rest}" if self._name_runs else str(line)
        if self._console is None:
            self._out.write(text + "\n")
            self._out.flush()
        else:
            self._console.print(Text(text, style=WEIGHT_STYLES[line.weight]), soft_wrap=True)
