"""Drift: agents that left their task, seen from their words alone.

Theory of operation. A run has a vocabulary: the objective, what people say, and everything agents have said and done so
far. An agent that stays with its task speaks mostly from it; one that works on something else does not. The drift of
an agent is the share of its last `WINDOW` steps' words that the vocabulary lacked before them, names, numbers and
identifiers counting `NAME_WEIGHT` fold. What tools answered counts half: an agent may take up what it reads, but
not change its subject to it unseen. What people say counts in full at once, so a goal that a human changes is no
drift.

It sees a changed topic and a hijack. It does not see a wrong plan that stays on topic, a task of the same trade in the
same words, or an agent that wanders off slowly enough. It is a light lexical model on purpose: no download, no network,
some 50 µs per step; a model of meaning may be put beside it, fed the same way.
"""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

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
KNOWN_MAX: Final = 50_000
AGENTS_MAX: Final = 256
_CHARS: Final = 1500
_STEM: Final = 7
"""Letters of a word that count, so that its endings do not."""

_WORD: Final = re.compile(r"[^\W_]{3,}")
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
    known: float
    total: float
    strange: list[str]


class DriftModel:
    """The vocabulary of one run, and how far each agent's last steps are from it.

    Args:
        objective: What the run is for; empty if nobody said.
    """

    def __init__(self, objective: str = "") -> None:
        self._known: dict[str, float] = {}
        self._windows: dict[str, deque[_Spoken]] = {}
        self._held: dict[str, deque[list[str]]] = {}
        self._learned: dict[str, int] = {}
        self._raised: set[str] = set()
        self.told(objective)

    def told(self, text: str) -> None:
        """A person said this: it belongs to the task from now on."""
        self._learn((word for word, _ in _weighed(text)), 1.0)

    def heard(self, words: Iterable[str]) -> None:
        """A tool answered with these words, in lower case, in any order."""
        self._learn({word[:_STEM] for word in words}, HEARD)

    def did(self, agent: str, text: str, at: int) -> Drift | None:
        """An agent said or did this.

        Returns:
            Its drift, if it has just become great.
        """
        words = _weighed(text)
        if len(words) < WORDS_MIN:
            return None
        window = self._window(agent)
        total = sum(weight for _, weight in words)
        known = sum(weight * self._known.get(word, 0.0) for word, weight in words)
        strange = sorted((-weight, word) for word, weight in words if word not in self._known)
        window.append(_Spoken(at, known, total, [word for _, word in strange[:5]]))
        # What is being judged must not vouch for itself: it is learned when it leaves the window.
        held = self._held.setdefault(agent, deque())
        held.append([word for word, _ in words])
        if len(held) > WINDOW:
            self._learn(held.popleft(), 1.0)
            self._learned[agent] = self._learned.get(agent, 0) + 1
        score = self.score(agent)
        if score < CLEARED_AT:
            self._raised.discard(agent)
        if score < RAISED_AT or agent in self._raised or self._learned.get(agent, 0) < WARMUP:
            return None
        self._raised.add(agent)
        named = tuple(dict.fromkeys(word for spoken in window for word in spoken.strange))
        return Drift(at=at, onset=window[0].at, agent=agent, score=round(score, 3), strange=named[:8])

    def score(self, agent: str) -> float:
        """Drift of an agent now, 0 to 1; 0 until it has done `WINDOW` steps."""
        window = self._windows.get(agent, ())
        if len(window) < WINDOW:
            return 0.0
        return 1.0 - sum(one.known for one in window) / max(1.0, sum(one.total for one in window))

    def _window(self, agent: str) -> deque[_Spoken]:
        window = self._windows.get(agent)
        if window is None:
            if len(self._windows) >= AGENTS_MAX:
                oldest = next(iter(self._windows))
                del self._windows[oldest]
                self._held.pop(oldest, None)
                self._learned.pop(oldest, None)
            window = self._windows[agent] = deque(maxlen=WINDOW)
        return window

    def _learn(self, words: Iterable[str], degree: float) -> None:
        known = self._known
        for word in words:
            if known.get(word, 0.0) < degree:
                known[word] = degree
        if len(known) > KNOWN_MAX:
            # Half goes at once, the same half wherever the run is replayed: sets have no order to rely on.
            self._known = dict(sorted(known.items(), key=lambda one: (-one[1], one[0]))[: KNOWN_MAX // 2])


def _weighed(text: str) -> list[tuple[str, float]]:
    """The words of a text, each once, in order, with their weights."""
    text = text[:_CHARS]
    names = {name[:_STEM].lower() for name in _NAME.findall(text)}
    words = dict.fromkeys([word[:_STEM] for word in _WORD.findall(text.lower()) if word not in _STOP])
    return [(word, NAME_WEIGHT if word in names or not word.isalpha() else 1.0) for word in words]
