"""Waits: the open waits of this agent, each ended exactly once; what a wait is for is known by those who open it.

Parts of a task wait without saying so. When every part of a task that is alive waits, the task waits for any of what
they wait for, as one wait (a joint one) that is announced; it ends as soon as one of them goes on or another part
begins. Any and not all: a part that goes on may give back a lock or send a message for which others wait, though its
task cannot answer yet. If somebody else ends the joint wait, by a `Break` say, all of its parts fail with the same
error.
"""

import asyncio
import math
from collections.abc import Callable

import anyio

from crewkeeper_bus.errors import (
    BusError,
    Cancelled,
    CodecError,
    ConnectionLost,
    Killed,
    PeerGone,
    Timeout,
    WouldDeadlock,
)
from crewkeeper_bus.messages import Condition, OnSome, WaitBegan, WaitEnded
from crewkeeper_bus.outgoing import Outgoing
from crewkeeper_bus.settings import SECONDS_MAX
from crewkeeper_bus.tasks import Task


class Wait:
    """One wait of one task.

    Attributes:
        condition: What it is for, without what is met by now or no longer can be.
        outcome: Empty while it is open, then how it ended.
        error: What to raise in the waiting code.
        deadline_at: Where a deadline was declared: when, in loop time.
        epoch: Its number on the bus; below zero for the wait of a part, which has none there.
        joint: Of a joint wait: the waits of the parts that it stands for.
    """

    __slots__ = ("began_at", "condition", "deadline_at", "done", "epoch", "error", "joint", "outcome", "task", "timer")

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
        self.joint: tuple[Wait, ...] = ()


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
        self._part_epoch = 0
        self._parts: dict[int, Wait] = {}
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
        if task.wait is not None and task.wait.joint:  # the task itself waits now, whatever its parts do
            self._end(task.wait, "met")
        assert task.wait is None, f"task {task.id} waits already"
        assert not task.ended, f"task {task.id} has ended"
        wait = self._open(task, condition, timeout_s)
        loop = asyncio.get_running_loop()
        limit_s = self._limit_s if timeout_s is None else timeout_s
        if timeout_s is not None:
            wait.deadline_at = wait.began_at + timeout_s
        if not limited:
            limit_s = SECONDS_MAX
        what = "declared deadline" if timeout_s is not None else "client's limit for a wait without a deadline"
        error = Timeout(f"waited {limit_s:g} s, the {what}: it did not come true", limit_s=limit_s)
        wait.timer = loop.call_later(limit_s, self.finish, wait, "timeout", error)
        if task.whole is not None:
            self.rejoin(task.top)
        self.on_change()
        return wait

    def _open(self, task: Task, condition: Condition, timeout_s: float | None) -> Wait:
        """A wait that is open from now on, and announced unless it is a part's."""
        if task.whole is not None:
            epoch = self._part_epoch = self._part_epoch - 1
            waits = self._parts
        else:
            epoch = self._epoch + 1
            self._outgoing.note(WaitBegan, task=task.id, epoch=epoch, condition=condition, deadline_s=timeout_s)
            self._epoch = epoch
            waits = self.open
        wait = waits[epoch] = task.wait = Wait(task, epoch, condition, asyncio.get_running_loop().time())
        return wait

    def narrow(self, wait: Wait, condition: Condition) -> None:
        """A wait goes on for a part of what it was for; that is said with the next heartbeat."""
        wait.condition = condition
        joint = wait.task.top.wait
        if joint is not None and wait in joint.joint:
            joint.condition = _any_of(joint.joint)

    def finish(self, wait: Wait, outcome: str, error: BusError | None = None) -> bool:
        """End a wait; the first to do so wins, and only then True is returned."""
        if wait.outcome:
            return False
        self._end(wait, outcome, error)
        for part in wait.joint:
            self.finish(part, outcome, error)
        if wait.task.top.parts:
            self.rejoin(wait.task.top)
        return True

    def _end(self, wait: Wait, outcome: str, error: BusError | None = None) -> None:
        wait.outcome = outcome
        wait.error = error
        if wait.timer is not None:
            wait.timer.cancel()
        wait.task.wait = None
        if wait.epoch < 0:
            del self._parts[wait.epoch]
        else:
            del self.open[wait.epoch]
            if not self._outgoing.is_closed:
                self._outgoing.note(WaitEnded, task=wait.task.id, epoch=wait.epoch, outcome=outcome)
        wait.done.set()

    def rejoin(self, task: Task) -> None:
        """Bring a task's joint wait up to date, after a part of it began, ended, began to wait or went on."""
        joint = task.wait
        if joint is not None and not joint.joint:
            return  # it waits by itself
        waits = () if task.ended or self._refusal is not None else tuple(_waits_of_parts(task) or ())
        if waits == (() if joint is None else joint.joint):
            return
        if joint is not None:
            self._end(joint, "met")
        if waits:
            deadlines = [each.deadline_at for each in waits if each.deadline_at is not None]
            left_s = max(0.0, min(deadlines) - asyncio.get_running_loop().time()) if deadlines else None
            try:
                joint = self._open(task, _any_of(waits), left_s)
            except (CodecError, ConnectionLost):  # beyond what can be said: then it is not seen to wait
                return
            joint.joint = waits
            joint.deadline_at = min(deadlines, default=None)

    def leave(self, task: Task, _failed: bool) -> None:
        """A task ends: what is left of its parts waits for itself."""
        if task.wait is not None and task.wait.joint:
            self._end(task.wait, "met")
        task.parts.clear()

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
        for wait in [*self.open.values(), *self._parts.values()]:
            self.finish(wait, "cancelled" if isinstance(error, Cancelled) else outcome_of(error), error)


def _any_of(waits: tuple[Wait, ...]) -> Condition:
    """What a joint wait for these is for."""
    conditions = tuple(each.condition for each in waits)
    return conditions[0] if len(conditions) == 1 else OnSome(k=1, of=conditions)


def _waits_of_parts(task: Task) -> list[Wait] | None:
    """The waits of all parts of a task, and of their parts; None if one of them does not wait."""
    found: list[Wait] = []
    for part in task.parts:
        waits = [part.wait] if part.wait is not None else _waits_of_parts(part)
        if not waits:
            return None
        found += waits
    return found
