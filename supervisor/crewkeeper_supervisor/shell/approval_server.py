"""Approval server: the process behind the links: a socket, a connection to NATS, and the site between them.

It may be killed and started again at any time: what it shows is the journal's, and what it decides is decided there.
"""

import signal
from collections.abc import Callable
from typing import Final

import anyio
import anyio.abc

from crewkeeper_supervisor.shell.approval_guard import Guard
from crewkeeper_supervisor.shell.approval_links import approval_keys
from crewkeeper_supervisor.shell.approval_site import Site
from crewkeeper_supervisor.shell.http_server import Server, server_of
from crewkeeper_supervisor.shell.listening import address_of, listener, parted
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place, is_loopback

LISTEN: Final = "127.0.0.1:8790"


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
    host, port = parted(listen, LISTEN)
    with listener(host, port) as listening:
        port = listening.getsockname()[1]
        addresses = [address_of(host, port), *([url] if url else ())]
        if is_loopback(host):
            addresses += [f"http://localhost:{port}", f"http://127.0.0.1:{port}"]
        async with connect(place, name="approvals") as link, anyio.create_task_group() as tasks:
            app = Guard(Site(link, keys).app(), addresses)
            server = server_of(app)
            await tasks.start(_end_on_signal, server)
            ready(addresses[0], is_loopback(host))
            await server.serve(sockets=[listening])
            tasks.cancel_scope.cancel()


async def _end_on_signal(server: Server, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for _ in received:
            server.should_exit = True
