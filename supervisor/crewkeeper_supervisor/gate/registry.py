"""Which tools there are and who may use which: a name becomes a tool, or an answer that says what exists."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.gate.arguments import ArgumentCheck, BadArguments
from crewkeeper_supervisor.gate.name_pattern import matches_any, near

LISTED_MAX: Final = 50
"""Names that an answer lists."""
TOOLS_MAX: Final = 5000

_PART: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}\Z")

Source = Literal["function", "mcp", "command", "inside"]


Told = tuple[str, str, str, dict[str, Any] | None]
"""One tool as its source told it: the declared name, the source's own, the description, the schema."""


class UnknownTool(Struct, frozen=True, kw_only=True, tag="unknown_tool"):
    """The answer to a call of a tool that is not there, or not for this agent. Nothing was executed."""

    name: str
    near: tuple[str, ...] = ()
    """The names most like it, of tools that the agent may use; never called in its stead."""
    available: tuple[str, ...] = ()
    omitted: int = 0
    """Available tools beyond the first fifty."""

    def text(self) -> str:
        """The answer as a model reads it."""
        rows = [f"There is no tool {self.name[:64]!r}; nothing was executed."]
        if self.near:
            rows.append(f"Did you mean {' or '.join(repr(name) for name in self.near)}?")
        if self.available:
            more = f" and {self.omitted} more" if self.omitted else ""
            rows.append(f"Available: {', '.join(self.available)}{more}.")
        else:
            rows.append("No tools are available to you.")
        return " ".join(rows)


class ToolEntry(Struct, frozen=True, kw_only=True):
    """One tool that can be called."""

    name: str
    """As agents call it: `search`, or `files.read_file` of an MCP server."""
    declared: str
    """The key of the crew file it comes from."""
    source: Source
    tool: Tool
    description: str
    arguments: ArgumentCheck
    pin: str
    """Digest of its name, description and schema: changes when what a model is told changes."""

    @property
    def cost_microusd(self) -> int:
        """Price of one call."""
        return self.tool.cost_microusd


class Registry:
    """The tools of one crew. Entries of functions and MCP servers are added when their source has told the schema.

    Args:
        tools: As declared in the crew file.
        allowed: For each role, the tools it may use, by name or pattern.
    """

    def __init__(self, tools: Mapping[str, Tool], allowed: Mapping[str, Sequence[str]]) -> None:
        """Take over what needs no source to be known: programs, and tools inside agents."""
        self._declared = dict(tools)
        self._allowed = {role: tuple(names) for role, names in allowed.items()}
        self._entries: dict[str, ToolEntry] = {}
        self._told: dict[str, Told] = {}
        """What each entry was made from."""
        self._names: dict[str, list[str]] = {}
        """What each role may use, by name; made when it is first asked for."""
        for name, tool in tools.items():
            if tool.command or tool.inside:
                self.add(name, description=tool.description, schema=tool.schema)

    def add(self, declared: str, *, name: str = "", description: str = "", schema: dict[str, Any] | None) -> ToolEntry:
        """Add one tool of a declared source, or replace what it said before.

        Args:
            declared: The key of the crew file.
            name: With an MCP server, the server's own name of the tool.
            description: Told to models; the crew file's goes before.
            schema: JSON Schema of its arguments; the crew file's goes before.

        Raises:
            KeyError: Nothing is declared under this key.
            ValueError: There are too many tools.
            SchemaRefused: The schema cannot be used.
        """
        tool = self._declared[declared]
        called = f"{declared}.{name}" if name else declared
        if called not in self._entries and len(self._entries) >= TOOLS_MAX:
            raise ValueError(f"the crew has {TOOLS_MAX} tools, the limit; declare fewer MCP servers")
        described = tool.description or description
        known = tool.schema if tool.schema is not None else schema
        entry = ToolEntry(
            name=called,
            declared=declared,
            source=source_of(tool),
            tool=tool,
            description=described,
            arguments=ArgumentCheck(called, known, tool.args_bytes),
            pin=pin_of(called, described, known),
        )
        self._names.clear()
        self._entries[called] = entry
        self._told[called] = (declared, name, description, schema)
        return entry

    def told(self) -> tuple[Told, ...]:
        """What the entries were made from, in their order."""
        return tuple(self._told[name] for name in self._entries)

    def tell(self, told: Iterable[Told]) -> None:
        """Have these entries, and no others."""
        self._names.clear()
        self._entries.clear()
        self._told.clear()
        for declared, name, description, schema in told:
            self.add(declared, name=name, description=description, schema=schema)

    def allow(self, role: str, names: Sequence[str]) -> None:
        """Which tools a role may use, by name or pattern, from now on."""
        self._allowed[role] = tuple(names)
        self._names.pop(role, None)

    def waits_for(self, role: str, name: str) -> bool:
        """Whether the role may use the source that this name belongs to, and that has not told what it has."""
        head = name.partition(".")[0]
        tool = self._declared.get(head)
        if tool is None or any(entry.declared == head for entry in self._entries.values()):
            return False
        return matches_any(self._allowed.get(role, ()), name, head)

    def remove(self, declared: str) -> None:
        """Take out every tool of a declared source, as when its server is gone."""
        self._names.clear()
        self._entries = {name: entry for name, entry in self._entries.items() if entry.declared != declared}
        self._told = {name: self._told[name] for name in self._entries}

    def allowed_to(self, role: str) -> tuple[ToolEntry, ...]:
        """The tools that a role may use, by name."""
        return tuple(self._entries[name] for name in sorted(self._entries) if self._may(role, self._entries[name]))

    def has(self, role: str, name: str) -> bool:
        """Whether there is a tool of exactly this name that the role may use."""
        entry = self.entry(name)
        return entry is not None and self._may(role, entry)

    def find(self, role: str, name: str) -> ToolEntry | UnknownTool:
        """The tool of exactly this name, if the role may use it. What it may not use does not exist for it."""
        entry = self.entry(name)
        if entry is not None and self._may(role, entry):
            return entry
        names = self._names.get(role)
        if names is None:
            names = self._names[role] = [each.name for each in self.allowed_to(role)]
        return UnknownTool(
            name=name,
            near=near(name, names),
            available=tuple(names[:LISTED_MAX]),
            omitted=max(0, len(names) - LISTED_MAX),
        )

    def entry(self, name: str) -> ToolEntry | None:
        """The tool of exactly this name, whoever may use it."""
        return self._entries.get(name) or self._part(name)

    def _part(self, name: str) -> ToolEntry | None:
        """A tool of a server that runs inside an agent: it is declared as a whole, and knows its tools itself."""
        head, _, rest = name.partition(".")
        whole = self._entries.get(head)
        if whole is None or whole.source != "inside" or whole.tool.schema is not None or not _PART.match(rest):
            return None
        return replace(whole, name=name)

    def check(self, role: str, name: str, args: Any) -> ToolEntry | UnknownTool | BadArguments:
        """The tool, when the role may use it and the arguments fit; otherwise the answer to give."""
        entry = self.find(role, name)
        if isinstance(entry, UnknownTool):
            return entry
        return entry.arguments.check(args) or entry

    def _may(self, role: str, entry: ToolEntry) -> bool:
        # A whole MCP server may be allowed by its own name.
        return matches_any(self._allowed.get(role, ()), entry.name, entry.declared)


def source_of(tool: Tool) -> Source:
    """Where a declared tool comes from."""
    if tool.function:
        return "function"
    if tool.mcp:
        return "mcp"
    return "command" if tool.command else "inside"


def pin_of(name: str, description: str, schema: dict[str, Any] | None) -> str:
    """Digest of what models are told of a tool: SHA-256 in hexadecimal."""
    told = msgspec.json.encode([name, description, schema], order="deterministic")
    return hashlib.sha256(told).hexdigest()


def names_of(entries: Iterable[ToolEntry]) -> list[str]:
    """Names of entries, in their order."""
    return [entry.name for entry in entries]
