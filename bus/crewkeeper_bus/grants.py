"""Grants: locks and semaphores that this agent holds or asks for; who gets them when is the supervisor's to say."""

import hashlib
import re
from types import TracebackType
from typing import TYPE_CHECKING, Final

from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.messages import Acquire, Granted, OnResource, Release
from crewkeeper_bus.outgoing import Outgoing, new_id
from crewkeeper_bus.tasks import Task, Tasks
from crewkeeper_bus.waits import Wait, Waits, check_timeout

if TYPE_CHECKING:
    from crewkeeper_bus.membership import Membership

UNITS_MAX: Final = 1_000_000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_NOT_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


def resource_token(name: str) -> str:
    """The name of a resource on the bus: itself if it is a token, else a readable part and a digest of the whole.

    Raises:
        ConfigError: It is empty.
    """
    if not name:
        raise ConfigError("the name of a resource is empty: give it one")
    if _TOKEN.match(name):
        return name
    return f"{_NOT_TOKEN.sub('_', name)[:21]}-{hashlib.blake2b(name.encode(), digest_size=5).hexdigest()}"


class Grant:
    """A resource while it is held.

    Attributes:
        revision: Grows with every grant: a fencing token for whatever the resource guards.
    """

    __slots__ = ("resource", "revision", "task", "ticket")

    def __init__(self, resource: str, task: Task) -> None:
        self.resource = resource
        self.ticket = new_id()
        self.task = task
        self.revision = 0


class Grants:
    """What is held and what is asked for, by ticket."""

    def __init__(self, outgoing: Outgoing, tasks: Tasks, waits: Waits) -> None:
        self._outgoing = outgoing
        self._tasks = tasks
        self._waits = waits
        self.held: dict[str, Grant] = {}
        self._asked: dict[str, tuple[Grant, Wait]] = {}

    async def acquire(self, resource: str, mode: str, units: int, capacity: int, timeout_s: float | None) -> Grant:
        """Ask for a resource and wait for the grant.

        Raises:
            BusError: What ended the wait; nothing is held then.
        """
        check_timeout(timeout_s)
        task = self._tasks.current()
        grant = Grant(resource, task)
        self._outgoing.note(
            Acquire,
            task=task.id,
            resource=resource,
            ticket=grant.ticket,
            mode=mode,
            units=units,
            capacity=capacity,
        )
        try:
            wait = self._waits.begin(task, OnResource(resource=resource, ticket=grant.ticket), timeout_s)
            self._asked[grant.ticket] = (grant, wait)
            await self._waits.rest(wait)
        except BaseException:
            self._asked.pop(grant.ticket, None)
            self.release(grant)
            raise
        return grant

    def accept(self, granted: Granted) -> bool:
        """Take a grant. False: nobody asks for that ticket, or no longer."""
        asked = self._asked.get(granted.ticket)
        if asked is None or asked[0].resource != granted.resource or asked[1].outcome:
            return False
        grant, wait = self._asked.pop(granted.ticket)
        grant.revision = granted.revision
        self.held[grant.ticket] = grant
        return self._waits.finish(wait, "met")

    def release(self, grant: Grant) -> None:
        """Give back, or stop asking."""
        self.held.pop(grant.ticket, None)
        if not self._outgoing.is_closed:
            self._outgoing.note(Release, task=grant.task.id, resource=grant.resource, ticket=grant.ticket)


class Hold:
    """Async context manager around a resource; `Client.lock` and `Client.semaphore` make one."""

    def __init__(
        self, membership: "Membership", name: str, mode: str, units: int, capacity: int, timeout_s: float | None
    ) -> None:
        if mode not in {"x", "s"}:
            raise ConfigError(f"lock mode is {mode!r}: give 'x' (exclusive) or 's' (shared)")
        if not 1 <= units <= capacity <= UNITS_MAX:
            raise ConfigError(f"{units} of {capacity} units: give 1 <= units <= capacity <= {UNITS_MAX}")
        self._membership = membership
        self._request = (resource_token(name), mode, units, capacity, timeout_s)
        self._grant: Grant | None = None

    async def __aenter__(self) -> Grant:
        assert self._grant is None, "a lock or semaphore object is for one use: make another"
        await self._membership.checkpoint.hold()
        self._grant = await self._membership.grants.acquire(*self._request)
        return self._grant

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._grant is not None
        self._membership.grants.release(self._grant)
