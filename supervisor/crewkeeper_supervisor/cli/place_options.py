"""Where a command looks: `--state`, `--nats`, and the connection it opens for as long as it runs."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from crewkeeper_supervisor.cli.output import say

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link

_Command = TypeVar("_Command", bound=Callable[..., Any])


kept_readers: ContextVar[dict[Any, Any] | None] = ContextVar("crewkeeper_kept_readers", default=None)
"""What a command that is shown again and again has read so far, for its next look; None where it is shown once."""
_STARTS: Final = ("up", "host")
"""Commands that start agents: what these are to connect with is no business of a context."""


def _choose(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if not value:
        return
    if ctx.info_name in _STARTS or (ctx.parent is not None and ctx.parent.info_name in _STARTS):
        raise click.UsageError("--context is for commands that look at runs: name the server with --nats", ctx)
    from crewkeeper_supervisor.shell.contexts import chosen

    token = chosen.set(value)
    ctx.call_on_close(lambda: chosen.reset(token))


def several(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> str | None:
    """The addresses of one cluster as one, whether the option is repeated or has commas in it."""
    return ",".join(value) or None


def place_options(command: _Command) -> _Command:
    """Add `--state DIR`, `--nats URL` and `--context NAME`; the command gets the first two as `state` and `nats`."""
    command = click.option(
        "--context",
        metavar="NAME",
        expose_value=False,
        callback=_choose,
        help="A server by its name: supervisor context ls.",
    )(command)
    command = click.option(
        "--nats",
        metavar="URL",
        multiple=True,
        callback=several,
        help="NATS server, or several of a cluster; default: $CREWKEEPER_NATS_URL, else the state's.",
    )(command)
    return click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="State directory; default: $CREWKEEPER_STATE, else the nearest .crewkeeper/.",
    )(command)


@contextlib.asynccontextmanager
async def opened(state: Path | None, nats: str | None, *, stored: bool = False) -> "AsyncIterator[Link]":
    """Connect to the server of a place.

    Args:
        state: State directory, if given.
        nats: Server address, if given.
        stored: If nothing runs there but its store is left, start a server on the store for as long as this lasts:
            enough to look back at runs that have ended, and good for nothing else. Not while it is watched: nothing
            changes there.

    Raises:
        NothingRuns: No server, and no store to look into.
        ConnectionLost: The server does not answer.
    """
    from crewkeeper_supervisor.shell.errors import NothingRuns
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place, state_dir

    try:
        place = Place.find(state, nats)
    except NothingRuns:
        directory = state_dir(state)
        if not stored or kept_readers.get() is not None or not (directory / "store").is_dir():
            raise
    else:
        async with connect(place) as link:
            yield link
        return
    from crewkeeper_bus.server import EmbeddedServer

    say(f"nothing runs here now; read from the store in {directory}: a run still called running was cut off")
    async with EmbeddedServer(directory) as server, connect(Place.of(directory, server.credentials)) as link:
        yield link
