"""Outcome constraints: what the final answer of a run must say, must not say, and must look like.

Statistics cannot tell a useless answer from a good one; these are hard rules that the crew's owner writes. Schemas are
checked by whoever has a validator: the core only asks for a verdict.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

PROBLEMS_MAX: Final = 20
_QUOTE_MAX: Final = 80


class Outcome(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `outcome` part of a crew file."""

    must_mention: tuple[str, ...] = ()
    """Words or phrases, whatever their case and spacing."""
    never: tuple[str, ...] = ()
    """Words or phrases that must not stand in any part of the answer."""
    schema: dict[str, Any] | None = None
    """JSON Schema of the answer."""


Validator = Callable[[dict[str, Any], Any], list[str]]
"""Schema and document to problems, each in words."""


def broken(rules: Outcome, text: str, document: Any = None, validator: Validator | None = None) -> list[str]:
    """What an answer lacks or has too much.

    Args:
        rules: The constraints.
        text: The answer in words; for a document, all its texts.
        document: The answer as it was sent, for the schema.
        validator: Checks a document against a schema; without one, schemas are not checked.

    Returns:
        One sentence for each broken constraint, at most `PROBLEMS_MAX`; empty if all hold.
    """
    plain = _plain(text)
    problems = [f"does not mention {_quote(want)}" for want in rules.must_mention if not _says(plain, want)]
    problems += [f"says {_quote(word)}, which it must never" for word in rules.never if _says(plain, word)]
    if rules.schema is not None and validator is not None:
        problems += validator(rules.schema, document)
    return problems[:PROBLEMS_MAX]


def _says(plain: str, phrase: str) -> bool:
    """Whether the phrase stands there as whole words."""
    wanted = _plain(phrase)
    if not wanted:
        return False
    before = r"(?<!\w)" if wanted[0].isalnum() else ""
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    return re.search(f"{before}{re.escape(wanted)}{after}", plain) is not None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTE_MAX else text[: _QUOTE_MAX - 1] + "…")
