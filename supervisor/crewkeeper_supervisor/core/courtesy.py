"""Courtesy: two agents that keep thanking each other, in ever new words, with nothing left to say.

A message is *empty* if it consists of courtesy and function words, but for hardly anything that was not said between
the two before; a number, or data beside the sentences, that was not said before is content. Six empty messages in a
row, from both sides, are a loop; any message with content, and any answer of a tool to either of them, ends the row.
The words are English.
"""

import string
from functools import lru_cache
from itertools import chain
from typing import Final

import msgspec

from crewkeeper_supervisor.core.fingerprint import Fingerprint, words_of
from crewkeeper_supervisor.core.loops import Loop
from crewkeeper_supervisor.core.steps import EVERYBODY, Step

EMPTY_MESSAGES: Final = 6
"""In a row, between the same two, from both sides."""
NEW_WORDS: Final = 1
"""New content words that an empty message may have."""
CONTENT_SHARE: Final = 1 / 3
"""Of the words of an empty message that may be content, new or not: what is asked twice is no courtesy."""
EACH_MIN: Final = 2
"""Of these from each side: who answers one thanks with another is merely polite."""
PAIRS_MAX: Final = 256
SAID_MAX: Final = 1000
"""Words of a pair that are remembered at least, those said last; at most about twice as many are."""
WORDS_MAX: Final = 60
"""Different words up to which a message can be nothing but courtesy."""
TEXT_MAX: Final = 600
"""Characters up to which a text is asked whether it is one."""

_COURTEOUS: Final = """
    thank thanks thankyou welcome please pleasure glad happy great good nice lovely wonderful excellent perfect awesome
    fantastic amazing brilliant superb cheers sure okay ok alright fine yes yeah yep no nope agreed agree absolutely
    definitely certainly indeed exactly right correct understood noted roger acknowledged acknowledge received confirm
    confirmed hello hi hey dear goodbye bye farewell evening morning afternoon day night weekend best regards sincerely
    kind kindly warm wishes wish luck sorry apologies apologise apologize appreciate appreciated appreciation grateful
    gratitude honour honor honored delighted looking forward hear hearing anytime always help helped helpful helping
    assist assistance support anything else further need needed let know feel free hesitate ask reach touch keep care
    take enjoy work working worked team together collaboration collaborate collaborating likewise mutual same back
    again much very truly really deeply so too also well done job cooperation effort time hope question questions
    available ready whenever future soon later now today kindness insight insights conversation chat talk talking
"""
_FUNCTIONAL: Final = """
    a an the and or but if then than that this these those it its is are was were be been being am i me my mine we us
    our ours you your yours he she they them their to of in on at by for from with without about as into over under
    out up down off not do does did have has had will would can could should may might must shall there here what
    which who when where why how all any some more most many few such only just still yet ever never re ll ve m s t d
"""
_NO_MATTER: Final = frozenset(chain(_COURTEOUS.split(), _FUNCTIONAL.split()))
_LETTERS: Final = frozenset(string.ascii_lowercase)


def is_courtesy(text: str) -> bool:
    """Whether a text is nothing but thanks, wishes and function words: it is about no matter."""
    if len(text) > TEXT_MAX:
        return False
    words, content = _content(text)
    return len(content) <= min(NEW_WORDS, CONTENT_SHARE * len(words))


@lru_cache(maxsize=64)  # several detectors ask of the same text, one after the other
def _content(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words of a text, and those of them that are about something."""
    words = frozenset(filter(str.isalpha, words_of(text.lower()))) - _LETTERS
    return words, words - _NO_MATTER


class CourtesyDetector:
    """Finds exchanges of courtesies in the steps of one run. Feed it every step, in order.

    Args:
        follow: Whether further courtesies of a row that was told are told too, with `again` above 0.
    """

    def __init__(self, *, follow: bool = False) -> None:
        self._follow = follow
        self._keys = 0
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._rows: dict[tuple[str, str], _Pair] = {}
        """Those of them that are in a row of empty messages."""

    def step(self, step: Step) -> Loop | None:
        """Take in one step; returns the loop that it completes, once for each row unless they are followed."""
        if step.kind != "message" or step.peer == EVERYBODY:
            if step.kind in ("tool", "progress", "human"):
                for key in [key for key in self._rows if step.agent in key]:
                    self._rows.pop(key).interrupt()
            return None
        if self.has_content(step.agent, step.peer, step.said, step.text):
            return None
        return self.empty(step)

    def has_content(self, agent: str, peer: str, said: Fingerprint, text: str) -> bool:
        """Take in what one agent says to another if it has content, as nearly everything has.

        Args:
            agent: Who says it.
            peer: To whom; not `EVERYBODY`.
            said: What it comes down to.
            text: Its own words.

        Returns:
            False: it has none, and is to be given to `empty` at once.
        """
        key = _key(agent, peer)
        pair = self._pairs.pop(key, None) or _Pair()
        self._pairs[key] = pair
        if len(self._pairs) > PAIRS_MAX:
            # Whoever talks to ever more others crowds out what is known of itself, not of them.
            own = next(each for each in self._pairs if agent in each)
            gone = own if own != key else next(iter(self._pairs))
            del self._pairs[gone]
            self._rows.pop(gone, None)
        if not pair.is_matter(said, text):
            return False
        pair.remember(said.words)
        if pair.row:
            pair.interrupt()
            self._rows.pop(key, None)
        return True

    def empty(self, step: Step) -> Loop | None:
        """Take in a message of which `has_content` has just said that it has none; returns as `step` does."""
        key = _key(step.agent, step.peer)
        pair = self._rows[key] = self._pairs[key]
        found = pair.nothing_said(step)
        if found is None or (pair.key and not self._follow):
            return None
        if not pair.key:
            self._keys += 1
            pair.key = self._keys
        else:
            pair.again += 1
        return msgspec.structs.replace(found, key=pair.key, again=pair.again, count=EMPTY_MESSAGES + pair.again)


def _key(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


class _Pair:
    """What two agents say to each other."""

    def __init__(self) -> None:
        self.row: list[tuple[str, int, int]] = []
        """The empty messages: who, where, tokens."""
        self.key = self.again = 0
        """Of the row that was told and still goes on."""
        self._late: set[str] = set()
        """Words that were said between them of late."""
        self._early: set[str] = set()
        """Those before them; both together hold at least the last `SAID_MAX`."""

    def interrupt(self) -> None:
        """Something was said or done after all."""
        self.row.clear()
        self.key = self.again = 0

    def nothing_said(self, step: Step) -> Loop | None:
        """Take in a message without content."""
        self.remember(step.said.words)
        self.row.append((step.agent, step.began, step.tokens))
        del self.row[: -2 * EMPTY_MESSAGES]
        said = [who for who, _, _ in self.row[-EMPTY_MESSAGES:]]
        if len(said) < EMPTY_MESSAGES or min(said.count(step.agent), said.count(step.peer)) < EACH_MIN:
            return None
        return Loop(
            at=step.at,
            onset=self.row[-EMPTY_MESSAGES + 2][1],
            agents=tuple(dict.fromkeys(who for who, _, _ in self.row)),
            period=2,
            form="courtesy",
            count=len(self.row),
            tokens=sum(tokens for _, _, tokens in self.row),
            what="messages without content",
            failed=False,
            chain=step.chain,
        )

    def is_matter(self, said: Fingerprint, text: str) -> bool:
        """Whether a message has content: too much of it, or data or a number that was not said before."""
        if len(said.words) > WORDS_MAX:
            return True
        words, content = _content(text)
        if len(content) > CONTENT_SHARE * len(words):
            return True  # most messages: what was said before need not be known
        if len(content - self._late - self._early) > NEW_WORDS:
            return True
        beside = said.words - words - _NO_MATTER - self._late - self._early
        return any(len(word) > 1 or word in said.marks for word in beside)

    def remember(self, words: frozenset[str]) -> None:
        """These words were said between them."""
        self._late |= words
        if len(self._late) > SAID_MAX:
            self._early, self._late = self._late, set()
