"""`supervisor responses`: what was done about findings, and what shadow mode left undone."""

from pathlib import Path

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_document, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option


@click.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def responses(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show what was done about findings, and what shadow mode would have done."""
    anyio.run(_responses, run, output, state, nats)


async def _responses(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.views.responses import notices, responses, responses_table

    async with opened(state, nats, stored=True) as link:
        info = await find_run(link, run)
        view = responses(await folded(link, info.run))
    emit_document(view, output, list, table=lambda wide: responses_table(view, wide=wide))
    if output in ("table", "wide"):
        for notice in notices(view):
            say(notice)
