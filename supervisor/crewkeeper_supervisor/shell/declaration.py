"""Declaration: a run of a crew made known to a server: a name, a journal, an entry in the registry, shared limits."""

import secrets
from typing import Final

import msgspec

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.tool_messages import FleetTold
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.fleet import Fleet
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry

_NAME_MAX_CHARS: Final = 25


def named_run(crew: Crew) -> tuple[str, Crew]:
    """A name for a new run, and the crew with a key of its own for placeholders.

    Equal secrets are equal within one run, and nowhere else.
    """
    key = crew.redact.key or secrets.token_hex(16)
    keyed = msgspec.structs.replace(crew, redact=msgspec.structs.replace(crew.redact, key=key))
    return f"{crew.name[:_NAME_MAX_CHARS]}-{secrets.token_hex(3)}", keyed


class Declarations:
    """Declares runs on one server.

    Attributes:
        fleet: What all crews of the server share.
    """

    def __init__(self, link: Link) -> None:
        self.fleet = Fleet(link)
        self._link = link
        self._registry = Registry(link)

    async def open(self) -> None:
        """Create what is shared.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        await self._registry.open()
        await self.fleet.open()

    async def declare(self, run: str, crew: Crew, host: str, *, spread: bool = False) -> Crew:
        """Declare a run.

        Args:
            run: Its name.
            crew: The crew.
            host: Who hosts its processes; empty for a run that is spread.
            spread: Whether its agents are given to the hosts of the server.

        Returns:
            The crew as it was declared, under the limits that all crews of the server share.

        Raises:
            RunExists: The name is taken.
            StoreUnavailable: The server did not answer.
        """
        account = self.fleet.account
        crew = msgspec.structs.replace(crew, fleet=dict(account.limit), fleet_revision=account.revision)
        await journal.create_run(self._link, run, crew, host, spread=spread)
        await self._registry.declare(run, crew.name, host, spread=spread)
        await self._tell_limits(run, crew)
        return crew

    async def _tell_limits(self, run: str, crew: Crew) -> None:
        """Tell a run of limits that were set while it was declared: whoever set them did not see it yet."""
        account = await self.fleet.read()
        if account.revision != crew.fleet_revision:
            told = FleetTold(limits=account.limit, revision=account.revision, by=account.by)
            try:
                await journal.publish_op(self._link, run, told)
            except ConnectionLost as error:
                raise StoreUnavailable(f"run {run}: cannot be told its limits: {error}") from error
