"""`supervisor controllers`: who serves a server, and what each owns."""

from datetime import UTC, datetime
from pathlib import Path

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_rows, output_option
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option


@click.command()
@watch_option
@output_option()
@place_options
def controllers(output: str, state: Path | None, nats: str | None) -> None:
    """List controllers: their runs, how far behind they are, how they are.

    With -o wide also where each runs, which code it decides by, and the run and term of each ownership.
    """
    anyio.run(_controllers, output, state, nats)


async def _controllers(output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.shell import members
    from crewkeeper_supervisor.views.controllers import controller_row, controllers_table

    async with opened(state, nats) as link:
        found = await members.ls(link)
    now = datetime.now(UTC)
    rows = [controller_row(each, now) for each in found]
    emit_rows(rows, output, table=lambda wide: controllers_table(rows, now, wide=wide), name=lambda row: str(row.name))
