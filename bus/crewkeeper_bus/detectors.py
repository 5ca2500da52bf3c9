"""Detectors from elsewhere: packages that know more formats, and functions of users; loaded when they are asked for.

A detector is a function from a text to places in it: `find(text) -> [(begin, end, kind), …]`, in characters. What it
names is replaced like what the patterns here find. It is called from several threads, for every text that is looked
through, so it must be fast, and it must not use the network. One that fails, or names places that are not there, costs
its text: what nobody has looked through is not passed on.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from crewkeeper_bus.errors import ConfigError

Place = tuple[int, int, str]
Find = Callable[[str], Iterable[Place]]
MIN_CHARS: Final = 8
"""Shorter texts are not shown to detectors."""
FAILED: Final = "detector_failed"
"""Kind of a text that a detector could not look through."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*\Z")
_NO_KIND: Final = re.compile(r"[^a-z]+")
# What the patterns here find themselves, with checks, is left to them; so are dates, addresses of machines and places.
_PERSONAL: Final = ["SSN", "DE_SOCIAL_SECURITY_NUMBER", "DE_TAX_ID"]


class Package(NamedTuple):
    """An optional package."""

    module: str
    distribution: str
    extra: str
    """Of this project, which installs it."""


PACKAGES: Final = {
    "kingfisher": Package("kingfisher_sdk", "kingfisher-secret-scanner", "secrets"),
    "datafog": Package("datafog_core", "datafog-core", "pii"),
}


class DetectorMissing(ConfigError):  # noqa: N818 - what is the case
    """A detector was asked for that is not there; the text says how to get it."""


def is_detector(word: str) -> bool:
    """Whether a word names a detector: one of `PACKAGES`, or `module:function`."""
    return word in PACKAGES or _NAME.match(word) is not None


def lacks(word: str) -> str:
    """Why a detector of `PACKAGES` cannot be used here; empty: it is installed."""
    package = PACKAGES[word]
    if importlib.util.find_spec(package.module) is not None:
        return ""
    return f"the detector {word} needs the package {package.distribution}, which is not installed"


@lru_cache(maxsize=64)
def load(word: str) -> Find:
    """The detector of this name; kept, for some take seconds to be made.

    Raises:
        DetectorMissing: It is not installed, or there is no such function.
    """
    package = PACKAGES.get(word)
    if package is not None:
        if why := lacks(word):
            raise DetectorMissing(f"{why}: pip install 'crewkeeper[{package.extra}]'")
        return _kingfisher() if word == "kingfisher" else _datafog()
    module, _, name = word.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DetectorMissing(f"the detector {word!r} cannot be loaded: {error}") from None
    if not callable(found):
        raise DetectorMissing(f"the detector {word!r} is no function: give module:function")
    return found  # type: ignore[no-any-return]


def places(find: Find, text: str) -> list[Place]:
    """What a detector finds, with kinds as placeholders have them; all of the text if it fails.

    Args:
        find: The detector.
        text: The text.
    """
    if len(text) < MIN_CHARS:
        return []
    # Half a surrogate pair is no character to most libraries; what stands for it is as long.
    plain = text.encode("utf-8", "replace").decode()
    try:
        found = [(int(begin), int(end), kind_of(str(kind))) for begin, end, kind in find(plain)]
    except Exception:  # noqa: BLE001 - whatever it is that foreign code raises, the text was not looked through
        return [(0, len(text), FAILED)]
    if any(not 0 <= begin < end <= len(text) for begin, end, _ in found):
        return [(0, len(text), FAILED)]
    return found


def kind_of(name: str) -> str:
    """A kind as it stands in placeholders: small letters and `_`, 32 at most."""
    return _NO_KIND.sub("_", name.lower())[:32].strip("_") or "found"


def _kingfisher() -> Find:
    """Rules for hundreds of providers. Making it takes a second and 50 MB; it never checks what it finds online."""
    scanner: Any = importlib.import_module("kingfisher_sdk").Scanner(base64=False)

    def find(text: str) -> Iterable[Place]:
        raw = text.encode()
        for each in scanner.scan(raw):
            at = each.location
            begin, end = (len(raw[: at[key]].decode("utf-8", "ignore")) for key in ("start_offset", "end_offset"))
            yield begin, end, each.rule_id.partition(".")[2] or each.rule_id

    return find


def _datafog() -> Find:
    """Numbers that persons have, in the United States and Germany."""
    scan: Any = importlib.import_module("datafog_core").scan
    wanted = {"entities": _PERSONAL, "locale": "de"}

    def find(text: str) -> Iterable[Place]:
        for each in scan(text, wanted):
            if each.matched_text.isdigit():
                continue  # without separators it may be any number
            yield each.codepoint_range.start, each.codepoint_range.end, each.entity_type

    return find
