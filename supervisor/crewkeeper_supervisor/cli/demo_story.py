"""What the demo says: the story of its run, with a word of explanation where something happens that is worth one."""

import shutil
import sys
from pathlib import Path
from typing import IO, Final

import anyio
from rich.text import Text

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.shell.receiver import Received, describe
from crewkeeper_supervisor.views.fold import JournalEntry
from crewkeeper_supervisor.views.incident import ring_text
from crewkeeper_supervisor.views.printer import WEIGHT_STYLES
from crewkeeper_supervisor.views.snapshot import IncidentRow, incident_row
from crewkeeper_supervisor.views.story import Line, Story
from crewkeeper_supervisor.views.tables import new_console
from crewkeeper_supervisor.views.wording import duration, safe

_ROUTINE: Final = (
    m.RunDeclared | m.ProcessStarted | m.Joined | m.Cancel | m.Stop | m.Left | m.ProcessExited | m.Outcome | m.WaitEnded
)
"""What every run has and nobody wants to read the first time; trouble among it is told all the same."""
_KNOWN: Final = ("  what", "  wait", "  last")
"""What a webhook says that the story has just said."""
_INDENT: Final = " " * 9


class Narrator:
    """Tells the demo's run as it happens, and at its end what there is to see.

    Attributes:
        story: The run so far.
        notices: What the webhook receiver reported, oldest first.
        noticed: Set with the first notice.
    """

    def __init__(self, crew: Crew, place: Path, out: IO[str], *, color: bool) -> None:
        self.story = Story("")
        self.notices: list[Received] = []
        self.noticed = anyio.Event()
        self._crew = crew
        self._place = place
        self._shown = 0
        self._explained: set[str] = set()
        self._console = new_console(out, color=color)

    def begin(self, run: str) -> None:
        """Say what will be seen."""
        self.story = Story(run)
        names = [agent.name for agent in self._crew.agents]
        self._print(f"{len(names)} programs ({', '.join(names)}) plan a trip to Lisbon together.", "bold")
        self._print("Each is a process of its own; they talk over a real NATS server that was just started.")
        self._print("Watch them deadlock, the supervisor free them, and their work get done.")
        self._print("")

    def feed(self, entry: JournalEntry) -> None:
        """Tell the next journal entry."""
        event, lines = self.story.feed(entry)
        message = event.message if isinstance(event, Recorded) else None
        for line in lines:
            if line.weight == "detail" or (isinstance(message, _ROUTINE) and line.weight == "normal"):
                continue
            self._line(line)
            if line.text.startswith("DEADLOCK"):
                self._explain_deadlock(event)
        self._explain(event)
        if isinstance(message, m.Outcome):
            self._show_notices(self._shown + 1)

    def notice(self, received: Received) -> None:
        """Take in what the receiver reported; it is shown where the story comes to it."""
        self.notices.append(received)
        self.noticed.set()

    def _line(self, line: Line) -> None:
        self._print(str(line), WEIGHT_STYLES[line.weight])

    def _explain(self, event: Event) -> None:
        match event.message if isinstance(event, Recorded) else None:
            case m.Request(chain=chain) if chain:
                self._once(
                    "ring",
                    f"the {safe(event.sender)} asks back before it answers, and the one it asks is waiting for it:",
                    "neither will ever move, and no timeout was set",
                )
            case m.Break() if isinstance(event, Recorded):
                self._once(
                    "break",
                    f"in the {safe(event.to)}'s code the one `await` now raises WouldDeadlock; everything else goes on",
                )

    def _explain_deadlock(self, event: Event) -> None:
        for row in self._deadlocks():
            if row.seq == event.seq:
                self._explanation(*(safe(edge.text, None) for edge in row.edges))

    def _once(self, what: str, *lines: str) -> None:
        if what not in self._explained:
            self._explained.add(what)
            self._explanation(*lines)

    def _explanation(self, *lines: str) -> None:
        for line in lines:
            self._print(f"{_INDENT}| {line}", "dim")

    def _show_notices(self, up_to: int) -> None:
        for notice in self.notices[self._shown : up_to]:
            first = self._shown == 0
            self._shown += 1
            # Of the first what is new to the reader; of the others only that they came.
            lines = [line for line in describe(notice) if not line.startswith(_KNOWN)]
            for line in lines if first or not notice.verified else lines[:1]:
                self._print(f"{_INDENT}> {safe(line, None)}", "cyan" if notice.verified else "bold red")

    def _deadlocks(self) -> list[IncidentRow]:
        supervisor = self.story.fold.supervisor
        rows = [incident_row(self.story.fold.run, incident) for incident in supervisor.incidents.values()]
        return [row for row in rows if row.kind == "deadlock"]

    def end(self) -> list[str]:
        """Say where everything is and what to try next; returns what went wrong."""
        self._show_notices(len(self.notices))
        deadlocks = self._deadlocks()
        out = self._place / "out"
        files = sorted(out.iterdir()) if out.is_dir() else []
        opened = [each for each in self.notices if each.verified and _type(each) == "crewkeeper.deadlock.opened"]
        problems = []
        if self.story.fold.supervisor.state != "done" or not files:
            logs = self._place / ".crewkeeper" / "runs"
            problems.append(f"the crew did not finish its work ({self.story.fold.supervisor.state}); logs: {logs}")
        if not deadlocks:
            problems.append("no deadlock was found")
        if not opened or not all(each.verified for each in self.notices):
            problems.append("the webhook did not arrive with a right signature")
        self._print("")
        for path in files:
            self._fact("finished work", str(path))
        for row in deadlocks:
            freed = "not freed"
            if row.resolved_at is not None:
                freed = f"freed in {duration((row.resolved_at - row.at).total_seconds())}"
            self._fact("deadlock", f"{ring_text(row)}, {freed}")
        if opened:
            self._fact("a person was told", f"{len(self.notices)} webhooks; the receiver checked each signature: ok")
        if deadlocks:
            self._next(deadlocks[0])
        return problems

    def _next(self, row: IncidentRow) -> None:
        command = _command()
        self._print("")
        self._print("Next", "bold")
        self._print(f"  cd {self._place}")
        for arguments, what in (
            (f"incidents show {row.id}", "the whole evidence"),
            ("events --all", "every step, from the journal"),
            ("up crew.yaml", "the same with a live view, and no webhook receiver"),
            ("init my-crew", "a crew of your own"),
        ):
            self._print(f"  {command} {arguments.ljust(22)} # {what}")

    def problem(self, text: str) -> None:
        """Say what went wrong."""
        self._print(f"FAILED: {text}", "bold red")

    def _fact(self, name: str, value: str) -> None:
        self._print(f"{name.ljust(18)} {value}", "green")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


def _type(notice: Received) -> str:
    return str(notice.body.get("type", "")) if isinstance(notice.body, dict) else ""


def _command() -> str:
    """How to type this command elsewhere: by name if the shell finds it, else by path."""
    here = Path(sys.argv[0])
    found = shutil.which("supervisor")
    if here.name != "supervisor":
        return f"{sys.executable} -m crewkeeper_supervisor.cli.main"
    return "supervisor" if found and Path(found).resolve() == here.resolve() else str(here.absolute())
