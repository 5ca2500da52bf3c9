"""Left over: which of the processes that a run has started still live after it; how they are ended is not known."""

import time
from pathlib import Path
from typing import Final

GONE_S: Final = 5.0
"""How long processes that were told to end may take to be gone."""
POLL_S: Final = 0.05
_PROC: Final = Path("/proc")


class StartedProcesses:
    """The processes of one run, each known by its id and the moment at which it began: ids are used again.

    Where the system has no `/proc`, nothing is known of any process and nothing counts as left over.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], str] = {}

    def add(self, what: str, pid: int) -> None:
        """One has been started; one that has gone already is passed over."""
        born = _born(pid)
        if born:
            self._known[pid, born] = what

    def left(self) -> list[str]:
        """Those that live, in words. Zombies are dead."""
        return [f"{what} (process {pid})" for (pid, born), what in self._known.items() if _born(pid) == born]

    def left_for_good(self) -> list[str]:
        """As `left`, after they have had `GONE_S` seconds to go."""
        until_s = time.monotonic() + GONE_S
        while self.left() and time.monotonic() < until_s:
            time.sleep(POLL_S)
        return self.left()


def _fields(pid: int) -> list[str]:
    """State and what follows it in `/proc/PID/stat`; empty where there is no such process, or it is dead."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def _born(pid: int) -> str:
    fields = _fields(pid)
    return fields[19] if fields else ""
