"""Conditions: what a task can wait for, as it says so on the bus."""

from typing import Annotated

from msgspec import Meta, Struct

from crewkeeper_bus.field_types import Name, Names, Seconds, Text


class OnCall(Struct, frozen=True, kw_only=True, tag_field="on", tag="call"):
    """The answer to a call the task made."""

    call: Name


class OnMessage(Struct, frozen=True, kw_only=True, tag_field="on", tag="message"):
    """A one-way message of any of these agents; of anybody if the list is empty."""

    senders: Names = ()


class OnResource(Struct, frozen=True, kw_only=True, tag_field="on", tag="resource"):
    """A lock (`units` 1 of 1) or units of a semaphore, asked for with an `Acquire` of the same ticket."""

    resource: Name
    ticket: Name


class OnHuman(Struct, frozen=True, kw_only=True, tag_field="on", tag="human"):
    """An answer of a person; never a deadlock."""

    who: Name
    question: Name | None = None
    """Id of the `AskHuman`; null where no question was asked through the bus."""


class OnTool(Struct, frozen=True, kw_only=True, tag_field="on", tag="tool"):
    """What the gate says to a call of a tool or a model; bounded by the gate, never a deadlock by itself."""

    call: Name
    tool: Text = ""


class OnTimer(Struct, frozen=True, kw_only=True, tag_field="on", tag="timer"):
    """Time passes."""

    after_s: Seconds


class OnAll(Struct, frozen=True, kw_only=True, tag_field="on", tag="all"):
    """Every one of the conditions."""

    of: Annotated[tuple["Condition", ...], Meta(max_length=256)]


class OnSome(Struct, frozen=True, kw_only=True, tag_field="on", tag="some"):
    """At least `k` of the conditions; ANY is k = 1."""

    k: Annotated[int, Meta(ge=1, le=256)]
    of: Annotated[tuple["Condition", ...], Meta(max_length=256)]


Condition = OnCall | OnMessage | OnResource | OnHuman | OnTool | OnTimer | OnAll | OnSome
