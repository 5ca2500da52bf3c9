"""Folding: what an owner needs of the core, as a protocol; the core itself is in `core.supervisor`."""

from collections.abc import Callable
from typing import Protocol

from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.events import Event
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.gate_state import GateState
from crewkeeper_supervisor.core.hosting_state import Hosting


class Fold(Protocol):
    """What an owner needs of the core (`core.supervisor.Supervisor`)."""

    @property
    def crew(self) -> Crew | None:
        """The crew, once declared."""

    @property
    def state(self) -> str:
        """Where the run stands."""

    @property
    def now_s(self) -> float:
        """Journal time."""

    @property
    def pending(self) -> dict[str, Command]:
        """Decided, without a trace."""

    @property
    def incidents(self) -> dict[str, Incident]:
        """Findings over time."""

    @property
    def gate(self) -> GateState:
        """What is known of budgets."""

    @property
    def hosting(self) -> Hosting | None:
        """Where the agents are, if they are spread over hosts."""

    def read(self, seq: int, at_s: float, subject: str, payload: bytes) -> Event:
        """Read the next entry."""

    def handle(self, event: Event) -> list[Command]:
        """Take the next event."""

    def next_tick_at_s(self) -> float | None:
        """When the clock is needed."""

    def digest(self) -> str:
        """SHA-256 over the state."""

    def snapshot(self) -> bytes:
        """The whole state."""

    def restore(self, data: bytes, digest: str = "") -> None:
        """Go on from a state."""


MakeFold = Callable[[str], Fold]
"""Makes the core of a run."""
