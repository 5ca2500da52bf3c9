"""`supervisor incidents`: what the supervisor found, and what came of it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.incident_acts import ack, resolve
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, output_option
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.snapshot import IncidentRow

RUNS_SEARCHED_MAX = 50
"""Newest runs looked into where none is named."""


@click.group()
def incidents() -> None:
    """List, show, acknowledge and close what the supervisor found."""


incidents.add_command(ack)
incidents.add_command(resolve)


@incidents.command()
@click.argument("run", required=False)
@click.option("--open", "only_open", is_flag=True, help="Only those not resolved.")
@watch_option
@output_option()
@place_options
def ls(run: str | None, only_open: bool, output: str, state: Path | None, nats: str | None) -> None:
    """List incidents of a run, or of all runs."""
    anyio.run(_ls, run, only_open, output, state, nats)


async def _ls(run: str | None, only_open: bool, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.views.tables import incidents_table

    rows = [row for row in await _rows(run, state, nats) if not only_open or row.state != "resolved"]
    now = datetime.now(UTC)
    emit_rows(rows, output, table=lambda wide: incidents_table(rows, now, wide=wide), name=lambda row: str(row.id))


async def _rows(run: str | None, state: Path | None, nats: str | None) -> "list[IncidentRow]":
    from crewkeeper_supervisor.cli.runs import choose, folded, folded_if_there
    from crewkeeper_supervisor.shell.registry import Registry
    from crewkeeper_supervisor.views.snapshot import incident_row

    async with opened(state, nats, stored=True) as link:
        known = await Registry(link).ls()
        chosen = [choose(known, run)] if run else known[-RUNS_SEARCHED_MAX:]
        rows = []
        for info in chosen:
            fold = await folded(link, info.run) if run else await folded_if_there(link, info)
            found = {} if fold is None else fold.supervisor.incidents
            rows += [incident_row(info.run, incident) for incident in found.values()]
        return rows


@incidents.command()
@click.argument("target", nargs=-1, required=True, metavar="[RUN] INCIDENT")
@click.option("--run", metavar="RUN", help="The run, where it is not named before the incident.")
@watch_option
@output_option()
@place_options
def show(target: tuple[str, ...], run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show one incident: the ring, the victim, what was done and when."""
    if len(target) > 2:
        raise Failure("give one incident, and at most one run before it", code=USAGE)
    anyio.run(_show, target[-1], target[0] if len(target) == 2 else run, output, state, nats)


async def _show(incident: str, run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import near
    from crewkeeper_supervisor.views.incident import page

    rows = await _rows(run, state, nats)
    found = [row for row in rows if row.id.lower() == incident.lower()]
    if not found:
        hint = near(incident, [row.id for row in rows])
        raise Failure(f"no incident {incident[:60]!r}{hint}", code=NOT_FOUND, remedy="supervisor incidents ls")
    if len(found) > 1:
        where = ", ".join(row.run for row in found)
        remedy = f"supervisor incidents show {found[-1].run} {found[-1].id}"
        raise Failure(f"{incident!r} is in {len(found)} runs: {where}", code=USAGE, remedy=remedy)
    emit_document(found[0], output, lambda: page(found[0], datetime.now(UTC)), name=found[0].id)
