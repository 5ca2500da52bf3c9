"""Run folder: whose a folder among the temporary files is: a living runner's, a killed one's, or kept on purpose.

A runner that is killed leaves its folder behind. The next one finds it by a mark on which nobody holds a lock any more:
locks go with their process, whatever ended it. A folder without the mark was kept for its logs, or is being made.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "crewkeeper-chaos-"
MARK: Final = "being-run"


def make() -> Path:
    """A new folder, for this user alone."""
    return Path(tempfile.mkdtemp(prefix=PREFIX))


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark a folder as that of a run that goes on, until the block ends."""
    mark = folder / MARK
    fresh = mark.with_suffix(".new")
    with fresh.open("w") as file:
        with contextlib.suppress(OSError):  # where the file system has no locks, nobody can take this one either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fresh.rename(mark)  # nobody sees it unlocked
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def sweep(place: Path | None = None) -> list[Path]:
    """Remove the folders of runners that were killed; those that cannot be removed stay. Returns what is gone.

    Args:
        place: Where they are; None: where `make` makes them.
    """
    return [each for each in (place or Path(tempfile.gettempdir())).glob(f"{PREFIX}*") if _swept(each)]


def _swept(folder: Path) -> bool:
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        with (folder / MARK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != MARK:
                    entry.unlink()
            (folder / MARK).unlink()  # the last: what could not be removed is found again
            folder.rmdir()
    except OSError:  # it goes on, was kept, or another runner is at it
        return False
    return True
