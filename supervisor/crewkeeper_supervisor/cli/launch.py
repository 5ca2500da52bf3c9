"""`supervisor launch`: give crews to the hosts of a server, and return."""

from pathlib import Path

import anyio
import click

from crewkeeper_supervisor.cli.output import say, write
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.up import load


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CREW...")
@place_options
def launch(files: tuple[Path, ...], state: Path | None, nats: str | None) -> int:
    """Start crews on the hosts of a server, and return at once.

    Each agent goes to the host that has the labels it wants and the smallest share of its slots taken; `supervisor
    timeline` says which, and why. Agents for which there is no host wait for one. The runs go on when this command
    and the controller end; `supervisor down` ends them.

    Writes the id of each run. Exit status: 0 launched, 3 a crew file is invalid, 4 no server.
    """
    return anyio.run(_launch, files, state, nats)


async def _launch(files: tuple[Path, ...], state: Path | None, nats: str | None) -> int:
    from crewkeeper_supervisor.shell.ground import Ground
    from crewkeeper_supervisor.shell.host_registry import HostRegistry
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place
    from crewkeeper_supervisor.shell.spreading import spread

    crews = load(files, spread=True)
    place = Place.find(state, nats)
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
