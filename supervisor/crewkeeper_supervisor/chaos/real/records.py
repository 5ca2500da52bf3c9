"""Records: whether a run that is over can be decided again from its journal alone, as its ledger has it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_bus.errors import BusError
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.shell import source
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.views.replay import Difference, Replay

READ_S: Final = 120.0
"""How long reading it all may take."""
TOLD_MAX: Final = 3


async def differences(state: Path, nats: str | None, run: str) -> list[str]:
    """What is wrong with the records of a run, in words; empty: nothing.

    Args:
        state: Its state directory; a server is started on the store in it, unless `nats` says where one runs.
        nats: Address of a server that still runs; None: there is none.
        run: Its id. Its host and its controllers have ended.
    """
    try:
        with anyio.fail_after(READ_S):
            async with _server(state, nats) as link:
                found = await _decided_again(link, run)
    except (ShellError, BusError, OSError, TimeoutError, *LINK_ERRORS) as error:
        return [f"they cannot be read: {str(error)[:200] or type(error).__name__}"]
    return [_said(each) for each in found[:TOLD_MAX]]


@contextlib.asynccontextmanager
async def _server(state: Path, nats: str | None) -> AsyncIterator[Link]:
    if nats is not None:
        async with connect(Place.of_url(nats, state)) as link:
            yield link
        return
    async with EmbeddedServer(state) as server, connect(Place.of(state, server.credentials)) as link:
        yield link


async def _decided_again(link: Link, run: str) -> list[Difference]:
    there = await source.of_run(link, run)
    replaying = Replay(run, there.decided(), there.heads)
    async for batch in there.batches():
        replaying.take(batch)
    return replaying.finish().differences


def _said(difference: Difference) -> str:
    what = f"command {difference.id} of entry {difference.seq}" if difference.id else f"entry {difference.seq}"
    return f"{what}: {difference.kind}"
