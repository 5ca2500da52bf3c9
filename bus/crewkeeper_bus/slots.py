"""Slots: how much an agent does at a time; handlers and activities share them, first come first served."""

from collections import deque
from collections.abc import Callable


class Claim:
    """A place in the line for a slot.

    Attributes:
        start: Called once, with the slot taken.
        abort: Called instead if nobody will be started any more.
    """

    __slots__ = ("abort", "start")

    def __init__(self, start: Callable[[], None], abort: Callable[[], None] = lambda: None) -> None:
        self.start = start
        self.abort = abort


class Slots:
    """The slots of one incarnation and the line for them."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._used = 0
        self._line: deque[Claim] = deque()
        self._held = False
        self._closed = False

    def enter(self, claim: Claim) -> None:
        """Get in line; the claim is started at once or later."""
        if self._closed:
            claim.abort()
        else:
            self._line.append(claim)
            self._pump()

    def force(self) -> None:
        """Take a slot beyond the limit."""
        self._used += 1

    def withdraw(self, claim: Claim) -> bool:
        """Leave the line. False: it is not in it any more."""
        if claim not in self._line:
            return False
        self._line.remove(claim)
        return True

    def release(self) -> None:
        """Give a slot back."""
        self._used -= 1
        assert self._used >= 0, "a slot was released twice"
        self._pump()

    def hold(self, held: bool) -> None:
        """Start nobody while held."""
        self._held = held
        self._pump()

    def close(self) -> None:
        """Start nobody any more."""
        self._closed = True
        line, self._line = self._line, deque()
        for claim in line:
            claim.abort()

    def _pump(self) -> None:
        while self._line and not self._held and self._used < self._concurrency:
            self._used += 1
            self._line.popleft().start()
