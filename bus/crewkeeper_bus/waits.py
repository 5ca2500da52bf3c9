"""Waits: the open waits of this agent, each ended exactly once; what a wait is for is known by those who open it."""

import asyncio
import math
from collections.abc import Callable

import anyio

from crewkeeper_bus.errors import BusError, Cancelled, Killed, PeerGone, Timeout, WouldDeadlock
from crewkeeper_bus.messages import Condition, WaitBegan, WaitEnded
from crewkeeper_bus.outgoing import Outgoing
from crewkeeper_bus.settings import SECONDS_MAX
from crewkeeper_bus.tasks import Task


class Wait:
    """One wait of one task.

    Attributes:
        outcome: Empty while it is open, then how it ended.
        error: What to raise in the waiting code.
        deadline_at: Where a deadline was declared: when, in loop time.
    """

    __slots__ = ("began_at", "condition", "deadline_at", "done", "epoch", "error", "outcome", "task", "timer")

    def __init__(self, task: Task, epoch: int, condition: Condition, began_at: float) -> None:
        self.task = task
        self.epoch = epoch
        self.condition = condition
        self.began_at = began_at
        self.deadline_at: float | None = None
        self.outcome = ""
        self.error: BusError | None = None
        self.done = anyio.Event()
        self.timer: asyncio.TimerHandle | None = None


def outcome_of(error: BusError) -> str:
    """The outcome that says on the bus what `error` says in the program."""
    match error:
        case WouldDeadlock():
            return "broken"
        case PeerGone():
            return "gone"
        case Timeout():
            return "timeout"
        case Killed():
            return "killed"
        case _:
            return "failed"


def check_timeout(timeout_s: float | None) -> None:
    """Check a timeout.

    Raises:
        ValueError: It is negative, not finite, or longer than a year.
    """
    if timeout_s is not None and not (math.isfinite(timeout_s) and 0 <= timeout_s <= SECONDS_MAX):
        raise ValueError(f"timeout_s is {timeout_s}: give seconds from 0 to {SECONDS_MAX:g}, or None")


class Waits:
    """All open waits, by epoch."""

    def __init__(self, outgoing: Outgoing, limit_s: float) -> None:
        self._outgoing = outgoing
        self._limit_s = limit_s
        self._epoch = 0
        self._refusal: BusError | None = None
        self.open: dict[int, Wait] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called when a wait begins."""

    def begin(self, task: Task, condition: Condition, timeout_s: float | None, *, limited: bool = True) -> Wait:
        """Announce that `task` waits.

        Args:
            task: A task without an open wait.
            condition: What it waits for.
            timeout_s: The declared deadline; None: undeclared, the client's own limit applies.
            limited: False for a wait that ends by itself.

        Raises:
            Killed: The agent is being stopped.
            CodecError: The condition is beyond what a message takes.
        """
        if self._refusal is not None:
            raise self._refusal
        assert task.wait is None, f"task {task.id} waits already"
        assert not task.ended, f"task {task.id} has ended"
        epoch = self._epoch + 1
        self._outgoing.note(WaitBegan, task=task.id, epoch=epoch, condition=condition, deadline_s=timeout_s)
        self._epoch = epoch
        loop = asyncio.get_running_loop()
        wait = Wait(task, epoch, condition, loop.time())
        limit_s = self._limit_s if timeout_s is None else timeout_s
        if timeout_s is not None:
            wait.deadline_at = wait.began_at + timeout_s
        if not limited:
            limit_s = SECONDS_MAX
        what = "declared deadline" if timeout_s is not None else "client's limit for a wait without a deadline"
        error = Timeout(f"waited {limit_s:g} s, the {what}: it did not come true", limit_s=limit_s)
        wait.timer = loop.call_later(limit_s, self.finish, wait, "timeout", error)
        self.open[epoch] = wait
        task.wait = wait
        self.on_change()
        return wait

    def finish(self, wait: Wait, outcome: str, error: BusError | None = None) -> bool:
        """End a wait; the first to do so wins, and only then True is returned."""
        if wait.outcome:
            return False
        wait.outcome = outcome
        wait.error = error
        if wait.timer is not None:
            wait.timer.cancel()
        del self.open[wait.epoch]
        wait.task.wait = None
        if not self._outgoing.is_closed:
            self._outgoing.note(WaitEnded, task=wait.task.id, epoch=wait.epoch, outcome=outcome)
        wait.done.set()
        return True

    async def rest(self, wait: Wait) -> None:
        """Return when the wait is met.

        Raises:
            BusError: What ended it otherwise.
        """
        try:
            await wait.done.wait()
        finally:
            self.finish(wait, "cancelled")
        if wait.error is not None:
            raise wait.error

    def fail_all(self, error: BusError) -> None:
        """Fail every wait, open and future: this agent goes."""
        self._refusal = error
        for wait in list(self.open.values()):
            self.finish(wait, "cancelled" if isinstance(error, Cancelled) else outcome_of(error), error)
