"""Where a character of a YAML scalar stands in its file: quotes, escapes, folded lines and blocks are followed."""

import re
from typing import Final

_ESCAPE_CHARS: Final = {"x": 2, "u": 4, "U": 8}
"""Digits of the escapes that have some."""
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def locate(text: str, start: tuple[int, int], value: str, offset: int) -> tuple[int, int]:
    """Line and column (from 1) of the character of `value` at `offset`.

    Args:
        text: The whole file.
        start: Line and column (from 1) where the scalar begins, its quote or block sign included.
        value: What the scalar was read as.
        offset: From 0; the length of `value` is its end.

    Returns:
        The place, or `start` when the file does not say the value there.
    """
    lines = _LINE_BREAK.split(text)
    at, column = start[0] - 1, start[1] - 1
    if at >= len(lines):
        return start
    opening = lines[at][column : column + 1]
    quote = opening if opening in ("'", '"') else ""
    indent: int | None = None
    if opening in ("|", ">"):
        at, column = at + 1, 0
        indent = next((_indent(line) for line in lines[at:] if line.strip()), 0)
    elif quote:
        column += 1
    for done, char in enumerate((*value, "")):
        at, column = _skip_break(lines, at, column, char, indent if quote == "" else quote)
        if done == offset:
            return (at + 1, column + 1) if at < len(lines) else start
        if at >= len(lines):
            return start
        width = _width(lines[at], column, char, quote)
        if width is None:
            return start
        at, column = (at + 1, 0) if width == 0 else (at, column + width)
    return start


def _width(line: str, column: int, char: str, quote: str) -> int | None:
    """How much of the line says `char`; 0 is its end, None is that something else stands there."""
    if char in " \n" and column >= len(line):
        return 0
    if quote == '"' and line[column : column + 1] == "\\":
        return 2 + _ESCAPE_CHARS.get(line[column + 1 : column + 2], 0)
    if quote == "'" and line[column : column + 2] == "''":
        return 2
    return 1 if line[column : column + 1] == char else None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _skip_break(lines: list[str], at: int, column: int, char: str, style: int | str | None) -> tuple[int, int]:
    """Past the indentation, empty lines and trailing space that stand between two characters of the value.

    `style` is the indentation of a block, the quote of a quoted value, or None.
    """
    while at < len(lines):
        line = lines[at]
        if style == '"' and line[column:] == "\\":
            # An escaped line break is no character at all.
            at, column = at + 1, _indent(lines[at + 1]) if at + 1 < len(lines) else 0
            continue
        if column == 0 and isinstance(style, int):
            column = min(style, len(line))
        elif column == 0 and not char.isspace():
            column = _indent(line)
        if column < len(line) or not char or char in " \n":
            return at, column
        at, column = at + 1, 0
    return at, column
