"""Clock: virtual time, and what happens when; the only loop of a simulation."""

import heapq
from collections.abc import Callable
from typing import Any, Final

START_S: Final = 1000.0
"""Journal time at which every simulation begins."""


class Clock:
    """Events in the order of their time, and of their making where that is equal.

    Attributes:
        now_s: Virtual time, seconds.
    """

    def __init__(self) -> None:
        self.now_s = START_S
        self._made = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []

    def after(self, delay_s: float, action: Callable[..., object], *arguments: Any) -> None:
        """Do something later."""
        self.at(self.now_s + delay_s, action, *arguments)

    def at(self, time_s: float, action: Callable[..., object], *arguments: Any) -> None:
        """Do something at a time; at once if that is past."""
        self._made += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._made, action, arguments))

    def step(self) -> bool:
        """Let the next thing happen. False if there is none."""
        if not self._heap:
            return False
        self.now_s, _, action, arguments = heapq.heappop(self._heap)
        action(*arguments)
        return True
