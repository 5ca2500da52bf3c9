"""Serving: a proxy as a process: its connection, its port, its beginning and its end."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import anyio
import msgspec

from crewkeeper_bus import codec
from crewkeeper_bus.errors import CodecError
from crewkeeper_bus.messages import RunDeclared
from crewkeeper_bus.subjects import Kind
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.model_proxy import ModelProxy
from crewkeeper_supervisor.model_proxy.doorkeeper import Doorkeeper
from crewkeeper_supervisor.model_proxy.gateway import Gateway
from crewkeeper_supervisor.model_proxy.settings import BadSetting, Settings, settings_of
from crewkeeper_supervisor.model_proxy.spending import Spending
from crewkeeper_supervisor.model_proxy.upstream import Providers
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.http_server import Server, config_of
from crewkeeper_supervisor.shell.listening import address_of, reserved, shown_address
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place

BACKLOG: Final = 512
CONNECTIONS_MAX: Final = 2048
GRACE_S: Final = 1
"""How long requests that are under way may take to end when the proxy is told to."""
FLUSH_S: Final = 2.0
HEADERS_MAX_BYTES: Final = 64 * 1024
READ_LIMIT_S: Final = 10.0


async def serve(
    place: Place, run: str, environ: Mapping[str, str], *, listen: str = "", ready: Callable[[str], None]
) -> None:
    """Serve the agents of one run until cancelled.

    Args:
        place: The server of the run, with the supervisor's credentials.
        run: Run id.
        environ: Where the keys of the providers are.
        listen: Where to listen, instead of where the crew file says.
        ready: Called with the address once it answers.

    Raises:
        RunNotFound: There is no such run.
        BadSetting: The crew declares no proxy, or a setting cannot work.
        SettingMissing: A variable that it names is not set.
        ConnectionLost: The server cannot be reached.
    """
    async with connect(place, name="model proxy") as link:
        declared = await declared_of(link, run)
        if declared is None:
            raise BadSetting(f"run {run}: its crew file has no model_proxy; add model_proxy.upstreams")
        settings = settings_of(declared, environ, listen)
        doorkeeper, spending = Doorkeeper(link, run), Spending(link, run)
        with _listening(settings) as bound:
            async with Providers(settings.upstreams) as providers, anyio.create_task_group() as tasks:
                await tasks.start(doorkeeper.serve)
                await tasks.start(spending.serve)
                server = _Server(Gateway(settings, doorkeeper, spending, providers))
                try:
                    await server.serve_on(bound, lambda: ready(address_of(*bound.getsockname()[:2])))
                finally:
                    with anyio.CancelScope(shield=True):
                        await spending.flush(FLUSH_S)
                    tasks.cancel_scope.cancel()


async def declared_of(link: Link, run: str) -> ModelProxy | None:
    """What the crew of a run says about its proxy.

    Raises:
        RunNotFound: There is no such run, or its declaration cannot be read.
    """
    async with journal.follow(link, run) as entries:
        first = await entries.batch(READ_LIMIT_S)
    try:
        message = codec.decode_supervisor(Kind.OP, first[0].payload)
        return msgspec.convert(message.crew, Crew).model_proxy if isinstance(message, RunDeclared) else None
    except (CodecError, msgspec.ValidationError, IndexError):
        raise RunNotFound(f"run {run}: its declaration cannot be read") from None


class _Server:
    """The HTTP server, in a process whose signals are somebody else's."""

    def __init__(self, gateway: Gateway) -> None:
        config = config_of(gateway.app(), connections=CONNECTIONS_MAX, grace_s=GRACE_S, head_bytes=HEADERS_MAX_BYTES)
        for name in ("uvicorn", "uvicorn.error", "httpx2", "httpcore2"):
            # They quote requests, addresses and errors; what matters is in our own log.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._server = Server(config)

    async def serve_on(self, bound: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until cancelled; requests under way are ended then."""
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()

            async def run() -> None:
                # Its own end is a request, not a cancellation: else connections would be left open.
                with anyio.CancelScope(shield=True):
                    await self._server.serve(sockets=[bound])
                done.set()

            tasks.start_soon(run)
            try:
                while not (self._server.started or done.is_set()):  # noqa: ASYNC110 - the server has no event for it
                    await anyio.sleep(0.01)
                ready()
                await done.wait()
            finally:
                self._server.should_exit = True


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """A socket on the address. Several may be bound to one port by the same user: so a host keeps it reserved."""
    try:
        with reserved(settings.host, settings.port) as bound:
            bound.listen(BACKLOG)
            bound.setblocking(False)
            yield bound
    except OSError as error:
        where = shown_address(settings.host, settings.port)
        raise BadSetting(
            f"cannot listen on {where}: {error.strerror or error}; choose another model_proxy.listen"
        ) from None
