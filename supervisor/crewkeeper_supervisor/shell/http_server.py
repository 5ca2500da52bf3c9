"""HTTP server: the one way in which HTTP is served here: uvicorn with limits.

What is answered lives with whoever serves: `approval_site`, `metrics_site`, the gateways of models and of MCP.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final, Literal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX: Final = 64
GRACE_S: Final = 3
HEAD_MAX_BYTES: Final = 16 * 1024
HEAD_LIMIT_S: Final = 5.0
"""How long the first line and the headers of a request may take."""


class PromptProtocol(H11Protocol):
    """Connections are few: one on which no request has come is given up, so that nobody can keep them all."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_LIMIT_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """A server within a process that heeds signals itself; `should_exit` ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are heeded outside: the library would raise them once more at its end."""
        yield


def server_of(app: Any) -> Server:
    """A server of an ASGI application; `serve(sockets=…)` runs it."""
    return Server(config_of(app))


def config_of(
    app: Any,
    *,
    connections: int = CONNECTIONS_MAX,
    grace_s: int | None = GRACE_S,
    head_bytes: int = HEAD_MAX_BYTES,
    lifespan: Literal["on", "off"] = "off",
) -> uvicorn.Config:
    """How an ASGI application is served.

    Args:
        app: The application.
        connections: How many at a time; more are answered 503.
        grace_s: How long requests under way may take to end when the server is told to; None: as long as they take.
        head_bytes: The longest first line and headers of a request.
        lifespan: Whether the application is told of the beginning and the end.
    """
    return uvicorn.Config(
        app,
        http=PromptProtocol,
        ws="none",
        lifespan=lifespan,
        loop="none",
        log_config=None,
        log_level="error",  # who sends what is no HTTP must not fill the log
        access_log=False,  # it would hold the paths, and in them the tokens
        proxy_headers=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=grace_s,
        h11_max_incomplete_event_size=head_bytes,
    )
