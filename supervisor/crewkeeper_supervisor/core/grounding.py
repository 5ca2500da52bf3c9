"""Grounding: whether the identifiers an agent uses were ever seen in its run, or are made up.

An identifier is a word that nobody guesses: letters with digits, or a long number. It is grounded once it stood in
something the agent was told: the objective, a message, an answer. The check is advisory: an agent may know an
identifier from elsewhere, or compose one by a rule.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

IDENTIFIERS_MAX: Final = 20_000
"""Identifiers that a run remembers; the oldest are forgotten first, and then nothing is reported any more."""
QUOTES_MAX: Final = 64
"""Identifiers of one call that are looked at."""
_SCAN_MAX_CHARS: Final = 50_000

_REST: Final = re.compile(r"\d(?:(?<=[^\W\d]\d)|(?<=-\d)|(?=[\w\-]{4}))[\w\-]*")
"""An identifier from its first digit on: digits are found fast. A short number by itself is none."""
_BEFORE_MAX: Final = 40
_DATE: Final = re.compile(r"^\d{4}-\d\d(-\d\d)?([Tt].*)?$")


def identifiers_of(text: str) -> list[str]:
    """Identifiers in a text, lower case, in order, each once."""
    found: dict[str, None] = {}
    text = text[:_SCAN_MAX_CHARS].lower()
    for match in _REST.finditer(text):
        start, end = match.span()
        least = max(0, start - _BEFORE_MAX)
        while start > least and ((before := text[start - 1]).isalpha() or before in "_-"):
            start -= 1
        word = text[start:end].strip("-_")
        if (6 if word.isdigit() else 5) <= len(word) <= 64 and not ("-" in word and _DATE.match(word)):
            found[word] = None
    return list(found)


def identifiers_in(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Identifiers that are arguments by themselves, or items of one; those inside prose or code are none."""
    found: dict[str, None] = {}
    for value in _leaves(arguments.values(), 0):
        if len(value) <= 64 and " " not in value.strip():
            found.update(dict.fromkeys(identifiers_of(value)))
        if len(found) >= QUOTES_MAX:
            break
    return tuple(found)[:QUOTES_MAX]


def _leaves(values: Iterable[Any], depth: int) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)
        elif depth < 4 and isinstance(value, Mapping):
            yield from _leaves(value.values(), depth + 1)
        elif depth < 4 and isinstance(value, list | tuple):
            yield from _leaves(value, depth + 1)


class Grounding:
    """What identifiers a run has seen."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}
        self._forgot = False

    def saw(self, text: str) -> None:
        """Note the identifiers in something that agents were told."""
        found = identifiers_of(text)
        if not found:
            return
        self._seen.update(dict.fromkeys(found))
        while len(self._seen) > IDENTIFIERS_MAX:
            del self._seen[next(iter(self._seen))]
            self._forgot = True

    def unknown(self, quotes: Iterable[str]) -> tuple[str, ...]:
        """Those of them that were never seen; none once the memory has overflowed."""
        if self._forgot:
            return ()
        return tuple(word for word in quotes if word not in self._seen)
