"""Redial: when a transport may connect again, when it changes over, when a refusal is final; sockets are its own.

A server that asks a supervisor about every login says the same words whether the supervisor refused or did not answer.
Only the time it took tells them apart: a refusal comes at once, silence after the server's limit for logins.
"""

import random
import time
from collections.abc import Callable
from typing import Final

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import BusError
from crewkeeper_bus.wire import says_no

PAUSE_MIN_S: Final = 0.2
"""Shortest pause between two attempts: no more than five a second, whatever the server does to the link."""
PAUSE_MAX_S: Final = 2.0
"""Longest pause while nobody answers at the address."""
PAUSE_REFUSED_MAX_S: Final = 5.0
"""Longest pause while the server is there and says no."""
STEADY_S: Final = 5.0
"""A link that has lived as long was no accident: after it the first attempt is made at once."""
AT_ONCE_S: Final = 0.5
"""A refusal that took longer is taken for the silence of whoever the server asks."""
REFUSED_MAX_S: Final = 30.0
"""How long refusals are borne before they are final."""
RENEW_AT: Final = (0.5, 0.6)
"""Part of a session's or of credentials' remaining life after which they are renewed; drawn, so that agents that
started together do not renew together."""
LOOK_MIN_S: Final = 0.25
"""Shortest pause between looks for fresh credentials, and between renewals that fail."""
LOOK_MAX_S: Final = 10.0


def is_refusal(error: BaseException, took_s: float) -> bool:
    """Whether a failed attempt to connect means that this login was refused, rather than not decided."""
    return says_no(error.__cause__) and took_s < AT_ONCE_S


class Redial:
    """The pace of one transport's attempts.

    Attributes:
        attempts: How many were made since the last link that lasted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.attempts = 0
        self._linked_at: float | None = None
        self._refused_at: float | None = None

    def lost(self) -> None:
        """The link is gone."""
        if self._linked_at is not None and self._clock() - self._linked_at >= STEADY_S:
            self.attempts = 0
        self._linked_at = None

    def linked(self) -> None:
        """There is a link."""
        self._linked_at = self._clock()
        self._refused_at = None

    def failed(self, error: BusError, took_s: float) -> bool:
        """An attempt failed after so long. Whether that is final: refused for longer than `REFUSED_MAX_S`."""
        if not is_refusal(error, took_s):
            return False
        if self._refused_at is None:
            self._refused_at = self._clock()
        return self._clock() - self._refused_at >= REFUSED_MAX_S

    def pause_s(self) -> float:
        """How long to wait before the attempt that is made next; counts it."""
        doublings, self.attempts = min(self.attempts, 10), self.attempts + 1
        if doublings == 0:
            return 0.0
        longest = PAUSE_MAX_S if self._refused_at is None else PAUSE_REFUSED_MAX_S
        pause = min(longest, PAUSE_MIN_S * 2 ** (doublings - 1))
        return random.uniform(max(PAUSE_MIN_S, pause / 2), pause * 1.2)  # noqa: S311 - jitter, no secret


class Renewal:
    """When a link is to be replaced, and why.

    Args:
        credentials: What it was made with.
        clock: Seconds, monotonic.
        now: Unix seconds: the clock that `expires_at` is told in.
    """

    def __init__(
        self,
        credentials: Credentials,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._failures = 0
        share = random.uniform(*RENEW_AT)  # noqa: S311 - jitter, no secret
        start = clock()
        session, expiry = credentials.session_s, credentials.expires_at
        self._session_at = None if session is None else start + share * session
        self._expiry_at = None if expiry is None else start + share * (expiry - now())

    def due_s(self) -> float | None:
        """Seconds until it is to be looked at; None: never."""
        times = [each for each in (self._session_at, self._expiry_at) if each is not None]
        return max(LOOK_MIN_S, min(times) - self._clock()) if times else None

    @property
    def is_session_due(self) -> bool:
        """Whether the session itself asks for it, with whatever credentials there are."""
        return self._session_at is not None and self._clock() >= self._session_at

    def put_off(self) -> None:
        """It was looked at, and could not be done or need not yet: later again, and later each time."""
        self._failures += 1
        again = self._clock() + min(LOOK_MAX_S, LOOK_MIN_S * 2 ** min(self._failures - 1, 10))
        if self._session_at is not None:
            self._session_at = max(self._session_at, again)
        if self._expiry_at is not None:
            self._expiry_at = max(self._expiry_at, again)
