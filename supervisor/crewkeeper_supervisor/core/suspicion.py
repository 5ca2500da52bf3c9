"""Suspicion: a core from its first sight until all affirm it, then until it opens; with who is left behind it.

A stuck task that is in such a core, or hangs on one, is left alone until that is over, and then examined again. That is
enough to find whatever is still stuck then: what becomes stuck does so by a wait that was examined, and whoever was
examined and found stuck is behind each of the cores that it hangs on, or behind one that is being opened. Whoever hung
on a core by a task that goes its own way before that is over, as by a timeout, is found by the patrol.
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain
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
BEHIND_LEAST: Final = 1000
"""Tasks behind a core, above twice those that wait, from which those that wait no more are left out."""


class Behind:
    """Stuck tasks that are left alone because of a core, by the groups in which they were found.

    One that hangs on many cores is behind each of them: whichever opens, it may be another one's then. A crowd that
    hangs on the same cores is one group, kept once for all of them.
    """

    __slots__ = ("_groups", "_size")

    def __init__(self, *groups: tuple[str, ...]) -> None:
        self._groups = dict.fromkeys(groups)
        self._size = sum(map(len, groups))
        """Tasks, counted as often as a group has them."""

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._groups)

    def add(self, groups: Iterable[tuple[str, ...]], waiting: Collection[str]) -> None:
        """More of them; `waiting` are the tasks that wait at all."""
        for group in groups:
            if group and group not in self._groups:
                self._groups[group] = None
                self._size += len(group)
        if self._size > 2 * len(waiting) + BEHIND_LEAST:
            left = tuple(dict.fromkeys(key for key in self if key in waiting))
            self._groups, self._size = {left: None}, len(left)

    def join(self, others: "Behind", waiting: Collection[str]) -> None:
        """Those behind a core that is this one's business now."""
        self.add(others._groups, waiting)


class Suspicion:
    """A core that looks stuck and has not been affirmed by all its agents yet."""

    def __init__(
        self, members: tuple[str, ...], tail: tuple[str, ...], agents: list[str], since_s: float, seq: int
    ) -> None:
        self.members = members
        self.tail = tail
        self.since_s = since_s
        self.timed = False
        self.behind = Behind()
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


class Breaking:
    """An open incident of waits: over when one of them ends."""

    def __init__(self, incident: Incident, epochs: Epochs, behind: Behind) -> None:
        self.incident = incident
        self.epochs = epochs
        self.members = {key for key, _ in epochs}
        self.behind = behind
        self.tried: list[str] = []
        """Members that did not obey in this round."""
        self.rounds = 0
        """How often every member had been tried."""
        self.act_s: float | None = None
        """When a timed deadlock has lasted long enough to act on."""
        self.obey_s: float | None = None
        """Until when the last victim may give up its wait: its time runs from when its `Break` is in the journal."""


def _names(agents: list[str]) -> str:
    shown = ", ".join(agents[:STEPS_MAX])
    return shown if len(agents) <= STEPS_MAX else f"{shown} and {len(agents) - STEPS_MAX} more"
