"""Fingerprints: what a text comes down to once its volatile parts are masked, and when two of them say the same.

Comparison rests on two sets per text, in the manner of Broder's resemblance (1997): its words, and its *marks*, which
are the words with a digit in them: numbers, dates, identifiers. Marks decide what words cannot. A text in which one
number took another's place says something new, however many words it shares with the old one: that is a progress bar,
a page number, a shrinking count of failures. A text that merely lost or gained a few words is the same text, read by
a poorer eye: a page scraped twice, a log with one line more of noise.

What is masked is what changes by itself: clock times, time stamps, UUIDs, long hexadecimal digests, durations,
addresses, counters of attempts. Plain numbers and identifiers are never masked; they are the content of a request.

Nothing here keeps text: a fingerprint is a digest and the words of a text's beginning and end.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import filterfalse
from typing import Any, Final

from msgspec import Struct

HEAD_CHARS: Final = 2000
TAIL_CHARS: Final = 500
"""Of a long text its beginning and its end are read; what lies between counts by its checksum only."""
LONG_WORDS: Final = 40
"""Distinct words from which a text is long: it may vary a little and still be the same."""
EDGE_WORDS: Final = 6
EDGE_COMMON: Final = 2
"""First and last words of a text; if at both ends hardly any of them are left, it is another part of something."""
LONG_LIKENESS: Final = 0.6
SHORT_LIKENESS: Final = 0.8
MARKS_LOST: Final = 0.5
MARKS_LOST_FEW: Final = 2
"""Share and number of its marks that a long text may lack: whichever is more."""
MISREAD_LIKENESS: Final = 0.7
"""Share of the letters of an identifier that are left when it is misread."""
MISREAD_MAX: Final = 16
"""Identifiers that are looked at for it."""
DEPTH_MAX: Final = 30
"""Levels of nested arguments that are looked at."""
PHRASE_WORDS: Final = 6
"""Words from which an argument is prose, which may be put in other words; a shorter one is a name."""
_VOLATILE_KEYS: Final = (
    "request_id req_id trace_id span_id call_id tool_call_id correlation_id message_id session_id nonce ts timestamp "
    "attempt attempts retry retries retry_count max_retries "
    "limit max_results top_k page_size timeout timeout_s timeout_ms verbose"
)
VOLATILE_KEYS: Final = frozenset(_VOLATILE_KEYS.split())
"""Argument names whose values say nothing of what is asked for, only how often, how much of it and how patiently."""
_SHORT_CHARS: Final = 24
_ECHO_MIN_CHARS: Final = 3
_ECHO_MAX_CHARS: Final = 128

# Every pattern begins with a digit, which is found fast; what stands before it is looked back at.
_VOLATILE: Final = re.compile(
    r"\d(?<!\w\d)(?:"
    r"\d{3}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:z|[+-]\d\d:?\d\d)?"  # time stamps; a date is content
    r"|\d?:\d\d:\d\d(?:[.,]\d+)?\b"  # clock times
    # Durations, but longer ones only if they look back; one that looks ahead, such as minutes remaining, is progress.
    r"|\d*+(?:\.\d++)?+\s?+(?:[nuµm]s\b|(?:s|sec|secs|seconds?|min|minutes?|h|hours?|days?)\sago\b)"
    r"|\d*\.\d+\s?s\b"
    r"|(?<=[nkrdtyfge: ][ #]\d)(?:"  # ends of the words below: most numbers stand after others
    r"(?:(?<=\bin \d)|(?<=\btook \d)|(?<=\bafter \d)|(?<=\belapsed \d)|(?<=\belapsed: \d)|(?<=\bduration: \d))"
    r"\d*(?:\.\d+)?\s?(?:s|sec|secs|seconds?|min|minutes?|h|hours?)\b"
    r"|(?:(?<=\battempt \d)|(?<=\battempt #\d)|(?<=\bretry \d)|(?<=\bretry #\d)|(?<=\btry \d))"
    r"\d*(?:\s?(?:of|/)\s?\d+)?\b"
    # A message or request `3 of 20` is progress.
    r"|(?:(?<=\bmsg \d)|(?<=\bmessage \d)|(?<=\bmessage #\d)|(?<=\brequest \d)|(?<=\brequest #\d)|(?<=\bref \d)"
    r"|(?<=\btrace \d))\d*\b(?!\s?(?:of|/)\s?\d))"
    r"|(?<=1)[4-9]\d{8}(?:\d{3}|\.\d+)?\b"  # seconds or milliseconds since the Unix epoch
    r"|x[0-9a-f]{4,}\b"  # addresses
    r")"
)
_DIGESTS: Final = re.compile(
    r"(?<![^\W_])(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{16,})(?![^\W_])"
)
_LIKE_DIGEST: Final = re.compile(r"\d[0-9a-f-]{10}")
_WORD: Final = re.compile(r"[^\W_]+")
_NAME: Final = re.compile(r"[A-Z](?:(?<=[\w,;)]\s[A-Z])|(?<=[\w,;)]\s['\"(][A-Z]))\w+")
_CODE: Final = re.compile(r"[{};=]|\w\(|\n\s+\S")
_LETTERS: Final = bytes(
    byte if byte > 127 else ord(chr(byte).lower()) if chr(byte).isalnum() else 32 for byte in range(256)
)
"""Bytes of UTF-8 with a space for every sign that is no letter or digit: far faster than a pattern."""
_SIGNS: Final = re.compile(rb"\xe2..|\xc2.|\xf0...", re.DOTALL)
"""Punctuation and symbols beyond ASCII."""
_DIGIT: Final = re.compile(r"\d")
_UNSPACED: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff]+|[\u3400-\u9fff\uf900-\ufaff]+")
"""Letters of tongues that put no space between words."""
_GERMAN: Final = frozenset(
    ("der", "die", "das", "und", "ein", "eine", "nicht", "ist", "den", "mit", "für", "von", "auf")
)
_GERMAN_LEAST: Final = 3
_NO_WORDS: Final[frozenset[str]] = frozenset()


class Fingerprint(Struct, frozen=True, gc=False):
    """What a text comes down to."""

    digest: int
    """Checksum of the masked text."""
    literal: int
    """Checksum of the text as it was, but for case."""
    words: frozenset[str]
    marks: frozenset[str]
    """Those of the words that have a digit, and the names if they were asked for."""
    chars: int
    """Length of the original text."""
    order: tuple[str, ...] = ()
    """All of its words as they stand, if they are few."""
    edges: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    """Its first words and its last, if they are many."""

    @property
    def empty(self) -> bool:
        """Whether the text said nothing."""
        return not self.words

    @property
    def ends(self) -> tuple[frozenset[str], frozenset[str]]:
        """Its first words and its last."""
        order = self.order
        return (frozenset(order[:EDGE_WORDS]), frozenset(order[-EDGE_WORDS:])) if order else self.edges


NOTHING: Final = Fingerprint(0, 0, frozenset(), frozenset(), 0)
"""Of an empty text."""


def of_text(text: str, *, masked: bool = True, names: bool = False, echoes: Iterable[str] = ()) -> Fingerprint:
    """Fingerprint a text. About 25 µs for 1,000 characters.

    Args:
        text: Any length.
        masked: Whether volatile parts are taken out.
        names: Whether capitalised words inside sentences are marks: who or what is asked for.
        echoes: What is volatile in this text, besides (see `echoes_of`).
    """
    for echo in echoes:
        text = text.replace(echo, " ")
    if not text:
        return NOTHING
    long = len(text) > HEAD_CHARS + TAIL_CHARS
    head = f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}" if long else text
    named = _NAME.findall(head) if names else ()
    head = head.lower()
    middle = _checksum(text[HEAD_CHARS:-TAIL_CHARS]) if long else 0
    plain = head.isascii()
    literal = digest = _checksum(head) ^ middle
    has_digits = _DIGIT.search(head) is not None
    if masked and has_digits:
        head, times = _VOLATILE.subn(" ", head)
        if _LIKE_DIGEST.search(head):
            head, more = _DIGESTS.subn(" ", head)
            times += more
        if times:
            digest = _checksum(head) ^ middle
    found = head.encode().translate(_LETTERS).decode().split() if plain else words_of(head)
    words = frozenset(found)
    marks = _NO_WORDS if plain and not has_digits else frozenset(filterfalse(str.isalpha, words))
    if named and len(words & _GERMAN) < _GERMAN_LEAST:  # German gives a capital to every noun
        marks |= {name.lower() for name in named}
    if len(found) <= LONG_WORDS:
        return Fingerprint(digest, literal, words, marks, len(text), tuple(found))
    edges = frozenset(found[:EDGE_WORDS]), frozenset(found[-EDGE_WORDS:])
    return Fingerprint(digest, literal, words, marks, len(text), (), edges)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, in order; parts of words where a tongue puts no space between them."""
    if text.isascii():
        return text.encode().translate(_LETTERS).decode().split()
    if _UNSPACED.search(text):
        return [part for word in _WORD.findall(text) for part in _parted(word)]
    spaced = _SIGNS.sub(b" ", text.encode("utf-8", "surrogatepass"))
    return spaced.translate(_LETTERS).decode("utf-8", "surrogatepass").split()


def _parted(word: str) -> list[str]:
    """The parts of what stands without a space: each sign of Han, which is nearly a word; pairs of other letters."""
    parts: list[str] = []
    at = 0
    for run in _UNSPACED.finditer(word):
        start, end = run.span()
        parts += [word[at:start]] if start > at else []
        parts += list(run[0]) if run[0] >= "\u3400" else [word[here : here + 2] for here in range(start, end)]
        at = end
    return [*parts, word[at:]] if at < len(word) else parts


def _checksum(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard index: 1 for equal sets, 0 for disjoint ones."""
    if not one and not other:
        return 1.0
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def same_outcome(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether what came back twice is the same: nothing was learned the second time."""
    if one.digest == other.digest:
        return True
    small, large = len(one.words), len(other.words)
    if large < LONG_WORDS > small and one.marks != other.marks:
        return False  # mostly, what differs in a short text is a number
    if large < small:
        small, large = large, small
    if not small or one.words == other.words:
        return False  # signs only, or the same words set in another way: a board, a list of things to tick off
    if small < SHORT_LIKENESS * large and small < LONG_LIKENESS * large:
        return False  # no pair of such sizes can be alike enough
    if large < LONG_WORDS:
        return likeness(one.words, other.words) >= SHORT_LIKENESS
    # Of many names one may be misread; a number that took another's place is news in a text of any length.
    if _renumbered(one.marks, other.marks):
        return False
    if all(len(mine & its) <= EDGE_COMMON for mine, its in zip(one.ends, other.ends, strict=True)):
        return False  # the last lines of a log, a while later
    few, many = sorted((len(one.marks), len(other.marks)))
    if many - few > max(MARKS_LOST_FEW, MARKS_LOST * many):
        return False
    return likeness(one.words, other.words) >= LONG_LIKENESS


def same_request(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two texts ask for, or say, the same thing in possibly other words."""
    if one.digest == other.digest:
        return True
    return not _replaced(one.marks, other.marks) and likeness(one.words, other.words) >= LONG_LIKENESS


def _renumbered(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether a number, or an identifier that nobody misread, took the place of another."""
    lost, gained = (sorted(marks) for marks in (one - other, other - one))
    if not lost or not gained:
        return False
    if any(mark.isdigit() for mark in lost) and any(mark.isdigit() for mark in gained):
        return True
    few, many = sorted((lost, gained), key=len)
    return not all(any(_misread(mark, read) for read in many) for mark in few[:MISREAD_MAX])


def _misread(one: str, other: str) -> bool:
    """Whether one is the other, read poorly: most of its letters stand in it."""
    common = len(set(one) & set(other))
    return common >= MISREAD_LIKENESS * max(len(set(one)), len(set(other)))


def _replaced(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether each has something the other lacks."""
    return not (one <= other or other <= one)


class Arguments(Struct, frozen=True, gc=False):
    """What the arguments of a call come down to."""

    digest: int
    names: tuple[str, ...]
    values: tuple[Fingerprint, ...]


NO_ARGUMENTS: Final = Arguments(0, (), ())


def of_arguments(arguments: Mapping[str, Any]) -> Arguments:
    """Fingerprint the arguments of a call, volatile ones left out."""
    names = sorted(name for name in arguments if name.lower() not in VOLATILE_KEYS)
    # An identifier or a time among the arguments is what is asked for, however volatile it looks.
    values = tuple(_of_value(_plain(arguments[name])) for name in names)
    digest = zlib.crc32(" ".join(f"{name}={value.digest}" for name, value in zip(names, values, strict=True)).encode())
    return Arguments(digest, tuple(names), values)


def echoes_of(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """What an answer may repeat of its call without saying anything: the ids that are new with every call."""
    return tuple(
        value
        for name, value in arguments.items()
        if name.lower() in VOLATILE_KEYS
        and isinstance(value, str)
        and _ECHO_MIN_CHARS <= len(value) <= _ECHO_MAX_CHARS
        and _DIGIT.search(value)
    )


def _of_value(text: str) -> Fingerprint:
    return _of_short(text) if len(text) <= _SHORT_CHARS else _of_any(text)


def _of_any(text: str) -> Fingerprint:
    value = of_text(text, masked=False)
    if not _CODE.search(text):
        return value
    # In code every sign matters: what was rewritten is another attempt, not another wording.
    whole = frozenset((str(value.literal),))
    return Fingerprint(value.literal, value.literal, whole, whole, value.chars)


_of_short: Final = lru_cache(maxsize=1024)(_of_any)
"""Switches, limits, cities: what is short is mostly said again."""


def same_arguments(one: Arguments, other: Arguments, *, in_other_words: bool) -> bool:
    """Whether two calls ask for the same.

    Names must agree. A short value must be equal or merely have gained or lost parts: `Paris` is not `Lyon`.

    Args:
        one: Arguments of a call.
        other: Arguments of another call of the same tool.
        in_other_words: Whether prose in them may be put in other words. True only where what came back shows that
            the wording made no difference, as a refusal does.
    """
    if one.digest == other.digest:
        return True
    if one.names != other.names or not one.names:
        return False
    return all(_same_value(a, b, in_other_words) for a, b in zip(one.values, other.values, strict=True))


def _same_value(one: Fingerprint, other: Fingerprint, in_other_words: bool) -> bool:
    if one.digest == other.digest:
        return True
    if one.empty or other.empty or _replaced(one.marks, other.marks):
        return False
    if likeness(one.words, other.words) < LONG_LIKENESS:
        return False
    if not _replaced(one.words, other.words):
        return True
    prose = min(len(one.words), len(other.words)) >= PHRASE_WORDS
    return in_other_words and prose


def filled_in(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether one word stands for another and all else is as it was: a form, filled in for the next."""
    return 0 < _size(one - other) <= 1 and 0 < _size(other - one) <= 1


def _size(words: Iterable[str]) -> float:
    """How many words they are; one sign of Han is a third of one."""
    return sum(1 / 3 if len(word) == 1 and not word.isascii() else 1.0 for word in words)


def places(one: Arguments, other: Arguments) -> tuple[tuple[int, int], ...]:
    """Where other words stand in arguments that are else the same, word by word: of which argument, and which of it.

    Nothing if they are not the same otherwise, or too long to tell.
    """
    found: list[tuple[int, int]] = []
    for index, (old, new) in enumerate(zip(one.values, other.values, strict=False)):
        if old.digest == new.digest:
            continue
        if not old.order or len(old.order) != len(new.order):
            return ()
        pairs = enumerate(zip(old.order, new.order, strict=True))
        found += [(index, place) for place, (was, now) in pairs if was != now]
    return tuple(found) if one.names == other.names else ()


def _plain(value: Any, depth: int = 0) -> str:
    """A value as text: nested values in a fixed order, without volatile keys."""
    if isinstance(value, str):
        return value
    if depth == DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        kept: Iterable[str] = (str(key) for key in sorted(value, key=str) if str(key).lower() not in VOLATILE_KEYS)
        return " ".join(f"{key} {_plain(value.get(key), depth + 1)}" for key in kept)
    if isinstance(value, list | tuple):
        return " ".join(_plain(item, depth + 1) for item in value)
    return str(value)
