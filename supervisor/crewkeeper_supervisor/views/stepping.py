"""Stepping: a run told entry by entry, each with what the core decides upon it and what changes."""

from datetime import datetime

from msgspec import Struct

from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.events import Recorded, Rejected
from crewkeeper_supervisor.shell.effects import finding, target
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views.story import Story
from crewkeeper_supervisor.views.wording import duration, moment, safe


class Decision(Struct, frozen=True, kw_only=True):
    """One command of the core."""

    id: str
    kind: str
    """The command's class; for messages to agents and services, the message's, too."""
    agent: str
    finding: str
    act: str = ""
    """What it books: `reserve`, `settle`, `expire`, `release` or `refuse`."""
    code: str = ""
    """Error code, where it refuses."""
    durable: bool = True

    def text(self) -> str:
        """In one line."""
        about = [self.act, self.code, f"for {self.finding}" if self.finding else ""]
        return " ".join(part for part in (f"{self.id} {self.kind}", safe(self.agent), *about) if part)


class Step(Struct, frozen=True, kw_only=True):
    """One entry of the journal."""

    seq: int
    at: datetime
    after_s: float
    """Seconds after the first entry."""
    type: str
    sender: str
    to: str
    told: tuple[str, ...]
    decisions: tuple[Decision, ...]
    schema_version: int = 1

    def lines(self) -> list[str]:
        """As lines of safe text."""
        head = f"#{self.seq} +{duration(self.after_s)}"
        told = self.told or (f"{self.type} of {safe(self.sender) or 'nobody'}",)
        return [
            f"{head} {told[0]}",
            *(f"    {text}" for text in told[1:]),
            *(f"  > {d.text()}" for d in self.decisions),
        ]


class Stepper:
    """Tells a run step by step; feed it the journal in order.

    Attributes:
        story: The story, with the state of the run.
    """

    def __init__(self, run: str) -> None:
        self.story = Story(run)

    def take(self, entry: Entry) -> Step:
        """Take in the next entry."""
        commands: list[Command] = []
        event, lines = self.story.feed(entry, commands.extend)
        fold = self.story.fold
        message = event.message if isinstance(event, Recorded) else event
        return Step(
            seq=event.seq,
            at=moment(event.at_s),
            after_s=max(0.0, fold.last_at_s - (fold.began_at_s or 0.0)),
            type="Rejected" if isinstance(event, Rejected) else type(message).__name__,
            sender=event.sender,
            to=getattr(event, "to", ""),
            told=tuple(line.text for line in lines),
            decisions=tuple(decision(command) for command in commands),
        )


def decision(command: Command) -> Decision:
    """What one command decides."""
    message = getattr(command, "message", None)
    booking = getattr(command, "booking", None)
    error = getattr(command, "error", None)
    kind = type(command).__name__ + (f"({type(message).__name__})" if message is not None else "")
    return Decision(
        id=command.id,
        kind=kind,
        agent=booking.agent if booking is not None else target(command),
        finding=finding(command),
        act="" if booking is None else booking.act,
        code=error.code if error is not None else "" if booking is None else booking.code,
        durable=command.durable,
    )
