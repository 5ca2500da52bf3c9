"""The walk over a crew file's nodes by the table of its format: shapes, unknown and missing keys, single values.

What keys mean together (who calls whom, what excludes what) is checked in `crewfile`.
"""

from enum import Enum
from typing import Any, Final, Literal

from crewkeeper_supervisor.shell.crew_kinds import Command, Free, Key, Kind, Listing, Ref, Section, Table, Text
from crewkeeper_supervisor.shell.crew_problems import Collector, Path, Severity, shown
from crewkeeper_supervisor.shell.crew_values import Unfit, parse_free, parse_scalar
from crewkeeper_supervisor.shell.yaml_nodes import Mapping, Node, Refused, Scalar, Sequence


class Invalid(Enum):
    """Stands for a value whose problem is already noted."""

    INVALID = "invalid"


INVALID: Final = Invalid.INVALID
Bad = Literal[Invalid.INVALID]
_WORD: Final = Text()


def nearest_place(places: dict[Path, tuple[int, int]], path: Path) -> tuple[int, int]:
    """Line and column of the value at `path`, or of the nearest above it that is in the file."""
    while path and path not in places:
        path = path[:-1]
    return places.get(path, (1, 1))


class Reading:
    """One walk. Afterwards `places` has the line and column (from 1) of every value and key met.

    Args:
        found: Where problems go.
        complete: False when the text broke off, so that missing keys prove nothing.
    """

    def __init__(self, found: Collector, *, complete: bool) -> None:
        """Begin with no places known."""
        self.found = found
        self.complete = complete
        self.places: dict[Path, tuple[int, int]] = {}
        self.keys: dict[Path, tuple[int, int]] = {}

    def add(self, code: str, path: Path, message: str, remedy: str, *, warning: bool = False) -> None:
        """Note a problem at the value of `path`, or at the nearest place above it that is in the file."""
        line, column = nearest_place(self.places, path)
        severity: Severity = "warning" if warning else "error"
        self.found.add(code, message, remedy, line=line, column=column, path=path, severity=severity)

    def add_at_key(self, code: str, path: Path, message: str, remedy: str, *, warning: bool = False) -> None:
        """Note a problem at the key of `path`."""
        line, column = self.keys.get(path, (1, 1))
        severity: Severity = "warning" if warning else "error"
        self.found.add(code, message, remedy, line=line, column=column, path=path, severity=severity)

    def read(self, node: Node, kind: Kind, path: Path = ()) -> Any:
        """The value of `node` under `kind`, or INVALID with the problem noted.

        Sections and tables become dicts of what the file has, lists keep an INVALID in its position.
        """
        self.places[path] = (node.line, node.column)
        if isinstance(node, Refused):
            return INVALID
        match kind:
            case Section():
                return self._section(node, kind, path) if isinstance(node, Mapping) else self._misshapen(node, path)
            case Table():
                return self._table(node, kind, path) if isinstance(node, Mapping) else self._misshapen(node, path)
            case Listing():
                return self._listing(node, kind, path)
            case Free():
                return self.free(node, path) if isinstance(node, Mapping) else self._misshapen(node, path)
            case Command() if isinstance(node, Sequence):
                return self._command(node, path)
            case Ref():
                return self.read_ref(node, kind, path)
        if not isinstance(node, Scalar):
            shape = "a list" if isinstance(node, Sequence) else "a mapping"
            self.add("CREW-112", path, f"is {shape}, not a single value", "give it one value")
            return INVALID
        return self._scalar(node, kind, path)

    def read_ref(self, node: Node, kind: Ref, path: Path) -> Any:
        """The value of `node` under a kind that a format defines for itself; a format that has some overrides this."""
        raise AssertionError(f"no format here defines {kind.name}")

    def _scalar(self, node: Scalar, kind: Kind, path: Path) -> Any:
        try:
            return parse_scalar(node, kind)
        except Unfit as unfit:
            self.add(unfit.code, path, unfit.message, unfit.remedy)
            return INVALID

    def free(self, node: Node, path: Path) -> Any:
        """A value without a format, as JSON would have it. Depth is bounded by the tree."""
        self.places[path] = (node.line, node.column)
        match node:
            case Refused():
                return INVALID
            case Mapping():
                for name, _ in node.entries:
                    self.keys[(*path, name.value)] = (name.line, name.column)
                made = {name.value: self.free(child, (*path, name.value)) for name, child in node.entries}
                return INVALID if INVALID in made.values() else made
            case Sequence():
                items = [self.free(item, (*path, index)) for index, item in enumerate(node.items)]
                return INVALID if INVALID in items else items
            case Scalar():
                try:
                    return parse_free(node)
                except Unfit as unfit:
                    self.add(unfit.code, path, unfit.message, unfit.remedy)
                    return INVALID

    def _misshapen(self, node: Node, path: Path) -> Bad:
        if isinstance(node, Scalar) and node.plain and node.reading == "null":
            self.add("CREW-111", path, "has no value", "give it its keys, or remove it")
        else:
            shape = "a list" if isinstance(node, Sequence) else "a single value"
            self.add("CREW-112", path, f"is {shape}, not a mapping", "write it as key: value, indented below")
        return INVALID

    def _section(self, node: Mapping, kind: Section, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        present: set[str] = set()
        for name, child in node.entries:
            at = (*path, name.value)
            self.keys[at] = (name.line, name.column)
            key = kind.find(name.value)
            if key is None:
                self._unknown(name, kind, at)
                continue
            present.add(key.name)
            value = self.read(child, key.kind, at)
            if value is not INVALID:
                values[key.name] = value
        if self.complete:
            for key in kind.keys:
                if key.required and key.name not in present:
                    self._missing(key, path)
        return values

    def _unknown(self, name: Scalar, kind: Section, at: Path) -> None:
        names = [key.name for key in kind.keys]
        self.found.add(
            "CREW-110",
            f"unknown key {shown(name.value)} in {kind.title}{self.found.suggest(name.value, names)}",
            f"use one of {', '.join(names)}",
            line=name.line,
            column=name.column,
            path=at,
        )

    def _missing(self, key: Key, path: Path) -> None:
        self.add("CREW-111", path, f"the key {shown(key.name)} is missing", f"add {key.name}: {key.doc.rstrip('.')}")

    def _table(self, node: Mapping, kind: Table, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, child in node.entries:
            at = (*path, name.value)
            self.keys[at] = (name.line, name.column)
            try:
                word = parse_scalar(name, kind.key)
            except Unfit as unfit:
                self.add_at_key(unfit.code, at, f"{kind.what} name {unfit.message}", unfit.remedy)
                word = None
            value = self.read(child, kind.of, at)
            if word is not None:
                values[word] = value
        self._check_length(len(node.entries) + node.refused, kind.min_items, kind.max_items, path)
        return values

    def _listing(self, node: Node, kind: Listing, path: Path) -> list[Any] | Bad:
        if not isinstance(node, Sequence):
            if isinstance(node, Scalar) and node.plain and node.reading == "null":
                self.add("CREW-111", path, "has no value", "write [] for none, or remove the key")
            elif isinstance(node, Scalar):
                self.add("CREW-112", path, f"is {shown(node.value)}, not a list", f"write [{shown(node.value)[1:-1]}]")
            else:
                self.add("CREW-112", path, "is a mapping, not a list", "put '- ' before each entry")
            return INVALID
        values = [self.read(item, kind.of, (*path, index)) for index, item in enumerate(node.items)]
        self._check_length(len(values), kind.min_items, kind.max_items, path)
        if kind.unique:
            seen: set[Any] = set()
            for index, value in enumerate(values):
                if value is INVALID:
                    continue
                if value in seen:
                    self.add("CREW-107", (*path, index), f"{shown(str(value))} is listed twice", "keep one of them")
                seen.add(value)
        return values

    def _command(self, node: Sequence, path: Path) -> tuple[str, ...] | Bad:
        words = [self.read(item, _WORD, (*path, index)) for index, item in enumerate(node.items)]
        if not words:
            self.add("CREW-111", path, "is empty", "write a command line such as [python, planner.py]")
            return INVALID
        return INVALID if INVALID in words else tuple(words)

    def _check_length(self, length: int, low: int, high: int, path: Path) -> None:
        if length < low and self.complete:
            self.add("CREW-115", path, f"has {length} entries; the least is {low}", "add one")
        elif length > high:
            self.add("CREW-115", path, f"has {length} entries; the limit is {high}", "remove some")
