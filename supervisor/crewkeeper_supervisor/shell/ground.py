"""Ground: the server that a host stands on, its own embedded one or an existing one, and who is let in there."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio
import msgspec

from crewkeeper_bus.addresses import each_of
from crewkeeper_bus.claims import Key
from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConnectionLost, ServerError
from crewkeeper_bus.server import EmbeddedServer, find
from crewkeeper_supervisor.core.reach import Reach
from crewkeeper_supervisor.core.scope import SESSION_S, SUBSCRIPTIONS_MAX, Record, permissions_of
from crewkeeper_supervisor.shell import admission, system_link
from crewkeeper_supervisor.shell.access import TTL_MAX_S, Access
from crewkeeper_supervisor.shell.authority import SIGNED_LIFE_S
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.eviction import evict
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.place import Place, state_dir

EVICTIONS_AT_ONCE: Final = 32
HOST_ISSUES: Final = "its host"
"""Who is said to have issued what agents of a host log in with, unless it is said otherwise."""


class PlaceTaken(ShellError):  # noqa: N818 - what the operator reads
    """Another host holds the state directory, and with it the server that its crews stand on."""


def taken(directory: Path, pid: int) -> PlaceTaken:
    """The error of whoever comes second to a state directory, whose server is this process."""
    return PlaceTaken(
        f"another `supervisor up` runs on {directory} (server process {pid}); give all crew files to one "
        "`up`, or use another directory with --state DIR, or a server of your own with --nats URL"
    )


class Ground:
    """One server to run crews on.

    Attributes:
        place: Where it is, with the supervisor's credentials.
        server: The embedded server; None on an existing one.
        authority: What the server can be made to enforce.
    """

    def __init__(self, place: Place, server: EmbeddedServer | None = None) -> None:
        self.place = place
        self.server = server
        self.authority = place.authority()

    @property
    def address(self) -> str:
        """The server's address, with user and password in it where they are all there is to log in with: a secret."""
        user = (
            f"{quote(self.place.user, safe='')}:{quote(self.place.password, safe='')}@" if self.place.password else ""
        )
        return ",".join(each.replace("://", f"://{user}", 1) for each in each_of(self.place.url))

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process that is as trusted as this one and works on the same server."""
        env = {name: value for name, value in inherited.items() if name != "CREWKEEPER_NATS_URL"}
        env["PYTHONUNBUFFERED"] = "1"
        if self.server is None:
            # In the environment, which only this user can read, and not in the command line, which everybody can.
            env["CREWKEEPER_NATS_URL"] = self.address
        return env

    async def let_in(
        self,
        link: Link,
        run: str,
        agents: Iterable[tuple[str, str]],
        payload_bytes: int,
        reaches: Mapping[str, Reach] | None = None,
        *,
        by: str = HOST_ISSUES,
    ) -> dict[str, Credentials]:
        """Credentials for agents of a run, by agent name; good until the run ends.

        Where nothing can be enforced they all connect as the host does: who may speak in whose name is then that
        server's business.

        Args:
            link: A connection to the server.
            run: The run.
            agents: (agent, role) pairs.
            payload_bytes: The largest message they may publish.
            reaches: Whom each role may address; anybody, if it is not said.
            by: Who is said to issue them.

        Raises:
            AccessRefused: One of them was issued to before, in another role; or `by` issues nothing any more.
            StoreUnavailable: The server did not store it.
        """
        wanted = list(agents)
        if self.authority.mode == "observe":
            return {name: self.place.credentials for name, _ in wanted}
        access = Access(link)
        await access.open()
        allowed = reaches or {}
        issued = {
            name: await _issue(access, run, name, role, payload_bytes, allowed.get(role), by=by)
            for name, role in wanted
        }
        return await self.signed(link, run, issued) if self.authority.mode == "signing" else issued

    async def service_keys(
        self,
        link: Link,
        run: str,
        agents: Iterable[tuple[str, str]],
        credentials: dict[str, Credentials],
        *,
        by: str = HOST_ISSUES,
    ) -> dict[str, Credentials]:
        """User and password of agents for services that judge by the access records.

        Where a server's callout does the same they are those that the agents log in with; elsewhere they are others.

        Args:
            link: A connection to the server.
            run: The run.
            agents: (agent, role) pairs.
            credentials: As `let_in` gave them.
            by: Who is said to issue them.

        Raises:
            AccessRefused: One of them was issued to before, in another role; or `by` issues nothing any more.
            StoreUnavailable: The server did not store it.
        """
        if self.authority.enforces:
            return credentials
        access = Access(link)
        await access.open()
        return {name: await _issue(access, run, name, role, PAYLOAD_MAX_BYTES, by=by) for name, role in agents}

    async def signed(self, link: Link, run: str, agents: Iterable[str]) -> dict[str, Credentials]:
        """New credentials of these agents in mode `signing`: they end soon, and who was killed gets none.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        access = Access(link)
        records = [await access.get(run, name) for name in agents]
        return {each.agent: self._sign(each) for each in records if each is not None and each.state != "killed"}

    def _sign(self, record: Record) -> Credentials:
        key, expires_at = Key.make("user"), int(time.time()) + SIGNED_LIFE_S
        jwt = self.authority.user_jwt(
            subject=key.public,
            name=record.user,
            permissions=permissions_of(record),
            expires_at=expires_at,
            payload_bytes=record.payload_bytes,
            subs=SUBSCRIPTIONS_MAX,
        )
        return Credentials(url=self.place.url, user=record.user, jwt=jwt, seed=key.seed, expires_at=float(expires_at))

    async def wait_for_admission(self, link: Link, tell: Callable[[str], None]) -> None:
        """Return when agents can log in: where a controller decides about that, when one does.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        if self.authority.enforces:
            access = Access(link)
            await access.open()
            await admission.wait(access, tell)

    async def shut_out(self, link: Link, run: str) -> None:
        """Let nobody of this run in any more, and close the connections of those who are.

        Raises:
            ConnectionLost: The connections could not be closed; they end with their session.
            StoreUnavailable: The server did not store it.
        """
        access = Access(link)
        if self.authority.mode == "observe" and not await access.is_there():
            return
        await access.end_run(run)
        if not self.authority.enforces:
            return
        users = [record.user for record in await access.ls(run)]
        limit, failed = anyio.CapacityLimiter(EVICTIONS_AT_ONCE), list[ConnectionLost]()
        async with system_link.connect(self.authority.system) as system, anyio.create_task_group() as tasks:

            async def cut(user: str) -> None:
                try:
                    async with limit:
                        await evict(system, user)
                except ConnectionLost as error:
                    failed.append(error)

            for user in users:
                tasks.start_soon(cut, user)
        for first in failed[:1]:
            raise first


async def _issue(
    access: Access,
    run: str,
    agent: str,
    role: str,
    payload_bytes: int,
    reach: Reach | None = None,
    *,
    by: str = HOST_ISSUES,
) -> Credentials:
    # A restarted process finds the same password in its environment, so the token lives as long as a run may.
    issued = await access.issue(run, agent, role, reach=reach, ttl_s=TTL_MAX_S, by=by, payload_bytes=payload_bytes)
    return msgspec.structs.replace(issued.credentials, session_s=float(SESSION_S))


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
        raise taken(directory, running.pid) from error
    try:
        yield Ground(Place.of(directory, server.credentials), server)
    finally:
        await server.stop()
