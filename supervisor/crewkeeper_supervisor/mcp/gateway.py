"""Gateway: one MCP server for many clients over streamable HTTP, each as the agent whose credentials it brings.

The protocol over HTTP is the official package's, which is imported here and nowhere else. A client's bearer token is
`<run>.<agent>.<password>`, as `supervisor creds issue` shows user and password: whether it is right is decided by
whoever decides about logins, when the gateway logs in with it to ask the gate in that agent's name.
"""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import anyio.abc
import structlog

from crewkeeper_bus.client import Client, connect
from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.tracing import META, carrying
from crewkeeper_supervisor.core.scope import SESSION_S
from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.gate_door import GateDoor
from crewkeeper_supervisor.mcp.offer import NOT_RUN, Offer, Refusal
from crewkeeper_supervisor.mcp.pins import PinsUnusable
from crewkeeper_supervisor.mcp.upstream import ServerGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import mcp_types as types

LOGIN_S: Final = 15.0
DOORS_MAX: Final = 64
"""Agents that are connected at a time."""
IDLE_S: Final = 600.0
"""How long an agent stays connected that nobody speaks as."""
REFUSED_S: Final = 10.0
"""How long a wrong token is remembered."""
REFUSED_MAX: Final = 1000
CONNECTIONS_MAX: Final = 512
BODY_MAX_BYTES: Final = 8 * PAYLOAD_MAX_BYTES
"""More than any call that the gate would take, however it is spelled."""
OF_AGENT_MAX: Final = 64
"""Requests of one agent that may be under way."""
BODY_LIMIT_S: Final = 30.0
"""How long a client may take to send its request."""
RELIST_S: Final = 30.0
RETRY_S: Final = 2.0
_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9-][A-Za-z0-9_-]{0,31})\.([A-Za-z0-9_-]{1,256})\Z")
_DOOR: Final = "crewkeeper.door"

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

log = structlog.get_logger()


class Behind(Protocol):
    """The server behind the gateway: `session.Session`, or `HttpSession`."""

    offer: Offer

    async def run(self) -> None:
        """Be connected until it ends; raises `ServerGone` or `PinsUnusable`."""

    async def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; raises `ServerGone` or `Refusal`."""


class HttpSession:
    """A server over streamable HTTP.

    Args:
        url: Where it is.
        offer: Where its tools are kept.
    """

    def __init__(self, url: str, offer: Offer) -> None:
        """Not connected."""
        self.offer = offer
        self._url = url
        self._client: Any = None

    async def run(self) -> None:
        """Be connected, and hear of its tools again and again.

        Raises:
            ServerGone: It cannot be reached any more.
            PinsUnusable: What it says cannot be compared.
        """
        import httpx2

        from mcp import Client as McpClient
        from mcp import MCPError

        why = ""
        try:
            async with McpClient(self._url) as client:
                self._client = client
                while True:
                    await self._list(client)
                    await anyio.sleep(RELIST_S)
        except* (MCPError, httpx2.HTTPError, OSError) as group:
            why = str(_first(group))[:300]
        finally:
            self._client = None
        raise ServerGone(f"{self._url}: {why}")

    async def _list(self, client: Any) -> None:
        names: list[str] = []
        cursor: str | None = None
        while True:
            page = await client.list_tools(cursor=cursor, cache_mode="bypass")
            told = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in page.tools]
            names += [tool["name"] for tool in await self.offer.take(told)]
            cursor = page.next_cursor
            if not cursor:
                break
        self.offer.keep_only(names)

    async def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; the caller sets a limit.

        Raises:
            ServerGone: It cannot be reached, or says that there is no such call.
        """
        import httpx2

        from mcp import MCPError

        if self._client is None:
            raise ServerGone("it is not connected")
        try:
            result = await self._client.call_tool(name, args, meta=rpc.traced({}).get("_meta"))
        except (MCPError, httpx2.HTTPError, OSError) as error:
            raise ServerGone(f"the server says: {str(error)[:300]}") from None
        told: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in told.items() if key != "_meta"}


def _first(error: BaseException) -> BaseException:
    """The first error of nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Doors:
    """The agents that are connected, by what they log in with.

    Args:
        url: The NATS server.
        group: Where they are kept connected.
    """

    def __init__(self, url: str, group: anyio.abc.TaskGroup) -> None:
        """Nobody is."""
        self._url = url
        self._group = group
        self._doors: dict[str, tuple[GateDoor, anyio.CancelScope]] = {}
        self._used_s: dict[str, float] = {}
        self._refused_s: dict[str, float] = {}

    async def of(self, token: str) -> GateDoor | None:
        """The gate, as the agent of this token; None if it is refused, or nobody can say."""
        found = _TOKEN.match(token)
        if found is None:
            return None
        key, now_s = hashlib.sha256(token.encode()).hexdigest(), time.monotonic()
        if self._refused_s.get(key, 0.0) > now_s:
            return None
        self._tidy(now_s)
        if key not in self._doors:
            if len(self._doors) >= DOORS_MAX:
                return None
            door = GateDoor(self._maker(*found.groups()))
            self._doors[key] = door, anyio.CancelScope()
            self._group.start_soon(self._keep, key)
        self._used_s[key] = now_s
        door, scope = self._doors[key]
        if await door.opened(LOGIN_S):
            return door
        scope.cancel()
        self._refused_s[key] = time.monotonic() + REFUSED_S
        return None

    def _maker(self, run: str, agent: str, password: str) -> Callable[[], AbstractAsyncContextManager[Client]]:
        @asynccontextmanager
        async def make() -> "AsyncIterator[Client]":
            user = f"{run}.{agent}"
            yield connect(self._url, run=run, agent=agent, user=user, password=password, session_s=float(SESSION_S))

        return make

    async def _keep(self, key: str) -> None:
        door, scope = self._doors[key]
        try:
            with scope:
                await door.run()
        finally:
            del self._doors[key]

    def _tidy(self, now_s: float) -> None:
        for key, (_, scope) in self._doors.items():
            if self._used_s[key] + IDLE_S < now_s:
                scope.cancel()
        self._used_s = {key: at_s for key, at_s in self._used_s.items() if key in self._doors}
        if len(self._refused_s) > REFUSED_MAX:
            self._refused_s = {key: until_s for key, until_s in self._refused_s.items() if until_s > now_s}


def guarded(app: App, doors: Doors) -> App:
    """The application, for those who bring the credentials of an agent."""
    under_way: Counter[GateDoor] = Counter()

    async def guard(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            door = await doors.of(token.strip()) if kind.lower() == "bearer" else None
            if door is None:
                text = "the bearer token must be <run>.<agent>.<password>, from `supervisor creds issue`"
                await _refuse(send, 401, text, (b"www-authenticate", b"Bearer"))
                return
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length[:18]) > BODY_MAX_BYTES:
                await _refuse(send, 413, f"the request has more than {BODY_MAX_BYTES} bytes")
                return
            if under_way[door] >= OF_AGENT_MAX:
                text = f"{OF_AGENT_MAX} requests of this agent are under way, the most there may: wait for one to end"
                await _refuse(send, 429, text, (b"retry-after", b"1"))
                return
            scope[_DOOR] = door
            under_way[door] += 1
            try:
                await app(scope, _bounded(receive), send)
            finally:
                under_way[door] -= 1
                if not under_way[door]:
                    del under_way[door]
            return
        await app(scope, receive, send)

    return guard


async def _refuse(
    send: Callable[[Any], Awaitable[None]], status: int, text: str, *headers: tuple[bytes, bytes]
) -> None:
    head = [*headers, (b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def _bounded(receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """What a client sends, as long as it is no more than may be held, and comes in time; else it is as if it had left.

    The official package reads all that comes before it looks at any of it.
    """
    left, until_s, is_complete = BODY_MAX_BYTES, anyio.current_time() + BODY_LIMIT_S, False

    async def bounded() -> Any:
        nonlocal left, is_complete
        if is_complete:
            return await receive()
        message = {"type": "http.disconnect"}
        with anyio.move_on_after(until_s - anyio.current_time()):
            message = await receive()
        left -= len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if left >= 0:
            return message
        is_complete = True
        return {"type": "http.disconnect"}

    return bounded


class _Failed(Exception):  # noqa: N818 - what the server says
    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("the tool says that it failed")
        self.result = result


def make_app(behind: Behind, doors: Doors, host: str) -> App:
    """The HTTP application of one server."""
    import mcp_types as types
    from mcp.server.lowlevel import Server

    async def list_tools(context: Any, _params: Any) -> "types.ListToolsResult":
        hidden = await hidden_from(behind, context.request.scope[_DOOR])
        tools = [types.Tool.model_validate(each.told) for each in behind.offer.tools if each.name not in hidden]
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Any, params: "types.CallToolRequestParams") -> "types.CallToolResult":
        door: GateDoor = context.request.scope[_DOOR]
        with carrying(_context_of(context, params)):
            result = await call(behind, door, params.name, params.arguments or {})
        return types.CallToolResult.model_validate(door.nudged(result))

    server = Server("crewkeeper", on_list_tools=list_tools, on_call_tool=call_tool)
    # Without sessions, nobody can go on in one that somebody else has begun.
    return guarded(server.streamable_http_app(stateless_http=True, host=host), doors)


def _context_of(context: Any, params: "types.CallToolRequestParams") -> Any:
    """The context that a request names in its `_meta`, or by its header."""
    return (params.meta or {}).get(META) or context.request.headers.get(META)


async def hidden_from(behind: Behind, door: GateDoor) -> frozenset[str]:
    """Tools that this agent could not call, so that it is not told of them; all are shown while nobody can say."""
    own = {behind.offer.gate_name(name): name for name in behind.offer.names}
    return frozenset(own[name] for name in await door.hidden(list(own)) or () if name in own)


async def call(behind: Behind, door: GateDoor, name: str, args: dict[str, Any]) -> dict[str, Any]:
    """One call, through the gate; whatever comes of it is a result that a model can read."""
    try:
        hidden = frozenset() if name in behind.offer.names else await hidden_from(behind, door)
        behind.offer.check(name, args, hidden)
        async with door.grant(behind.offer.gate_name(name), args) as granted:
            result = await behind.call(name, granted.args)
            if result.get("isError") is True:
                raise _Failed(result)
            granted.result = result
            return result
    except _Failed as failed:
        return failed.result
    except Refusal as refused:
        if refused.code == "unknown_tool":
            await door.tell_unknown(behind.offer.gate_name(name))
        return rpc.refusal(0, refused.code, str(refused)).result_dict()
    except ServerGone as gone:
        text = f"The server of the tool {name[:128]!r} does not answer: {gone}. The call may have been carried out."
        return rpc.refusal(0, "tool_lost", text).result_dict()


async def serve(behind: Behind, url: str, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        behind: The server behind it.
        url: The NATS server that clients' credentials are for.
        host: Address to listen at.
        port: Port to listen at; 0: any.
        announce: Called with the address once it is in use.

    Raises:
        OSError: The address is not to be had.
    """
    import uvicorn

    from crewkeeper_supervisor.shell.http_server import config_of
    from crewkeeper_supervisor.shell.listening import address_of, listener

    with listener(host, port) as listening:
        async with anyio.create_task_group() as group:
            group.start_soon(_keep_connected, behind)
            app = make_app(behind, Doors(url, group), host)
            # Calls under way have limits of their own, and their ends are told to the gate.
            server = uvicorn.Server(config_of(app, connections=CONNECTIONS_MAX, grace_s=None, lifespan="on"))
            announce(f"{address_of(host, listening.getsockname()[1])}/mcp")
            await server.serve(sockets=[listening])
            group.cancel_scope.cancel()


async def _keep_connected(behind: Behind) -> None:
    while True:
        try:
            await behind.run()
        except (ServerGone, PinsUnusable) as error:
            log.warning("mcp.server_away", error=f"{error}; {NOT_RUN}")
        behind.offer.keep_only(())
        await anyio.sleep(RETRY_S)
