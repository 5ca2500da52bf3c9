"""Transport: the little that the client needs of a bus, so that a fake can stand where NATS does.

`nats_transport` is the real one, `memory_transport` the fake; the same contract tests hold both to this page.
"""

from collections.abc import Callable
from typing import Protocol

from crewkeeper_bus.errors import Refused

Deliver = Callable[[str, bytes], None]
"""Called with (subject, payload) for each message, in order, in the event loop; must not block or raise."""


class Transport(Protocol):
    """A connection to a bus with log-first delivery.

    What is published on `crew.…` is recorded and then delivered on `out.crew.…`, to subscribers there, in one total
    order. Messages of one publisher keep their order. A publish is fire-and-forget: refused ones vanish.
    """

    @property
    def is_connected(self) -> bool:
        """Whether a publish would leave now."""

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload that the server takes."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Publish one message.

        Raises:
            ConnectionLost: The transport is closed, or is disconnected and will not buffer.
        """

    async def subscribe(self, subject: str, deliver: Deliver, queue: str = "") -> None:
        """Deliver what matches `subject`; with `queue`, to one member of the group. Lives until `close`."""

    async def barrier(self) -> None:
        """Return when the server has processed everything sent before: subscriptions are live, publishes are in.

        Raises:
            ConnectionLost: The server did not answer.
        """

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(is_connected)` at every loss and every return of the connection."""

    def on_end(self, ended: Callable[[Refused], None]) -> None:
        """Call `ended(error)` once, if the bus refuses this identity for so long that it is final."""

    async def renew(self) -> None:
        """Reconnect with fresh credentials, keeping subscriptions and losing nothing that was published."""

    async def close(self) -> None:
        """Send what is pending, then close. Idempotent."""
