"""Circuit: when an endpoint that fails is left alone, and how many requests to one are under way. No clock, no I/O.

After five failures in a row the circuit opens: nothing is sent for five seconds, then one request tries. If that
fails, the pause doubles, up to five minutes; the first success closes it.
"""

import random
from typing import Final

FAILURES_MAX: Final = 5
PAUSE_S: Final = 5.0
PAUSE_MAX_S: Final = 300.0
ABREAST_MAX: Final = 4
"""Requests to one endpoint at once: one that hangs cannot take all the places."""
BUSY_S: Final = 0.25
ENDPOINTS_MAX: Final = 1000


class Circuit:
    """What is known of one endpoint. Times are seconds of any one clock that does not go back."""

    def __init__(self) -> None:
        self.failures = 0
        self.under_way = 0
        self._pause_s = 0.0
        self._until_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it has failed so often that only one request at a time tries it."""
        return self.failures >= FAILURES_MAX

    def enter(self, now_s: float) -> float:
        """Begin a request, which has to be ended by `leave`; or seconds to wait until it may be asked again."""
        if now_s < self._until_s:
            return self._until_s - now_s
        if self.under_way >= (1 if self.is_open else ABREAST_MAX):
            return BUSY_S
        self.under_way += 1
        return 0.0

    def leave(self, now_s: float, *, ok: bool, retry_after_s: float = 0.0) -> None:
        """End a request.

        Args:
            now_s: Now.
            ok: Whether it was taken.
            retry_after_s: How long the receiver asks to be left alone.
        """
        self.under_way -= 1
        if ok:
            self.failures, self._pause_s, self._until_s = 0, 0.0, 0.0
            return
        self.failures += 1
        pause_s = retry_after_s
        if self.is_open:
            self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2 or PAUSE_S)
            # Spread, so that controllers do not try it all at once.
            pause_s = max(pause_s, self._pause_s * (1 + random.uniform(0, 0.2)))  # noqa: S311 - no secret
        self._until_s = max(self._until_s, now_s + pause_s)


class Circuits:
    """The circuits of all endpoints that one worker delivers to."""

    def __init__(self) -> None:
        self._circuits: dict[str, Circuit] = {}

    def of(self, endpoint: str) -> Circuit:
        """The circuit of an endpoint; a thousand are remembered, and those in use beyond that."""
        circuit = self._circuits.setdefault(endpoint, Circuit())
        if len(self._circuits) > ENDPOINTS_MAX:
            idle = [key for key, each in self._circuits.items() if not each.under_way and each is not circuit]
            for key in idle[: len(self._circuits) - ENDPOINTS_MAX]:
                del self._circuits[key]
        return circuit
