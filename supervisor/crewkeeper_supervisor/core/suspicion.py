"""Suspicion: a core that looks stuck, from its first sight until all its agents have affirmed it, with its history."""

from typing import Final

from crewkeeper_supervisor.core.findings import Incident, Step

REPROBE_S: Final = 0.2
REPROBE_MAX_S: Final = 4.0
SILENCE_S: Final = 10.0
"""A suspicion that is not settled by then is told as one: somebody does not answer."""
LATE_S: Final = 1.0
"""A question this much overdue shows that the supervisor was not there."""
STEPS_MAX: Final = 20
"""Affirmations that are told one by one; more are counted."""

Epochs = tuple[tuple[str, int], ...]
"""The identity of a core: its tasks and their wait epochs."""


class Suspicion:
    """A core that looks stuck and has not been affirmed by all its agents yet."""

    def __init__(
        self, members: tuple[str, ...], tail: tuple[str, ...], agents: list[str], since_s: float, seq: int
    ) -> None:
        self.members = members
        self.tail = tail
        self.since_s = since_s
        self.timed = False
        self.silent = dict.fromkeys(agents, "")
        """Agents that have not affirmed, with the nonce each was last asked."""
        self.ask_again_s = since_s
        self.patience_s = REPROBE_S
        self.unwatched_s = 0.0
        """How long nobody was there to ask: that is no silence of theirs."""
        self.incident: Incident | None = None
        """Where it was told as a suspicion."""
        self._steps = [Step(at_s=since_s, seq=seq, text=f"suspected; asking {_names(agents)}")]
        self._affirmed = 0
        self._last: Step | None = None

    def affirm(self, agent: str, nonce: str, at_s: float, seq: int) -> None:
        """An agent answered; it counts if it was the newest question."""
        if not nonce or self.silent.get(agent) != nonce:
            return
        del self.silent[agent]
        self._affirmed += 1
        self._last = Step(at_s=at_s, seq=seq, text=f"{agent} affirms its wait")
        if self._affirmed <= STEPS_MAX:
            self._steps.append(self._last)

    def asked_late(self, now_s: float) -> None:
        """The silent are asked again; what they were not asked in time counts for nothing."""
        late_s = now_s - self.ask_again_s
        if late_s > LATE_S:
            self.unwatched_s += late_s

    def take_history(self) -> list[Step]:
        """What happened to it since this was last taken."""
        steps = self._steps
        if self._affirmed > STEPS_MAX and self._last is not None:
            rest = self._affirmed - STEPS_MAX
            steps.append(Step(at_s=self._last.at_s, seq=self._last.seq, text=f"{rest} more affirm theirs"))
        self._steps, self._last = [], None
        return steps


def _names(agents: list[str]) -> str:
    shown = ", ".join(agents[:STEPS_MAX])
    return shown if len(agents) <= STEPS_MAX else f"{shown} and {len(agents) - STEPS_MAX} more"
