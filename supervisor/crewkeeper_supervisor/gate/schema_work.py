"""Schema work: how often parts of a JSON Schema are evaluated for one value at most, counted without evaluating any.

A schema of a few lines can ask for more evaluations than there is time for: parts that each refer to the next one twice
double their number with every part. What is applied to the same value adds up here; what is applied to the values in it
counts for those. A part that refers to itself without going into a value is no schema that means anything.
"""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

WORK_MAX: Final = 5000
"""Evaluations for one value, each of some ten nanoseconds at best; schemas that people write need some hundred."""
CHAIN_MAX: Final = 100
"""Parts that may be applied to one value because each is named, or held, by the one before."""
NAMED_MAX: Final = 100
"""Parts with a name of their own, each of which may be what others refer to."""
_FOREIGN_WORK: Final = 100
"""Of the schema of JSON Schema itself, which is known without being fetched."""
_FOREIGN: Final = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_SAME: Final = ("not", "if", "then", "else")
_SAME_LISTS: Final = ("allOf", "anyOf", "oneOf")
_SAME_MAPS: Final = ("dependentSchemas", "dependencies")
_BELOW: Final = ("additionalProperties", "propertyNames", "items", "additionalItems", "contains")
_BELOW_LISTS: Final = ("prefixItems", "items")
_BELOW_MAPS: Final = ("properties", "patternProperties")
_REST: Final = ("unevaluatedProperties", "unevaluatedItems")
"""What is left over is known only once all that is applied to the same value has been evaluated once more."""
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")


class TooMuchWork(ValueError):  # noqa: N818 - what it is
    """A schema is more work than there is time for, or nobody can say how much it is."""


def check(schema: dict[str, Any]) -> None:
    """Refuse a schema that is too much work for any one value.

    Raises:
        TooMuchWork: With what is wrong in words.
    """
    _Counted(schema).run()


class _Counted:
    """One schema being counted."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._anchors: dict[str, list[Any]] = {}
        self._resources = [("", schema)]
        for name, part in _named(schema):
            if name.startswith("#"):
                self._anchors.setdefault(name, []).append(part)
            else:
                self._resources.append((name, part))
        if len(self._resources) > NAMED_MAX:
            raise TooMuchWork(f"more than {NAMED_MAX} of its parts have an $id")
        self._knows_foreign = not any(_is_called(name, _FOREIGN) for name, _ in self._resources)
        self._known: dict[int, int] = {}

    def run(self) -> None:
        rest: list[Any] = [self._schema]
        seen: set[int] = set()
        while rest:
            part = rest.pop()
            if not isinstance(part, dict) or id(part) in seen:
                continue
            seen.add(id(part))
            if self._work(part, {}) > WORK_MAX:
                raise TooMuchWork(f"a value may have to be held to more than {WORK_MAX} parts of it")
            rest += self._applied(part)
            rest += _below(part)

    def _work(self, part: Any, under_way: dict[int, None]) -> int:
        if not isinstance(part, dict):
            return 1
        key = id(part)
        if key in self._known:
            return self._known[key]
        if key in under_way:
            raise TooMuchWork("a part of it refers to itself without going into a value")
        if len(under_way) >= CHAIN_MAX:
            raise TooMuchWork(f"more than {CHAIN_MAX} parts of it lead to each other without going into a value")
        under_way[key] = None
        same = 0
        for each in self._applied(part):
            same += self._work(each, under_way)
        same += _FOREIGN_WORK * sum(1 for name in _REFERENCES if self._is_foreign(part.get(name)))
        del under_way[key]
        self._known[key] = 1 + (2 * same if any(name in part for name in _REST) else same)
        return self._known[key]

    def _applied(self, part: dict[str, Any]) -> Iterator[Any]:
        """What is applied to the same value."""
        for name in _REFERENCES:
            if isinstance(part.get(name), str) and not self._is_foreign(part[name]):
                yield from self._targets(part[name])
        for name in _SAME:
            if name in part:
                yield part[name]
        for name in _SAME_LISTS:
            yield from _listed(part.get(name))
        for name in _SAME_MAPS:
            yield from _mapped(part.get(name))

    def _is_foreign(self, reference: Any) -> bool:
        return self._knows_foreign and isinstance(reference, str) and reference.removesuffix("#") == _FOREIGN

    def _targets(self, reference: str) -> list[Any]:
        """What it may refer to: where parts have names of their own, every one that it could be within."""
        head, _, pointer = unquote(reference).partition("#")
        named = self._resources if not head else [each for each in self._resources if _is_called(each[0], head)]
        found = list(self._anchors.get(f"#{pointer}", ())) if pointer and not pointer.startswith("/") else []
        if not pointer or pointer.startswith("/"):
            found = [at for _, part in named if (at := _at(part, pointer)) is not None]
        if not found:
            raise TooMuchWork(f"it refers to {reference[:100]!r}, which is not found in it")
        return found


def _is_called(name: str, head: str) -> bool:
    return name.rstrip("/").rpartition("/")[2] == head.rstrip("/").rpartition("/")[2]


def _at(part: Any, pointer: str) -> Any:
    for escaped in pointer.split("/")[1:]:
        step = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list):
            part = part[int(step)] if step.isascii() and step.isdigit() and int(step) < len(part) else None
        else:
            part = part.get(step) if isinstance(part, dict) else None
    return part


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapped(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _below(part: dict[str, Any]) -> Iterator[Any]:
    """What is applied to the values in a value."""
    for name in (*_BELOW, *_REST):
        yield part.get(name)
    for name in _BELOW_LISTS:
        yield from _listed(part.get(name))
    for name in _BELOW_MAPS:
        yield from _mapped(part.get(name))


def _named(schema: Any) -> Iterator[tuple[str, Any]]:
    """Names by which parts can be referred to, with those: of places with `#` before it."""
    rest = [schema]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            yield from ((f"#{each[name]}", each) for name in _ANCHORS if isinstance(each.get(name), str))
            if isinstance(each.get("$id"), str):
                yield each["$id"].partition("#")[0], each
            rest += each.values()
        elif isinstance(each, list):
            rest += each
