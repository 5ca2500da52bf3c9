"""`supervisor host` and `supervisor hosts`: take agents to run on this machine, and see who does."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.failure import INTERRUPTED, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_rows, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.ground import Ground

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")
_LABEL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,31})=([A-Za-z0-9][A-Za-z0-9._-]{0,63})\Z")


@click.command()
@click.option("--name", default="", metavar="NAME", help="Name of this host; default: the machine's.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="What agents may want of a host (repeatable)."
)
@click.option(
    "--slots",
    type=click.IntRange(1, 100_000),
    default=16,
    show_default=True,
    help="How many agents it takes at a time.",
)
@click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(2, 300),
    default=6,
    show_default=True,
    metavar="SECONDS",
    help="How long it counts as there without a sign of life.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where the agents' code is: stands for the folder of the crew file; default: here.",
)
@place_options
def host(
    name: str, labels: tuple[str, ...], slots: int, ttl_s: int, folder: Path, state: Path | None, nats: str | None
) -> int:
    """Take agents of runs that were launched on a server, and run them here until told to end.

    Runs are given to hosts by `supervisor launch`; a controller (`supervisor serve`) decides which host gets which
    agent. The code of agents has to be here: what a crew file says of folders counts from --dir. When this command
    ends, however it ends, so do its agents; those that may be restarted elsewhere are. Ctrl-C stops them in order, a
    second one kills them.

    Exit status: 0 told to end (SIGTERM), 1 another process has the name, 4 no server, 130 interrupted.
    """
    if name and not _NAME.match(name):
        raise Failure(f"--name {name[:60]!r} is no name of a host: 1 to 32 of A-Z a-z 0-9 _ -", code=USAGE)
    return anyio.run(_host, name, _labels(labels), slots, ttl_s, folder.absolute(), state, nats)


def _labels(words: tuple[str, ...]) -> dict[str, str]:
    """Labels from the command line.

    Raises:
        Failure: One of them is none, or a key stands twice.
    """
    labels: dict[str, str] = {}
    for word in words:
        found = _LABEL.match(word)
        if found is None:
            raise Failure(f"--label {word[:80]!r} is not KEY=VALUE of letters, digits, _ and -", code=USAGE)
        if found[1] in labels:
            raise Failure(f"--label {found[1]} is given twice: {labels[found[1]]} and {found[2]}", code=USAGE)
        labels[found[1]] = found[2]
    return labels


async def _host(
    name: str, labels: dict[str, str], slots: int, ttl_s: int, folder: Path, state: Path | None, nats: str | None
) -> int:
    from crewkeeper_supervisor.shell.ground import Ground
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place
    from crewkeeper_supervisor.shell.remote_host import RemoteHost

    place = Place.find(state, nats)
    place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    ground = Ground(place)
    async with connect(place, name="supervisor host") as link:
        remote = RemoteHost(ground, link, name=name, labels=labels, slots=slots, ttl_s=ttl_s, folder=folder, tell=say)
        _introduce(ground, remote.name, labels, slots, folder)
        await remote.serve()
    return INTERRUPTED if remote.interrupted_by == "SIGINT" else 0


def _introduce(ground: "Ground", name: str, labels: dict[str, str], slots: int, folder: Path) -> None:
    shown = ", ".join(f"{key}={value}" for key, value in labels.items()) or "no labels"
    say(f"host   {name}: {slots} slots, {shown}")
    say(f"server {ground.place.url}")
    say(f"code   {folder}")
    say(f"logs   {ground.place.state / 'runs'}")
    if not ground.authority.enforces:
        say(f"warning: {ground.authority.cannot_enforce} How to change that: docs/identity.md")
        say("warning: so agents of a host that is gone are not started elsewhere: nothing could cut the old ones off")


@click.command()
@watch_option
@output_option()
@place_options
def hosts(output: str, state: Path | None, nats: str | None) -> None:
    """List the hosts that take agents, and what they run.

    A host that has died stays in the list until its registration lapses, a few seconds later.
    """
    anyio.run(_hosts, output, state, nats)


async def _hosts(output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.shell.host_registry import HostRegistry
    from crewkeeper_supervisor.views.hosts import rows, table

    async with opened(state, nats) as link:
        found = rows(await HostRegistry(link).ls())
    now = datetime.now(UTC)
    emit_rows(found, output, table=lambda wide: table(found, now, wide=wide), name=lambda row: str(row.host))
