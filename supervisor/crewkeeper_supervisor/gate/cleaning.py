"""Redactions of a decision carried out on the arguments of a call; how secrets are found is in `bus.redaction`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from crewkeeper_bus.redaction import Found, Redactor
from crewkeeper_supervisor.gate.call import Redaction

NAMED: Final = "argument"
"""Kind of a value that a rule names by its path."""
_PREFIX: Final = "args."


def clean(
    args: dict[str, Any], redactions: Sequence[Redaction], key: bytes = b""
) -> tuple[dict[str, Any], list[Found]]:
    """The arguments without what the rules want out.

    Args:
        args: As the caller gave them; never changed.
        redactions: Of the decision, applied together.
        key: Key of the placeholders' hashes.

    Returns:
        The arguments to go on with, and what was replaced, paths beginning with `args`.

    Raises:
        TooDeep: They are nested deeper than redaction follows; the call must not go on.
    """
    words = tuple(dict.fromkeys(word for each in redactions for word in each.what))
    kinds = tuple(word for word in words if not word.startswith(_PREFIX))
    redactor = _redactor(key, kinds)
    found: list[Found] = []
    value: Any = args
    for word in words:
        if word.startswith(_PREFIX):
            steps = word.removeprefix(_PREFIX).replace("[]", ".*").split(".")
            value = _replaced(value, steps, "args", redactor, found)
    if kinds:
        value, more = redactor.value(value, "args")
        found += more
    return value, found


@lru_cache(maxsize=64)
def _redactor(key: bytes, kinds: tuple[str, ...]) -> Redactor:
    return Redactor(key, kinds)


def _replaced(value: Any, steps: list[str], path: str, redactor: Redactor, found: list[Found]) -> Any:
    """The value with everything at the path replaced; `*` is any name or position."""
    if not steps:
        if isinstance(value, str) and redactor.is_placeholder(value):
            return value
        secret = value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()
        found.append(Found(kind=NAMED, path=path, digest=redactor.digest(secret)))
        return redactor.placeholder(NAMED, secret)
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        return {
            name: _replaced(child, rest, f"{path}.{name}", redactor, found) if step in ("*", name) else child
            for name, child in value.items()
        }
    if isinstance(value, list):
        return [
            _replaced(child, rest, f"{path}[{index}]", redactor, found) if step in ("*", str(index)) else child
            for index, child in enumerate(value)
        ]
    return value
