"""Tables of who holds what in a ring of shared resources, as some recorded runs tell them, and the deadlocks in them.

Such a run has no calls to wait for: its surroundings print the state after every round, for example
`Table: P0=HUNGRY(0,L) P1=EATING(1,LR) … | Forks: [P0] [P1] [P1]`. Whoever is hungry waits for what it lacks of the two
resources beside it. The production wait graph judges each table. Agents in such runs may change their minds, so a
deadlock counts when the next table shows the same holders again, or when the run ends with it.
"""

import re
from typing import Any, Final

from msgspec import Struct

from crewkeeper_supervisor.core.wait_case import WaitCase

_TABLE: Final = re.compile(r"^Table:\s+(.{3,4000}?)\s*\|\s*Forks:\s+(.{3,4000})$", re.DOTALL)
_SEAT: Final = re.compile(r"(\w+)=(\w+)\(\d+(?:,([LR]+))?\)")
_FORK: Final = re.compile(r"\[(\w+)\]")
_FREE: Final = "free"
SEATS_MAX: Final = 500


class TableDeadlock(Struct, frozen=True, kw_only=True):
    """A deadlock in tables."""

    at: int
    """The table that confirms it, or the last event of the run."""
    onset: int
    """The table that closed it."""
    agents: tuple[str, ...]


class TableReader:
    """Follows the tables of one run."""

    def __init__(self) -> None:
        self._open: tuple[int, tuple[str, ...], tuple[str, ...]] | None = None
        self._told: tuple[str, ...] = ()

    def read(self, text: str, at: int) -> TableDeadlock | None:
        """Take in a text; returns the deadlock that it confirms, if it is a table that does."""
        table = _parse(text)
        if table is None:
            return None
        seats, holders = table
        stuck = _deadlocked(seats, holders)
        before, self._open = self._open, None
        if not stuck:
            self._told = ()
            return None
        if stuck == self._told:
            return None
        if before is not None and before[1] == stuck and before[2] == holders:
            self._told = stuck
            return TableDeadlock(at=at, onset=before[0], agents=stuck)
        self._open = (at, stuck, holders)
        return None

    def finish(self) -> TableDeadlock | None:
        """The run is over: a deadlock it ended with is one."""
        if self._open is None:
            return None
        at, stuck, _ = self._open
        self._open = None
        return TableDeadlock(at=at, onset=at, agents=stuck)


def _parse(text: str) -> tuple[list[tuple[str, str]], tuple[str, ...]] | None:
    """Names with what they do, and the holder of each resource."""
    if not text.startswith("Table:"):
        return None
    found = _TABLE.match(text)
    if found is None:
        return None
    seats = [(name, doing) for name, doing, _ in _SEAT.findall(found.group(1))]
    holders = tuple(_FORK.findall(found.group(2)))
    if len(seats) != len(holders) or not 2 <= len(seats) <= SEATS_MAX or len(dict(seats)) != len(seats):
        return None
    names = dict(seats)
    return (seats, holders) if all(one == _FREE or one in names for one in holders) else None


def _deadlocked(seats: list[tuple[str, str]], holders: tuple[str, ...]) -> tuple[str, ...]:
    """Who is deadlocked, by the wait graph."""
    case = WaitCase(
        {name: {} for name, _ in seats}, {f"r{index}": {"kind": "lock", "fifo": False} for index in range(len(seats))}
    )
    events: list[dict[str, Any]] = [{"e": "task", "task": name, "agent": name} for name, _ in seats]
    events += [
        {"e": "acquire", "task": holder, "res": f"r{index}"} for index, holder in enumerate(holders) if holder != _FREE
    ]
    for index, (name, doing) in enumerate(seats):
        lacking = [f"r{one % len(seats)}" for one in (index, index + 1) if holders[one % len(seats)] != name]
        if doing.upper() == "HUNGRY" and lacking:
            events.append({"e": "wait", "task": name, "for": {"all": [{"res": one} for one in lacking]}})
    for event in events:
        case.apply(event)
    return tuple(case.result()["deadlocked"])
