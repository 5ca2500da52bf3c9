"""Liveness: whether this process's event loop turns, judged by a thread that needs no loop to act on it.

Theory of operation. A loop that does not turn renews no lease, so its runs go to others by themselves after a time to
live, and it acts on none of them when it turns again (`lease`). What is left to do is to say where it hangs while it
does, and to end a process that does not recover, so that whoever keeps it starts a new one. A process that was stopped
as a whole (SIGSTOP, a sleeping machine) does not hang: the thread notices that it was stopped, too, and counts anew.
A run that hangs while the loop turns is noticed by its owner, with a `Progress` of its own, and given up alone.
"""

import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Final

import anyio

from crewkeeper_supervisor.shell.errors import RunStalled
from crewkeeper_supervisor.shell.lease import TRUST, TTL_S, clock_s
from crewkeeper_supervisor.shell.logbook import logger

BEAT_S: Final = 0.25
SAY_AFTER_S: Final = TRUST * TTL_S
"""A loop that has not turned for so long has lost the leases that it held; where it hangs is logged."""
END_AFTER_S: Final = 30.0
"""A loop that has not turned for so long is given up, and the process with it."""
STUCK: Final = 70
"""Exit status of a process that was given up: an internal error, as sysexits(3) has it."""
FRAMES_MAX: Final = 8


class Liveness:
    """Watches one event loop; made with `watching`.

    Attributes:
        late_ms: How late the loop was at most since `take_late_ms` was last called.
    """

    def __init__(
        self,
        *,
        say_after_s: float = SAY_AFTER_S,
        end_after_s: float = END_AFTER_S,
        end: Callable[[int], object] | None = None,
    ) -> None:
        """Prepare.

        Args:
            say_after_s: Seconds after which it is said that the loop does not turn, and where it hangs.
            end_after_s: Seconds after which the process is ended.
            end: How, given the exit status; None: it is not, for it does more than this.
        """
        self.late_ms = 0
        self._say_after_s = say_after_s
        self._end_after_s = end_after_s
        self._end = end
        self._turned_s = clock_s()
        self._looked_s = clock_s()
        self._is_said = False
        self._thread_of_loop = threading.get_ident()
        self._over = threading.Event()

    def age_s(self) -> float:
        """Seconds since the loop last turned; may be asked from any thread."""
        return max(0.0, clock_s() - self._turned_s)

    def take_late_ms(self) -> int:
        """How late the loop was at most since this was last asked, in milliseconds."""
        late_ms, self.late_ms = self.late_ms, 0
        return late_ms

    async def beat(self) -> None:
        """Mark every turn, until cancelled."""
        while True:
            self._turned_s = clock_s()
            await anyio.sleep(BEAT_S)
            self.late_ms = max(self.late_ms, round((clock_s() - self._turned_s - BEAT_S) * 1000))

    def watch(self) -> None:
        """Look at the loop until told to stop; runs in a thread of its own."""
        while not self._over.wait(BEAT_S):
            self.look(clock_s())

    def look(self, now_s: float) -> None:
        """Look once, and do what is due.

        Args:
            now_s: The time now, by `lease.clock_s`.
        """
        was_stopped = now_s - self._looked_s > self._say_after_s
        self._looked_s = now_s
        if was_stopped:  # all of this process was: the loop gets its time to turn from now on
            self._turned_s = now_s
        age_s = now_s - self._turned_s
        if age_s <= self._say_after_s:
            if self._is_said:
                logger().warning("loop.turns_again")
            self._is_said = False
            return
        if not self._is_said:
            self._is_said = True
            logger().error("loop.stuck", age_s=round(age_s, 1), where=self.where())
        if self._end is not None and age_s > self._end_after_s:
            logger().error("loop.given_up", age_s=round(age_s, 1), where=self.where(), cause="it does not turn again")
            self._end(STUCK)

    def where(self) -> str:
        """The innermost functions that the loop's thread is in now: names and lines, no values."""
        frame: FrameType | None = sys._current_frames().get(self._thread_of_loop)
        stack = traceback.extract_stack(frame)[-FRAMES_MAX:] if frame is not None else []
        return " > ".join(f"{each.name} ({os.path.basename(each.filename)}:{each.lineno})" for each in stack)  # noqa: PTH119

    def stop(self) -> None:
        """End the thread after its next look."""
        self._over.set()


@asynccontextmanager
async def watching(liveness: Liveness) -> AsyncIterator[Liveness]:
    """Watch the running loop for as long as the block lasts."""
    thread = threading.Thread(target=liveness.watch, name="liveness", daemon=True)
    async with anyio.create_task_group() as group:
        group.start_soon(liveness.beat)
        thread.start()
        try:
            yield liveness
        finally:
            liveness.stop()
            group.cancel_scope.cancel()


class Progress:
    """Whether one run gets on: its owner's work goes round, and what its journal has arrives."""

    def __init__(self, run: str, stall_s: float) -> None:
        """Begin.

        Args:
            run: The run.
            stall_s: Seconds after which it does not.
        """
        self._run = run
        self._stall_s = stall_s
        self._turned_s = self._level_s = clock_s()
        self._seq = 0

    def turned(self) -> None:
        """The owner's work went round."""
        self._turned_s = clock_s()

    def look(self, seq: int, stored: int) -> None:
        """Return if the run gets on.

        Args:
            seq: The last entry that is folded.
            stored: The last entry that there is, as far as that is known.

        Raises:
            RunStalled: It does not.
        """
        now_s = clock_s()
        if seq != self._seq or stored <= seq:
            self._seq, self._level_s = seq, now_s
        if now_s - self._turned_s > self._stall_s:
            raise RunStalled(f"run {self._run}: nothing was done for {now_s - self._turned_s:.0f} s after entry {seq}")
        if now_s - self._level_s > self._stall_s:
            raise RunStalled(
                f"run {self._run}: its journal has {stored} entries, and none after {seq} has come for "
                f"{now_s - self._level_s:.0f} s"
            )
