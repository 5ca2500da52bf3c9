"""Chance: every random choice of a simulation, each drawn under its own name; nothing here knows what is chosen.

Theory of operation. A choice is a hash of the seed, its stream (network, agents, faults) and its name, for example the
third heartbeat of `a2`. There is no shared generator whose next number depends on who asked before, so taking one fault
away, or making an agent do one thing less, leaves all other choices as they were: that is what makes a failing run
shrink. Faults are numbered within their kind and place, and the names of those that struck are the run's fault list.
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Collection, Mapping

_SCALE = 1.0 / 2**64


class Stream:
    """One stream of choices.

    Args:
        seed: The run's seed.
        name: The stream's name: equal names give equal choices.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._key = f"{seed}/{name}".encode()[:64]

    def fraction(self, label: str) -> float:
        """A number from 0 up to 1 that belongs to this label."""
        digest = hashlib.blake2b(label.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") * _SCALE

    def spread(self, label: str, mean: float, most: float) -> float:
        """A number with the exponential distribution of this mean, cut off at `most`."""
        return min(most, -mean * math.log(1.0 - self.fraction(label)))

    def generator(self, label: str) -> random.Random:
        """A generator of its own for a choice made of many."""
        return random.Random(int(self.fraction(label) * 2**53))  # noqa: S311 - reproducible on purpose


class Faults:
    """The faults of one run: drawn by name, remembered when they strike, and left out when shrinking says so.

    Attributes:
        struck: Names of the faults that struck, in order.
        frozen: From now on nothing strikes.
    """

    def __init__(self, seed: int, rates: Mapping[str, float], kept: Collection[str] | None = None) -> None:
        self._stream = Stream(seed, "faults")
        self._rates = rates
        self._kept = None if kept is None else frozenset(kept)
        self._numbers: Counter[str] = Counter()
        self.struck: list[str] = []
        self.frozen = False

    def strikes(self, kind: str, place: str) -> bool:
        """Whether the next fault of this kind strikes at this place."""
        rate = self._rates.get(kind, 0.0)
        stem = f"{kind}:{place}"
        self._numbers[stem] += 1
        if self.frozen or rate <= 0.0:
            return False
        name = f"{stem}:{self._numbers[stem]}"
        if self._stream.fraction(name) >= rate or (self._kept is not None and name not in self._kept):
            return False
        self.struck.append(name)
        return True

    def size(self, kind: str, place: str, least: float, most: float) -> float:
        """How large the fault that just struck there is, between two bounds."""
        name = f"size:{kind}:{place}:{self._numbers[f'{kind}:{place}']}"
        return least + (most - least) * self._stream.fraction(name)
