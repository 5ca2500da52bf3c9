"""Post: the simulated receiver of webhooks and the way there: tried again until it takes a message, by one id."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.chaos.clock import Clock
from crewkeeper_supervisor.core.commands import Escalate

RETRIES_S: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0)
"""Pauses after the first, second, … failed attempt, the last again and again: as the outbox has them."""
TRIP_S: Final = 0.02


class Letter(Struct, frozen=True, kw_only=True):
    """One request that the receiver took."""

    at_s: float
    id: str
    kind: str
    type: str
    again: bool
    signed: bool = True


class Post:
    """Carries what escalates to the one receiver.

    Args:
        clock: Virtual time.
        delivered: Told of each command that was delivered, once.

    Attributes:
        down: While above 0 the receiver refuses.
        refused: Attempts that it refused.
        letters: What it took, in order.
    """

    def __init__(self, clock: Clock, delivered: Callable[[str], None]) -> None:
        self._clock = clock
        self._delivered = delivered
        self.down = 0
        self.refused = 0
        self.letters: list[Letter] = []
        self.waiting: dict[str, Escalate] = {}
        self._seen: set[str] = set()

    def send(self, command: Escalate) -> None:
        """Take a message; what is there already is not taken again."""
        if command.id not in self._seen and command.id not in self.waiting:
            self.waiting[command.id] = command
            self._clock.after(TRIP_S, self._try, command, 0)

    def _try(self, command: Escalate, attempt: int) -> None:
        if self.down:
            self.refused += 1
            self._clock.after(RETRIES_S[min(attempt, len(RETRIES_S) - 1)], self._try, command, attempt + 1)
            return
        again = command.id in self._seen
        self._seen.add(command.id)
        self.waiting.pop(command.id, None)
        kind = str(command.body.get("kind", ""))
        letter = Letter(at_s=self._clock.now_s, id=command.id, kind=kind, type=command.kind, again=again)
        self.letters.append(letter)
        self._delivered(command.id)
