"""`supervisor ps`: the runs of a server."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.output import emit_rows, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.registry import RunInfo


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="Also runs that have ended.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most runs shown.")
@watch_option
@output_option()
@place_options
def ps(show_all: bool, limit: int, output: str, state: Path | None, nats: str | None) -> None:
    """List runs."""
    anyio.run(_ps, show_all, limit, output, state, nats)


async def _ps(show_all: bool, limit: int, output: str, state: Path | None, nats: str | None) -> None:
    import msgspec

    from crewkeeper_supervisor.cli.runs import folded_if_there
    from crewkeeper_supervisor.shell.registry import ENDED, Registry
    from crewkeeper_supervisor.views.fold import Fold
    from crewkeeper_supervisor.views.snapshot import RunView, snapshot
    from crewkeeper_supervisor.views.tables import runs_table
    from crewkeeper_supervisor.views.wording import moment

    def without_journal(info: "RunInfo") -> RunView:
        began = {"began_at": moment(info.declared_at_s), "crew": info.crew, "state": info.state}
        return msgspec.structs.replace(snapshot(Fold(info.run)), **began)

    async with opened(state, nats, stored=True) as link:
        known = await Registry(link).ls()
        chosen = known if show_all else [info for info in known if info.state not in ENDED]
        folds = {info.run: await folded_if_there(link, info) for info in chosen[-limit:]}
        views = [
            without_journal(info) if (fold := folds[info.run]) is None else snapshot(fold) for info in chosen[-limit:]
        ]
    now = datetime.now(UTC)
    emit_rows(
        views,
        output,
        table=lambda wide: runs_table(views, now, wide=wide),
        name=lambda view: str(view.run),
    )
    hidden = len(known) - len(views)
    if hidden and output in ("table", "wide"):
        why = "ended, shown with --all" if not show_all else "older, shown with a higher --limit"
        say(f"{hidden} more: {why}")
    gone = sum(fold is None for fold in folds.values())
    if gone and output in ("table", "wide"):
        say(f"{gone} of them: the journal is gone, supervisor audit verify RUN says why")
