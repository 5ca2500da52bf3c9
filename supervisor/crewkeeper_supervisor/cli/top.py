"""`supervisor top`: the agents of running crews as they are now, again and again; whoever is in trouble first."""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_rows, is_live, output_option, say, stdout, write
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import repeat

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.snapshot import RunView
    from crewkeeper_supervisor.views.top import Order, TopRow

ORDERS: Final = ("trouble", "rate", "cost", "name")
HEADS_SHOWN: Final = 6
"""Runs that have a line of their own above the table."""
_AROUND: Final = 4
"""Lines of a page that are no rows: the table's head, what is left out, the cursor's."""


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option(
    "--sort",
    "order",
    type=click.Choice(ORDERS),
    default="trouble",
    show_default=True,
    help="What comes first: trouble, then long waits; what costs most a minute, or in all; or names.",
)
@output_option()
@place_options
def top(runs: tuple[str, ...], order: "Order", output: str, state: Path | None, nats: str | None) -> None:
    """Show agents live: state, waits, what each does and costs a minute.

    Of all runs that are active, or of those named. Rates are of the last minute. On a terminal it is shown again every
    second until interrupted, as much as fits; elsewhere once, whole.
    """
    if output in ("table", "wide") and is_live(stdout()):
        repeat(lambda: anyio.run(_top, runs, order, output, state, nats, True))
    else:
        anyio.run(_top, runs, order, output, state, nats, False)


async def _top(
    runs: tuple[str, ...], order: "Order", output: str, state: Path | None, nats: str | None, live: bool
) -> None:
    from crewkeeper_supervisor.cli.runs import choose_active, read_into
    from crewkeeper_supervisor.shell.registry import Registry
    from crewkeeper_supervisor.views.top import Meter, ordered, top_table

    async with opened(state, nats) as link:
        chosen, ended = choose_active(await Registry(link).ls(), runs, every=not runs)
        meters = [await read_into(link, info.run, Meter) for info in chosen]
    now = datetime.now(UTC)
    told = sorted((meter.rows(time.time()) for meter in meters), key=lambda each: not each[0].open_incidents)
    rows = ordered([row for _, rows in told for row in rows], order)
    for info in ended:
        say(f"{info.run} has ended: {info.state}")
    shown = rows
    if live:
        shown = rows[: _head([view for view, _ in told], rows, now)]
    emit_rows(
        shown,
        output,
        table=lambda wide: top_table(shown, now, wide=wide),
        name=lambda row: str(row.agent.name),
    )
    if len(shown) < len(rows):
        write(f"… and {len(rows) - len(shown)} more agents")


def _head(views: "list[RunView]", rows: "list[TopRow]", now: datetime) -> int:
    """Write what stands above the table; returns how many rows there is room for below it."""
    from crewkeeper_supervisor.views.top import head_lines

    size = shutil.get_terminal_size()
    lines = head_lines(views[:HEADS_SHOWN], rows, now)
    if len(views) > HEADS_SHOWN:
        lines.append(f"… and {len(views) - HEADS_SHOWN} more runs")
    for line in lines:
        write(line)
    taken = sum(-(-len(line) // size.columns) for line in lines)
    return max(1, size.lines - taken - _AROUND)
