"""Where a character of a YAML scalar stands in its file: quotes, escapes, folded lines and blocks are followed."""

import re
from typing import Final

_ESCAPE_CHARS: Final = {"x": 4, "u": 6, "U": 10}
"""Characters of the escapes that are longer than two."""
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
    if opening in ("|", ">"):
        at, column = at + 1, 0
    elif quote:
        column += 1
    for done, char in enumerate((*value, "")):
        at, column = _skip_break(lines, at, column, char)
        if done == offset:
            return (at + 1, column + 1) if at < len(lines) else start
        if at >= len(lines):
            return start
        line = lines[at]
        if char in " \n" and column >= len(line):
            at, column = at + 1, 0
        elif quote == '"' and line[column : column + 1] == "\\":
            column += _ESCAPE_CHARS.get(line[column + 1 : column + 2], 2)
        elif quote == "'" and line[column : column + 2] == "''":
            column += 2
        elif line[column : column + 1] == char:
            column += 1
        else:
            return start
    return start


def _skip_break(lines: list[str], at: int, column: int, char: str) -> tuple[int, int]:
    """Past the indentation, empty lines and trailing space that stand between two characters of the value."""
    while at < len(lines):
        line = lines[at]
        if column == 0 and not char.isspace():
            column = len(line) - len(line.lstrip(" "))
        if column < len(line) or (char and char in " \n"):
            return at, column
        if not char:
            return at, column
        at, column = at + 1, 0
    return at, column
