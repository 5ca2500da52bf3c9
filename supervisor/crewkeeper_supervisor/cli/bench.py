"""`supervisor bench`: how fast this machine is at what the supervisor does, measured now; figures, no promises."""

import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.progress import Progress

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.journal import Follower

ROUND_TRIPS: Final = 300
BURST: Final = 5_000
CORE_EVENTS: Final = 1500
RUN: Final = "bench-000001"


class Figure(Struct, frozen=True, kw_only=True):
    """One thing measured."""

    name: str
    value: float
    unit: str
    what: str


class Measured(Struct, frozen=True, kw_only=True):
    """All figures, and the machine that they are of."""

    figures: tuple[Figure, ...]
    cpus: int
    load: float
    """Processes that wanted to run in the last minute before it began: much above zero, and figures are too bad."""
    python: str
    took_s: float
    schema_version: int = 1


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=3.0, show_default=True, help="For the part without a server."
)
@output_option()
def bench(seconds: float, output: str) -> None:
    """Measure how fast this machine is at what the supervisor does: a few seconds, on a server of its own.

    These are figures of one machine at one moment. `load` says how busy it was; compare only figures of quiet machines.
    """
    began_s = time.monotonic()
    load = os.getloadavg()[0]
    with Progress("deciding, entries") as progress:
        figures = [_deciding(seconds, progress)]
    with tempfile.TemporaryDirectory(prefix="crewkeeper-bench-") as folder:
        figures += anyio.run(_storing, Path(folder))
    measured = Measured(
        figures=tuple(figures),
        cpus=os.cpu_count() or 1,
        load=round(load, 2),
        python=platform.python_version(),
        took_s=round(time.monotonic() - began_s, 2),
    )
    emit_document(measured, output, lambda: _lines(measured))


def _deciding(seconds: float, progress: Progress) -> Figure:
    """Simulated runs, one seed after the other, until the time is over."""
    from crewkeeper_supervisor.chaos.options import Options
    from crewkeeper_supervisor.chaos.sweep import Sweep

    sweep = Sweep(Options(agents=6, events=CORE_EVENTS))
    began_s, seed = time.process_time(), 0
    until_s = time.monotonic() + seconds
    while not seed or time.monotonic() < until_s:
        before = sweep.events
        sweep.run([seed])
        progress.add(sweep.events - before)
        seed += 1
    per_s = sweep.events / (time.process_time() - began_s)
    what = "journal entries decided on per second of processor time, with the simulated crew, its faults and its oracle"
    return Figure(name="decide", value=round(per_s), unit="entries/s", what=what)


async def _storing(folder: Path) -> list[Figure]:
    """What passes between a message and whoever reads it in the journal, on an embedded server."""
    from crewkeeper_bus.messages import Violation
    from crewkeeper_bus.server import EmbeddedServer
    from crewkeeper_supervisor.core.crew import Agent, Crew
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place

    message = Violation(agent="a", what="publish", detail="bench")
    async with EmbeddedServer(folder) as server, connect(Place.of(folder, server.credentials), name="bench") as link:
        await journal.create_run(link, RUN, Crew(name="bench", agents=(Agent(name="a", run=("true",)),)), "here")
        trips: list[float] = []
        async with journal.follow(link, RUN) as entries:
            await _taken(entries, 1)
            for _ in range(ROUND_TRIPS):
                at_s = time.perf_counter()
                await journal.publish_op(link, RUN, message)
                await _taken(entries, 1)
                trips.append(time.perf_counter() - at_s)
            at_s = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_taken, entries, BURST)
                for _ in range(BURST):
                    await journal.publish_op(link, RUN, message)
            per_s = BURST / (time.perf_counter() - at_s)
    return [
        Figure(name="journal p50", value=_ms(trips, 50), unit="ms", what="from a message to its reader, half of them"),
        Figure(name="journal p99", value=_ms(trips, 99), unit="ms", what="the same, 99 of 100"),
        Figure(name="journal rate", value=round(per_s), unit="entries/s", what="stored and read, one writer"),
    ]


async def _taken(entries: "Follower", count: int) -> None:
    while count > 0:
        count -= len(await entries.batch())


def _ms(values: Sequence[float], percent: int) -> float:
    return round(sorted(values)[min(len(values) - 1, len(values) * percent // 100)] * 1000, 3)


def _lines(measured: Measured) -> list[str]:
    width = max(len(each.name) for each in measured.figures)
    lines = [
        f"{each.name.ljust(width)}  {each.value:>10,.10g} {each.unit:<9}  {each.what}" for each in measured.figures
    ]
    busy = "; the machine was busy: figures are too bad" if measured.load > measured.cpus / 2 else ""
    return [*lines, f"{measured.cpus} CPUs, load {measured.load:g} at the beginning, Python {measured.python}{busy}"]
