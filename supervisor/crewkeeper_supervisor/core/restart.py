"""Restart rules of processes, as Erlang/OTP has them; reads no clock and starts nothing.

Theory of operation. The policy says whether an exit asks for a restart at all. The budget says whether one more is
allowed: at most `intensity` restarts within any window of `period_s` seconds. The count is over real restarts, so a
process that was refused one has not spent anything. The delay before a restart grows with the restarts that the
window still remembers, so a process that dies at every start does not burn a processor, and one that ran well for a
whole period is back after the shortest delay.
"""

from collections import deque
from typing import Final, assert_never

from crewkeeper_supervisor.core.crew import Restart

FIRST_DELAY_S: Final = 0.1
"""Pause before the first restart, seconds; doubled by every further one within the period."""
DELAY_MAX_S: Final = 5.0
"""Longest pause before a restart, seconds."""


def asks_for_restart(rule: Restart, code: int) -> bool:
    """Whether the policy wants a process started again that ended with this status.

    Args:
        rule: The rule of the agent.
        code: Exit status; negative: the signal.
    """
    match rule.policy:
        case "permanent":
            return True
        case "transient":
            return code != 0
        case "temporary":
            return False
        case _:
            assert_never(rule.policy)


class RestartBudget:
    """How many restarts are left, for one process.

    Attributes:
        spent: Restarts granted in all.
    """

    def __init__(self, intensity: int, period_s: float) -> None:
        """At most `intensity` restarts within `period_s` seconds; 0 allows none."""
        self.spent = 0
        self._intensity = intensity
        self._period_s = period_s
        self._recent: deque[float] = deque(maxlen=max(intensity, 1))

    def spend(self, now_s: float) -> float | None:
        """Take one restart.

        Args:
            now_s: A monotonic time, seconds; never less than in an earlier call.

        Returns:
            The delay before the process is started again, seconds; None when the budget is spent.
        """
        while self._recent and now_s - self._recent[0] > self._period_s:
            self._recent.popleft()
        if len(self._recent) >= self._intensity:
            return None
        delay_s = min(FIRST_DELAY_S * (1 << min(len(self._recent), 16)), DELAY_MAX_S)
        self._recent.append(now_s)
        self.spent += 1
        return delay_s
