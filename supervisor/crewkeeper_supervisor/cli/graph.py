"""`supervisor graph`: who waits for whom in a run, once or as it changes."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.failure import USAGE, Failure
from crewkeeper_supervisor.cli.output import (
    emit_document,
    is_live,
    output_option,
    stdout,
    use_color,
    write,
    write_json_line,
)
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.views.fold import Fold
    from crewkeeper_supervisor.views.graph import WaitGraph

REPAINT_EVERY_S = 0.25


@click.command()
@click.argument("run", required=False)
@click.option("-w", "--watch", is_flag=True, help="Show it again whenever it changes, until the run is over.")
@output_option("dot", "mermaid")
@place_options
def graph(run: str | None, watch: bool, output: str, state: Path | None, nats: str | None) -> None:
    """Show who waits for whom.

    RUN is a run id, the beginning of one, or a crew's name; it may be left out where only one run is active.
    """
    if watch and output not in ("table", "wide", "json", "jsonl"):
        raise Failure(f"--watch shows text or json, not {output}", code=USAGE)
    anyio.run(_graph, run, watch, output, state, nats)


async def _graph(run: str | None, watch: bool, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.views import graph as views
    from crewkeeper_supervisor.views.snapshot import snapshot

    async with opened(state, nats, stored=not watch) as link:
        info = await find_run(link, run)
        if watch:
            await _watch(link, info.run, output)
            return
        picture = views.wait_graph(snapshot(await folded(link, info.run)))
    match output:
        case "dot":
            write(views.dot(picture))
        case "mermaid":
            write(views.mermaid(picture))
        case _:
            lines = lambda: views.sentences(picture, datetime.now(UTC))  # noqa: E731
            emit_document(picture, output, lines, name=info.run)


async def _watch(link: "Link", run: str, output: str) -> None:
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.views.fold import Fold
    from crewkeeper_supervisor.views.graph import wait_graph
    from crewkeeper_supervisor.views.snapshot import snapshot

    fold = Fold(run)
    show = _painter(output)
    async with journal.follow(link, run) as entries:
        shown: tuple[object, ...] | None = None
        while True:
            for entry in await entries.batch(timeout_s=REPAINT_EVERY_S):
                fold.feed(entry)
            if not entries.caught_up:
                continue
            picture = wait_graph(snapshot(fold))
            if output in ("table", "wide") and is_live(stdout()):
                show(picture, fold)  # ages change even where nothing else does
            elif (picture.edges, picture.nodes) != shown:
                shown = (picture.edges, picture.nodes)
                show(picture, fold)
            if fold.ended:
                return


def _painter(output: str) -> "Callable[[WaitGraph, Fold], None]":
    from rich.control import Control
    from rich.segment import ControlType

    from crewkeeper_supervisor.views.graph import sentences
    from crewkeeper_supervisor.views.tables import new_console

    console = new_console(stdout(), color=use_color())

    def paint(picture: "WaitGraph", fold: "Fold") -> None:
        if output in ("json", "jsonl"):
            write_json_line(picture)
            return
        if is_live(stdout()):
            console.control(Control(ControlType.HOME, ControlType.CLEAR))
        now = datetime.now(UTC)
        write(f"{now.astimezone():%H:%M:%S} {fold.run} {fold.supervisor.state}")
        for line in sentences(picture, now):
            write(line)
        stdout().flush()

    return paint
