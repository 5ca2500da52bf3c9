"""Misuse of tools: refusals again and again, names that do not exist, identifiers that nobody ever gave.

Each is a pattern over steps, never a single slip: a model that is told `no such tool` and then takes the right one has
done what it should. All of it is advisory; a gate has already refused what must not be done.
"""

from collections import deque
from typing import Final, Literal

from msgspec import Struct

from crewkeeper_supervisor.core.grounding import Grounding
from crewkeeper_supervisor.core.steps import Step

REFUSALS: Final = 3
"""Refusals of one agent, for one reason, among its last `LOOKBACK` calls."""
UNKNOWN_NAMES: Final = 2
"""Calls of tools that do not exist, by one agent, among its last `LOOKBACK` calls."""
UNGROUNDED: Final = 3
"""Failed calls with identifiers that the run never saw, by one agent, among its last `LOOKBACK` calls."""
LOOKBACK: Final = 12
AGENTS_MAX: Final = 4096
"""Agents whose last calls are remembered; who has called nothing for longest is forgotten first."""

Pattern = Literal["refusals", "unknown_tool", "ungrounded"]


class Misuse(Struct, frozen=True, kw_only=True):
    """A pattern, concluded at one step."""

    at: int
    onset: int
    """Where the first of its calls began."""
    agent: str
    pattern: Pattern
    tool: str
    count: int
    detail: str
    """The reason of the refusals, the names, or the identifiers."""


class _Call(Struct):
    began: int
    pattern: Pattern
    key: str


class MisuseDetector:
    """Finds patterns of misuse in the steps of one run. Feed it every step, in order.

    Args:
        grounding: What identifiers the run has seen, kept by whoever sees texts; None: they are not checked.
    """

    def __init__(self, grounding: Grounding | None = None) -> None:
        self._grounding = grounding
        self._calls: dict[str, deque[tuple[_Call, ...]]] = {}
        self._told: set[tuple[str, Pattern, str]] = set()

    def step(self, step: Step) -> list[Misuse]:
        """Take in one step; returns the patterns that it completes."""
        if step.kind != "tool":
            return []
        found: list[_Call] = []
        if step.refused:
            found.append(_Call(step.began, "refusals", step.refused))
        if step.known is False:
            found.append(_Call(step.began, "unknown_tool", step.name))
        if self._grounding is not None and step.failed:
            found += [_Call(step.began, "ungrounded", word) for word in self._grounding.unknown(step.quotes)[:1]]
        calls = self._of(step.agent)
        calls.append(tuple(found))
        return [misuse for call in found if (misuse := self._judge(step, call, calls)) is not None]

    def _judge(self, step: Step, call: _Call, calls: deque[tuple[_Call, ...]]) -> Misuse | None:
        alike = [one for made in calls for one in made if one.pattern == call.pattern]
        if call.pattern == "refusals":
            alike = [one for one in alike if one.key == call.key]
        least = {"refusals": REFUSALS, "unknown_tool": UNKNOWN_NAMES, "ungrounded": UNGROUNDED}[call.pattern]
        told = (step.agent, call.pattern, call.key if call.pattern == "refusals" else "")
        if len(alike) < least:
            self._told.discard(told)
            return None
        if told in self._told:
            return None
        self._told.add(told)
        return Misuse(
            at=step.at,
            onset=alike[0].began,
            agent=step.agent,
            pattern=call.pattern,
            tool=step.name,
            count=len(alike),
            detail=", ".join(dict.fromkeys(one.key for one in alike)),
        )

    def _of(self, agent: str) -> deque[tuple[_Call, ...]]:
        calls = self._calls.pop(agent, None)
        if calls is None:
            if len(self._calls) >= AGENTS_MAX:
                gone = next(iter(self._calls))
                del self._calls[gone]
                self._told = {told for told in self._told if told[0] != gone}
            calls = deque(maxlen=LOOKBACK)
        self._calls[agent] = calls
        return calls
