"""Timeline: the story of a run without its small talk: every turn of it, and how much was said between two of them."""

from collections import Counter
from datetime import datetime
from typing import Final

from msgspec import Struct

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import SIDE
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views.story import Line, Story, Weight
from crewkeeper_supervisor.views.wording import counted, duration, safe

NAMED_MAX: Final = 5
"""Agents that are named in one line of counts."""
_TURNS: Final = (m.Joined, m.Left, m.AskHuman, m.Delegate, m.Standing, t.CallGivenUp)
"""What agents say that is told in full."""
_SPOKEN: Final = (m.Request, m.Reply, m.Message, t.ToolCall, t.ModelCall)
_MARKS: Final[dict[Weight, str]] = {"detail": " ", "normal": " ", "good": "+", "bad": "!"}


class Event(Struct, frozen=True, kw_only=True):
    """One line of the timeline."""

    seq: int
    at: datetime
    after_s: float
    """Seconds after the first entry."""
    text: str
    weight: Weight
    counted: int = 0
    """How many entries it stands for; 0: it tells one."""
    schema_version: int = 1

    def line(self) -> str:
        """As text."""
        if self.counted:
            return f"{'':>9}   {'':>7}  … {self.text}"
        return f"{'+' + duration(self.after_s):>9} {_MARKS[self.weight]} {'#' + str(self.seq):>7}  {self.text}"


class Timeline:
    """Tells a run; feed it the journal in order.

    Args:
        run: The run.
        show_all: Leave nothing out that the story holds to be worth telling.
    """

    def __init__(self, run: str, *, show_all: bool = False) -> None:
        self._story = Story(run)
        self._all = show_all
        self._quiet: Counter[str] = Counter()
        self._spoken = 0
        self._last: Line | None = None
        self._decided = 0
        self._same = ""
        self._again = 0

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self._story.fold.ended

    def take(self, entry: Entry) -> list[Event]:
        """Take in the next entry; returns what there is to tell."""
        event, lines = self._story.feed(entry, self._count)
        told = [line for line in lines if self._is_told(event, line)]
        if len(told) < len(lines) and event.sender not in SIDE:
            self._quiet[event.sender] += 1
            self._spoken += isinstance(getattr(event, "message", None), _SPOKEN)
            self._last = lines[-1]
        made: list[Event] = []
        for line in told:
            if line.text == self._same:
                self._again += 1
                self._last = line
                continue
            made += self.finish()
            self._same = line.text
            made.append(self._event(line))
        return made

    def finish(self) -> list[Event]:
        """What was counted and is not told yet."""
        again, self._again = self._again, 0
        if self._last is None or not (again or self._spoken):
            return []
        repeated = [self._counted(f"the same {counted(again, 'more time')}", again)] if again else []
        if not self._spoken:
            return repeated
        names = [safe(name) or "nobody" for name, _ in self._quiet.most_common(NAMED_MAX)]
        more = f" and {len(self._quiet) - NAMED_MAX} more" if len(self._quiet) > NAMED_MAX else ""
        total = sum(self._quiet.values())
        talk = "call, answer or message" if self._spoken == 1 else "calls, answers and messages"
        text = f"{', '.join(names)}{more}: {self._spoken} {talk} in {total} entries"
        self._quiet.clear()
        self._spoken = 0
        return [*repeated, self._counted(text, total)]

    def _counted(self, text: str, total: int) -> Event:
        assert self._last is not None
        made = self._event(self._last)
        return Event(seq=made.seq, at=made.at, after_s=made.after_s, text=text, weight="detail", counted=total)

    def summary(self) -> str:
        """The last line."""
        fold = self._story.fold
        core = fold.supervisor
        lasted = duration(fold.last_at_s - (fold.began_at_s or fold.last_at_s))
        found = len(core.incidents)
        left = sum(incident.state != "resolved" for incident in core.incidents.values())
        return (
            f"run {safe(fold.run)}: {core.state} after {lasted}, {core.seq} entries, {self._decided} decisions, "
            f"{found} findings{f', {left} of them open' if left else ''}"
        )

    def _count(self, commands: object) -> None:
        assert isinstance(commands, list)
        self._decided += sum(command.durable for command in commands)

    def _is_told(self, event: events.Event, line: Line) -> bool:
        if line.weight == "detail":
            return False
        if self._all or line.weight != "normal" or event.sender in SIDE:
            return self._all or line.weight != "normal" or not self._is_routine(event)
        return isinstance(getattr(event, "message", None), _TURNS)

    def _is_routine(self, event: events.Event) -> bool:
        """What our side says for every single call."""
        message = getattr(event, "message", None)
        if isinstance(message, m.SupervisorReply):
            return message.error is None
        return isinstance(message, t.RunTool | t.SpendGranted | t.SpendAsked | t.ToolRan | t.Spent)

    def _event(self, line: Line) -> Event:
        fold = self._story.fold
        after_s = line.at.timestamp() - (fold.began_at_s or line.at.timestamp())
        return Event(seq=line.seq, at=line.at, after_s=max(0.0, after_s), text=line.text, weight=line.weight)
