"""`supervisor serve`: run a controller, which watches runs, finds what is wrong and acts by policy."""

import gc
import os
import signal
import socket
from pathlib import Path

import anyio
import anyio.abc
import click

from crewkeeper_supervisor.cli.failure import INTERRUPTED
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.telemetry_options import telemetry_options


@click.command()
@click.option("--name", default="", metavar="NAME", help="Name of this controller; default: machine and process.")
@click.option("--run", "runs", multiple=True, metavar="RUN", help="Only this run (repeatable); default: all.")
@telemetry_options
@place_options
def serve(name: str, runs: tuple[str, ...], metrics: str, traces: str, state: Path | None, nats: str | None) -> int:
    """Run a controller: it watches runs and acts.

    `supervisor up` starts one by itself. Several may share a server: each run is owned by one of them, and taken over
    within seconds when that one is gone.

    SIGTERM drains it: it takes no more runs, finishes what is recorded, hands its runs over and ends. A second one, or
    SIGINT, ends it at once.

    Exit status: 0 drained, 4 no server, 70 its event loop hung, 130 interrupted.
    """
    return anyio.run(_serve, name, runs, metrics, traces, state, nats)


async def _serve(
    name: str, runs: tuple[str, ...], metrics: str, traces: str, state: Path | None, nats: str | None
) -> int:
    from crewkeeper_supervisor.shell import controller, fail_points, telemetry
    from crewkeeper_supervisor.shell.liveness import Liveness
    from crewkeeper_supervisor.shell.place import Place

    fail_points.arm()
    place = Place.find(state, nats)
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    gc.set_threshold(100_000, 20, 20)  # a fold makes many objects and hardly a cycle: look for them less often
    caught: list[int] = []
    drain = anyio.Event()
    observing = telemetry.opened(metrics, traces=bool(traces))
    async with observing as (observer, standing), anyio.create_task_group() as tasks:
        await tasks.start(_end_on_signal, tasks.cancel_scope, drain, caught)
        await controller.serve(
            place,
            name,
            runs=runs or None,
            observer=observer,
            standing=standing,
            drain=drain,
            alive=Liveness(end=os._exit),
        )
        tasks.cancel_scope.cancel()
    return INTERRUPTED if signal.SIGINT in caught else 0


async def _end_on_signal(
    scope: anyio.CancelScope, drain: anyio.Event, caught: list[int], *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    """Set `drain` on SIGTERM; on SIGINT or a second SIGTERM cancel `scope`: what is held is given back on the way."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for number in received:
            caught.append(number)
            if number == signal.SIGTERM and not drain.is_set():
                drain.set()
            else:
                scope.cancel()
