"""Drift: agents that left their task, seen from their words alone.

Theory of operation. A run has a vocabulary: the objective, what people say, and everything agents have said and done so
far. An agent that stays with its task speaks mostly from it; one that works on something else does not. The drift of
an agent is the share of its last `WINDOW` steps' words that the vocabulary lacked before them, names, numbers and
identifiers counting `NAME_WEIGHT` fold. What tools answered counts half, and only if what was asked belonged to the
task: an agent may take up what it reads, but not change its subject to it unseen. What people say counts in full at
once, so a goal that a human changes is no drift.

It sees a changed topic and a hijack. It does not see a wrong plan that stays on topic, a task of the same trade in the
same words, or an agent that wanders off slowly enough. It is a light lexical model on purpose: no download, no network,
some 20 µs per step. A model of meaning may be put beside it, as a function that gives vectors (see `meaning`).
"""

import re
from collections import deque
from collections.abc import Iterable
from itertools import filterfalse, repeat
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.core.courtesy import is_courtesy
from crewkeeper_supervisor.core.fingerprint import words_of
from crewkeeper_supervisor.core.meaning import Embed, Meaning

WINDOW: Final = 3
"""Steps of an agent that are judged together."""
WORDS_MIN: Final = 3
"""Words from which a step says something."""
NAME_WEIGHT: Final = 8.0
HEARD: Final = 0.5
"""How far a word is known that only tools have said."""
WARMUP: Final = 4
"""Steps of an agent that must have been learned before it is judged: every task begins with words of its own."""
RAISED_AT: Final = 0.8
"""Drift from which it is reported."""
CLEARED_AT: Final = 0.6
"""Drift below which it is over."""
MEANING_WEIGHT: Final = 0.5
"""What the distance in meaning counts beside the words, if somebody gives vectors."""
KNOWN_MAX: Final = 50_000
AGENTS_MAX: Final = 1024
"""Agents whose last words are remembered; who has said nothing for longest is forgotten first."""
_CHARS: Final = 1500
_STEM: Final = 7
"""Letters of a word that count, so that its endings do not."""
_LEAST: Final = 3
"""Letters that it has at least."""

_NAME: Final = re.compile(r"[A-Z](?:(?<=[\w,;)]\s[A-Z])|(?<=[\w,;)]\s['\"(][A-Z]))\w+")
_FUNCTIONAL: Final = """
    the and but then than that this these those its are was were been being our ours you your yours she they them their
    for from with without about into over under out not does did have has had will would can could should may might
    must shall there here what which who whom when where why how all any some more most many few such only just also
    very too yes please let need next first one two using use used
"""
_STOP: Final = frozenset(_FUNCTIONAL.split())


class Drift(Struct, frozen=True, kw_only=True):
    """An agent that left its task."""

    at: int
    onset: int
    """Where the first of the judged steps was."""
    agent: str
    score: float
    """0: every word was known, 1: none was."""
    strange: tuple[str, ...]
    """Some of the words that are new, names first."""


class _Spoken(Struct):
    at: int
    words: frozenset[str]
    heavy: frozenset[str]
    """Those that count as names do."""
    known: float
    total: float


class _Speaker(Struct):
    """What is known of one agent."""

    window: deque[_Spoken]
    learned: int = 0
    """Steps of it that the vocabulary has learned."""
    strayed: bool = False
    """Its last step had little to do with the task."""


class DriftModel:
    """The vocabulary of one run, and how far each agent's last steps are from it.

    Args:
        objective: What the run is for; empty if nobody said.
        embed: Gives the meaning of a text as a vector; None: words alone are judged.
    """

    def __init__(self, objective: str = "", embed: Embed | None = None) -> None:
        self._known: dict[str, float] = {}
        self._speakers: dict[str, _Speaker] = {}
        self._raised: set[str] = set()
        self._meaning = Meaning(embed, WINDOW) if embed is not None else None
        self.told(objective)

    def told(self, text: str) -> None:
        """A person said this: it belongs to the task from now on."""
        self._learn(_weighed(text)[0], 1.0)
        if self._meaning is not None:
            self._meaning.told(text[:_CHARS])

    def heard(self, words: Iterable[str], agent: str | None = None) -> None:
        """A tool answered with these words, in lower case, in any order.

        Args:
            words: They.
            agent: Who asked; if its last step had little to do with the task, the answer says nothing of the task
                either. None: nobody knows.
        """
        speaker = self._speakers.get(agent) if agent is not None else None
        if speaker is None or not speaker.strayed:
            self._learn({word[:_STEM] for word in words}, HEARD)

    def did(self, agent: str, text: str, at: int, told: Iterable[frozenset[str]] = ()) -> Drift | None:
        """An agent said or did this.

        Args:
            agent: Who.
            text: What it said.
            at: Where.
            told: What others have just said to it, by `topic_of`: to take that up is no drift of its own.

        Returns:
            Its drift, if it has just become great.
        """
        words, heavy = _weighed(text)
        if len(words) < WORDS_MIN or is_courtesy(text):  # thanks belong to every task
            return None
        speaker = self._speaker(agent)
        window = speaker.window
        get = self._known.get
        total = len(words) + (NAME_WEIGHT - 1) * len(heavy)
        known = sum(map(get, words, repeat(0.0))) + (NAME_WEIGHT - 1) * sum(map(get, heavy, repeat(0.0)))
        taken = words.intersection(frozenset[str]().union(*told)).difference(self._known)
        known += len(taken) + (NAME_WEIGHT - 1) * len(heavy & taken)
        words -= taken
        speaker.strayed = total - known >= RAISED_AT * total
        if len(window) == WINDOW:
            # What is being judged must not vouch for itself: it is learned when it leaves the window.
            self._learn(window.popleft().words, 1.0)
            speaker.learned += 1
        window.append(_Spoken(at, words, heavy, known, total))
        if self._meaning is not None:
            self._meaning.did(agent, text[:_CHARS])
        score = self.score(agent)
        if score < CLEARED_AT:
            self._raised.discard(agent)
        if score < RAISED_AT or agent in self._raised or speaker.learned < WARMUP:
            return None
        strange = self._strange(window)
        if not strange:  # it says again what it has said before: that is a loop, if anything
            return None
        self._raised.add(agent)
        return Drift(at=at, onset=window[0].at, agent=agent, score=round(score, 3), strange=strange)

    def score(self, agent: str) -> float:
        """Drift of an agent now, 0 to 1; 0 until it has done `WINDOW` steps."""
        speaker = self._speakers.get(agent)
        if speaker is None or len(speaker.window) < WINDOW:
            return 0.0
        score = 1.0 - sum(one.known for one in speaker.window) / sum(one.total for one in speaker.window)
        if self._meaning is not None:
            score += MEANING_WEIGHT * self._meaning.farther(agent)
        return min(1.0, max(0.0, score))

    def _strange(self, window: Iterable[_Spoken]) -> tuple[str, ...]:
        """Some of the words that are new, names first."""
        new: dict[str, None] = {}
        for spoken in window:
            unknown = sorted((word not in spoken.heavy, word) for word in spoken.words if word not in self._known)
            new.update(dict.fromkeys(word for _, word in unknown[:5]))
        return tuple(new)[:8]

    def _speaker(self, agent: str) -> _Speaker:
        speaker = self._speakers.pop(agent, None)
        if speaker is None:
            if len(self._speakers) >= AGENTS_MAX:
                gone = next(iter(self._speakers))
                del self._speakers[gone]
                self._raised.discard(gone)
                if self._meaning is not None:
                    self._meaning.forget(gone)
            speaker = _Speaker(deque(maxlen=WINDOW))
        self._speakers[agent] = speaker
        return speaker

    def _learn(self, words: Iterable[str], degree: float) -> None:
        known = self._known
        known.update(dict.fromkeys(words if degree == 1.0 else [word for word in words if word not in known], degree))
        if len(known) > KNOWN_MAX:
            # Half goes at once, the same half wherever the run is replayed: sets have no order to rely on.
            self._known = dict(sorted(known.items(), key=lambda one: (-one[1], one[0]))[: KNOWN_MAX // 2])


def says_something(text: str) -> bool:
    """Whether a text has words enough to be judged, and is about anything."""
    return len(_weighed(text)[0]) >= WORDS_MIN and not is_courtesy(text)


def topic_of(text: str) -> frozenset[str]:
    """The words of a text that say what it is about; of a long text of its beginning."""
    return _weighed(text)[0]


def _weighed(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words of a text, each once, and those of them that count as names do."""
    text = text[:_CHARS]
    names = {name[:_STEM].lower() for name in _NAME.findall(text)}
    found = set(words_of(text.lower()))
    words = frozenset([word[:_STEM] for word in found if len(word) >= _LEAST or not word.isascii()]) - _STOP
    return words, (words & names).union(filterfalse(str.isalpha, words))
