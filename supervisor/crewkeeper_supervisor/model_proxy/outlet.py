"""Outlet: the response to one client: begun as late as possible, kept alive while it is withheld, broken off honestly.

Until it has begun, a problem is a status of its own. After that it is an event where the response is a stream, and
where it is a whole, the connection ends without the rest: what a client must take for a failure.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import anyio

from crewkeeper_supervisor.model_proxy.problem import Problem, Protocol

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEEP_ALIVE_S: Final = 10.0
"""How often a withheld response says that it goes on."""
PATIENCE_S: Final = 30.0
"""How long a response is withheld before it is begun for that, where the client does not say how patient it is."""
STREAM: Final = "text/event-stream"


class Outlet:
    """The response to one request.

    Attributes:
        has_begun: Whether its status is told.
        is_over: Whether nothing can be added.
    """

    def __init__(self, send: Send, protocol: Protocol, *, stream: bool, patience_s: float = PATIENCE_S) -> None:
        """Answer by `send`.

        Args:
            send: Of the server.
            protocol: What the client speaks.
            stream: Whether it wants events.
            patience_s: When to begin a response that is withheld.
        """
        self.has_begun = False
        self.is_over = False
        self._send = send
        self._protocol = protocol
        self._stream = stream
        self._patience_s = patience_s
        self._held_s: float | None = None
        self._alive_s = 0.0

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Tell the status; nothing, where it was told before."""
        if self.has_begun:
            return
        self.has_begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The body is complete."""
        if not self.is_over:
            self.is_over = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep(self) -> None:
        """The response is withheld: to be called about once a second for as long as that lasts."""
        now_s = anyio.current_time()
        if self._held_s is None:
            self._held_s = now_s
        if not self.has_begun:
            if now_s - self._held_s < self._patience_s:
                return
            await self.begin(200, {"content-type": STREAM if self._stream else "application/json"})
        if now_s - self._alive_s >= KEEP_ALIVE_S:
            self._alive_s = now_s
            await self.write(b": held\n\n" if self._stream else b" ")

    def released(self) -> None:
        """It is no longer withheld."""
        self._held_s = None

    async def fail(self, problem: Problem) -> None:
        """Answer with a problem, in whatever way is still possible."""
        if self.is_over:
            return
        if not self.has_begun:
            await self.begin(problem.status, {"content-type": "application/json", **problem.headers()})
            await self.write(problem.payload(self._protocol))
            await self.end()
        elif self._stream:
            await self.write(problem.event(self._protocol))
            await self.end()
        else:
            self.is_over = True  # and the server closes the connection on a response without an end
