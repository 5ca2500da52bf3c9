"""How the text of one scalar in a crew file becomes a value: durations, money, counts, sizes, words.

Numbers are read from the text as written, in decimal, never from what a YAML parser made of it, so money is exact and
`010` is not eight. Shapes (lists, mappings) are read elsewhere.
"""

import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from crewkeeper_bus.errors import SubjectError
from crewkeeper_bus.subjects import check_agent
from crewkeeper_supervisor.shell.crew_kinds import (
    Choice,
    Command,
    Count,
    Duration,
    Flag,
    Kind,
    Money,
    Name,
    Size,
    Text,
    Whole,
)
from crewkeeper_supervisor.shell.crew_problems import nearest, shown
from crewkeeper_supervisor.shell.crew_variables import VARIABLE
from crewkeeper_supervisor.shell.yaml_nodes import Scalar, reading_text

DURATION_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZE_UNITS: Final = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1_000_000, "MiB": 1024 * 1024}
COUNT_UNITS: Final = {"k": 1000, "M": 1_000_000}
_NUMBER = r"(-?[0-9]{1,15}(?:\.[0-9]{1,12})?)"
_DURATION = re.compile(_NUMBER + r"(ms|s|m|h|d)?")
_SIZE = re.compile(_NUMBER + r"(B|kB|KiB|MB|MiB)?")
_COUNT = re.compile(_NUMBER + r"(k|M)?")
_DECIMAL = re.compile(_NUMBER)
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_FRACTION = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,17}([eE][-+]?[0-9]{1,2})?")
_TRAP = re.compile(r"[-+]?(0[0-9_]+|0[xob][0-9a-fA-F_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9]*_[0-9_]*|\+.*)")
_YES_NO: Final = {"y", "n", "yes", "no", "on", "off", "true", "false"}


class Unfit(ValueError):  # noqa: N818 - never leaves the loader
    """A scalar is not what its key wants. Carries code, message and remedy of the problem to be."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        """Hold the three parts."""
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


def parse_scalar(scalar: Scalar, kind: Kind) -> Any:
    """The value of `scalar` under `kind`: str, bool, int, float (seconds), or a tuple of words for a command.

    Raises:
        Unfit: It is not one, or out of range.
    """
    if scalar.plain and scalar.reading == "null":
        raise Unfit("CREW-111", "has no value", "give it a value, or remove the key")
    match kind:
        case Text():
            return _text(scalar, kind)
        case Name():
            return _name(_words(scalar), kind)
        case Flag():
            return _flag(scalar)
        case Choice():
            return _choice(_words(scalar), kind)
        case Command():
            return _command(_words(scalar))
        case Whole():
            return _whole(scalar, kind)
        case Duration():
            return _duration(scalar, kind)
        case Money():
            return _money(scalar, kind)
        case Count():
            return _scaled(scalar, _COUNT, COUNT_UNITS, (kind.low, kind.high), "a count such as 200, 400k or 1.5M")
        case Size():
            return _scaled(scalar, _SIZE, SIZE_UNITS, (kind.low, kind.high), "a size such as 65536, 256KiB or 1MiB")
    raise AssertionError(f"not a scalar kind: {kind}")


def parse_free(scalar: Scalar) -> str | bool | int | float | None:
    """The value of a scalar that may be anything, as JSON would read it; what YAML readers disagree on is refused.

    Raises:
        Unfit: YAML 1.1 reads a word or a number as something else than it looks.
    """
    text = scalar.value
    if not scalar.plain:
        return text
    match scalar.reading:
        case "null":
            return None
        case "bool" if text in {"true", "false"}:
            return text == "true"
        case "int" | "float" if not _TRAP.fullmatch(text):
            if _WHOLE.fullmatch(text):
                return int(text)
            if _FRACTION.fullmatch(text):
                return float(text)
    if scalar.reading != "str":
        raise Unfit(
            "CREW-113",
            f"{shown(text)} is read as {reading_text(scalar.reading)} by YAML 1.1",
            f'quote it: "{_brief(text)}"',
        )
    return text


def _words(scalar: Scalar) -> str:
    """The text of a scalar where text is meant; what YAML 1.1 reads otherwise must be quoted."""
    if scalar.plain and scalar.reading != "str":
        meant = reading_text(scalar.reading)
        raise Unfit(
            "CREW-113", f"{shown(scalar.value)} is read as {meant} by YAML 1.1", f'quote it: "{_brief(scalar.value)}"'
        )
    return scalar.value


def _brief(value: str) -> str:
    return shown(value)[1:-1]


def _text(scalar: Scalar, kind: Text) -> str:
    value = _words(scalar)
    if "\0" in value:
        raise Unfit("CREW-114", "holds a NUL character", "remove it")
    if len(value) > kind.max_chars:
        raise Unfit("CREW-115", f"has {len(value)} characters; the limit is {kind.max_chars}", "shorten it")
    if not value.strip() and not kind.empty:
        raise Unfit("CREW-111", "is empty", "give it a value, or remove the key")
    if kind.pattern and not re.fullmatch(kind.pattern.strip("^$"), value):
        raise Unfit("CREW-117", f"{shown(value)} is not a valid name", f"use {kind.hint}")
    if kind.variables:
        _check_variables(value)
    if kind.url:
        _check_url(value)
    return value


def _check_variables(value: str) -> None:
    rest = VARIABLE.sub("", value)
    at = rest.find("${")
    if at >= 0:
        raise Unfit(
            "CREW-121",
            f"{shown(rest[at : at + 40])} is not a reference to an environment variable",
            "write ${NAME} with letters, digits and _; write $${ for a plain ${",
        )


def _check_url(value: str) -> None:
    if VARIABLE.match(value):
        return
    try:
        parts = urlsplit(VARIABLE.sub("x", value))
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or any(char.isspace() or not char.isprintable() for char in value):
        raise Unfit("CREW-122", f"{shown(value)} is not an http or https address", "write https://host/path or ${NAME}")


def _name(value: str, kind: Name) -> str:
    if len(value) > kind.max_chars:
        raise Unfit(
            "CREW-117", f"{shown(value)} has {len(value)} characters; the limit is {kind.max_chars}", "shorten it"
        )
    remedy = "use letters, digits, _ and -, beginning with a letter or digit"
    try:
        check_agent(value)
    except SubjectError:
        raise Unfit("CREW-117", f"{shown(value)} is not a valid name", remedy) from None
    if value.startswith("-"):
        raise Unfit("CREW-117", f"{shown(value)} is not a valid name", remedy)
    return value


def _flag(scalar: Scalar) -> bool:
    if scalar.plain and scalar.value in {"true", "false"}:
        return scalar.value == "true"
    code = "CREW-113" if scalar.value.lower() in _YES_NO else "CREW-114"
    raise Unfit(code, f"{shown(scalar.value)} is not true or false", "write true or false, without quotes")


def _choice(value: str, kind: Choice) -> str:
    if value in kind.options:
        return value
    near = nearest(value, kind.options)
    hint = f" (did you mean {near!r}?)" if near else ""
    raise Unfit("CREW-116", f"{shown(value)} is not a choice{hint}", f"use {_either(kind.options)}")


def _either(options: tuple[str, ...]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def _command(value: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(value))
    except ValueError as error:
        raise Unfit("CREW-114", f"cannot be split into words: {error}", "close the quote, or write a list") from None
    if not words or not words[0]:
        raise Unfit("CREW-111", "is empty", "write a command line such as python planner.py")
    if "\0" in value:
        raise Unfit("CREW-114", "holds a NUL character", "remove it")
    return words


def _digits(scalar: Scalar, remedy: str) -> str:
    """The text of a number; octal, hexadecimal, sexagesimal and grouped spellings are refused by name."""
    if _TRAP.fullmatch(scalar.value):
        raise Unfit("CREW-113", f"{shown(scalar.value)} means different numbers to different YAML readers", remedy)
    if scalar.plain and scalar.reading in {"bool", "timestamp"}:
        raise Unfit("CREW-113", f"{shown(scalar.value)} is read as {reading_text(scalar.reading)} by YAML 1.1", remedy)
    return scalar.value


def _whole(scalar: Scalar, kind: Whole) -> int:
    remedy = f"write a whole number from {kind.low} to {kind.high}"
    text = _digits(scalar, remedy)
    if not scalar.plain:
        raise Unfit("CREW-112", f"{shown(text)} is text", f"{remedy}, without quotes")
    if not _WHOLE.fullmatch(text):
        raise Unfit("CREW-114", f"{shown(text)} is not a whole number", remedy)
    return int(_in_range(Decimal(text), text, kind.low, kind.high, remedy))


def _in_range(value: Decimal, text: str, low: float, high: float, remedy: str) -> Decimal:
    if not low <= value <= high:
        raise Unfit("CREW-115", f"{shown(text)} is out of range; the limit is {low:g} to {high:.10g}", remedy)
    return value


def _duration(scalar: Scalar, kind: Duration) -> float:
    low, high = duration_text(kind.low_s), duration_text(kind.high_s)
    span = f"more than 0, at most {high}" if kind.positive else f"from {low} to {high}"
    remedy = f"write a duration such as 250ms, 60s, 30m or 2h, {span}"
    text = _digits(scalar, remedy)
    found = _DURATION.fullmatch(text)
    if not found:
        raise Unfit("CREW-114", f"{shown(text)} is not a duration", remedy)
    seconds = float(Decimal(found[1]) * DURATION_UNITS_MS[found[2] or "s"] / 1000)
    if not kind.low_s <= seconds <= kind.high_s or (kind.positive and seconds == 0):
        raise Unfit("CREW-115", f"{shown(text)} is out of range; the limit is {span}", remedy)
    return seconds


def duration_text(seconds: float) -> str:
    """Seconds in the largest unit that divides them: 0.05 is `50ms`, 3600 is `1h`."""
    ms = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        if ms and ms % DURATION_UNITS_MS[unit] == 0:
            return f"{ms // DURATION_UNITS_MS[unit]}{unit}"
    return f"{ms}ms" if ms else "0"


def _money(scalar: Scalar, kind: Money) -> int:
    remedy = "write US dollars such as 5.00"
    text = _digits(scalar, remedy)
    if not _DECIMAL.fullmatch(text):
        raise Unfit("CREW-114", f"{shown(text)} is not an amount", remedy)
    microusd = _in_range(Decimal(text), text, 0, kind.high_usd, remedy) * 1_000_000
    if microusd != int(microusd):
        raise Unfit("CREW-115", f"{shown(text)} is finer than a millionth of a dollar", "write at most six decimals")
    return int(microusd)


def _scaled(
    scalar: Scalar, shape: re.Pattern[str], units: Mapping[str, int], limits: tuple[int, int], example: str
) -> int:
    remedy = f"write {example}, from {limits[0]} to {limits[1]}"
    text = _digits(scalar, remedy)
    found = shape.fullmatch(text)
    if not found:
        raise Unfit("CREW-114", f"{shown(text)} is not {example}", remedy)
    value = Decimal(found[1]) * (units[found[2]] if found[2] else 1)
    if value != int(value):
        raise Unfit("CREW-114", f"{shown(text)} is not a whole number", remedy)
    return int(_in_range(value, text, limits[0], limits[1], remedy))
