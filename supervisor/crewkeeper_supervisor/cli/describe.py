"""`supervisor crew describe`: one run on a page, with what happened last at its end."""

import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.story import Line

_KEPT = 200


@click.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def describe(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show one run: its agents, who waits for whom, what was found and spent, and what happened last."""
    anyio.run(_describe, run, output, state, nats)


async def _describe(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.shell.lease import holder_of
    from crewkeeper_supervisor.views.run_page import page_lines, run_page
    from crewkeeper_supervisor.views.story import Story

    async with opened(state, nats, stored=True) as link:
        info = await find_run(link, run)
        story = Story(info.run)
        last: deque[Line] = deque(maxlen=_KEPT)
        for entry in await journal.read_all(link, info.run):
            last += [line for line in story.feed(entry)[1] if line.weight != "detail"]
        holder = await holder_of(link, info.run)
    owner = "" if holder is None or holder.is_dead else holder.owner
    page = run_page(story.fold, list(last), info.host, owner, time.time())
    emit_document(page, output, lambda: page_lines(page, datetime.now(UTC)), name=info.run)
