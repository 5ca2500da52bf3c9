"""Tickets: requests for locks and semaphores, and the order in which they are served.

Who holds what and who stands before whom is here; what follows for those who wait is `reduction`'s.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.nodes import Task


class Ticket:
    """One request for a lock or for units of a semaphore, granted or queued."""

    __slots__ = ("granted", "granted_s", "id", "leased", "mode", "resource", "task", "units")

    def __init__(self, id_: str, task: "Task", resource: "Resource", mode: str, units: int) -> None:
        self.id = id_
        self.task = task
        self.resource = resource
        self.mode = mode
        self.units = units
        self.granted = False
        self.granted_s = float("inf")
        """Journal time at which its holder was told that it is granted."""
        self.leased = False
        """Time alone takes it back."""

    def conflicts(self, other: "Ticket") -> bool:
        """Whether both cannot hold at once, looking at these two alone. A task never conflicts with itself."""
        if self.task is other.task:
            return False
        return self.resource.counting or "x" in (self.mode, other.mode)


class Resource:
    """A lock (capacity 1; exclusive or shared) or a counting semaphore; first come, first served unless `barging`."""

    __slots__ = ("barging", "capacity", "counting", "name", "queue")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.counting = capacity > 1
        """Whether it has units, so that what a task holds itself is not there for it any more."""
        self.barging = False
        """Whether a request may overtake one that waits."""
        self.queue: dict[str, Ticket] = {}
        """Holders and waiters by ticket, in the order of their requests."""

    def grantable(self) -> Iterator[Ticket]:
        """The waiting tickets that can be served now: from the front, none past a waiting one in conflict with it."""
        held = [ticket for ticket in self.queue.values() if ticket.granted]
        passed: list[Ticket] = []
        for ticket in [t for t in self.queue.values() if not t.granted]:
            if self._fits(ticket, held) and not any(ticket.conflicts(other) for other in passed):
                held.append(ticket)
                yield ticket
            else:
                passed.append(ticket)

    def _fits(self, ticket: Ticket, held: Iterable[Ticket]) -> bool:
        if not self.counting:
            return ticket.units == 1 and not any(ticket.conflicts(holder) for holder in held)
        return ticket.units <= self.capacity - sum(holder.units for holder in held)
