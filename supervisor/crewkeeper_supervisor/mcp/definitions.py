"""Definitions: what a server tells models of its tools, with a digest of each; whether one may be used is in `pins`."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.gate.arguments import ArgumentCheck, SchemaRefused
from crewkeeper_supervisor.gate.condition import too_deep

TOOLS_MAX: Final = 1000
"""Tools of one server; later ones are left out."""
DEFINITION_MAX_BYTES: Final = 256 * 1024
NAME_MAX_CHARS: Final = 128
ARGUMENTS_MAX_BYTES: Final = 1024 * 1024
"""Arguments of one call."""
_UNTOLD: Final = "_meta"
"""The one key that models are not shown, and that servers may fill anew each time."""


class Definition(Struct, frozen=True, kw_only=True):
    """One tool as its server tells it."""

    name: str
    digest: str
    """SHA-256 of all that is told, in hexadecimal; the order of keys does not matter."""
    told: dict[str, Any]

    @property
    def description(self) -> str:
        """What it does, in the server's words."""
        text = self.told.get("description", "")
        return text if isinstance(text, str) else ""

    @property
    def schema(self) -> dict[str, Any] | None:
        """JSON Schema of its arguments."""
        schema = self.told.get("inputSchema")
        return schema if isinstance(schema, dict) else None


class Unusable(Struct, frozen=True, kw_only=True):
    """A tool that cannot be offered, and why."""

    name: str
    why: str


def read(tool: Any) -> Definition | Unusable:
    """One entry of a listing."""
    name = tool.get("name") if isinstance(tool, dict) else None
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_MAX_CHARS or not name.isprintable():
        return Unusable(name=ascii(name)[:NAME_MAX_CHARS], why="its name is none")
    if too_deep(tool):
        return Unusable(name=name, why="its definition is nested too deep")
    told = {key: value for key, value in tool.items() if key != _UNTOLD}
    text = msgspec.json.encode(told, order="deterministic")
    if len(text) > DEFINITION_MAX_BYTES:
        return Unusable(name=name, why=f"its definition has {len(text)} bytes; the limit is {DEFINITION_MAX_BYTES}")
    definition = Definition(name=name, digest=hashlib.sha256(text).hexdigest(), told=told)
    try:
        check_of(definition)
    except SchemaRefused as refused:
        return Unusable(name=name, why=str(refused))
    return definition


def check_of(definition: Definition) -> ArgumentCheck:
    """The check of its arguments.

    Raises:
        SchemaRefused: Its schema cannot be used.
    """
    return ArgumentCheck(definition.name, definition.schema, ARGUMENTS_MAX_BYTES)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two definitions differ: (path, before, now), the paths in order; None where there is nothing."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*before, *now}):
        left, right = before.get(key), now.get(key)
        if left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            found += [(f"{key}.{path}", *values) for path, *values in differences(left, right)]
        else:
            found.append((key, left, right))
    return found
