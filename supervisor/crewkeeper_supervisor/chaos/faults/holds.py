"""Holds: what several faults do to one thing at the same time; what it is that they do is their own business."""

from collections import Counter
from collections.abc import Callable
from typing import Any


class Holds:
    """Things that faults hold: each is let go when the last of those that hold it is over."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._first: dict[str, Any] = {}

    def take(self, what: str, before: Any = None) -> Callable[[], "Last | None"]:
        """Hold a thing.

        Args:
            what: Its name.
            before: How it was before; of several that hold it, the first is believed.

        Returns:
            What ends this hold: called by the last one it says how the thing was before, else nothing, also when it is
            called again.
        """
        self._count[what] += 1
        self._first.setdefault(what, before)
        over: list[bool] = []

        def end() -> Last | None:
            if over:
                return None
            over.append(True)
            self._count[what] -= 1
            return None if self._count[what] else Last(self._first.pop(what))

        return end

    def held(self, what: str) -> bool:
        """Whether a fault holds it now."""
        return self._count[what] > 0

    @property
    def any(self) -> bool:
        """Whether a fault holds anything now."""
        return any(self._count.values())

    def undoing(self, what: str, undo: Callable[[], object]) -> Callable[[], None]:
        """Hold a thing; returns what ends this hold, and undoes what was done to it when it was the last."""
        end = self.take(what)

        def heal() -> None:
            if end() is not None:
                undo()

        return heal


class Last:
    """The last hold of a thing is over. `before`: how it was before the first."""

    def __init__(self, before: Any) -> None:
        self.before = before
