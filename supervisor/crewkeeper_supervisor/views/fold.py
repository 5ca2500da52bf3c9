"""The fold behind every view: journal entries in, the core's state out. It looks and never acts.

Whoever folds the same journal has the same state, so a view needs neither the controller nor its permission.
"""

from typing import Protocol

from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.events import Event
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.views import redaction


class JournalEntry(Protocol):
    """What a view needs of one journal entry."""

    @property
    def seq(self) -> int:
        """Journal sequence."""

    @property
    def at_s(self) -> float:
        """Journal timestamp, seconds since the Unix epoch."""

    @property
    def subject(self) -> str:
        """The subject it was published on."""

    @property
    def payload(self) -> bytes:
        """The bytes as published."""


class Fold:
    """One run's state, kept by feeding it the journal in order.

    Attributes:
        run: Run id.
        supervisor: The core's state.
        began_at_s: Journal time of the first entry; None before it.
        last_at_s: Journal time of the newest entry.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.supervisor = make_fold(run)
        self.began_at_s: float | None = None
        self.last_at_s = 0.0

    def feed(self, entry: JournalEntry) -> tuple[Event, list[Command]]:
        """Take in the next entry; returns it as an event, and what the core decides upon it: to tell, not to do."""
        event = self.supervisor.read(entry.seq, entry.at_s, entry.subject, entry.payload)
        commands = self.supervisor.handle(event)
        if self.began_at_s is None and self.supervisor.crew is not None:  # the first entry is the crew
            redaction.begin(self.supervisor.crew.redact)
        if self.began_at_s is None:
            self.began_at_s = entry.at_s
        self.last_at_s = max(self.last_at_s, entry.at_s)
        return event, commands

    def begin(self, data: bytes, digest: str) -> None:
        """Begin behind a snapshot.

        Raises:
            SnapshotError: It is none of this code.
        """
        self.supervisor.restore(data, digest)
        if self.supervisor.crew is not None:
            redaction.begin(self.supervisor.crew.redact)
        self.began_at_s = self.supervisor.gate.began_s
        self.last_at_s = self.supervisor.now_s

    def measured_s(self, now_s: float | None) -> float:
        """The moment that spans of time are measured to: `now_s`, or the newest entry where that is unknown or later.

        Time stands still for a run that is over.
        """
        return self.last_at_s if now_s is None or self.ended else max(now_s, self.last_at_s)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.supervisor.state in ("done", "failed", "stopped")
