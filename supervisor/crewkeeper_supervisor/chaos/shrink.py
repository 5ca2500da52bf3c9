"""Shrink: a failing run made small: first as few faults as will do, then as few events.

Delta debugging (Zeller and Hildebrandt 2002) over the names of the faults; since every choice has a name of its own,
leaving one fault out changes nothing else. The same invariant must break throughout.
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import structs

from crewkeeper_supervisor.chaos.options import Options
from crewkeeper_supervisor.chaos.simulation import Outcome, simulate

RUNS_MAX: Final = 200
"""How many runs shrinking may take."""


class Shrinker:
    """Shrinks one failing run.

    Args:
        outcome: What it found.
    """

    def __init__(self, outcome: Outcome) -> None:
        assert outcome.violations, "only a failing run can be shrunk"
        self._outcome = outcome
        self._invariant = outcome.violations[0].invariant
        self.runs = 0

    def shrunk(self) -> tuple[tuple[str, ...], Outcome]:
        """The faults that are needed, and the outcome of the run with those and the fewest events."""
        # The fault names stand for the options with all choices made: what a mode left to the seed is settled.
        limit = self._outcome.events + 100
        kept = minimal(self._outcome.faults, lambda names: self._fails(names, limit) is not None)
        best = self._fails(kept, limit) or self._outcome
        low, high = 0, best.events
        while high - low > max(10, high // 50) and self.runs < 2 * RUNS_MAX:
            middle = (low + high) // 2
            shorter = self._fails(kept, middle)
            if shorter is None:
                low = middle
            else:
                high, best = middle, shorter
        return kept, best

    def _fails(self, names: Sequence[str], events: int | None) -> Outcome | None:
        self.runs += 1
        outcome = simulate(self._outcome.seed, settled(self._outcome), frozenset(names), events)
        broken = {violation.invariant for violation in outcome.violations}
        return outcome if self._invariant in broken else None


def settled(outcome: Outcome) -> Options:
    """The options of a run as those of any run of its seed: swarm choices are made already."""
    mode = "safety" if outcome.options.mode == "swarm" else outcome.options.mode
    return structs.replace(outcome.options, mode=mode)


def minimal(names: Sequence[str], fails: Callable[[Sequence[str]], bool], most: int = RUNS_MAX) -> tuple[str, ...]:
    """A subset that still fails and from which no single part can be left out.

    Args:
        names: All of them; they fail together.
        fails: Whether a subset fails.
        most: How often that may be asked.
    """
    kept = list(names)
    if not kept or fails([]):
        return ()
    parts, asked = 2, 1
    while len(kept) > 1 and asked < most:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            asked += 1
            if fails(rest):
                kept, parts = rest, max(2, parts - 1)
                break
        else:
            if parts >= len(kept):
                break
            parts = min(len(kept), 2 * parts)
    return tuple(kept)
