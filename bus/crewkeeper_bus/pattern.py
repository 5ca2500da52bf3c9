"""Patterns: which subjects a bus can carry and which of them a wildcard covers; what tokens mean is `subjects`."""

import re
from typing import Final

from crewkeeper_bus.errors import SubjectError

SUBJECT_MAX_CHARS: Final = 1024
"""Longest subject or pattern; the server's control line has 4096 bytes."""

_WORD: Final = r"[!-)+,\-/-=?-~]+"  # printable ASCII but for blank, '*', '.' and '>'
_SUBJECT = re.compile(rf"{_WORD}(\.{_WORD})*\Z")
_PATTERN = re.compile(rf"(>|(\*|{_WORD})(\.(\*|{_WORD}))*(\.>)?)\Z")


def check_subject(subject: str, *, wildcards: bool = False) -> str:
    """Return `subject` if the protocol can carry it: tokens of printable ASCII, none empty, no blanks.

    Args:
        subject: Any subject, of Crewkeeper's grammar or another.
        wildcards: Whether it may be a pattern, with `*` tokens and a final `>`.

    Raises:
        SubjectError: It is not.
    """
    allowed = _PATTERN if wildcards else _SUBJECT
    if not isinstance(subject, str) or len(subject) > SUBJECT_MAX_CHARS or not allowed.match(subject):
        what = "pattern" if wildcards else "subject"
        raise SubjectError(f"{repr(subject)[:120]} is not a {what}: use up to {SUBJECT_MAX_CHARS} characters, a.b.c")
    return subject


def matches(pattern: str, subject: str) -> bool:
    """Whether `subject` falls under `pattern`, where `*` is one token and a final `>` is one or more.

    With a pattern as `subject`: whether everything that falls under it also falls under `pattern`.
    """
    wanted, tokens = pattern.split("."), subject.split(".")
    for position, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > position
        if position >= len(tokens) or tokens[position] == ">":
            return False
        if part not in ("*", tokens[position]):
            return False
    return len(wanted) == len(tokens)
