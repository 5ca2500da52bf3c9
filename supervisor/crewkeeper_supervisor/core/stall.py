"""Stall: an agent that is alive and gets nowhere, told from one that waits for somebody who does.

Progress counts, not silence. An agent makes progress when it says that it does, when a step brings it something new,
and when it answers. It is excused while it waits for a person or a timer, while a model or tool call of its own is
open for less than that call may take, and while anybody it waits for, directly or through others, makes progress.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

CALL_MAX_S: Final = 600.0
"""How long a call of a model or tool excuses its agent, unless the crew says otherwise."""
DEPTH_MAX: Final = 64
"""Waits that are followed, one after the other."""


class Condition(Struct, frozen=True, kw_only=True):
    """What is known of an agent at one time. Times are of the journal, in seconds."""

    progress_at_s: float
    """When it last got on, or began."""
    working: bool = True
    """It has something to do."""
    alive: bool = True
    """It is heard of; the dead are another finding."""
    paused: bool = False
    waits_for: tuple[str, ...] = ()
    """Agents that its tasks wait for, if all of them wait."""
    excused: bool = False
    """It waits for a person, a timer, or a grant."""
    call_since_s: float | None = None
    """Since when its oldest call of a model or tool is open."""
    call_max_s: float = CALL_MAX_S


class Stall(Struct, frozen=True, kw_only=True):
    """An agent without progress that nothing excuses."""

    agent: str
    since_s: float
    """Its last progress."""
    waits_for: tuple[str, ...]
    """Whom it waits for, none of whom gets on either."""
    call_since_s: float | None


def stalled(conditions: Mapping[str, Condition], now_s: float, limit_s: float) -> list[Stall]:
    """The agents that have stalled, in the order of the mapping.

    Args:
        conditions: Every agent of the run, by name.
        now_s: Journal time.
        limit_s: How long an agent may go without progress.
    """
    fresh = {name for name, one in conditions.items() if _moves(one, now_s, limit_s)}
    return [
        Stall(agent=name, since_s=one.progress_at_s, waits_for=one.waits_for, call_since_s=one.call_since_s)
        for name, one in conditions.items()
        if one.working and one.alive and not one.paused and name not in fresh and not _leads_to(name, conditions, fresh)
    ]


def next_look_s(conditions: Mapping[str, Condition], now_s: float, limit_s: float) -> float | None:
    """When the earliest agent could stall that has not yet; None if none can."""
    times = [
        max(one.progress_at_s + limit_s, one.call_since_s + one.call_max_s if one.call_since_s is not None else 0.0)
        for one in conditions.values()
        if one.working and one.alive and not one.paused and not one.excused
    ]
    return min((time for time in times if time > now_s), default=None)


def _moves(one: Condition, now_s: float, limit_s: float) -> bool:
    if one.excused or one.paused:
        return True
    if one.call_since_s is not None and now_s - one.call_since_s < one.call_max_s:
        return True
    return one.alive and now_s - one.progress_at_s < limit_s


def _leads_to(name: str, conditions: Mapping[str, Condition], fresh: set[str]) -> bool:
    """Whether somebody it waits for, over any number of waits, moves."""
    met, edge = {name}, [name]
    for _ in range(DEPTH_MAX):
        ahead = [to for one in edge for to in (conditions[one].waits_for if one in conditions else ())]
        if any(to in fresh for to in ahead):
            return True
        edge = [to for to in dict.fromkeys(ahead) if to not in met]
        met.update(edge)
        if not edge:
            return False
    return True
