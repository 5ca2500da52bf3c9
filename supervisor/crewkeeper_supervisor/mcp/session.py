"""Session: being the client of one MCP server over stdio, in the version that it speaks: its tools and their calls."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
import structlog

from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.offer import Offer
from crewkeeper_supervisor.mcp.pins import PinsUnusable
from crewkeeper_supervisor.mcp.rpc import Frame
from crewkeeper_supervisor.mcp.upstream import ServerGone, Upstream

DISCOVER_S: Final = 5.0
"""How long a server may take to say that it speaks the version without a handshake."""
INITIALIZE_S: Final = 30.0
LISTING_S: Final = 30.0
RELIST_S: Final = 1.0
"""At least so long between two listings."""
PAGES_MAX: Final = 100
CLIENT: Final = {"name": "crewkeeper", "version": "1"}

log = structlog.get_logger()


class Session:
    """One server, its tools and its calls. It may ask nothing of us. When it has ended, it can be run again.

    Args:
        command: Its program and arguments.
        offer: Where its tools are kept.
        label: What it is called.
        on_tools: Called when its tools have been heard of, also again.
    """

    def __init__(
        self,
        command: Sequence[str],
        offer: Offer,
        *,
        label: str,
        on_tools: Callable[[], Awaitable[None]],
    ) -> None:
        """Nothing runs yet."""
        self.offer = offer
        self._on_tools = on_tools
        self._make_upstream = partial(Upstream, command, self._from_server, label=label, on_restart=self._begin)
        self._upstream = self._make_upstream()
        self._meta: dict[str, Any] | None = None
        self._changes = anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Be connected until the server ends or this is cancelled.

        Raises:
            ServerGone: It ended, or does not speak MCP.
            PinsUnusable: What it says of its tools cannot be compared.
        """
        failed: list[Exception] = []
        self._upstream, self._meta = self._make_upstream(), None
        async with anyio.create_task_group() as group:
            self._group = group

            async def serve() -> None:
                try:
                    await self._upstream.run()
                    failed.append(ServerGone("the MCP server has ended"))
                except ServerGone as gone:
                    failed.append(gone)
                group.cancel_scope.cancel()

            async def listen() -> None:
                try:
                    await self._begin()
                    while True:
                        self._changes = anyio.Event()
                        await self._list()
                        await self._on_tools()
                        await anyio.sleep(RELIST_S)  # a server may say that they change as often as it likes
                        await self._changes.wait()
                except (ServerGone, TimeoutError, PinsUnusable) as error:
                    failed.append(error if str(error) else ServerGone("the MCP server does not answer"))
                    group.cancel_scope.cancel()

            group.start_soon(serve)
            group.start_soon(listen)
        if failed:
            raise failed[0] if isinstance(failed[0], ServerGone | PinsUnusable) else ServerGone(str(failed[0]))

    async def _begin(self) -> None:
        """Find out which version it speaks; a server that hung and was started again speaks the one it spoke."""
        self.offer.forget()
        if self._meta is None and not await self._is_modern():
            told = {"protocolVersion": rpc.LEGACY, "capabilities": {}, "clientInfo": CLIENT}
            await self._upstream.own("initialize", told, INITIALIZE_S, greeting=True)
            await self._upstream.say(rpc.notification("notifications/initialized"))
        self._changes.set()

    async def _is_modern(self) -> bool:
        meta = {rpc.VERSION_KEY: rpc.MODERN, rpc.CLIENT_KEY: CLIENT, rpc.CAPABILITIES_KEY: {}}
        try:
            found = await self._upstream.own("server/discover", {"_meta": meta}, DISCOVER_S, greeting=True)
        except (ServerGone, TimeoutError):
            return False  # an error is what older servers say; one that is really gone is noticed next
        versions = found.get("supportedVersions")
        if not isinstance(versions, list) or rpc.MODERN not in versions:
            return False
        self._meta = meta
        return True

    def _params(self, **params: Any) -> dict[str, Any] | None:
        return ({"_meta": self._meta} if self._meta else {}) | params or None

    async def _list(self) -> None:
        names: list[str] = []
        cursor: dict[str, Any] = {}
        for _ in range(PAGES_MAX):
            result = await self._upstream.own("tools/list", self._params(**cursor), LISTING_S)
            names += [tool["name"] for tool in await self.offer.take(result.get("tools"))]
            following = result.get("nextCursor")
            if not isinstance(following, str) or not following:
                break
            cursor = {"cursor": following}
        self.offer.keep_only(names)

    async def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; the caller sets a limit. Given up, the server is told, and started again if it hangs as a whole.

        The server is told of the trace that the call is a part of.

        Returns:
            The result, without what is not for models.

        Raises:
            Refusal: The tool may not be called, or not so.
            ServerGone: The server ended, or says that there is no such call.
        """
        self.offer.check(name, args)
        params = rpc.traced({"name": name, "arguments": args, **({"_meta": self._meta} if self._meta else {})})
        id_ = f"call-{secrets.token_hex(8)}"
        try:
            given = await self._upstream.ask(rpc.request(id_, "tools/call", params))
        except anyio.get_cancelled_exc_class():
            self.suspect()
            raise
        if given.error is not None:
            raise ServerGone(f"the server says: {rpc.error_text(given)}")
        return {key: value for key, value in given.result_dict().items() if key != "_meta"}

    def suspect(self) -> None:
        """A call was cut: see whether the server still answers anything, before it is asked for more."""
        if self._group is not None:
            self._upstream.suspect()
            self._group.start_soon(self._upstream.probe, self._meta)

    async def _from_server(self, frame: Frame) -> None:
        if frame.kind == "request":
            known = frame.method == "ping"
            assert frame.id is not None
            text = f"{frame.method[:80]} is not allowed here"
            await self._upstream.say(
                rpc.answer(frame.id, {}) if known else rpc.failure(frame.id, rpc.METHOD_NOT_FOUND, text)
            )
        elif frame.method == "notifications/tools/list_changed":
            self.offer.forget()
            self._changes.set()
