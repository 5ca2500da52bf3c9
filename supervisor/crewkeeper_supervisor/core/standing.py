"""Standing conditions: what was told of the conduct of agents and may still hold; it goes to the ladder from here."""

from typing import Any, Final

from msgspec import Struct

from crewkeeper_supervisor.core import ladder
from crewkeeper_supervisor.core.findings import Edge, FindingKind
from crewkeeper_supervisor.core.state import RunState

QUIET_S: Final = 600.0
"""After so long without a sign of it a condition is over."""
STANDING_MAX: Final = 256
"""Conditions that are followed at once; the oldest is then taken for over."""
OF_AGENT_MAX: Final = 16
"""Conditions of one agent that are followed at once: nobody crowds out what is known of others."""
AGENTS_MAX: Final = 50
LEFT_OUT: Final = 2
"""Times in a row that a condition is seen with the same few of its agents, until the others take no part any more."""
_PARTED: Final = ("loop", "retry_storm")
"""Kinds whose agents each show by what they do that they take part; the ladder must not climb for who has stopped."""


class Standing(Struct):
    """A condition that was told."""

    kind: FindingKind
    key: str
    agents: tuple[str, ...]
    last_s: float
    """When it was last seen, journal time."""
    others: int = 0
    """Steps of its agents since then."""
    talk: bool = False
    """Loop: it is about what they say to each other."""
    few: frozenset[str] = frozenset()
    """With which few of its agents it was seen last; empty if with all of them."""
    times: int = 0
    """How often in a row."""

    def seen(self, now_s: float, agents: tuple[str, ...]) -> list[str]:
        """It was seen again, with these agents; returns whom it has gone on without for a while."""
        self.last_s, self.others = now_s, 0
        few = frozenset(agents).intersection(self.agents)
        if self.kind not in _PARTED or not few or len(few) == len(self.agents):
            self.few, self.times = frozenset(), 0
            return []
        self.times = self.times + 1 if few == self.few else 1
        self.few = few
        return [agent for agent in self.agents if agent not in few] if self.times >= LEFT_OUT else []


class Conditions:
    """The standing conditions of one run."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._all: dict[tuple[str, str], Standing] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def find(self, kind: FindingKind, key: str) -> Standing | None:
        """The condition of this kind and key, if it stands."""
        return self._all.get((kind, key))

    def of_agent(self, agent: str) -> list[Standing]:
        """Those that an agent takes part in."""
        return [one for one in self._all.values() if agent in one.agents] if self._all else []

    def of_kind(self, *kinds: FindingKind) -> list[Standing]:
        """Those of these kinds."""
        return [one for one in self._all.values() if one.kind in kinds] if self._all else []

    def tell(
        self,
        kind: FindingKind,
        key: str,
        text: str,
        agents: tuple[str, ...],
        evidence: dict[str, str],
        *,
        again: str,
        edges: list[Edge] | None = None,
        talk: bool = False,
        still: tuple[str, ...] = (),
    ) -> None:
        """A condition was seen: it begins, or goes on with `again`.

        Args:
            kind: What it is.
            key: Which of its kind.
            text: What people are told when it begins.
            agents: Whom it is about, the one to act on first; others than those of the crew are left out.
            evidence: Facts of the journal, in words.
            again: What people are told when it was known.
            edges: Waits that belong to it.
            talk: Whether it is about what the agents say to each other.
            still: Of whom it was seen this time, if that may be more than `agents`.
        """
        one = self._all.get((kind, key))
        if one is not None:
            left = one.seen(self._state.now_s, still or agents)
            if not left:
                ladder.goes_on(self._state, kind, key, again, times=evidence.get("times", ""))
                return
            self.over(one, f"it goes on without {', '.join(left[:10])}")
            agents = tuple(agent for agent in dict.fromkeys((*one.agents, *agents)) if agent not in left)
        if len(self._all) >= STANDING_MAX:
            self.over(next(iter(self._all.values())), "too many others stand to follow it")
        mine = [one for one in self._all.values() if one.agents[:1] == agents[:1]]
        if len(mine) >= OF_AGENT_MAX:
            self.over(mine[0], "too many others of the same agent stand to follow it")
        known = tuple(agent for agent in dict.fromkeys(agents) if agent in self._state.agents)[:AGENTS_MAX]
        self._all[kind, key] = Standing(kind, key, known, self._state.now_s, talk=talk)
        ladder.found(self._state, kind, text, known, key=key, evidence=evidence, edges=(edges or [])[:AGENTS_MAX])

    def lasts(self, one: Standing, detail: str) -> None:
        """A condition was seen again."""
        one.last_s, one.others = self._state.now_s, 0
        ladder.goes_on(self._state, one.kind, one.key, detail)

    def over(self, one: Standing, why: str) -> None:
        """A condition does not hold any more."""
        self._all.pop((one.kind, one.key), None)
        ladder.cleared(self._state, one.kind, one.key, why)

    def cleared(self, kind: FindingKind, key: str, why: str) -> None:
        """The condition of this kind and key does not hold any more, if it did."""
        one = self._all.get((kind, key))
        if one is not None:
            self.over(one, why)

    def expire(self) -> None:
        """End those of which nothing has been seen for long."""
        for one in [one for one in self._all.values() if one.last_s <= self._state.now_s - QUIET_S]:
            self.over(one, f"nothing has been seen of it for {QUIET_S:g} s")

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [[one.kind, one.key, one.last_s, one.others, sorted(one.few), one.times] for one in self._all.values()]
