"""Meaning: how far agents' last steps are from what their run has been about, in vectors that somebody else makes.

Vectors are given: a function from text to numbers, made outside of the core. Models differ in what distance they take
for great, so a distance is judged by the run's own: it counts only as far as it exceeds what was usual so far.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

Embed = Callable[[str], Sequence[float]]
"""The meaning of a text: as many numbers for every text; must give the same for the same text."""

SEEN_MIN: Final = 4
"""Distances from which something is usual."""
SHARE: Final = 0.05
"""What a new distance counts for the usual one, once there are many."""


class Meaning:
    """What a run has been about, as the sum of the vectors of all that was said in it.

    Args:
        embed: Gives vectors.
        window: Steps of an agent that are judged together.
    """

    def __init__(self, embed: Embed, window: int) -> None:
        self._embed = embed
        self._window = window
        self._about: list[float] = []
        self._windows: dict[str, deque[list[float]]] = {}
        self._distances: dict[str, float] = {}
        self._usual = 0.0
        self._seen = 0

    def told(self, text: str) -> None:
        """A person said this: it is what the run is about."""
        if text:
            self._learn(self._unit(text))

    def did(self, agent: str, text: str) -> None:
        """An agent said or did this."""
        window = self._windows.setdefault(agent, deque())
        window.append(self._unit(text))
        if len(window) > self._window:
            # The distances of the window as it was are usual now that it is over.
            if agent in self._distances:
                self._seen += 1
                self._usual += (self._distances[agent] - self._usual) * max(SHARE, 1 / self._seen)
            self._learn(window.popleft())
        if len(window) == self._window and self._about:
            likeness = _cosine([sum(part) for part in zip(*window, strict=True)], self._about)
            self._distances[agent] = 1.0 - likeness if likeness is not None else self._usual

    def farther(self, agent: str) -> float:
        """How much farther an agent is from what the run is about than is usual in it, -1 to 1 with most models."""
        distance = self._distances.get(agent)
        return distance - self._usual if distance is not None and self._seen >= SEEN_MIN else 0.0

    def forget(self, agent: str) -> None:
        """This agent will not be asked about again."""
        self._windows.pop(agent, None)
        self._distances.pop(agent, None)

    def _learn(self, vector: list[float]) -> None:
        self._about = [have + more for have, more in zip(self._about, vector, strict=True)] if self._about else vector

    def _unit(self, text: str) -> list[float]:
        vector = [float(part) for part in self._embed(text)]
        length = math.sqrt(math.fsum(part * part for part in vector))
        return [part / length for part in vector] if length else vector


def _cosine(one: list[float], other: list[float]) -> float | None:
    """Of the angle between two vectors; None if one of them has no direction."""
    size = math.sqrt(sum(part * part for part in one) * sum(part * part for part in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / size if size else None
