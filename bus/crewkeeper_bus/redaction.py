"""Redaction: secrets and personal data out of text and JSON values, replaced by placeholders that can be compared.

What they look like is in `secret_patterns` and `personal_patterns`. A placeholder names the kind and a keyed hash of
what stood there, so equal secrets stay equal and nobody without the key can try candidates. Redacting twice changes
nothing. What is split over several texts, encoded or spelled out is not found: leaks become fewer, none is ruled out.
"""

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_bus import detectors, personal_patterns, secret_patterns
from crewkeeper_bus.redaction_glance import Glance
from crewkeeper_bus.secret_patterns import Detector, is_secret_field

HASH_CHARS: Final = 12
MAX_DEPTH: Final = 200
"""Nesting of values; the codec admits less."""
FIELD: Final = "secret_field"
"""Kind of a text whose field is named like a secret."""

KINDS: Final[dict[str, str]] = {
    **{each.kind: "secrets" for each in secret_patterns.DETECTORS},
    FIELD: "secrets",
    **{each.kind: "personal" for each in personal_patterns.DETECTORS},
}
"""Every kind that is found, and its class."""
CLASSES: Final = ("secrets", "personal")
_PLACEHOLDER: Final = re.compile(r"\[redacted:[a-z_]{1,32}(?::[0-9a-f]{12})?\]")
_MIN_CHARS: Final = 6
_ROUNDS_MAX: Final = 8
_DIGITS: Final = re.compile(r"[0-9]{2}")


class Found(Struct, frozen=True, kw_only=True):
    """One replacement. `path` is where, as `args.items[2].note`; empty in plain text. What stood there is not kept."""

    kind: str
    path: str = ""
    digest: str = ""
    """The keyed hash, equal for equal secrets of one key; empty without a key."""


class TooDeep(ValueError):  # noqa: N818 - what is the case, like the other errors of the bus
    """A value is nested deeper than `MAX_DEPTH`; its sender must flatten it."""


class Redactor:
    """Replaces what it is told to look for. Safe to use from several threads.

    Args:
        key: Key of the hash, best 32 random bytes kept for as long as placeholders are to be compared; empty: none.
        kinds: Kinds and classes to look for, and detectors from elsewhere; all kinds when not given.

    Raises:
        ValueError: A kind that does not exist.
        DetectorMissing: A detector that is not there.
    """

    def __init__(self, key: bytes = b"", kinds: Collection[str] = CLASSES) -> None:
        """Choose the detectors."""
        unknown = [kind for kind in kinds if not (kind in KINDS or kind in CLASSES or detectors.is_detector(kind))]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is nothing to redact; use {', '.join((*CLASSES, *KINDS))}")
        wanted = {kind for kind, class_ in KINDS.items() if kind in kinds or class_ in kinds}
        self._key = key
        self._fields = FIELD in wanted
        every = (*secret_patterns.DETECTORS, *personal_patterns.DETECTORS)
        chosen = [each for each in every if each.kind in wanted]
        self._glance = Glance(chosen, fields=self._fields)
        # Most texts hold nothing: a literal is looked for in a tenth of the time of an expression.
        self._hinted = tuple((hint, each) for each in chosen for hint in each.hints)
        self._numeric = tuple(each for each in chosen if not each.hints)
        self._found_elsewhere = tuple(detectors.load(kind) for kind in kinds if detectors.is_detector(kind))

    def text(self, text: str) -> tuple[str, list[Found]]:
        """Redact plain text.

        Returns:
            The text, and what was replaced, in its order.
        """
        found: list[Found] = []
        return self._clean(text, "", found), found

    def value(self, value: Any, path: str = "") -> tuple[Any, list[Found]]:
        """Redact a JSON value: its texts, the names of its fields, and the texts of fields named like secrets.

        Args:
            value: Mappings, lists, texts, numbers; never changed, copied where something is replaced.
            path: Where it stands, for the report.

        Raises:
            TooDeep: It is nested deeper than `MAX_DEPTH`.
        """
        found: list[Found] = []
        return self._walk(value, path, found, 0), found

    def json(self, raw: bytes) -> tuple[bytes, list[Found]]:
        """Redact an encoded JSON value; the very same bytes where there is nothing to replace.

        Raises:
            TooDeep: It is nested deeper than `MAX_DEPTH`.
            ValueError: It is not JSON, or not UTF-8.
        """
        if not self._found_elsewhere and self._glance.is_clean(raw.decode()):
            return raw, []
        value, found = self.value(msgspec.json.decode(raw))
        return (msgspec.json.encode(value), found) if found else (raw, found)

    def placeholder(self, kind: str, secret: str) -> str:
        """What stands for `secret`."""
        digest = self.digest(secret)
        return f"[redacted:{kind}:{digest}]" if digest else f"[redacted:{kind}]"

    @staticmethod
    def is_placeholder(text: str) -> bool:
        """Whether the whole text is a placeholder already."""
        return _PLACEHOLDER.fullmatch(text) is not None

    def digest(self, secret: str) -> str:
        """The keyed hash of `secret`; empty without a key."""
        if not self._key:
            return ""
        # The kind is left out: the same secret is the same, however it was recognised.
        raw = secret.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, raw, hashlib.sha256).hexdigest()[:HASH_CHARS]

    def _walk(self, value: Any, path: str, found: list[Found], depth: int) -> Any:
        if isinstance(value, str):
            return self._clean(value, path, found)
        if depth >= MAX_DEPTH and isinstance(value, dict | list | tuple):
            raise TooDeep(f"the value at {path[:100]!r} is nested deeper than {MAX_DEPTH} levels; flatten it")
        if isinstance(value, dict):
            return self._fields_of(value, path, found, depth)
        if isinstance(value, list | tuple):
            return [self._walk(each, f"{path}[{index}]", found, depth + 1) for index, each in enumerate(value)]
        if isinstance(value, int) and not isinstance(value, bool) and value > 10**13:
            # A card number may come as a number.
            text = str(value)
            cleaned = self._clean(text, path, found)
            return value if cleaned == text else cleaned
        return value

    def _fields_of(self, value: dict[Any, Any], path: str, found: list[Found], depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for name, child in value.items():
            if not isinstance(name, str):
                made[name] = self._walk(child, f"{path}.{name}", found, depth + 1)
                continue
            shown = self._clean(name, f"{path}.{{name}}", found)
            at = f"{path}.{shown}" if path else shown
            if (
                self._fields
                and isinstance(child, str)
                and is_secret_field(name, child)
                and not self.is_placeholder(child)
            ):
                found.append(Found(kind=FIELD, path=at, digest=self.digest(child)))
                made[_unused(shown, made)] = self.placeholder(FIELD, child)
                continue
            made[_unused(shown, made)] = self._walk(child, at, found, depth + 1)
        return made

    def _clean(self, text: str, path: str, found: list[Found]) -> str:
        for _ in range(_ROUNDS_MAX):
            spans = self._spans(text)
            if not spans:
                return text
            # What stood against a secret may come to stand alone when that is replaced, so look again.
            text = self._replaced(text, spans, path, found)
        spans = self._spans(text)
        if not spans:
            return text
        # Only a text made for it goes on and on; it is replaced as a whole rather than looked at for ever.
        found.append(Found(kind=spans[0][2], path=path, digest=self.digest(text)))
        return self.placeholder(spans[0][2], text)

    def _replaced(self, text: str, spans: list[tuple[int, int, str]], path: str, found: list[Found]) -> str:
        parts: list[str] = []
        at = 0
        for start, end, kind in _merged(spans):
            secret = text[start:end]
            parts += (text[at:start], self.placeholder(kind, secret))
            found.append(Found(kind=kind, path=path, digest=self.digest(secret)))
            at = end
        return "".join((*parts, text[at:]))

    def _spans(self, text: str) -> list[tuple[int, int, str]]:
        if len(text) < _MIN_CHARS:
            return []
        looked_for = [each for hint, each in self._hinted if hint in text]
        if self._numeric and _DIGITS.search(text):
            looked_for += self._numeric
        if not looked_for and not self._found_elsewhere:
            return []
        spans = [(start, end, each.kind) for each in looked_for for start, end in _matches(each, text)]
        spans += [place for find in self._found_elsewhere for place in detectors.places(find, text)]
        if not spans:
            return []
        return _outside(spans, [match.span() for match in _PLACEHOLDER.finditer(text)])


def _unused(name: str, made: dict[Any, Any]) -> str:
    """The name, or with a number behind it when two names have become one placeholder."""
    unique, number = name, 2
    while unique in made:
        unique, number = f"{name}#{number}", number + 1
    return unique


def _matches(detector: Detector, text: str) -> Iterable[tuple[int, int]]:
    for match in detector.pattern.finditer(text):
        if detector.fits is None or detector.fits(match[detector.group]):
            yield match.span(detector.group)


def _outside(spans: list[tuple[int, int, str]], done: list[tuple[int, int]]) -> list[tuple[int, int, str]]:
    """The spans that no placeholder is part of; both in one pass, for there may be many of either."""
    if not done:
        return spans
    spans.sort()
    kept = []
    at = 0
    for span in spans:
        while at < len(done) and done[at][1] <= span[0]:
            at += 1
        if at == len(done) or done[at][0] >= span[1]:
            kept.append(span)
    return kept


def _merged(spans: list[tuple[int, int, str]]) -> Iterable[tuple[int, int, str]]:
    """Spans in order, those that overlap made one, under the kind of the first, and of the longer among equals."""
    spans.sort(key=lambda span: (span[0], -span[1]))
    start, end, kind = spans[0]
    for its_start, its_end, its_kind in spans[1:]:
        if its_start < end:
            end = max(end, its_end)
        else:
            yield start, end, kind
            start, end, kind = its_start, its_end, its_kind
    yield start, end, kind
