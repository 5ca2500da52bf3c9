"""Identity: as which agent a proxy joins a run, by credentials that it was given or that it issues itself.

One identity is one connection: a second one of the same agent closes the first and is told to the run as a theft. So a
proxy joins as an agent that nothing else speaks as: an `external` agent of the crew file for each proxy, or a helper
that an agent which speaks for itself has let in (`Client.delegate`).
"""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from msgspec import Struct

from crewkeeper_bus.client import Client, connect
from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.credentials import from_file
from crewkeeper_bus.errors import BusError, ConfigError, ConnectionLost
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.nats_link import Link

TTL_S: Final = 24 * 3600.0
"""How long credentials last that a proxy issues for itself; it issues others when they end."""
ISSUE_S: Final = 20.0
BY: Final = "supervisor mcp"


class Member(NamedTuple):
    """Who a proxy is in which run."""

    run: str
    agent: str
    role: str


class Given(Struct, frozen=True, kw_only=True):
    """Credentials from the environment."""

    run: str
    agent: str
    role: str

    def client(self) -> Client:
        """A client that has not joined yet; where and with what is read from the environment, each time anew.

        Raises:
            ConfigError: Something is missing.
        """
        return connect(run=self.run, agent=self.agent, role=self.role or None)


def given(environ: Mapping[str, str], agent: str | None, run: str | None) -> Given | None:
    """What the environment says of us; None if it holds no credentials.

    Raises:
        ConfigError: It says something else than was asked for, or not enough.
    """
    file, user = environ.get("CREWKEEPER_CREDENTIALS", ""), environ.get("CREWKEEPER_USER", "")
    if not file and not (user and environ.get("CREWKEEPER_URL")):
        return None
    user = from_file(file).user if file else user
    user_run, _, user_agent = user.partition(".")
    named_run = run or environ.get("CREWKEEPER_RUN", "") or user_run
    named_agent = agent or environ.get("CREWKEEPER_AGENT", "") or user_agent
    if user_agent and (user_run, user_agent) != (named_run, named_agent):
        raise ConfigError(
            f"the credentials are of {user_agent} in run {user_run}, not of {named_agent} in {named_run}: "
            f"issue others with `supervisor creds issue --run {named_run} --agent {named_agent}`"
        )
    if not named_run or not named_agent:
        raise ConfigError("the credentials do not say whose they are: name --agent and --run")
    return Given(run=named_run, agent=named_agent, role=environ.get("CREWKEEPER_ROLE", ""))


class SelfIssued:
    """Issues credentials for itself, which whoever has the state directory may.

    Args:
        opened: Connects to the run's server with the supervisor's rights, for a moment.
        find: Finds out who we are; raises what can be told to the operator.
        state: The state directory.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractAsyncContextManager[Link]],
        find: Callable[[Link], Awaitable[Member]],
        state: Path,
    ) -> None:
        """Nothing is issued yet."""
        self._opened = opened
        self._find = find
        self._state = state

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client that has not joined yet, while nobody else on this machine may be the same agent.

        Raises:
            ConnectionLost: Nothing runs, there is no such agent, or another proxy is it.
        """
        try:
            with anyio.fail_after(ISSUE_S):
                async with self._opened() as link:
                    member = await self._find(link)
                    lock = self._lock(member)
                    try:
                        issued = await Access(link).issue(
                            member.run,
                            member.agent,
                            member.role,
                            ttl_s=TTL_S,
                            by=BY,
                            replaces=True,
                            payload_bytes=PAYLOAD_MAX_BYTES,
                        )
                    except BaseException:
                        os.close(lock)
                        raise
        except (ShellError, BusError, TimeoutError) as error:
            raise ConnectionLost(str(error) or f"no answer within {ISSUE_S:g} s") from None
        credentials = issued.credentials
        try:
            yield connect(
                credentials.url,
                run=member.run,
                agent=member.agent,
                role=member.role,
                user=credentials.user,
                password=credentials.password,
                session_s=credentials.session_s,
            )
        finally:
            os.close(lock)

    def _lock(self, member: Member) -> int:
        path = self._state / f"mcp-{member.run}-{member.agent}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConnectionLost(
                f"another proxy is {member.agent} in run {member.run}: give each MCP server an agent of its own"
            ) from None
        return lock


@contextlib.asynccontextmanager
async def fixed(identity: Given) -> AsyncIterator[Client]:
    """As `SelfIssued.client`, of credentials that were given."""
    yield identity.client()
