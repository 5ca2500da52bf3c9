"""`supervisor crew describe`: one run on a page, with what happened last at its end."""

import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_document, output_option, room
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.fold import JournalEntry
    from crewkeeper_supervisor.views.story import Line

_KEPT = 200


class _Told:
    """A run's story with its last lines."""

    def __init__(self, run: str) -> None:
        from crewkeeper_supervisor.views.story import Story

        self.story = Story(run)
        self.last: deque[Line] = deque(maxlen=_KEPT)

    def feed(self, entry: "JournalEntry") -> None:
        """Take in the next entry."""
        self.last += [line for line in self.story.feed(entry)[1] if line.weight != "detail"]


@click.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def describe(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show one run: its agents, who waits for whom, what was found and spent, and what happened last."""
    anyio.run(_describe, run, output, state, nats)


async def _describe(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, read_into
    from crewkeeper_supervisor.shell.lease import holder_of
    from crewkeeper_supervisor.views.run_page import page_lines, run_page

    async with opened(state, nats, stored=True) as link:
        info = await find_run(link, run)
        told = await read_into(link, info.run, _Told)
        holder = await holder_of(link, info.run)
    owner = "" if holder is None or holder.is_dead else holder.owner
    page = run_page(told.story.fold, list(told.last), info.host, owner, time.time())
    emit_document(page, output, lambda: page_lines(page, datetime.now(UTC), room()), name=info.run)
