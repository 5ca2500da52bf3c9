"""`supervisor launch`: give crews to the hosts of a server, and return."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.consent import dry_run_option
from crewkeeper_supervisor.cli.output import say, write
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.up import load

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.crew import Crew


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CREW...")
@dry_run_option
@place_options
def launch(files: tuple[Path, ...], dry_run: bool, state: Path | None, nats: str | None) -> int:
    """Start crews on the hosts of a server, and return at once.

    Each agent goes to the host that has the labels it wants and the smallest share of its slots taken; `supervisor
    timeline` says which, and why. Agents for which there is no host wait for one. The runs go on when this command
    and the controller end; `supervisor down` ends them.

    Writes the id of each run. Exit status: 0 launched, 3 a crew file is invalid, 4 no server.
    """
    return anyio.run(_launch, files, dry_run, state, nats)


async def _launch(files: tuple[Path, ...], dry_run: bool, state: Path | None, nats: str | None) -> int:
    from crewkeeper_supervisor.shell.ground import Ground
    from crewkeeper_supervisor.shell.host_registry import HostRegistry
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place
    from crewkeeper_supervisor.shell.spreading import spread

    crews = load(files, spread=True)
    place = Place.find(state, nats)
    if dry_run:
        async with connect(place, name="supervisor launch") as link:
            _tell(crews, [host.name for host in await HostRegistry(link).ls()])
        return 0
    place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with connect(place, name="supervisor launch") as link:
        runs = await spread(Ground(place), link, crews, say)
        hosts = await HostRegistry(link).ls()
    for run in runs:
        write(run)
    if hosts:
        say(f"hosts  {', '.join(host.name for host in hosts)}")
    else:
        say("warning: no host takes agents yet; they wait for one: supervisor host")
    say("look   supervisor ps | supervisor hosts | supervisor timeline RUN")
    return 0


def _tell(crews: "list[Crew]", hosts: list[str]) -> None:
    """Say what would be launched, and where it could go."""
    from crewkeeper_supervisor.views.plan import crew_lines

    for crew in crews:
        for line in crew_lines(crew, lambda name: name in os.environ):
            write(line)
    where = f"agents would go to: {', '.join(hosts)}" if hosts else "agents would wait: no host takes any yet"
    say(f"{where}; nothing was launched")
