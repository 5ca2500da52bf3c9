"""A plain responder in a process of its own, where the gate is too: what a request costs that nobody decides about."""

import asyncio
import sys
from pathlib import Path

import anyio
from nats.aio.msg import Msg

from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place

SUBJECT = "plain.echo"


async def answer(msg: Msg) -> None:
    """Say the same."""
    await msg.respond(msg.data)


async def _respond(state: Path) -> None:
    async with connect(Place.find(state=state), name="echo") as link:
        await link.nc.subscribe(SUBJECT, cb=answer)
        await asyncio.Event().wait()


if __name__ == "__main__":
    anyio.run(_respond, Path(sys.argv[sys.argv.index("--state") + 1]))
