"""Offer: which tools of a server are shown and may be asked for; whether a call may happen is decided at the gate."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from crewkeeper_supervisor.gate.arguments import ArgumentCheck
from crewkeeper_supervisor.gate.name_pattern import matches_any, near
from crewkeeper_supervisor.gate.registry import LISTED_MAX, UnknownTool
from crewkeeper_supervisor.mcp.definitions import TOOLS_MAX, Definition, Unusable, check_of, read
from crewkeeper_supervisor.mcp.pins import Pins, PinsUnusable

NOT_RUN: Final = "nothing was executed"
INSTRUCTIONS: Final = "(instructions)"
"""Stands among a server's tools for what it tells models of itself."""


class Refusal(Exception):  # noqa: N818 - what it is
    """A call does not reach the server; its text is for a model to read.

    Attributes:
        code: Why, for programs.
    """

    def __init__(self, code: str, text: str) -> None:
        """Hold both."""
        super().__init__(text)
        self.code = code


class Offer:
    """The tools of one server, as far as they have been heard of.

    Attributes:
        is_complete: Whether all of them have, since the server last said that they change.
        changed: Tools whose definition is another than the pinned one.
        unusable: Tools that cannot be offered, and why.
    """

    def __init__(self, pins: Pins, server: str, *, prefix: str = "", only: Sequence[str] = ("*",)) -> None:
        """Know nothing yet.

        Args:
            pins: Where definitions are pinned.
            server: Under which name.
            prefix: Goes before the tools' names at the gate, with a dot.
            only: Patterns of the tools that are offered at all.
        """
        self.is_complete = False
        self.changed: dict[str, str] = {}
        self.unusable: dict[str, str] = {}
        self._pins = pins
        self._server = server
        self._prefix = prefix
        self._only = tuple(only)
        self._good: dict[str, Definition] = {}
        self._checks: dict[str, tuple[str, ArgumentCheck]] = {}
        self._hidden: set[str] = set()

    @property
    def tools(self) -> list[Definition]:
        """What may be used, by name."""
        return [self._good[name] for name in sorted(self._good) if name not in self._hidden]

    @property
    def hidden(self) -> frozenset[str]:
        """What is not shown, because the gate says that nothing could come of it."""
        return frozenset(self._hidden)

    @property
    def names(self) -> list[str]:
        """All that may be used, hidden or not."""
        return sorted(self._good)

    def gate_name(self, name: str) -> str:
        """What the gate calls a tool of this server."""
        return f"{self._prefix}.{name}" if self._prefix else name

    def hide(self, name: str) -> bool:
        """Show a tool no more: the gate says that the agent has none of this name. Whether it was shown."""
        if name not in self._good or name in self._hidden:
            return False
        self._hidden.add(name)
        return True

    def hide_only(self, names: Iterable[str]) -> None:
        """Of the tools that are known, show all but these: the gate was asked about every one of them."""
        self._hidden = set(names)

    def show_all(self) -> None:
        """Hide nothing: another run may be asked."""
        self._hidden.clear()

    def forget(self) -> None:
        """The server says that its tools have changed: they must be heard of anew."""
        self.is_complete = False

    async def take(self, tools: Any) -> list[dict[str, Any]]:
        """Look at one page of a listing; returns what of it may be used, in its order, hidden or not.

        Raises:
            PinsUnusable: Nothing can be compared.
        """
        listed = tools[:TOOLS_MAX] if isinstance(tools, list) else []
        found = [read(tool) for tool in listed]
        wanted: list[Definition] = []
        for each in found:
            if isinstance(each, Unusable):
                self.unusable[each.name] = each.why
                self._good.pop(each.name, None)
            elif matches_any(self._only, each.name):
                wanted.append(each)
        judged = await asyncio.to_thread(self._pins.judge, self._server, wanted)
        for name, definition in judged.good.items():
            self.unusable.pop(name, None)
            self.changed.pop(name, None)
            self._good[name] = definition
        for name, definition in judged.changed.items():
            self.changed[name] = definition.digest
            self._good.pop(name, None)
        # Each once: a name that was told twice in the same words needs no second entry.
        shown = {each.name: each.told for each in wanted if each.name in judged.good}
        meta = {
            tool["name"]: tool["_meta"]
            for tool in listed
            if isinstance(tool, dict) and "_meta" in tool and "name" in tool
        }
        return [told | ({"_meta": meta[name]} if name in meta else {}) for name, told in shown.items()]

    async def takes_instructions(self, text: str) -> bool:
        """Whether what the server tells models of itself may be passed on: it is pinned like a tool's definition."""
        told = read({"name": INSTRUCTIONS, "description": text})
        if isinstance(told, Unusable):
            self.unusable[INSTRUCTIONS] = told.why
            return False
        try:
            judged = await asyncio.to_thread(self._pins.judge, self._server, [told])
        except PinsUnusable:
            return False  # of which whoever asks for tools hears
        self.changed.pop(INSTRUCTIONS, None)
        self.changed |= {name: each.digest for name, each in judged.changed.items()}
        return INSTRUCTIONS in judged.good

    def keep_only(self, names: Iterable[str]) -> None:
        """The server has listed everything: what is not among it is no more."""
        there = set(names)
        self._good = {name: definition for name, definition in self._good.items() if name in there}
        self.is_complete = True

    def check(self, name: str, args: Any, hidden: Collection[str] = ()) -> None:
        """Let a call pass that can be put to the gate.

        Args:
            name: The tool.
            args: Its arguments.
            hidden: Tools that are not named to who asks.

        Raises:
            Refusal: It cannot.
        """
        if name in self.changed:
            raise Refusal(
                "tool_changed",
                f"The definition of the tool {name!r} is another than the one that was approved, so it may not be used "
                f"until a person has looked at it (supervisor tools diff); {NOT_RUN}.",
            )
        if name in self.unusable:
            raise Refusal("tool_unusable", f"The tool {name!r} cannot be used: {self.unusable[name]}; {NOT_RUN}.")
        definition = self._good.get(name)
        if definition is None:
            names = [each.name for each in self.tools if each.name not in hidden]
            omitted = max(0, len(names) - LISTED_MAX)
            unknown = UnknownTool(
                name=name, near=near(name, names), available=tuple(names[:LISTED_MAX]), omitted=omitted
            )
            raise Refusal("unknown_tool", unknown.text())
        known = self._checks.get(name)
        if known is None or known[0] != definition.digest:
            known = self._checks[name] = (definition.digest, check_of(definition))
        wrong = known[1].check(args)
        if wrong is not None:
            raise Refusal("bad_arguments", wrong.text())
