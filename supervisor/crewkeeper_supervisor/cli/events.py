"""`supervisor events`: the journal told in sentences, or as data."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import click

from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.output import Rows, is_live, output_option, stdout, use_color
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.events import Event
    from crewkeeper_supervisor.views.fold import JournalEntry
    from crewkeeper_supervisor.views.story import Story

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Span(click.ParamType[float]):
    """A span of time such as `90s`, `10m`, `2h`, `1d`; the command gets seconds."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        match = _SPAN.match(str(value))
        if match is None:
            self.fail(f"{str(value)[:40]!r} is no span of time; write e.g. 500ms, 90s, 10m, 2h, 1d", param, ctx)
        return float(match[1]) * _UNIT_S[match[2]]


class Choosing(NamedTuple):
    """Which entries are told; without a word about it, all."""

    from_s: float
    """Not before this, in seconds since the epoch."""
    types: frozenset[str]
    """Types of messages and kinds of findings, in small letters."""
    agents: frozenset[str]
    """Whoever says or hears it."""
    show_all: bool

    def takes(self, event: "Event", story: "Story") -> bool:
        """Whether the newest entry of a story is one of them."""
        if event.at_s < self.from_s:
            return False
        message = getattr(event, "message", event)
        if self.agents and self.agents.isdisjoint(_named(event, message)):
            return False
        return not self.types or type(message).__name__.lower() in self.types or self._found(event, story)

    def _found(self, event: "Event", story: "Story") -> bool:
        for incident in reversed(story.fold.supervisor.incidents.values()):
            if incident.finding.seq != event.seq:
                return False
            if incident.finding.kind in self.types:
                return True
        return False


def _named(event: "Event", message: object) -> "set[str]":
    """Whom an entry is about: who says it, who hears it, and whom it names."""
    return {getattr(event, "sender", ""), getattr(event, "to", ""), getattr(message, "agent", "")}


@click.command()
@click.argument("run", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen, until the run is over.")
@click.option("--since", type=Span(), metavar="SPAN", help="Only what is younger: 90s, 10m, 2h, 1d.")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only messages of this type, or what was found of this kind."
)
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Only what it says, hears or is named in.")
@click.option("--all", "show_all", is_flag=True, help="Also heartbeats, ticks, probes, single steps of tasks.")
@output_option()
@place_options
def events(
    run: str | None,
    follow: bool,
    since: float | None,
    types: tuple[str, ...],
    agents: tuple[str, ...],
    show_all: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    """Tell what happened, from the journal.

    RUN is a run id, the beginning of one, or a crew's name; it may be left out where only one run is active. With
    `-o jsonl` every journal entry is one line, as it was stored, bodies of messages included.

    TYPE is as `-o jsonl` shows it, as Request, or the kind of a finding, as deadlock; it and NAME may be repeated.
    """
    if follow and output in ("json", "yaml"):
        raise Failure(f"-f has no end, and {output} is one document", code=USAGE, remedy="-o jsonl")
    from_s = 0.0 if since is None else time.time() - since
    chosen = _types(types)
    choosing = Choosing(from_s, chosen, frozenset(agents), show_all or _has_messages(chosen))
    anyio.run(_events, run, follow, choosing, output, state, nats)


def _types(words: tuple[str, ...]) -> frozenset[str]:
    """Types of entries as they are compared.

    Raises:
        Failure: There is none of that name.
    """
    if not words:
        return frozenset()
    from crewkeeper_supervisor.cli.runs import near
    from crewkeeper_supervisor.views.entry import entry_types

    known = {name.lower(): name for name in entry_types()}
    for word in words:
        if word.lower() not in known:
            hint = near(word.lower(), list(known)) or f"; known are {', '.join(known.values())}"
            raise Failure(f"no entry is of type {word[:60]!r}{hint}", code=USAGE)
    return frozenset(word.lower() for word in words)


def _has_messages(types: frozenset[str]) -> bool:
    """Whether messages are asked for: then also those that are no news by themselves."""
    if not types:
        return False
    from crewkeeper_supervisor.views.entry import message_types

    return not types.isdisjoint(name.lower() for name in message_types())


async def _events(
    run: str | None, follow: bool, choosing: Choosing, output: str, state: Path | None, nats: str | None
) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, read_into
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.views.story import Story

    async with opened(state, nats, stored=not follow) as link:
        info = await find_run(link, run)
        shown = _Shown(Story(info.run), choosing, output)
        if not follow:
            await read_into(link, info.run, lambda _run: shown, told=not is_live(stdout()))
            shown.check()
            shown.end()
            return
        async with journal.follow(link, info.run) as entries:
            while not shown.ended:
                for entry in await entries.batch():
                    shown.feed(entry)
                if entries.caught_up:
                    shown.check()


class _Shown:
    """A story that is shown as it is told."""

    def __init__(self, story: "Story", choosing: Choosing, output: str) -> None:
        from crewkeeper_supervisor.views.entry import event_document
        from crewkeeper_supervisor.views.printer import StoryPrinter

        self._document = event_document
        self._story = story
        self._choosing = choosing
        self._printer = StoryPrinter(stdout(), color=use_color(), show_all=choosing.show_all)
        self._rows = None if output in ("table", "wide") else Rows(output, lambda row: str(row.get("id") or row["seq"]))

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self._story.fold.ended

    def feed(self, entry: "JournalEntry") -> None:
        """Take in the next entry, and show it if it was chosen."""
        event, lines = self._story.feed(entry)
        if not self._choosing.takes(event, self._story):
            return
        if self._rows is not None:
            self._rows.put(self._document(self._story.fold.run, event))
            return
        for line in lines:
            self._printer.write(line)

    def check(self) -> None:
        """See that there are such agents.

        Raises:
            Failure: There is one of another name.
        """
        from crewkeeper_supervisor.cli.agent import find_agent

        for name in self._choosing.agents:
            find_agent(self._story, name)

    def end(self) -> None:
        """Write what is one document."""
        if self._rows is not None:
            self._rows.end()
