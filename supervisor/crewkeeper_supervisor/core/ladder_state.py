"""Ladder state: what is remembered of ladders, nudges and escalations of one run; what is done with it is elsewhere.

Everything is bounded, and part of the digest of the state.
"""

from collections import deque
from typing import Any, Final, Literal

from msgspec import Struct, to_builtins

from crewkeeper_supervisor.core.findings import FindingKind

RESTED_MAX: Final = 1000
"""Conditions that are over and remembered for their cool-down; the oldest is forgotten first."""
ACKNOWLEDGED_MAX: Final = 1000
"""Acknowledgements that are remembered; the oldest is forgotten first."""
DIGESTS_MAX: Final = 50
"""Digests that are remembered, so that they can be acknowledged and resolved; the oldest that is over goes first."""

Event = Literal["opened", "unresolved", "resolved"]
"""What people are told of an incident; `unresolved`: nobody is left whose wait may be failed."""

Key = tuple[FindingKind, str]
"""A condition: its kind, and which of that kind."""


class Rested(Struct, frozen=True, kw_only=True):
    """Where the ladder of a condition stood when it was over."""

    rung: int
    cleared_s: float


class Counts(Struct, kw_only=True):
    """What was done, or in shadow mode would have been, about one kind of finding, by action."""

    found: int = 0
    did: dict[str, int] = {}
    would: dict[str, int] = {}


class Owed(Struct, kw_only=True):
    """A nudge that the agent's model has not been given yet, as far as is known."""

    id: str
    agent: str
    finding: str
    text: str
    told_s: float
    tries: int = 0
    """How often the agent was sent it; 0: it waits for a model call through the proxy."""
    call: str = ""
    """The model call whose grant carries it."""


class Acknowledged(Struct, frozen=True, kw_only=True):
    """Somebody knows of an incident, or of an approval that is asked for."""

    by: str
    at_s: float
    """Journal time."""
    why: str


class Pace(Struct, kw_only=True):
    """What the run had spent at some moments of the last minutes; see `pace`."""

    due_s: float = 0.0
    """When the next note is due, journal time."""
    notes: deque[tuple[float, int]]
    """Journal time, and micro-USD settled, held and spent beyond limits just before; one older than the window."""


class Digest(Struct, frozen=True, kw_only=True):
    """A digest that was sent."""

    incidents: tuple[str, ...]
    severity: str
    """That of the worst in it: under this it is known until it is over."""
    at_s: float
    """When it was sent, journal time."""


class Escalations(Struct, kw_only=True):
    """What people were told of late, and what they are told in the next digest."""

    sent_s: deque[float]
    """When each message of the last minute that counts was sent, digests too; journal time."""
    minor_s: deque[float]
    """The same of those that told of a warning."""
    withheld: dict[str, Event]
    """Incidents for the next digest, with what it says of each."""
    digested: dict[str, None]
    """Incidents that people know of by a digest alone, or will when the next one is sent."""
    due_s: float | None = None
    """When the digest is sent, journal time."""
    digests: dict[str, Digest] = {}
    """Digests that were sent, by the command that sent each."""


class LadderState:
    """Ladders of one run."""

    def __init__(self) -> None:
        self.open: dict[Key, str] = {}
        """Conditions that stand, with their incidents."""
        self.rested: dict[Key, Rested] = {}
        self.counts: dict[FindingKind, Counts] = {}
        self.owed: dict[str, Owed] = {}
        """Nudges by id, oldest first."""
        self.escalations = Escalations(sent_s=deque(), minor_s=deque(), withheld={}, digested={})
        self.acknowledged: dict[str, Acknowledged] = {}
        """By incident or approval: who was first to say that they know of it."""
        self.pace = Pace(notes=deque())

    def count(self, kind: FindingKind, action: str, *, shadow: bool) -> None:
        """An action was carried out, or would have been."""
        counts = self.of(kind)
        done = counts.would if shadow else counts.did
        done[action] = done.get(action, 0) + 1

    def of(self, kind: FindingKind) -> Counts:
        """The counts of a kind."""
        known = self.counts.get(kind)
        if known is None:
            known = self.counts[kind] = Counts()
        return known

    def rest(self, key: Key, rested: Rested) -> None:
        """Remember where a ladder stood."""
        self.rested.pop(key, None)
        self.rested[key] = rested
        if len(self.rested) > RESTED_MAX:
            del self.rested[next(iter(self.rested))]

    def acknowledge(self, id_: str, acknowledged: Acknowledged) -> None:
        """Remember who knows of an incident or an approval."""
        self.acknowledged[id_] = acknowledged
        if len(self.acknowledged) > ACKNOWLEDGED_MAX:
            del self.acknowledged[next(iter(self.acknowledged))]

    def facts(self) -> list[Any]:
        """Everything that a digest of the state must show."""
        told = self.escalations
        digests = {id_: to_builtins(each) for id_, each in told.digests.items()}
        return [
            [[*key, id_] for key, id_ in self.open.items()],
            [[*key, each.rung, each.cleared_s] for key, each in self.rested.items()],
            {kind: to_builtins(each) for kind, each in self.counts.items()},
            [to_builtins(each) for each in self.owed.values()],
            [list(told.sent_s), list(told.minor_s), told.withheld, list(told.digested), told.due_s, digests],
            {id_: to_builtins(each) for id_, each in self.acknowledged.items()},
            [self.pace.due_s, list(self.pace.notes)],
        ]
