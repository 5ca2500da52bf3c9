"""Targets: whom the faults of a scenario hit, by name, and who must be prepared for that before anything is started."""

from collections.abc import Mapping, Set

from crewkeeper_supervisor.chaos.plan.scenario import Fault, Scenario
from crewkeeper_supervisor.chaos.real.cast import Cast


class Targets:
    """The targets of one run.

    Args:
        scenario: With the faults.
        cast: Who plays.
        seed: Of who is hit where anybody may be.
        pids: Process of each agent that runs, kept up to date by whoever reads the journal.
    """

    def __init__(self, scenario: Scenario, cast: Cast, seed: int, pids: Mapping[str, int]) -> None:
        self._scenario = scenario
        self._cast = cast
        self._seed = seed
        self._pids = pids

    def of(self, fault: Fault) -> list[str]:
        """Whom a fault hits now: names of agents or tools, else what its target says after the colon, or all of it."""
        what, _, who = fault.target.partition(":")
        if what == "agent":
            names = [name for name, role in self._cast.instances.items() if who in ("any", "all", role, name)]
        elif what == "tool":
            names = [tool.name for tool in self._scenario.tools if who in ("any", "all", tool.name)]
        else:
            return [who or what]
        if who == "any" and names:
            living = [name for name in names if name in self._pids] or names
            return [living[(self._seed + fault.index) % len(living)]]
        return names

    def possible(self, words: Set[str]) -> list[str]:
        """Agents that a fault of these words may hit."""
        found: dict[str, None] = {}
        for fault in self._scenario.faults:
            if fault.do in words:
                found |= dict.fromkeys(self.of(fault) if "any" not in fault.target else self._cast.instances)
        return list(found)
