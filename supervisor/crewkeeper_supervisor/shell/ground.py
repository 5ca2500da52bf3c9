"""Ground: the server that a host stands on, its own embedded one or an existing one, and who is let in there."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.server import EmbeddedServer, find
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.place import Place, state_dir


class PlaceTaken(ShellError):  # noqa: N818 - what the operator reads
    """Another host holds the state directory; its users cannot be added to from here."""


class Ground:
    """One server to run crews on.

    Attributes:
        place: Where it is, with the supervisor's credentials.
        server: The embedded server; None on an existing one.
    """

    def __init__(self, place: Place, server: EmbeddedServer | None = None) -> None:
        self.place = place
        self.server = server

    @property
    def enforces_senders(self) -> bool:
        """Whether this host gives every agent a user confined to its own name."""
        return self.server is not None

    @property
    def full_address(self) -> str:
        """The server's address with the supervisor's credentials in it: a secret."""
        parts = urlsplit(self.place.url)
        user = f"{quote(self.place.user, safe='')}:{quote(self.place.password, safe='')}@" if self.place.user else ""
        return f"{parts.scheme}://{user}{parts.netloc}"

    async def let_in(self, run: str, agents: Iterable[tuple[str, str]]) -> dict[str, Credentials]:
        """Credentials for agents of a run, by agent name.

        On an existing server they all connect as the host does: who may speak in whose name is then that server's
        business.

        Args:
            run: The run.
            agents: (agent, role) pairs.

        Raises:
            ServerError: The embedded server refused its new users.
        """
        wanted = list(agents)
        if self.server is not None:
            return await self.server.add_users(run, wanted)
        place = self.place
        return {name: Credentials(url=place.url, user=place.user, password=place.password) for name, _ in wanted}

    async def shut_out(self, run: str) -> None:
        """Cut off whoever was let in for this run.

        Raises:
            ServerError: The embedded server refused the change.
        """
        if self.server is not None:
            await self.server.remove_users(run)


@contextlib.asynccontextmanager
async def open_ground(state: Path | None, nats: str | None) -> AsyncIterator[Ground]:
    """Start the embedded server of a state directory, or take an existing one.

    Args:
        state: State directory; None: the usual one.
        nats: Address of an existing server; None: CREWKEEPER_NATS_URL, and without that the embedded one.

    Raises:
        PlaceTaken: Another host runs on the state directory.
        ServerError: The embedded server does not start.
    """
    directory = state_dir(state)
    url = nats or os.environ.get("CREWKEEPER_NATS_URL", "")
    if url:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield Ground(Place.of_url(url, directory))
        return
    server = EmbeddedServer(directory)
    try:
        await server.start()
    except ServerError as error:
        running = find(directory)
        if running is None:
            raise
        raise PlaceTaken(
            f"another `supervisor up` runs on {directory} (server process {running.pid}); give all crew files to one "
            "`up`, or use another directory with --state DIR, or a server of your own with --nats URL"
        ) from error
    try:
        access = server.credentials
        place = Place(state=directory, url=access.url, user=access.user, password=access.password)
        yield Ground(place, server)
    finally:
        await server.stop()
