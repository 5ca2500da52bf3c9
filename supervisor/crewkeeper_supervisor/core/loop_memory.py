"""What a loop detector remembers: classes of steps that are the same, what agents heard, the last steps of a chain.

Everything here is bounded. What is made of it is judged in `loops`.
"""

from collections import deque
from typing import Final

from msgspec import Struct, field

from crewkeeper_supervisor.core.fingerprint import Arguments, Fingerprint, same_outcome

REPEATS: Final = 3
"""Times the same must have happened."""
PERIOD_MAX: Final = 4
"""Steps of a cycle."""
KEYS_MAX: Final = 256
"""Tools of agents, and directions, that are remembered."""
REMARK_WORDS: Final = 5
"""Words that an answer may gain, once, without having grown: `visited before`."""


class Occurrence(Struct, gc=False):
    """One time that the same step came."""

    agent: str
    began: int
    at: int
    number: int
    """Number of the step within the run."""
    news: float
    """What the run had brought its agent by then."""
    exact: bool
    """The same was asked for, literally."""
    equal: bool
    """And the same came back, literally."""


class RepeatClass(Struct):
    """Steps that are the same."""

    token: int
    arguments: Arguments
    said: Fingerprint
    outcome: Fingerprint
    failed: bool
    seen: list[Occurrence] = field(default_factory=list)
    met: frozenset[str] = frozenset()
    """All words that came back."""
    remarked: bool = False
    """Its answers have gained a few words."""
    count: int = 0
    """Of them, since something moved."""
    since_tokens: int = 0
    """What the run had cost when the first of them began."""
    told: int = 0
    """Key of the loop of it that was told and has not been broken since."""


class Listener(Struct):
    """What is known of one agent."""

    news: int = 0
    """Answers it had that were new."""
    talk: int = 0
    """New things it said."""
    reply: Fingerprint | None = None
    """What it last said or had."""
    reply_failed: bool = False
    reply_number: int = 0
    """Number of that step."""
    before: frozenset[str] = frozenset()
    """Words of what it said or had before that."""

    def heard(self, reply: Fingerprint, failed: bool, number: int) -> None:
        """It said or had this."""
        if self.reply is not None:
            self.before = self.reply.words
        self.reply, self.reply_failed, self.reply_number = reply, failed, number


class Passed(Struct, gc=False):
    """A step in the history of a chain."""

    token: int
    """The class it belongs to."""
    agent: str
    began: int
    number: int
    tokens: int
    polls: bool


class History:
    """The last steps of a chain, and for each period how long they have repeated with it."""

    def __init__(self) -> None:
        self.steps: deque[Passed] = deque(maxlen=PERIOD_MAX * REPEATS + 1)
        self.told = 0
        """Key of the cycle that was told and still goes on."""
        self._runs = [0] * (PERIOD_MAX + 1)
        self._news: dict[str, int] = {}
        self._public = 0

    def learned(self, agent: str, new: bool, public: bool) -> float:
        """Note what a tool brought an agent, or everybody.

        Returns:
            News that it has had so far: its own, everybody's, and of those of the others the average agent's.
        """
        self._public += new and public
        self._news[agent] = self._news.get(agent, 0) + (new and not public)
        own = self._news[agent] + self._public
        if len(self._news) > KEYS_MAX:
            del self._news[next(iter(self._news))]
        return own + (sum(self._news.values()) - self._news.get(agent, 0)) / max(1, len(self._news))

    def add(self, passed: Passed) -> int:
        """Take in a step.

        Returns:
            The shortest period from 2 on that has just been passed `REPEATS` times or once more, 0 if none has.
        """
        steps, found = self.steps, 0
        for period in range(1, PERIOD_MAX + 1):
            if len(steps) >= period and steps[-period].token == passed.token:
                self._runs[period] += 1
            else:
                self._runs[period] = 0
            times, rest = divmod(self._runs[period], period)
            if period > 1 and not found and not rest and times >= REPEATS - 1 and not self._runs[1]:
                found = period
        if not any(self._runs[2:]):
            self.told = 0
        steps.append(passed)
        return found

    def period(self, length: int) -> list[Passed]:
        """The last period of this length if the one before it was the same, else nothing."""
        if not 1 <= length <= PERIOD_MAX or self._runs[length] < length:
            return []
        return [self.steps[index] for index in range(-length, 0)]


def nothing_learned(group: RepeatClass, outcome: Fingerprint) -> bool:
    """Whether an answer brings nothing over those of a class; what merely grows, such as a log, does."""
    if group.outcome.digest == outcome.digest:
        return True
    if not same_outcome(group.outcome, outcome):
        return False
    if not group.outcome.words <= outcome.words:
        return True
    gained = outcome.words - group.met
    if gained and (group.remarked or len(gained) > REMARK_WORDS or not gained.isdisjoint(outcome.marks)):
        return False
    group.remarked = group.remarked or bool(gained)
    return True
