"""Quotas: how much of each kind the core keeps for one agent; what is beyond is a finding and is not stored.

Whatever an agent opens and never closes costs memory until the run ends, so there is a limit to it. Counting anew costs
as much as there is to count; so it is done only when what was left at the last count has been used up.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

TASKS_MAX: Final = 20_000
CALLS_MAX: Final = 20_000
UNREAD_MAX: Final = 20_000
TICKETS_MAX: Final = 2_000
QUESTIONS_MAX: Final = 1_000
ITEMS_MAX: Final = 100_000.0
"""Items of its own state that are taken over of one agent at once; see `upkeep`."""

_RETRY: Final = 100
"""After a refusal so many are refused before it is counted anew."""


class Upkeep(Struct):
    """What one agent has left of such items; less than nothing after a large account."""

    left: float = ITEMS_MAX
    at_s: float = 0.0
    """Journal time of the last one."""


class Quota(Struct):
    """What one agent may still open of one kind, as far as is known without counting."""

    left: int = 0
    refuses: int = 0

    def take(self, limit: int, count: Callable[[], int]) -> bool:
        """Whether one more fits.

        Args:
            limit: How many may be open.
            count: Counts how many are.
        """
        if self.refuses:
            self.refuses -= 1
            return False
        if self.left <= 0:
            self.left = limit - count()
            if self.left <= 0:
                self.refuses = _RETRY
                return False
        self.left -= 1
        return True
