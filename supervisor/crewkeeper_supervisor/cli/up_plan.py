"""`supervisor up --dry-run`: what would be started, declared and enforced; nothing is touched."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crewkeeper_supervisor.cli.failure import INVALID, Failure
from crewkeeper_supervisor.cli.output import say, write

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.crew import Crew


async def show(crews: "Sequence[Crew]", state: Path | None, nats: str | None, *, controller: bool) -> None:
    """Write what `up` would do with these crews.

    Raises:
        Failure: It would not start: a setting or a program is missing.
        PlaceTaken: Another host runs on the state directory.
        ConnectionLost: The server named does not answer.
    """
    from crewkeeper_supervisor.views.plan import crew_lines

    for line in [*await _place(state, nats), *_started(crews, embedded=not _url(nats), controller=controller)]:
        write(line)
    for crew in crews:
        write("")
        for line in crew_lines(crew, lambda name: name in os.environ):
            write(line)
    missing = [text for crew in crews for text in _missing(crew)]
    if missing:
        for text in missing:
            say(text)
        raise Failure("it would not start like this", code=INVALID, remedy="set or install what is missing")
    say("nothing was started: this is what would be")


def _url(nats: str | None) -> str:
    return nats or os.environ.get("CREWKEEPER_NATS_URL", "")


async def _place(state: Path | None, nats: str | None) -> list[str]:
    """Where it would run, and what can be enforced there."""
    from crewkeeper_bus.server import find
    from crewkeeper_supervisor.cli.up import examine
    from crewkeeper_supervisor.shell.ground import Ground, taken
    from crewkeeper_supervisor.shell.nats_link import connect
    from crewkeeper_supervisor.shell.place import Place, state_dir

    directory, url = state_dir(state), _url(nats)
    if not url:
        running = find(directory)
        if running is not None:
            raise taken(directory, running.pid)
        kept = "as it was left" if (directory / "store").is_dir() else "new"
        enforced = "who an agent is, what it may send and hear, pause and kill"
        return [f"state   {directory} ({kept})", f"server  an embedded nats-server, which enforces {enforced}"]
    ground = Ground(Place.of_url(url, directory))
    async with connect(ground.place, name="supervisor up --dry-run") as link:
        await examine(link, ground)
    return [f"state   {directory}", f"server  {ground.place.host}: {ground.authority.cannot_enforce}"]


def _started(crews: "Sequence[Crew]", *, embedded: bool, controller: bool) -> list[str]:
    from crewkeeper_supervisor.shell import tool_hosts
    from crewkeeper_supervisor.views.wording import counted

    agents = sum(agent.replicas for crew in crews for agent in crew.agents if not agent.external)
    sites = len({crew.approval_listen for crew in crews if crew.approval_listen})
    processes = [
        (int(embedded), "nats-server", ""),
        (int(controller), "controller", ""),
        (agents, "agent", ""),
        (sum(len(tool_hosts.needed(crew)) for crew in crews), "tool host", ""),
        (sum(crew.model_proxy is not None for crew in crews), "model proxy", "model proxies"),
        (sites, "site for approvals", "sites for approvals"),
    ]
    return ["starts  " + ", ".join(counted(number, what, many) for number, what, many in processes if number)]


def _missing(crew: "Crew") -> list[str]:
    """What keeps it from starting: variables that are not set, programs that are not there."""
    from crewkeeper_supervisor.shell.crew_variables import unset_variables
    from crewkeeper_supervisor.shell.launcher import command_line

    found = [f"missing  {error}" for error in unset_variables(crew, os.environ)]
    for agent in crew.agents:
        program = command_line(agent.run)[0] if agent.run else ""
        where = str(Path(agent.cwd, program)) if "/" in program else program
        if program and shutil.which(where, path=agent.env.get("PATH")) is None:
            found.append(f"missing  agents.{agent.name}.run: there is no program {program[:80]!r}")
    return found
