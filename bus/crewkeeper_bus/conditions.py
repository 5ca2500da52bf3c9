"""Conditions: what a task can wait for, as it says so on the bus."""

from collections.abc import Container
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


def still_open(condition: Condition, good: Container[str], failed: Container[str]) -> Condition:
    """What a wait is still for, once some of its calls are over.

    Args:
        condition: What it began for.
        good: Ids of calls that were answered.
        failed: Ids of calls that were answered with an error.

    Returns:
        The condition without what is met and what no longer can be; the whole of it where it is met, or cannot be any
        more, so that the wait is about to end.
    """
    left = _left(condition, good, failed)
    return condition if isinstance(left, bool) else left


def _left(condition: Condition, good: Container[str], failed: Container[str]) -> Condition | bool:
    """What is left of a condition; True where it is met, False where it cannot be any more."""
    if isinstance(condition, OnCall):
        return condition.call in good or (condition if condition.call not in failed else False)
    if not isinstance(condition, OnAll | OnSome):
        return condition
    parts = [_left(part, good, failed) for part in condition.of]
    need = (len(parts) if isinstance(condition, OnAll) else condition.k) - sum(part is True for part in parts)
    rest = tuple(part for part in parts if not isinstance(part, bool))
    if need <= 0 or need > len(rest):
        return need <= 0
    if rest == condition.of:
        return condition
    if len(rest) == 1:
        return rest[0]
    return OnAll(of=rest) if need == len(rest) else OnSome(k=need, of=rest)
