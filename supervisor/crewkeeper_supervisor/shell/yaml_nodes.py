"""YAML text as a tree of nodes with positions, the dangerous half of YAML refused; what keys mean is not known here.

The tree is built from PyYAML's *events*, in a loop without recursion, so that depth is checked before anything nests
and an alias is never followed: a bomb is refused at its first anchor, a tower of brackets at its 33rd. Plain
scalars keep the type that YAML 1.1 would give them, so that a reader can refuse `on` where a word is meant.
"""

import re
from typing import Any, Final

import yaml
from msgspec import Struct
from yaml.nodes import ScalarNode
from yaml.resolver import Resolver

from crewkeeper_supervisor.shell.crew_problems import Collector, Path, shown

MAX_FILE_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 32
_STR_TAG: Final = "tag:yaml.org,2002:str"
_TAG_PREFIX: Final = "tag:yaml.org,2002:"
_TAB_INDENT: Final = re.compile(r"[ ]*\t")
_RESOLVER: Final = Resolver()
_PLAIN_REMEDY: Final = "write the value out; crew files have no anchors, aliases, merge keys or tags"


class Scalar(Struct, frozen=True, kw_only=True):
    """A single value as written. `reading` is what YAML 1.1 makes of it: str, bool, int, float, null, timestamp."""

    value: str
    line: int
    column: int
    plain: bool
    reading: str


class Sequence(Struct, kw_only=True):
    """A list of nodes."""

    line: int
    column: int
    items: "list[Node]"


class Mapping(Struct, kw_only=True):
    """Keys with their values, in the order of the file, without duplicates.

    `refused` counts the entries left out because of their keys.
    """

    line: int
    column: int
    entries: "list[tuple[Scalar, Node]]"
    refused: int = 0


class Refused(Struct, frozen=True, kw_only=True):
    """Stands where a node was refused; the problem is already noted, so readers pass over it."""

    line: int
    column: int


Node = Scalar | Sequence | Mapping | Refused


class Document(Struct, kw_only=True):
    """The tree of a file. `complete` is False when the text broke off: what is missing proves nothing."""

    root: Node | None
    complete: bool


class _Open(Struct):
    """A collection being filled."""

    node: Sequence | Mapping
    path: Path
    seen: dict[str, int]
    key: Scalar | Refused | None = None


def decode(data: bytes, file: str) -> tuple[str, Collector]:
    """Turn the bytes of a file into text, and start the collection of its problems.

    Raises:
        CrewFileError: Too large, or not UTF-8.
    """
    if len(data) > MAX_FILE_BYTES:
        found = Collector(file)
        found.add(
            "CREW-102",
            f"the file is larger than {MAX_FILE_BYTES // 1024} KiB, the limit of a crew file",
            "declare the agents that differ; equal ones are `replicas` of one",
        )
        found.raise_if_any()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = Collector(file)
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        found.add(
            "CREW-103",
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            "save the file as UTF-8",
            line=line,
            column=column,
        )
        found.raise_if_any()
        raise AssertionError("unreachable: a problem was noted") from None
    return text, Collector(file, text)


def compose(text: str, found: Collector) -> Document:
    """Build the tree of `text`; problems go to `found`.

    Work is linear in the length of the text. Never raises for what the text holds.
    """
    return _Composer(text, found).run()


def root_of(document: Document, found: Collector, remedy: str) -> Node:
    """The root of a tree; `remedy` is for a file without one.

    Raises:
        CrewFileError: The file is empty, or its root was refused.
    """
    if document.root is None:
        if not found.problems:
            found.add("CREW-111", "the file is empty", remedy)
        found.raise_if_any()
        raise AssertionError("unreachable: a problem was noted")
    return document.root


class _Composer:
    """One pass over the events of one text."""

    def __init__(self, text: str, found: Collector) -> None:
        self.text = text
        self.found = found
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.documents = 0

    def run(self) -> Document:
        tabs = self._check_tabs()
        complete = False
        try:
            for event in yaml.parse(self.text, Loader=yaml.SafeLoader):
                if not self._take(event):
                    break
            else:
                complete = True
        except yaml.reader.ReaderError as error:
            self._reader_problem(error)
        except yaml.MarkedYAMLError as error:
            if not tabs:
                self._syntax_problem(error)
        except (ValueError, OverflowError) as error:
            # PyYAML lets a few through: "\U00110000" overflows chr(), an absurd %YAML version overflows int().
            self._add("CREW-105", f"a number or escape that YAML cannot hold ({error})", "remove it", 1, 1)
        return Document(root=self.root, complete=complete)

    def _add(self, code: str, message: str, remedy: str, line: int, column: int, path: Path = ()) -> None:
        self.found.add(code, message, remedy, line=line, column=column, path=path)

    def _check_tabs(self) -> bool:
        lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", self.text)
        bad = [(number, match.end()) for number, line in enumerate(lines, 1) if (match := _TAB_INDENT.match(line))]
        for line, column in bad:
            self._add("CREW-104", "a tab in the indentation", "indent with spaces", line, column)
        return bool(bad)

    def _reader_problem(self, error: yaml.reader.ReaderError) -> None:
        before = self.text[: error.position]
        line = before.count("\n") + 1
        column = error.position - before.rfind("\n")
        shape = f"U+{ord(error.character):04X}" if isinstance(error.character, str) else f"U+{error.character:04X}"
        self._add(
            "CREW-103", f"the character {shape} may not stand in YAML", 'write it as an escape in "…"', line, column
        )

    def _syntax_problem(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part) or "not valid YAML"
        remedy = "check the indentation, the colons and the closing quotes and brackets here and on the line before"
        if error.problem and "mapping values are not allowed" in error.problem:
            remedy = "indent the key like its neighbours, or quote a value that holds ': '"
        elif error.problem and "cannot start any token" in error.problem:
            remedy = "quote the value: it begins with a character that YAML keeps for itself"
        self._add("CREW-105", what, remedy, line, column)

    def _take(self, event: Any) -> bool:
        """Handle one event; False ends the pass."""
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.DocumentStartEvent):
            return self._begin_document(event, line, column)
        if isinstance(event, yaml.AliasEvent):
            self._add("CREW-106", f"the alias {shown(f'*{event.anchor}')}", _PLAIN_REMEDY, line, column, self._path())
            self._attach(Refused(line=line, column=column))
        elif isinstance(event, yaml.NodeEvent):
            return self._take_node(event, line, column)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()
        return True

    def _begin_document(self, event: yaml.DocumentStartEvent, line: int, column: int) -> bool:
        self.documents += 1
        if self.documents > 1:
            self._add("CREW-106", "a second document", "one crew per file; remove everything after '---'", line, column)
            return False
        if event.version or event.tags:
            self._add("CREW-106", "a %-directive", "remove the line that begins with '%'", line, column)
        return True

    def _take_node(self, event: Any, line: int, column: int) -> bool:
        path = self._path()
        if event.anchor is not None:
            self._add("CREW-106", f"the anchor {shown('&' + event.anchor)}", _PLAIN_REMEDY, line, column, path)
        if event.tag is not None:
            self._add("CREW-106", f"the tag {shown(event.tag)}", _PLAIN_REMEDY, line, column, path)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None
            reading = _read_plain(event.value) if plain else "str"
            self._attach(Scalar(value=event.value, line=line, column=column, plain=plain, reading=reading))
            return True
        if len(self.stack) >= MAX_DEPTH:
            self._add("CREW-108", f"nested deeper than {MAX_DEPTH} levels", "flatten it", line, column)
            return False
        node: Sequence | Mapping = (
            Sequence(line=line, column=column, items=[])
            if isinstance(event, yaml.SequenceStartEvent)
            else Mapping(line=line, column=column, entries=[])
        )
        self._attach(node)
        self.stack.append(_Open(node, path, {}))
        return True

    def _path(self) -> Path:
        """The path of the node that comes next."""
        if not self.stack:
            return ()
        top = self.stack[-1]
        if isinstance(top.node, Sequence):
            return (*top.path, len(top.node.items))
        return (*top.path, top.key.value) if isinstance(top.key, Scalar) else top.path

    def _attach(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is None:
            top.key = self._check_key(top, node)
        else:
            if isinstance(top.key, Scalar):
                top.node.entries.append((top.key, node))
            else:
                top.node.refused += 1
            top.key = None

    def _check_key(self, top: _Open, node: Node) -> Scalar | Refused:
        refused = Refused(line=node.line, column=node.column)
        if not isinstance(node, Scalar):
            if not isinstance(node, Refused):
                self._add("CREW-109", "a key that is a list or mapping", "use a word", node.line, node.column, top.path)
            return refused
        path = (*top.path, node.value)
        if node.plain and node.reading == "merge":
            self._add("CREW-106", "the merge key '<<'", _PLAIN_REMEDY, node.line, node.column, top.path)
            return refused
        if node.plain and node.reading != "str":
            self._add(
                "CREW-113",
                f"the key {node.value or 'without a name'} is read as {reading_text(node.reading)} by YAML 1.1",
                f'quote it: "{node.value}"' if node.value.isprintable() and len(node.value) < 40 else "quote it",
                node.line,
                node.column,
                top.path,
            )
            return refused
        if node.value in top.seen:
            self._add(
                "CREW-107",
                f"the key {shown(node.value)} is given twice, first in line {top.seen[node.value]}",
                "keep one of them",
                node.line,
                node.column,
                path,
            )
            return refused
        top.seen[node.value] = node.line
        return node


def reading_text(reading: str) -> str:
    """What YAML 1.1 makes of a plain scalar, in words."""
    words = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
    return words.get(reading, "something else")


def _read_plain(value: str) -> str:
    """The YAML 1.1 type of a plain scalar; y and n are booleans there, though PyYAML spares them."""
    if value in {"y", "Y", "n", "N"}:
        return "bool"
    tag = str(_RESOLVER.resolve(ScalarNode, value, (True, False)))  # type: ignore[no-untyped-call]
    return "str" if tag == _STR_TAG else tag.removeprefix(_TAG_PREFIX)
