"""Names and patterns of names: `*` stands for any characters, also none; nothing else is special."""

import difflib
from collections.abc import Iterable
from typing import Final

_CANDIDATES_MAX: Final = 500
_WORD_MAX_CHARS: Final = 128


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is one of those that `pattern` stands for; upper and lower case differ."""
    if "*" not in pattern:
        return pattern == name
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        # The leftmost place is enough: whatever follows has the most room then.
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def matches_any(patterns: Iterable[str], name: str, other: str = "") -> bool:
    """Whether `name`, or `other` unless it is empty, is one of those that one of the patterns stands for."""
    return any(matches(pattern, name) or (other != "" and matches(pattern, other)) for pattern in patterns)


def near(word: str, candidates: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """The candidates most like `word`, the best first; work is bounded by their first 500."""
    if len(word) > _WORD_MAX_CHARS:
        return ()
    folded: dict[str, str] = {}
    for _, candidate in zip(range(_CANDIDATES_MAX), candidates, strict=False):
        folded.setdefault(_fold(candidate), candidate)
    return tuple(folded[name] for name in difflib.get_close_matches(_fold(word), folded, n=most, cutoff=0.6))


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
