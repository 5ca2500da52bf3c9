"""Schema work: how often parts of a JSON Schema are evaluated for one value at most, counted without evaluating any.

A schema of a few lines can ask for more evaluations than there is time for: parts that each refer to the next one twice
double their number with every part, whether they are applied to the same value or to the values in it. A part that
refers to itself without going into a value is no schema that means anything.

Schemas that people write lead back to themselves, as expressions of two kinds do that are made of expressions. Whether
a value is good is found out once for each part then; but to say what is wrong with it takes as many evaluations as
there are ways to it, which double with every level. So those are counted, too, for as deep as a value is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote

WORK_MAX: Final = 5000
"""Evaluations for one value, each of some ten nanoseconds at best; schemas that people write need some hundred."""
CHAIN_MAX: Final = 100
"""Parts that may be applied to one value because each is named, or held, by the one before."""
NAMED_MAX: Final = 100
"""Parts with a name of their own, each of which may be what others refer to."""
_TOO_MUCH: Final = f"a value may have to be held to more than {WORK_MAX} parts of it"
_FOREIGN_WORK: Final = 100
"""Of the schema of JSON Schema itself, which is known without being fetched."""
_FOREIGN: Final = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_SAME: Final = ("not", "if", "then", "else")
_SAME_LISTS: Final = ("allOf", "anyOf", "oneOf")
_SAME_MAPS: Final = ("dependentSchemas", "dependencies")
_BELOW: Final = ("additionalProperties", "propertyNames", "items", "additionalItems", "contains")
_BELOW_LISTS: Final = ("prefixItems", "items")
_REST: Final = ("unevaluatedProperties", "unevaluatedItems")
"""What is left over is known only once all that is applied to the same value has been evaluated once more."""
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")
_COUNTED_MAX: Final = 10**6
"""Larger numbers are of no interest."""
_ANY: Final = ("", "")
"""In place of the name or number of a value in a value: of every one."""

_Place = tuple[str, str]


class TooMuchWork(ValueError):  # noqa: N818 - what it is
    """A schema is more work than there is time for, or nobody can say how much it is."""


class Work:
    """The work that one schema is.

    Args:
        schema: The schema.

    Raises:
        TooMuchWork: It is too much for any one value; with what is wrong in words.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        """Count."""
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
        self._parts: dict[int, tuple[list[int], list[tuple[_Place, int]], int]] = {}
        """What each part applies to the same value, and to those in it, and how often it does."""
        self._run()
        self._levels = [self._known[id(schema)]]
        """The most of any level so far, by level; `_counts` are those of the last one, of each part."""
        self._counts = self._known
        self._is_steady = False

    def to_tell(self, depth: int) -> int:
        """How many evaluations it takes for one value to say what is wrong, at most; of values nested so deep."""
        while len(self._levels) <= depth and self._levels[-1] < _COUNTED_MAX and not self._is_steady:
            made: dict[int, Counter[_Place]] = {}
            counts = {key: _largest(self._into(key, self._counts, {}, made)) for key in self._parts}
            self._is_steady, self._counts = counts == self._counts, counts
            self._levels.append(max(self._levels[-1], counts[id(self._schema)]))
        return self._levels[min(depth, len(self._levels) - 1)]

    def _run(self) -> None:
        rest: list[Any] = [self._schema]
        while rest:
            part = rest.pop()
            if not isinstance(part, dict) or id(part) in self._parts:
                continue
            if self._work(part, {}) > WORK_MAX:
                raise TooMuchWork(_TOO_MUCH)
            same = [each for each in self._applied(part) if isinstance(each, dict)]
            below = [(place, each) for place, each in _below(part) if isinstance(each, dict)]
            times = 2 if any(name in part for name in _REST) else 1
            self._parts[id(part)] = [id(each) for each in same], [(place, id(each)) for place, each in below], times
            rest += [*same, *(each for _, each in below)]
        self._check_levels()

    def _check_levels(self) -> None:
        """Refuse what is too much for a value further down, but for what leads back to itself."""
        edges = sum(len(same) + len(below) for same, below, _ in self._parts.values())
        if edges < len(self._parts) <= WORK_MAX and all(times == 1 for _, _, times in self._parts.values()):
            return  # nothing is referred to, so each part is applied once
        rings = _rings({key: [*same, *(end for _, end in below)] for key, (same, below, _) in self._parts.items()})
        counts, made = dict(self._known), dict[int, Counter[_Place]]()
        for key in reversed(rings):  # who is led to comes first
            counts[key] = max(counts[key], _largest(self._into(key, counts, rings, made)))
            if counts[key] > WORK_MAX:
                raise TooMuchWork(_TOO_MUCH)

    def _into(
        self, key: int, counts: dict[int, int], rings: dict[int, int], made: dict[int, Counter[_Place]]
    ) -> Counter[_Place]:
        """Evaluations for the values in a value that a part is applied to, by their places; `counts`: of each part."""
        if key not in made:
            same, below, times = self._parts[key]
            total: Counter[_Place] = Counter()
            for place, end in below:
                if not rings or rings[key] != rings[end]:
                    total[place] += counts[end]
            for end in same:
                total.update(self._into(end, counts, rings, made))
            made[key] = Counter({place: min(_COUNTED_MAX, times * count) for place, count in total.items()})
        return made[key]

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


def _below(part: dict[str, Any]) -> Iterator[tuple[_Place, Any]]:
    """What is applied to the values in a value, with which of them."""
    for name in (*_BELOW, *_REST):
        yield _ANY, part.get(name)
    for name in _BELOW_LISTS:
        yield from (((name, str(place)), below) for place, below in enumerate(_listed(part.get(name))))
    named = part.get("properties")
    if isinstance(named, dict):
        yield from ((("properties", name), below) for name, below in named.items())
    yield from ((_ANY, below) for below in _mapped(part.get("patternProperties")))


def _largest(counts: Counter[_Place]) -> int:
    """The most of any one place."""
    return counts[_ANY] + max((count for place, count in counts.items() if place != _ANY), default=0)


def _rings(edges: dict[int, list[int]]) -> dict[int, int]:
    """Which parts lead to each other: one number for each ring of them, by part, and rings before those they lead to.

    Kosaraju 1978, as told by Sharir 1981.
    """
    back: dict[int, list[int]] = {key: [] for key in edges}
    for key, ends in edges.items():
        for end in ends:
            back[end].append(key)
    found: dict[int, int] = {}
    for key in reversed(_by_end(edges, edges, {})):
        if key not in found:
            found |= dict.fromkeys(_by_end([key], back, found), key)
    return found


def _by_end(begins: Iterable[int], edges: dict[int, list[int]], known: dict[int, int]) -> list[int]:
    """What can be reached, but for what is known; each after what can be reached from it."""
    ended: list[int] = []
    seen: dict[int, None] = {}
    for begin in begins:
        rest = [(begin, iter(edges[begin]))] if begin not in seen else []
        seen[begin] = None
        while rest:
            ends = rest[-1][1]
            end = next((each for each in ends if each not in seen and each not in known), None)
            if end is None:
                ended.append(rest.pop()[0])
            else:
                seen[end] = None
                rest.append((end, iter(edges[end])))
    return ended


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
