"""The JSON Schema of crew files for editors, derived from the table of the format.

A file that the schema refuses is refused by the loader; the loader checks more (names, contradictions, exact ranges
of durations, counts and sizes written with a unit).
"""

from typing import Any, Final

from crewkeeper_supervisor.shell.crew_format import CREW
from crewkeeper_supervisor.shell.crew_kinds import (
    Choice,
    Command,
    Count,
    Duration,
    Flag,
    Free,
    Key,
    Kind,
    Listing,
    Money,
    Name,
    Ref,
    Section,
    Size,
    Table,
    Text,
    Whole,
)
from crewkeeper_supervisor.shell.crew_values import COUNT_UNITS, DURATION_UNITS_MS, SIZE_UNITS, duration_text

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NAME_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_-]*$"
_NUMBER: Final = "[0-9]{1,15}(\\.[0-9]{1,12})?"


def schema() -> dict[str, Any]:
    """The schema of a crew file (JSON Schema 2020-12), as plain data."""
    return {"$schema": DIALECT, "title": "Crewkeeper crew file", **_of(CREW)}


def describe(kind: Kind) -> str:
    """A kind of value in a few words with its limits, as documentation and editors show it."""
    match kind:
        case Text():
            what = "URL" if kind.url else "text"
            return f"{what}, at most {kind.max_chars} characters" + (", `${NAME}` allowed" if kind.variables else "")
        case Name():
            return f"name, at most {kind.max_chars} characters"
        case Flag():
            return "`true` or `false`"
        case Choice(options=options):
            return " / ".join(f"`{option}`" for option in options)
        case Command():
            return "command line, or list of words"
        case Whole() | Count():
            word = "whole number" if isinstance(kind, Whole) else "count"
            return f"{word}, at least {kind.low}" if kind.high >= 2**53 else f"{word}, {kind.low} to {kind.high}"
        case Duration():
            low = "above 0" if kind.positive else duration_text(kind.low_s)
            return f"duration, {low} to {duration_text(kind.high_s)}"
        case Money():
            return f"US dollars, 0 to {kind.high_usd}"
        case Size():
            return f"size, {kind.low} to {kind.high} bytes"
        case Listing(of=of):
            return f"list of {_plural(of)}"
        case Table():
            return f"mapping of {kind.what} names to {_plural(kind.of)}"
        case Section() | Ref():
            return "section"
        case Free():
            return "mapping of any values"


def schema_of(kind: Kind) -> dict[str, Any]:
    """The schema of one kind of value, as plain data; what a `Ref` names is to be found under `$defs`."""
    return _of(kind)


def _plural(kind: Kind) -> str:
    match kind:
        case Section(title=title):
            return f"`{title}` sections"
        case Name():
            return "names"
        case Text():
            return "texts"
        case Choice(options=options) if "warn" in options:
            return "actions"
    return "words"


def _of(kind: Kind) -> dict[str, Any]:
    match kind:
        case Section(keys=keys):
            made: dict[str, Any] = {
                "type": "object",
                "properties": {key.name: _key(key) for key in keys},
                "additionalProperties": False,
            }
            required = [key.name for key in keys if key.required]
            return made | ({"required": required} if required else {})
        case Table():
            return {
                "type": "object",
                "propertyNames": _of(kind.key),
                "additionalProperties": _of(kind.of),
                "minProperties": kind.min_items,
                "maxProperties": kind.max_items,
            }
        case Listing():
            return {
                "type": "array",
                "items": _of(kind.of),
                "minItems": kind.min_items,
                "maxItems": kind.max_items,
                "uniqueItems": kind.unique,
            }
        case Free():
            return {"type": "object"}
        case Ref(name=name):
            return {"$ref": f"#/$defs/{name}"}
        case Command():
            words = {"type": "string", "minLength": 1}
            return {"anyOf": [words, {"type": "array", "items": words, "minItems": 1}]}
    return _of_scalar(kind)


def _of_scalar(kind: Kind) -> dict[str, Any]:
    match kind:
        case Text():
            made: dict[str, Any] = {"type": "string", "maxLength": kind.max_chars, "minLength": 0 if kind.empty else 1}
            return made | ({"pattern": kind.pattern} if kind.pattern else {})
        case Name():
            return {"type": "string", "maxLength": kind.max_chars, "pattern": _NAME_PATTERN}
        case Flag():
            return {"type": "boolean"}
        case Choice():
            return {"enum": list(kind.options)}
        case Whole():
            return {"type": "integer", "minimum": kind.low, "maximum": kind.high}
        case Duration():
            low = {"exclusiveMinimum": 0} if kind.positive else {"minimum": kind.low_s}
            return _number({"type": "number", **low, "maximum": kind.high_s}, tuple(DURATION_UNITS_MS))
        case Money():
            return _number({"type": "number", "minimum": 0, "maximum": kind.high_usd}, ())
        case Count():
            return _number({"type": "integer", "minimum": kind.low, "maximum": kind.high}, tuple(COUNT_UNITS))
        case Size():
            return _number({"type": "integer", "minimum": kind.low, "maximum": kind.high}, tuple(SIZE_UNITS))
    raise AssertionError(f"not a scalar kind: {kind}")


def _number(plain: dict[str, Any], units: tuple[str, ...]) -> dict[str, Any]:
    """A number, or text of a number with one of the units."""
    suffix = f"({'|'.join(units)})?" if units else ""
    return {"anyOf": [plain, {"type": "string", "pattern": f"^{_NUMBER}{suffix}$"}]}


def _key(key: Key) -> dict[str, Any]:
    default = "" if key.required or not key.default else f" Default: {key.default}."
    return {**_of(key.kind), "description": f"{key.doc}{default}", "title": f"{key.name}: {describe(key.kind)}"}
