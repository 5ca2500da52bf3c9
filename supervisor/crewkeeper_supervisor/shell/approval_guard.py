"""Approval guard: what every request to the approvals server passes before anything is done for it, and on its way out.

It knows HTTP and nothing of approvals: addresses that are ours, how much may be asked, how long it may take, which
headers every answer bears, and one line of log that holds neither path nor token.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from crewkeeper_supervisor.shell.approval_form import POLICY
from crewkeeper_supervisor.shell.logbook import logger

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_LIMIT_S: Final = 45.0
RATE_PER_S: Final = 1.0
BURST: Final = 60.0
"""Requests of one address: so many at once, and one more each second."""
ADDRESSES_MAX: Final = 10_000
_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # With `no-referrer` browsers would hide the origin of a form, which is looked at.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"x-robots-tag", b"noindex, nofollow"),
    # One request each: what comes on a connection after that would have no limit of time.
    (b"connection", b"close"),
)


class Rates:
    """How much each address may still ask for: a token bucket each, of a bounded number of addresses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, address: str) -> bool:
        """Whether a request of this address may be handled now; it counts as made then."""
        now_s = self._clock()
        left, at_s = self._left.pop(address, (BURST, now_s))
        left = min(BURST, left + (now_s - at_s) * RATE_PER_S)
        admitted = left >= 1
        self._left[address] = (left - 1 if admitted else left, now_s)
        if len(self._left) > ADDRESSES_MAX:
            self._left.popitem(last=False)
        return admitted


class Guard:
    """Wraps the application.

    Args:
        app: What handles requests that pass.
        addresses: `http://host:port` or `https://host` under which it may be asked for. Others are refused, so that a
            foreign name that was made to point here (DNS rebinding) is of no use.
        rates: How much may be asked.
    """

    def __init__(self, app: App, addresses: Iterable[str], rates: Rates | None = None) -> None:
        self._app = app
        self._rates = rates or Rates()
        self._origins = {_origin(each) for each in addresses}
        self._hosts = {origin.partition("://")[2] for origin in self._origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            return
        began_s = time.monotonic()
        status = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        try:
            with anyio.fail_after(REQUEST_LIMIT_S):
                await (self._app(scope, receive, answer) if refusal is None else _say(answer, *refusal))
        except TimeoutError:
            if not status:
                await _say(answer, 503, "this took too long; try again")
        except Exception as error:  # noqa: BLE001 - the server would log the path, and in it the token
            logger().error("approvals.broken", cause=type(error).__name__)
            if not status:
                await _say(answer, 500, "something went wrong here; nothing is known to be decided")
        logger().info(
            "approvals.request",
            what=f"{scope['method'][:10]} {scope['path'].split('/')[1][:10]}",
            status=status,
            latency_ms=round((time.monotonic() - began_s) * 1000),
        )

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        origin = headers.get(b"origin")
        client = scope.get("client")
        if host not in self._hosts:
            return 421, "not here: this server is not known by that name"
        if origin is not None and origin.decode("latin-1").lower() not in self._origins:
            return 403, "a page of another origin may not ask for this"
        if not self._rates.admits(client[0] if client else ""):
            return 429, "too many requests; try again in a minute"
        return None


def _origin(address: str) -> str:
    """As a browser writes it: no path, and no port that goes without saying."""
    parts = urlsplit(address.lower())
    port = f":{parts.port}" if parts.port and parts.port != {"http": 80, "https": 443}.get(parts.scheme) else ""
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


async def _say(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if status in (429, 503):
        headers.append((b"retry-after", b"60" if status == 429 else b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
