"""Trouble: what keeps one run from being owned, which is said once and tried again more and more rarely.

How a run is owned, and what an owner does, is elsewhere.
"""

from typing import Final

from crewkeeper_supervisor.shell.logbook import logger

RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 30.0
RETRY_ENDED_MAX_S: Final = 3600.0
"""Of a run that its host has recorded as ended: nobody waits for it, and what is damaged does not mend itself."""


class Trouble:
    """The failures of one run on one controller, one after the other."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._cause = ""
        self._told = ""
        self._pause_s = RETRY_S

    def over(self) -> None:
        """The run was owned for a while: what comes now is news."""
        self._cause, self._told, self._pause_s = "", "", RETRY_S

    def failed(self, error: Exception, term: int) -> None:
        """Owning it failed; call it where the error is handled. The same failure again is no news."""
        cause = f"{type(error).__name__}: {error}"[:500]
        if cause != self._cause:
            self._cause = cause
            logger().exception("run.failed", crew=self._run, term=term)

    def pause_s(self, *, ended: bool) -> float:
        """How long to wait before it is tried again.

        Args:
            ended: Whether its host has recorded its end, so that only what comes after that is left undone.
        """
        longest_s = RETRY_ENDED_MAX_S if ended else RETRY_MAX_S
        pause_s = min(longest_s, self._pause_s)
        self._pause_s = pause_s * 2
        if ended and self._told != self._cause:
            self._told = self._cause
            logger().error(
                "run.unfinished",
                crew=self._run,
                cause=self._cause,
                retry_max_s=longest_s,
                fix=f"supervisor audit verify {self._run}",
            )
        return pause_s
