"""`supervisor model-proxy`: the place through which the agents of a run call models."""

import os
import signal
from pathlib import Path

import anyio
import anyio.abc
import click

from crewkeeper_supervisor.cli.failure import INTERRUPTED
from crewkeeper_supervisor.cli.output import say
from crewkeeper_supervisor.cli.place_options import place_options


@click.command("model-proxy")
@click.argument("run", metavar="RUN")
@click.option("--listen", default="", metavar="HOST:PORT", help="Where to listen; default: as the crew file says.")
@place_options
def model_proxy(run: str, listen: str, state: Path | None, nats: str | None) -> int:
    """Run the model proxy of a run.

    `supervisor up` starts one by itself for a crew with `model_proxy`. The providers' keys are read from the
    environment of this command, and nowhere else.

    Exit status: 0 told to end (SIGTERM), 3 a setting is invalid, 4 no server, 5 no such run, 130 interrupted.
    """
    return anyio.run(_model_proxy, run, listen, state, nats)


async def _model_proxy(run: str, listen: str, state: Path | None, nats: str | None) -> int:
    from crewkeeper_supervisor.model_proxy.serving import serve
    from crewkeeper_supervisor.shell.place import Place

    place = Place.find(state, nats)
    caught: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def end_on_signal(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                task_status.started()
                async for number in received:
                    caught.append(number)
                    tasks.cancel_scope.cancel()

        await tasks.start(end_on_signal)
        await serve(
            place, run, os.environ, listen=listen, ready=lambda address: say(f"model proxy of {run}: {address}")
        )
        tasks.cancel_scope.cancel()
    return INTERRUPTED if signal.SIGINT in caught else 0
