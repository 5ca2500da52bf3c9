"""Checkpoint: where the agent's own code is held while the supervisor pauses it, and refused once it is stopped.

A pause takes effect where the code next asks something of the client. What happens by itself (heartbeats, answers to
probes, replies that come in) goes on.
"""

import anyio
import anyio.lowlevel

from crewkeeper_bus.errors import BusError, Paused
from crewkeeper_bus.messages import Standing
from crewkeeper_bus.outgoing import Outgoing
from crewkeeper_bus.slots import Slots
from crewkeeper_bus.tasks import Tasks


class Checkpoint:
    """Whether the agent may go on.

    Attributes:
        killed: What to raise once the agent is stopped (`Killed`), or the server no longer takes it (`Refused`).
    """

    def __init__(self, outgoing: Outgoing, tasks: Tasks, slots: Slots) -> None:
        self._outgoing = outgoing
        self._tasks = tasks
        self._slots = slots
        self._resumed: anyio.Event | None = None
        self._why = ""
        self._held = 0
        self._stands_paused = False
        self.killed: BusError | None = None

    @property
    def state(self) -> str:
        """Where the agent stands: `paused` once a pause took effect, else `running`."""
        return "paused" if self._stands_paused else "running"

    def pause(self, why: str) -> None:
        """Hold whoever comes by from now on. Idempotent."""
        if self._resumed is None and self.killed is None:
            self._resumed = anyio.Event()
            self._why = why
            self._slots.hold(True)
            self.look()

    def resume(self) -> None:
        """Let everybody go on. Idempotent."""
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            self._stands_paused = False
            self._outgoing.note(Standing, state="running")
            resumed.set()
            self._slots.hold(False)

    def kill(self, error: BusError) -> None:
        """Refuse whoever comes by from now on."""
        self.killed = error
        if self._resumed is not None:
            self._resumed.set()

    def look(self) -> None:
        """Say that the pause has taken effect, if it just has: somebody is held, or nobody runs outside a wait."""
        if self._resumed is None or self._stands_paused or self._outgoing.is_closed:
            return
        if self._held or all(task.wait is not None for task in self._tasks.alive.values()):
            self._stands_paused = True
            self._outgoing.note(Standing, state="paused")

    def must_hold(self) -> bool:
        """Whether a pause holds now."""
        return self._resumed is not None

    async def hold(self, wait: bool = True) -> None:
        """Return at once, or when resumed. No limit: only the supervisor can resume.

        Raises:
            Killed: The agent is stopped.
            Refused: The server no longer takes it.
            Paused: It is paused, and `wait` is false.
            ConnectionLost: The client is closed.
        """
        await self._outgoing.room()
        while self.killed is None and self._resumed is not None:
            if not wait:
                raise Paused(f"the supervisor holds this agent: {self._why or 'no reason given'}")
            self._held += 1
            self.look()
            try:
                await self._resumed.wait()
            finally:
                self._held -= 1
        if self.killed is not None:
            raise self.killed
