"""Spreading: declares runs whose agents the hosts of a server take; who gets which, the supervisor of a run decides."""

from collections.abc import Callable, Sequence
from pathlib import Path

from crewkeeper_bus.subjects import TOOLS
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.reach import reach_of
from crewkeeper_supervisor.shell import tool_hosts
from crewkeeper_supervisor.shell.declaration import Declarations, named_run
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.launcher import external_hint, stored_access
from crewkeeper_supervisor.shell.nats_link import Link

Tell = Callable[[str], None]

LAUNCH_ISSUES = "its launch"
"""Who is said to have issued the first credentials of an agent, which nobody is given unless it is external."""


async def spread(ground: Ground, link: Link, crews: Sequence[Crew], tell: Tell) -> list[str]:
    """Declare a run of every crew, for hosts to take its agents.

    Args:
        ground: The server.
        link: A connection to it.
        crews: The crews.
        tell: Where lines for people go: what is left for them to do.

    Returns:
        The names of the runs, in the order of the crews.

    Raises:
        AccessRefused: An agent is not let in.
        StoreUnavailable: The server did not answer.
    """
    declarations = Declarations(link)
    await declarations.open()
    runs: list[str] = []
    for given in crews:
        run, crew = named_run(given)
        await _let_in(ground, link, run, crew, tell)
        await declarations.declare(run, crew, "", spread=True)
        if crew.approval_listen:
            tell(f"{run}: no host serves approval links; start them yourself: supervisor approvals serve")
        runs.append(run)
    return runs


async def _let_in(ground: Ground, link: Link, run: str, crew: Crew, tell: Tell) -> None:
    """Record whom every agent may address; hosts issue what agents log in with, external agents get it here."""
    names = [(instance, agent.name) for agent in crew.agents for instance in agent.instances]
    reaches = {agent.name: reach_of(crew, agent) for agent in crew.agents}
    let_in = await ground.let_in(link, run, names, crew.payload_bytes, reaches, by=LAUNCH_ISSUES)
    if tool_hosts.needed(crew):
        await ground.let_in(link, run, [(TOOLS, TOOLS)], tool_hosts.PAYLOAD_BYTES, by=LAUNCH_ISSUES)
    directory: Path = ground.place.state / "runs" / run
    for agent in crew.agents:
        if agent.external:
            access = stored_access(let_in[agent.name], directory, agent.name, always=True)
            hint = f"; it reaches models through a proxy of yours: supervisor model-proxy {run} --listen HOST:PORT"
            tell(external_hint(run, agent.name, access) + (hint if crew.model_proxy is not None else ""))
