"""Rates: how much one sender may put into the journal before its entries are counted and no longer read.

A token bucket per sender over journal time, so that whoever folds the same journal leaves out the same entries. It is
asked before anything of a payload is looked at.
"""

from crewkeeper_supervisor.core.crew import Rate


class Bucket:
    """What one sender may still send now."""

    __slots__ = ("at_s", "room", "room_bytes")

    def __init__(self, rate: Rate, at_s: float) -> None:
        self.at_s = at_s
        self.room = float(rate.burst)
        self.room_bytes = rate.burst_bytes

    def take(self, rate: Rate, at_s: float, size_bytes: int) -> bool:
        """Take one entry out. False: it is over the limit, and nothing is taken.

        Args:
            rate: The limit.
            at_s: Journal time, seconds; one that steps back counts as standing still.
            size_bytes: Of the payload.
        """
        passed_s = at_s - self.at_s
        if passed_s > 0:
            self.at_s = at_s
            self.room = min(float(rate.burst), self.room + passed_s * rate.messages_per_s)
            self.room_bytes = min(rate.burst_bytes, self.room_bytes + passed_s * rate.bytes_per_s)
        if self.room < 1 or self.room_bytes < size_bytes:
            return False
        self.room -= 1
        self.room_bytes -= size_bytes
        return True
