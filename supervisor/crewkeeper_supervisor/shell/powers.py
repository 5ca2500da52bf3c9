"""Powers: what a supervisor can make its server do about who is let in, held and shut out, kept up while it serves.

Which of it there is, the authority says: with none, agents connect as their host does, and nobody here decides anything
about them. What is to be done is decided in the core and ordered through `access_orders`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.shell import system_link
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.brake import Brake
from crewkeeper_supervisor.shell.callout import Callout
from crewkeeper_supervisor.shell.enforcer import Enforcer
from crewkeeper_supervisor.shell.errors import ClaimsRefused, StoreUnavailable
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.sentry import Sentry
from crewkeeper_supervisor.shell.system_link import SystemLink
from crewkeeper_supervisor.shell.violations import Violations

SERVER_LOG: Final = "nats-server.log"
"""Where the embedded server of a state directory writes."""
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 15.0


class Powers:
    """What one supervisor can make one server do; made with `held`.

    Attributes:
        access: The access records.
        enforcer: Carries out what is decided about an agent; None where there is nothing to carry it out with.
        lacks: What cannot be enforced, for people.
    """

    def __init__(self, link: Link, authority: Authority, system: SystemLink | None) -> None:
        self.access = Access(link)
        self.lacks = authority.cannot_enforce
        self.enforcer: Enforcer | None = None
        self._callout: Callout | None = None
        self._violations = Violations(link)
        if authority.mode != "observe":
            self.enforcer = Enforcer(link, system, self.access, authority)
        self._sentry: Sentry | None = None
        self._brake: Brake | None = None
        if system is not None and self.enforcer is not None:
            log = link.place.state / SERVER_LOG
            own = authority.mode == "operator" and log.exists()
            self._sentry = Sentry(system, self.access, self._violations, log=log if own else None)
            self._brake = Brake(link, system, self.enforcer, self._violations)
        if authority.enforces:
            self._callout = Callout(link, self.access, authority, system=system, violations=self._violations)

    async def open(self) -> None:
        """Create what is shared.

        Raises:
            StoreUnavailable: The server did not answer.
        """
        if self.enforcer is not None:
            await self.access.open()
            try:
                await self.enforcer.open()
            except ClaimsRefused as error:
                logger().error("enforcer.not_opened", cause=str(error)[:200])
            except ConnectionLost as error:
                raise StoreUnavailable(str(error)) from error
        if self._callout is not None:
            await self._callout.open()

    def guard(self, run: str, term: int) -> None:
        """Act on floods of this run, which is owned from now on; until `leave`."""
        if self._brake is not None:
            self._brake.guard(run, term)

    def leave(self, run: str, term: int) -> None:
        """The run is no longer owned under this term."""
        if self._brake is not None:
            self._brake.leave(run, term)

    async def work(self) -> None:
        """Answer logins and listen to the server until cancelled; what fails is begun again."""
        async with anyio.create_task_group() as group:
            if self._callout is not None:
                group.start_soon(_keep, "violations", self._violations.work)
                group.start_soon(_keep, "callout", self._callout.serve)
            if self._sentry is not None:
                group.start_soon(_keep, "sentry", self._sentry.work)
            if self._brake is not None:
                group.start_soon(_keep, "brake", self._brake.work)


@asynccontextmanager
async def held(link: Link, authority: Authority) -> AsyncIterator[Powers]:
    """The powers that an authority gives, for as long as the block lasts.

    Args:
        link: The supervisor's connection.
        authority: What may be signed for its server.

    Raises:
        ConnectionLost: The server cannot be reached at the start, or refuses its own supervisor.
    """
    if not authority.system.url:
        yield Powers(link, authority, None)
        return
    async with system_link.connect(authority.system) as system:
        yield Powers(link, authority, system)


async def _keep(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do something for ever; when it fails, say so and begin again: no failure of it may end what runs beside it."""
    pause_s = RETRY_S
    while True:
        began_s = anyio.current_time()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - see above; the type alone, for the text may quote a secret
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            logger().error(f"{name}.failed", cause=type(cause).__name__)
        if anyio.current_time() - began_s > RETRY_MAX_S:
            pause_s = RETRY_S
        await anyio.sleep(pause_s)
        pause_s = min(RETRY_MAX_S, pause_s * 2)
