"""`supervisor responses`: what was done about findings, and what shadow mode left undone."""

from pathlib import Path

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_document, emit_table, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options


@click.command()
@click.argument("run", required=False)
@output_option("table", "wide", "json", "yaml")
@place_options
def responses(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show what was done about findings, and what shadow mode would have done."""
    anyio.run(_responses, run, output, state, nats)


async def _responses(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.views.responses import notices, responses, responses_table

    async with opened(state, nats) as link:
        info = await find_run(link, run)
        view = responses(await folded(link, info.run))
    if output in ("json", "yaml"):
        emit_document(view, output, list)
        return
    emit_table(responses_table(view, wide=output == "wide"))
    for notice in notices(view):
        say(notice)
