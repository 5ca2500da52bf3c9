"""Retry storm: several agents that call the same failing tool or agent again and again, faster and faster.

Who backs off calls more rarely, so the failures of the last `SLICE_S` seconds must be more than those of the slice
before; a first burst in which everybody fails once is none; and one agent alone is a loop, not a storm. One success
ends it.
"""

from collections import deque
from typing import Any, Final

from msgspec import Struct, field

SLICE_S: Final = 10.0
FAILURES_MIN: Final = 12
"""Failures within a slice."""
EACH_MIN: Final = 3
"""Failures of the average agent among them: below, nobody has retried much."""
AGENTS_MIN: Final = 2
TARGETS_MAX: Final = 256
_KEPT: Final = 512


class Storm(Struct, frozen=True, kw_only=True):
    """Calls of one target that fail ever more often."""

    target: str
    agents: tuple[str, ...]
    """Who calls, the busiest first."""
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
        callers: dict[str, int] = {}
        for at_s, who in known.failures:
            if at_s > now_s - SLICE_S:
                callers[who] = callers.get(who, 0) + 1
        count = sum(callers.values())
        before = len(known.failures) - count
        if count < FAILURES_MIN or len(callers) < AGENTS_MIN or count < EACH_MIN * len(callers):
            return None
        if not known.told and count <= before:
            return None
        again, known.told = known.told, True
        agents = tuple(sorted(callers, key=lambda who: (-callers[who], who)))
        return Storm(target=target, agents=agents[:50], failures=count, before=before, again=again)

    def succeeded(self, target: str) -> bool:
        """A call of this target went well; returns whether that ends a storm."""
        known = self._targets.pop(target, None)
        return known is not None and known.told

    def calmed(self, now_s: float) -> list[str]:
        """Targets whose storm has ended because hardly anybody calls them any more."""
        calm = []
        for target, known in self._targets.items():
            if known.told and sum(at_s > now_s - SLICE_S for at_s, _ in known.failures) < AGENTS_MIN:
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
