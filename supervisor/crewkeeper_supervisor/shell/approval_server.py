"""Approval server: the process behind the links: a socket, a connection to NATS, and the site between them.

It may be killed and started again at any time: what it shows is the journal's, and what it decides is decided there.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import anyio
import anyio.abc
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell.approval_guard import Guard
from crewkeeper_supervisor.shell.approval_links import approval_keys
from crewkeeper_supervisor.shell.approval_site import Site
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place, is_loopback

LISTEN: Final = "127.0.0.1:8790"
CONNECTIONS_MAX: Final = 64
GRACE_S: Final = 3
HEAD_MAX_BYTES: Final = 16 * 1024
HEAD_LIMIT_S: Final = 5.0
"""How long the first line and the headers of a request may take."""


class _Protocol(H11Protocol):
    """Connections are few: one on which no request has come is given up, so that nobody can keep them all."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_LIMIT_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are heeded outside: the library would raise them once more at its end."""
        yield


async def serve(place: Place, listen: str, url: str, ready: Callable[[str, bool], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        place: The NATS server, and the state directory with the secrets.
        listen: `host:port`; port 0 takes a free one.
        url: Address that people use where it is another one, as that of a proxy; may be empty.
        ready: Called with the address once it listens, and with whether only this machine can reach it.

    Raises:
        ConfigError: `listen` is no address.
        ServerError: The secrets are readable by others, or damaged.
        ConnectionLost: The NATS server does not answer.
        OSError: The port is taken.
    """
    keys = approval_keys(place.state)
    host, port = _parted(listen)
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        addresses = [f"http://{shown}:{port}", *([url] if url else ())]
        if is_loopback(host):
            addresses += [f"http://localhost:{port}", f"http://127.0.0.1:{port}"]
        async with connect(place, name="approvals") as link, anyio.create_task_group() as tasks:
            app = Guard(Site(link, keys).app(), addresses)
            server = _Server(_config(app))
            await tasks.start(_end_on_signal, server)
            ready(addresses[0], is_loopback(host))
            await server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()


def _config(app: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,  # it would hold the paths, and in them the tokens
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=HEAD_MAX_BYTES,
    )


async def _end_on_signal(server: uvicorn.Server, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for _ in received:
            server.should_exit = True


def _parted(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise ConfigError(f"{listen[:100]!r} is no address to listen on: write host:port, such as {LISTEN}")
    return host, int(port)
