"""Printable: hostile text as one that no terminal, page or viewer obeys; how it is marked up is decided elsewhere.

Names, reasons and arguments come from agents and their models, and may hold terminal escape sequences, bidirectional
overrides or invisible characters. Written out as escapes they can be seen, and do nothing.
"""

from typing import Final

_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def inert(text: str, limit: int | None = None, *, single: bool = True) -> str:
    r"""Hostile text with whatever is not printable as a visible escape such as `\x1b` or `\u202e`.

    Args:
        text: Any string, also with surrogates that are no text.
        limit: Longest result in characters; None for no limit. What is longer ends in an ellipsis.
        single: Whether line breaks and tabs are escaped as well.
    """
    keep = "" if single else "\n\t"
    if limit is not None:
        text = text[: limit + 1]  # nothing of what follows could be seen
    made = text if text.isprintable() else "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)
    return made if limit is None or len(made) <= limit else made[: limit - 1] + "…"


def _escape(char: str) -> str:
    named = _NAMED.get(char)
    if named is not None:
        return named
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
