"""Rates: how much one sender may put into the journal before its entries are counted and no longer read.

A token bucket per sender over journal time, so that whoever folds the same journal leaves out the same entries. It is
asked before anything of a payload is looked at.

Whoever is sent something must say what becomes of it: that it was taken, that a wait is over, the answer. Were that
charged like the rest, several agents that each stay below the limit, or one alone, could have an innocent one throttled
and held. So each call and message gives its receiver room for `OWED` entries that report or answer. It is no room for
calls and messages: two agents cannot give each other ever more of it.
"""

from typing import Final

from crewkeeper_supervisor.core.crew import BURST_LEAST_BYTES, Rate

OWED: Final = 5
"""Entries that one call or message gives its receiver room for: begun, taken, waits ended and begun, answered."""
OWED_BYTES: Final = 16 * 1024
"""How large such an entry may be; what exceeds it is charged."""


class Bucket:
    """What one sender may still send now."""

    __slots__ = ("at_s", "owed", "room", "room_bytes")

    def __init__(self, rate: Rate, at_s: float) -> None:
        self.at_s = at_s
        self.room = float(rate.burst)
        self.room_bytes = rate.burst_bytes
        self.owed = 0

    def owe(self, rate: Rate) -> None:
        """It was sent something, and will have to say what becomes of it."""
        self.owed = min(rate.burst, self.owed + OWED)

    def take(self, rate: Rate, at_s: float, size_bytes: int, *, answers: bool = False) -> bool:
        """Take one entry out. False: it is over the limit, and nothing is taken.

        Args:
            rate: The limit.
            at_s: Journal time, seconds; one that steps back counts as standing still.
            size_bytes: Of the payload.
            answers: Whether it reports or answers, and begins nothing.
        """
        passed_s = at_s - self.at_s
        if passed_s > 0:
            self.at_s = at_s
            room = self.room + passed_s * rate.messages_per_s
            self.room = room if room < rate.burst else float(rate.burst)
            room = self.room_bytes + passed_s * rate.bytes_per_s
            self.room_bytes = room if room < BURST_LEAST_BYTES else min(rate.burst_bytes, room)
        if answers and self.owed >= 1 and self.room_bytes >= size_bytes - OWED_BYTES:
            self.owed -= 1
            self.room_bytes -= max(0, size_bytes - OWED_BYTES)
            return True
        if self.room < 1 or self.room_bytes < size_bytes:
            return False
        self.room -= 1
        self.room_bytes -= size_bytes
        return True
