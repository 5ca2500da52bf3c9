"""What a loop detector remembers: classes of steps that are the same, what agents heard, the last steps of a chain.

Everything here is bounded. What is made of it is judged in `loops`.
"""

from collections import deque
from typing import Final

from msgspec import Struct, field

from crewkeeper_supervisor.core.fingerprint import Arguments, Fingerprint, places, same_outcome

REPEATS: Final = 3
"""Times the same must have happened."""
PERIOD_MAX: Final = 4
"""Steps of a cycle."""
KEYS_MAX: Final = 256
"""Tools, and agents to talk to, that are remembered of each agent."""
CLASSES_MAX: Final = 8
"""Classes that are remembered for one tool of an agent, or one direction between two."""
OWN_WORDS_MAX: Final = 40_000
WORDS_MAX: Final = 400_000
"""Words in the classes of one agent, and of all, that are remembered: about 270 bytes each. Beyond the first an agent
crowds out what is known of itself alone; beyond the second whoever did nothing for longest is forgotten first."""
MET_MAX: Final = 2000
"""Words of a class's answers that are remembered besides the last answer's."""
NAMES_MAX: Final = 4096
"""Agents, chains and loops whose counters are remembered."""
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
    slot: tuple[tuple[int, int], ...] = ()
    """Where other words stood when it was last done in other words."""
    weight: int = 0
    """Words that it holds, as far as they are counted."""

    def weigh(self) -> int:
        """Count the words that it holds; returns how many more they are than before."""
        before = self.weight
        words = len(self.said.words) + len(self.outcome.words) + len(self.met)
        for value in self.arguments.values:
            words += len(value.words)
        self.weight = words
        return words - before

    def refills(self, arguments: Arguments) -> bool:
        """Whether the very places are filled with other words once more: a form, filled in for one after the other.

        Who merely puts it in other words changes another place each time.
        """
        return bool(self.slot) and self.slot == places(self.arguments, arguments)

    def did(self, arguments: Arguments, said: Fingerprint) -> None:
        """Note what was done this time."""
        if self.seen and arguments.digest != self.arguments.digest:
            self.slot = places(self.arguments, arguments)
        self.arguments, self.said = arguments, said

    def came(self, outcome: Fingerprint) -> None:
        """Note what came back this time."""
        self.outcome = outcome
        if not outcome.words <= self.met:
            self.met |= outcome.words
            if len(self.met) > MET_MAX:
                self.met = outcome.words


class Owner(Struct):
    """What is remembered of one agent's steps."""

    classes: dict[tuple[str, str], list[RepeatClass]] = field(default_factory=dict)
    """By peer and tool, the one that was used last at the end."""
    words: int = 0


class Classes:
    """The classes of all agents of a run. Nobody crowds out what is known of others: each has its own room."""

    def __init__(self) -> None:
        self.owners: dict[str, Owner] = {}
        self._towards: dict[str, dict[str, None]] = {}
        """Who has spoken to an agent."""
        self.words = 0

    def of(self, agent: str, peer: str, name: str) -> list[RepeatClass]:
        """The classes of one kind of step, to be looked at only."""
        owner = self.owners.get(agent)
        return owner.classes.get((peer, name), []) if owner is not None else []

    def known(self, agent: str, peer: str, name: str, spoken: bool = False) -> list[RepeatClass]:
        """The classes of one kind of step of an agent, which is now the one used last.

        Args:
            agent: Who does it.
            peer: Whom it asks for it; empty for words.
            name: The tool, or whom it speaks to.
            spoken: Whether it is said to an agent, which forgets it when it gets on.
        """
        owner = self.owners.pop(agent, None) or Owner()
        self.owners[agent] = owner
        if spoken:
            self._towards.setdefault(name, {})[agent] = None
            while len(self._towards) > NAMES_MAX:
                del self._towards[next(iter(self._towards))]
        known = owner.classes.pop((peer, name), None)
        owner.classes[peer, name] = known = [] if known is None else known
        if len(owner.classes) > KEYS_MAX:
            self._drop(owner)
        return known

    def add(self, agent: str, known: list[RepeatClass], group: RepeatClass) -> None:
        """Remember one more class of this kind of step, which was just asked for."""
        known.append(group)
        if len(known) > CLASSES_MAX:
            self._count(self.owners[agent], -known.pop(0).weight)
        self.weigh(agent, group)

    def weigh(self, agent: str, group: RepeatClass) -> None:
        """A class holds other words now: make room if need be."""
        owner = self.owners[agent]
        self._count(owner, group.weigh())
        while owner.words > OWN_WORDS_MAX and len(owner.classes) > 1:
            self._drop(owner)
        while self.words > WORDS_MAX and len(self.owners) > 1:
            self.words -= self.owners.pop(next(iter(self.owners))).words

    def forget(self, agent: str) -> None:
        """An agent got on: what it repeated, or was told again and again, counts no more."""
        owner = self.owners.get(agent)
        if owner is not None:
            self._count(owner, -owner.words)
            owner.classes.clear()
        for other in self._towards.pop(agent, ()):
            teller = self.owners.get(other)
            if teller is not None and (said := teller.classes.pop(("", agent), None)):
                self._count(teller, -sum(group.weight for group in said))

    def resume(self, agent: str) -> None:
        """An agent begins anew, where it stood before its last step: that one may come once more."""
        owner = self.owners.get(agent)
        for known in owner.classes.values() if owner is not None else ():
            for group in known:
                if group.seen:
                    group.seen.pop()
                    group.count -= 1

    def _drop(self, owner: Owner) -> None:
        self._count(owner, -sum(group.weight for group in owner.classes.pop(next(iter(owner.classes)))))

    def _count(self, owner: Owner, words: int) -> None:
        owner.words += words
        self.words += words


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
    peer: str = ""
    """Message: whom it was said to."""
    gist: int = 0
    """Message: checksum of its words without numbers and names."""


class History:
    """The last steps of a chain, and for each period how long they have repeated with it."""

    def __init__(self) -> None:
        self.steps: deque[Passed] = deque(maxlen=PERIOD_MAX * REPEATS + 1)
        self.told = 0
        """Key of the cycle that was told and still goes on."""
        self._runs = [0] * (PERIOD_MAX + 1)
        self._newest = 0
        """The greatest token of its steps so far."""
        self._news: dict[str, int] = {}
        self._sum = 0
        self._public = 0

    def learned(self, agent: str, new: bool, public: bool) -> float:
        """Note what a tool brought an agent, or everybody.

        Returns:
            News that it has had so far: its own, everybody's, and of those of the others the average agent's.
        """
        self._public += new and public
        mine = self._news.pop(agent, 0) + (new and not public)
        self._news[agent] = mine
        self._sum += new and not public
        if len(self._news) > NAMES_MAX:
            self._sum -= self._news.pop(next(iter(self._news)))
        return mine + self._public + (self._sum - mine) / len(self._news)

    def add(self, passed: Passed) -> int:
        """Take in a step.

        Returns:
            The shortest period from 2 on that has just been passed `REPEATS` times or once more, 0 if none has.
        """
        steps, runs, token, found = self.steps, self._runs, passed.token, 0
        if not steps or token > self._newest:  # numbered in their order: what is new repeats nothing
            self._newest = token
            self._runs, self.told = [0] * len(runs), 0
            steps.append(passed)
            return 0
        for period in range(1, PERIOD_MAX + 1):
            if len(steps) < period or steps[-period].token != token:
                runs[period] = 0
                continue
            runs[period] += 1
            times, rest = divmod(runs[period], period)
            if period > 1 and not found and not rest and times >= REPEATS - 1 and not runs[1]:
                found = period
        if not any(runs[2:]):
            self.told = 0
        steps.append(passed)
        return found

    def period(self, length: int) -> list[Passed]:
        """The last period of this length if the one before it was the same, else nothing."""
        if not 1 <= length <= PERIOD_MAX or self._runs[length] < length:
            return []
        return [self.steps[index] for index in range(-length, 0)]

    def ring(self, length: int) -> list[str]:
        """Who passes on what goes round: the last so many steps, if each spoke to the next as it did the round before.

        What they say may differ in numbers and names, as in rounds that are counted.
        """
        if not 2 <= length <= PERIOD_MAX or len(self.steps) < 2 * length:
            return []
        last = [self.steps[index] for index in range(-length, 0)]
        before = [self.steps[index] for index in range(-2 * length, -length)]
        same = all((a.agent, a.peer, a.gist) == (b.agent, b.peer, b.gist) for a, b in zip(last, before, strict=True))
        closed = all(one.peer == after.agent for one, after in zip(last, [*last[1:], last[0]], strict=True))
        return [one.agent for one in last] if same and closed else []


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
