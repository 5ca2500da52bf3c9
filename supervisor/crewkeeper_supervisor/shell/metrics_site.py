"""Metrics site: `/metrics`, `/healthz` and `/readyz` of a controller over HTTP; what is counted is in `metrics`.

It runs in the controller's own event loop, so that an answer is proof of life. It shows no secret, takes no input, and
changes nothing; a page of metrics is made once a second at most, however often it is asked for.
"""

import contextlib
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from crewkeeper_supervisor.shell import deliveries, outbox
from crewkeeper_supervisor.shell.http_server import server_of
from crewkeeper_supervisor.shell.listening import address_of, listener, parted
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.metrics import Metrics
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link
from crewkeeper_supervisor.shell.observing import Standing
from crewkeeper_supervisor.shell.place import is_loopback

LISTEN: Final = "127.0.0.1:9464"
KEPT_S: Final = 1.0
"""How long a page of metrics is shown again."""
PING_LIMIT_S: Final = 2
BEAT_S: Final = 1.0
BEATS: Final = 60
"""Over how many beats the latest one is shown."""
QUEUES_S: Final = 10.0
"""How often the outbox is looked at."""
CLOSE_LIMIT_S: Final = 1.0
AGAIN_S: Final = 5.0
"""How often an address that is taken is tried again."""
_TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = b"application/json"

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class MetricsSite:
    """The application.

    Args:
        metrics: What is shown.
        standing: What the controller says of itself.
        hosts: Values of `Host` that are answered; empty: any. A page in a browser that was led here by a foreign name
            (DNS rebinding) reads nothing then.
        refresh: Called before a page is made.
    """

    def __init__(
        self, metrics: Metrics, standing: Standing, hosts: frozenset[str], refresh: Callable[[], None] = lambda: None
    ) -> None:
        self._metrics = metrics
        self._standing = standing
        self._hosts = hosts
        self._refresh = refresh
        self._making = anyio.Lock()
        self._page = b""
        self._page_at_s = float("-inf")
        self._answered: tuple[float, bool] = (float("-inf"), False)
        """When the server was last asked for a sign of life, and whether it gave one."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and host not in self._hosts:
            await _answer(send, 421, _TEXT, b"not here: this server is not known by that name\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, _TEXT, b"only GET and HEAD\n")
        elif scope["path"] == "/metrics":
            await _answer(send, 200, _TEXT, await self._metrics_page())
        elif scope["path"] == "/healthz":
            await _answer(send, 200, _JSON, b'{"healthy":true}\n')
        elif scope["path"] == "/readyz":
            problems = await self.problems()
            body = msgspec.json.encode({"ready": not problems, "problems": problems}) + b"\n"
            await _answer(send, 503 if problems else 200, _JSON, body)
        else:
            await _answer(send, 404, _TEXT, b"there are /metrics, /healthz and /readyz\n")

    async def _metrics_page(self) -> bytes:
        async with self._making:
            if time.monotonic() - self._page_at_s > KEPT_S:
                link = self._standing.link
                self._metrics.connected = link is not None and link.is_connected
                self._refresh()
                self._metrics.read_off()
                # A page of many series takes long to write, and calls at the gate must not wait for it.
                self._page = await anyio.to_thread.run_sync(self._metrics.written)
                self._page_at_s = time.monotonic()
            return self._page

    async def problems(self) -> list[str]:
        """Why this controller cannot own a run now; empty if it can."""
        standing = self._standing
        if standing.link is None:
            return ["it has no connection to NATS yet"]
        if not standing.link.is_connected:
            return ["its connection to NATS is lost"]
        found = []
        if not standing.opened:
            found.append("the streams and buckets it needs are not there yet")
        if standing.draining:
            found.append("it is draining: it gives its runs to others")
        if not await self._is_answered(standing.link):
            found.append(f"NATS has not answered within {PING_LIMIT_S} s")
        return found

    async def _is_answered(self, link: Link) -> bool:
        asked_s, answered = self._answered
        if time.monotonic() - asked_s > KEPT_S:
            try:
                await link.nc.flush(timeout=PING_LIMIT_S)
                answered = True
            except LINK_ERRORS:
                answered = False
            self._answered = (time.monotonic(), answered)
        return answered


@contextlib.asynccontextmanager
async def serving(
    listen: str,
    metrics: Metrics,
    standing: Standing,
    refresh: Callable[[], None] = lambda: None,
) -> AsyncIterator[str]:
    """Serve metrics around a block; yields the address, empty while it is taken.

    A taken address is tried again until it is free: a controller without metrics is better than none.

    Raises:
        ConfigError: `listen` is no address.
    """
    host, port = parted(listen, LISTEN)
    listening = _listening(listen, host, port)

    async def serve(listening: socket.socket | None) -> None:
        while listening is None:
            await anyio.sleep(AGAIN_S)
            listening = _listening(listen, host, port, quiet=True)
        with listening:
            names = _names(host, listening.getsockname()[1]) if is_loopback(host) else frozenset[str]()
            server = server_of(MetricsSite(metrics, standing, names, refresh))
            try:
                await server.serve(sockets=[listening])
            except anyio.get_cancelled_exc_class():
                server.force_exit = True
                with anyio.move_on_after(CLOSE_LIMIT_S, shield=True):
                    await server.shutdown(sockets=[listening])
                raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_harmless, lambda: serve(listening))
        tasks.start_soon(_harmless, lambda: _beat(metrics))
        tasks.start_soon(_harmless, lambda: _count_queues(metrics, standing))
        try:
            yield "" if listening is None else address_of(host, listening.getsockname()[1])
        finally:
            tasks.cancel_scope.cancel()


def _listening(listen: str, host: str, port: int, *, quiet: bool = False) -> socket.socket | None:
    try:
        return listener(host, port)
    except OSError as error:
        if not quiet:
            logger().error("metrics.not_served", address=listen, cause=error.strerror or str(error), again_s=AGAIN_S)
        return None


def _names(host: str, port: int) -> frozenset[str]:
    addresses = (address_of(each, port) for each in (host, "127.0.0.1", "::1", "localhost"))
    return frozenset(address.removeprefix("http://") for address in addresses)


async def _harmless(work: Callable[[], Awaitable[None]]) -> None:
    """Metrics may go missing; the runs go on."""
    try:
        await work()
    except Exception:  # noqa: BLE001 - telemetry must never break supervision
        logger().exception("metrics.ended")


async def _beat(metrics: Metrics) -> None:
    """Keep what the metrics say of the event loop."""
    late_s: deque[float] = deque(maxlen=BEATS)
    while True:
        due_s = time.monotonic() + BEAT_S
        await anyio.sleep(BEAT_S)
        late_s.append(max(0.0, time.monotonic() - due_s))
        metrics.lag_s = max(late_s)


async def _count_queues(metrics: Metrics, standing: Standing) -> None:
    """Keep what the metrics say of the outbox."""
    queue: deliveries.Queue | None = None
    while True:
        link = standing.link
        if link is not None and standing.opened:
            queue = queue if queue is not None and queue.link is link else deliveries.Queue(link)
            counts = await queue.count(time.time()) if link.is_connected else None
            metrics.waiting, metrics.later = counts if counts is not None else (None, None)
            metrics.dead = await _length(link, outbox.DEAD_STREAM)
            await anyio.sleep(QUEUES_S)
        else:
            await anyio.sleep(BEAT_S)


async def _length(link: Link, stream: str) -> int | None:
    if not link.is_connected:
        return None
    try:
        return (await link.js.stream_info(stream)).state.messages
    except LINK_ERRORS:  # also where it is not there
        return None


async def _answer(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
