"""Retry storm: several agents that call the same failing tool or agent again and again, faster and faster.

Who backs off calls more rarely, so the failures of the last `SLICE_S` seconds must be more than those of the slice
before, and who waits longer before each attempt takes no part. A first burst in which everybody fails once is none, and
one agent alone is a loop, not a storm: only who fails often itself is in it, whatever others do. One success ends it.
"""

from collections import deque
from typing import Any, Final

from msgspec import Struct, field

SLICE_S: Final = 10.0
FAILURES_MIN: Final = 12
"""Failures within a slice."""
EACH_MIN: Final = 3
"""Failures within a slice of each agent that takes part: who has fewer has not retried much."""
BACKS_OFF: Final = 1.5
"""Who waits so many times as long as before its attempt before is backing off."""
AGENTS_MIN: Final = 2
TARGETS_MAX: Final = 256
_KEPT: Final = 512


class Storm(Struct, frozen=True, kw_only=True):
    """Calls of one target that fail ever more often."""

    target: str
    agents: tuple[str, ...]
    """Who takes part, the busiest first."""
    calling: tuple[str, ...]
    """Who has called it in vain at all, within the last slice."""
    failures: int
    """Within the last slice."""
    before: int
    """Within the slice before."""
    again: bool
    """It was told before and goes on."""


class _Target(Struct):
    failures: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    told: bool = False


class RetryStorms:
    """The failing targets of one run."""

    def __init__(self) -> None:
        self._targets: dict[str, _Target] = {}

    def failed(self, target: str, agent: str, now_s: float) -> Storm | None:
        """A call of this target failed; returns the storm that it makes, or goes on with."""
        known = self._targets.pop(target, None) or _Target()
        self._targets[target] = known
        if len(self._targets) > TARGETS_MAX:
            del self._targets[next(iter(self._targets))]
        while known.failures and known.failures[0][0] <= now_s - 2 * SLICE_S:
            known.failures.popleft()
        known.failures.append((now_s, agent))
        if len(known.failures) < FAILURES_MIN:
            return None
        lately: dict[str, list[float]] = {}
        for at_s, who in known.failures:
            if at_s > now_s - SLICE_S:
                lately.setdefault(who, []).append(at_s)
        callers = {who: len(times_s) for who, times_s in lately.items() if _storms(times_s)}
        count = sum(callers.values())
        before = sum(at_s <= now_s - SLICE_S and who in callers for at_s, who in known.failures)
        if count < FAILURES_MIN or len(callers) < AGENTS_MIN:
            return None
        if not known.told and count <= before:
            return None
        again, known.told = known.told, True
        agents = tuple(sorted(callers, key=lambda who: (-callers[who], who)))
        return Storm(
            target=target, agents=agents[:50], calling=tuple(lately), failures=count, before=before, again=again
        )

    def succeeded(self, target: str) -> bool:
        """A call of this target went well; returns whether that ends a storm."""
        known = self._targets.pop(target, None)
        return known is not None and known.told

    def calmed(self, now_s: float) -> list[str]:
        """Targets whose storm has ended because hardly anybody calls them any more."""
        calm = []
        for target, known in self._targets.items():
            if known.told and len({who for at_s, who in known.failures if at_s > now_s - SLICE_S}) < AGENTS_MIN:
                known.told = False
                calm.append(target)
        return calm

    @property
    def is_failing(self) -> bool:
        """Whether any target has failed of late."""
        return bool(self._targets)

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [[name, list(known.failures), known.told] for name, known in self._targets.items()]


def _storms(times_s: list[float]) -> bool:
    """Whether an agent that failed at these times within a slice takes part: often enough, without backing off."""
    if len(times_s) < EACH_MIN:
        return False
    return times_s[-1] - times_s[-2] < BACKS_OFF * (times_s[-2] - times_s[-3]) or times_s[-1] == times_s[-2]
