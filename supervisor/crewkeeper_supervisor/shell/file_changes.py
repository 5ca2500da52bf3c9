"""File changes: whether what a crew is made of has changed on disk; looked at from time to time, as editors differ."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_supervisor.core.crew import Crew

POLL_S: Final = 0.3
FILES_MAX: Final = 5000
"""Files that are looked at; more of a folder are left out."""
NAMES_MAX: Final = 20_000
"""Names in one folder, and those in it, that are read for that: a crew file may lie in a home directory."""
_CODE: Final = (".py",)
"""What counts in a crew's folder without being named: agents write there too, and that must not start them again."""
_SKIPPED: Final = frozenset(("__pycache__", "node_modules", "site-packages", "venv", "build", "dist"))

Look = dict[Path, tuple[int, int]]
"""Time of change and size of each file that is there."""


def files_of(crews: Iterable[Crew], files: Iterable[Path], also: Iterable[Path] = ()) -> list[Path]:
    """What is to be looked at: files by themselves, and folders with the code in them.

    Args:
        crews: The crews; what their commands name counts, and the code in their folders.
        files: Their crew files.
        also: More files and folders.
    """
    found = dict.fromkeys(path.absolute() for path in (*files, *also))
    for crew in crews:
        folder = Path(crew.folder)
        found[folder] = None
        words = [*(word for agent in crew.agents for word in agent.run), *_words_of_tools(crew)]
        # A word may be a whole program (`python -c …`), too long for a name of a file: then it is none.
        found |= dict.fromkeys(folder / word for word in words if word and os.path.isfile(folder / word))  # noqa: PTH113
    return list(found)


def _words_of_tools(crew: Crew) -> Iterator[str]:
    for tool in crew.tools.values():
        yield from (*tool.command, *tool.mcp)


def look(paths: Iterable[Path]) -> Look:
    """How these files, and the code in these folders, are now."""
    seen: Look = {}
    for path in paths:
        for file in _code_in(path) if path.is_dir() else (path,):
            if len(seen) >= FILES_MAX:
                return seen
            try:
                stat = file.stat()
            except OSError:  # it is gone, or is just being replaced
                continue
            seen[file] = (stat.st_mtime_ns, stat.st_size)
    return seen


def _code_in(folder: Path) -> Iterator[Path]:
    left = NAMES_MAX
    for at, folders, files in os.walk(folder):
        left -= len(folders) + len(files)
        if left < 0:
            return
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        yield from (Path(at, name) for name in sorted(files) if name.endswith(_CODE))


async def changed(paths: Iterable[Path], before: Look) -> list[Path]:
    """Wait until something differs from `before` and nothing has changed for a moment; returns which files."""
    paths = list(paths)
    last = before
    while True:
        await anyio.sleep(POLL_S)
        now = look(paths)
        if now != before and now == last:
            return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
        last = now
