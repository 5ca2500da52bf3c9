"""`supervisor events`: the journal told in sentences, or as data."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.output import Rows, output_option, stdout, use_color
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.journal import Entry
    from crewkeeper_supervisor.views.printer import StoryPrinter
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


@click.command()
@click.argument("run", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen, until the run is over.")
@click.option("--since", type=Span(), metavar="SPAN", help="Only what is younger: 90s, 10m, 2h, 1d.")
@click.option("--all", "show_all", is_flag=True, help="Also heartbeats, ticks, probes, single steps of tasks.")
@output_option()
@place_options
def events(
    run: str | None,
    follow: bool,
    since: float | None,
    show_all: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    """Tell what happened, from the journal.

    RUN is a run id, the beginning of one, or a crew's name; it may be left out where only one run is active. With
    `-o jsonl` every journal entry is one line, as it was stored, bodies of messages included.
    """
    if follow and output in ("json", "yaml"):
        raise Failure(f"-f has no end, and {output} is one document", code=USAGE, remedy="-o jsonl")
    anyio.run(_events, run, follow, since, show_all, output, state, nats)


async def _events(
    run: str | None,
    follow: bool,
    since: float | None,
    show_all: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    from crewkeeper_supervisor.cli.runs import find_run
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.views.printer import StoryPrinter
    from crewkeeper_supervisor.views.story import Story

    from_s = 0.0 if since is None else time.time() - since
    async with opened(state, nats, stored=not follow) as link:
        info = await find_run(link, run)
        story = Story(info.run)
        printer = StoryPrinter(stdout(), color=use_color(), show_all=show_all)
        rows = None if output in ("table", "wide") else Rows(output, lambda row: str(row.get("id") or row["seq"]))
        if not follow:
            for entry in await journal.read_all(link, info.run):
                _show(entry, story, printer, from_s, rows)
            if rows is not None:
                rows.end()
            return
        async with journal.follow(link, info.run) as entries:
            while not story.fold.ended:
                for entry in await entries.batch():
                    _show(entry, story, printer, from_s, rows)


def _show(entry: "Entry", story: "Story", printer: "StoryPrinter", from_s: float, rows: Rows | None) -> None:
    from crewkeeper_supervisor.views.story import event_document

    event, lines = story.feed(entry)
    if entry.at_s < from_s:
        return
    if rows is not None:
        rows.put(event_document(story.fold.run, event))
        return
    for line in lines:
        printer.write(line)
