"""Proxy: an MCP client here, its server there, and between them every call of a tool goes to the gate first.

Theory of operation. Requests of the client are passed on under their own ids, each by a task of its own that waits for
the answer. `tools/list` comes back without what may not be used. `tools/call` is checked against the pinned definition,
put to the gate in the agent's name, carried out with the arguments of the grant, cut at its limit, and settled. What is
refused comes back as a result that a model can read. Everything else passes, but for what would let a call happen in
another way: tasks, methods of `tools/` that are not known here, and requests of the server that spend the client's
model or ask its user.
"""

from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.abc
import structlog

from crewkeeper_supervisor.mcp import reading, rpc
from crewkeeper_supervisor.mcp.gate_door import Door, Granted
from crewkeeper_supervisor.mcp.lines import LineReader, LineWriter, Stalled, TooLong
from crewkeeper_supervisor.mcp.offer import NOT_RUN, Offer, Refusal
from crewkeeper_supervisor.mcp.pins import PinsUnusable
from crewkeeper_supervisor.mcp.rpc import BadFrame, Frame
from crewkeeper_supervisor.mcp.upstream import ServerGone, Upstream

REQUESTS_MAX: Final = 500
"""Requests of the client that are not answered yet."""
DRAIN_S: Final = 5.0
"""How long a client that has closed its side may still get answers."""
LISTING_S: Final = 20.0
PAGES_MAX: Final = 100
INITIALIZE_S: Final = 10.0
CHANGED: Final = "its definition is another than the pinned one"
DENIED_BY_DEFAULT: Final = ("sampling/createMessage", "elicitation/create")
"""What servers may not ask of the client."""
_CAPABILITY_OF: Final = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation"}
_OURS: Final = ("tools/", "tasks/", "resources/", "prompts/")
"""What only passes in ways that are known here."""
_CALL_KEYS: Final = ("_meta", "inputResponses", "requestState")
_ERA_KEYS: Final = (rpc.VERSION_KEY, rpc.CLIENT_KEY, rpc.CAPABILITIES_KEY)

log = structlog.get_logger()


class _Failed(Exception):  # noqa: N818 - what the server says
    """The server answered that the call failed: settled so, and passed on as it is."""

    def __init__(self, frame: Frame, why: str) -> None:
        super().__init__(why)
        self.frame = frame


class Proxy:
    """One client, one server.

    Attributes:
        upstream: The server.
        offer: Its tools.
    """

    def __init__(
        self,
        make_upstream: Callable[..., Upstream],
        offer: Offer,
        door: Door,
        client: tuple[LineReader, LineWriter],
        *,
        allow: tuple[str, ...] = (),
    ) -> None:
        """Prepare.

        Args:
            make_upstream: `Upstream` but for `on_frame` and `on_restart`.
            offer: The server's tools.
            door: The gate.
            client: The two ways of the client.
            allow: Which of `DENIED_BY_DEFAULT` servers may ask after all.
        """
        self.offer = offer
        self._door = door
        self._reader, self._writer = client
        self._denied = tuple(method for method in DENIED_BY_DEFAULT if method not in allow)
        door.on_joined = self._joined
        self.upstream = make_upstream(on_frame=self._from_server, on_restart=self._greet_again)
        self._requests: dict[int | str, anyio.CancelScope] = {}
        self._asked_client: dict[int | str, None] = {}
        self._greeting: dict[str, Any] | None = None
        self._listing = anyio.Lock()
        self._unjudged: set[str] = set()
        """Kinds of which something was listed while nobody could say what may be shown."""
        self._quiet = anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None

    async def run(self) -> str:
        """Pass on what comes until one side ends; returns which: `client` or `server`."""
        ended = ""

        async def serve() -> None:
            nonlocal ended
            try:
                await self.upstream.run()
            except ServerGone as gone:
                log.error("mcp.server_not_started", server=self.upstream.label, error=str(gone))  # noqa: TRY400
            ended = ended or "server"
            await self._drain()
            group.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(serve)
                await self._from_client_all(group)
                ended = ended or "client"
                await self._drain()
                group.cancel_scope.cancel()
        except* Stalled as stalled:
            log.warning("mcp.client_gone", why=str(stalled.exceptions[0]))
            ended = "client"
        return ended

    async def _drain(self) -> None:
        if self._requests:
            self._quiet = anyio.Event()
            with anyio.move_on_after(DRAIN_S):
                await self._quiet.wait()

    # --- from the client ---

    async def _from_client_all(self, group: anyio.abc.TaskGroup) -> None:
        while (line := await self._reader.next()) is not None:
            try:
                if isinstance(line, TooLong):
                    raise BadFrame("the message is too long")
                frame = rpc.parse(line)
            except BadFrame as error:
                await self._tell(rpc.failure(None, rpc.INVALID_REQUEST, str(error)))
                continue
            try:
                await self._from_client(frame, group)
            except ServerGone as gone:
                log.warning("mcp.not_passed_on", method=frame.method, why=str(gone))

    async def _from_client(self, frame: Frame, group: anyio.abc.TaskGroup) -> None:
        if frame.kind == "answer":
            if frame.id is not None and frame.id in self._asked_client:
                del self._asked_client[frame.id]
                await self.upstream.say(frame)
        elif frame.kind == "notification":
            if frame.method == "notifications/cancelled":
                self._cancel(frame)
            elif frame.method.startswith("notifications/"):
                await self.upstream.say(frame)
            else:  # a call without an id, to which nobody could say no
                log.warning("mcp.notification_dropped", method=frame.method[:80])
        elif frame.id in self._requests:
            await self._tell(rpc.failure(frame.id, rpc.INVALID_REQUEST, "a request of this id is open"))
        elif len(self._requests) >= REQUESTS_MAX:
            text = f"{REQUESTS_MAX} requests are open, the most there may"
            await self._tell(rpc.failure(frame.id, rpc.INTERNAL, text))
        else:
            assert frame.id is not None
            scope = self._requests[frame.id] = anyio.CancelScope()
            group.start_soon(self._handle, frame, scope)

    def _cancel(self, frame: Frame) -> None:
        """The client no longer waits: whoever works on the request here ends, and tells gate and server."""
        try:
            scope = self._requests.get(frame.params_dict().get("requestId"))  # type: ignore[arg-type]
        except (BadFrame, TypeError):
            return
        if scope is not None:
            scope.cancel()

    async def _handle(self, frame: Frame, scope: anyio.CancelScope) -> None:
        assert frame.id is not None
        try:
            with scope, rpc.context_of(frame):
                await self._tell(await self._answer(frame))
        finally:
            del self._requests[frame.id]
            if not self._requests:
                self._quiet.set()

    async def _answer(self, frame: Frame) -> Frame:
        try:
            match frame.method:
                case "tools/call":
                    return self._nudged(await self._call(frame))
                case "tools/list":
                    return await self._list(frame)
                case "initialize" | "server/discover":
                    return await self._greet(frame)
                case "completion/complete":
                    return await self._complete(frame)
                case method if method in reading.LISTINGS:
                    return await self._list_others(frame, reading.LISTINGS[method])
                case method if method in reading.READERS:
                    return await self._read(frame)
                case method if method.strip().lower().startswith(_OURS) and method not in reading.HARMLESS:
                    return rpc.failure(frame.id, rpc.METHOD_NOT_FOUND, f"{method[:80]} is not passed on by this proxy")
                case _:
                    return await self._pass_on(frame)
        except BadFrame as error:
            return rpc.failure(frame.id, rpc.INVALID_PARAMS, f"params {error}")
        except (ServerGone, TimeoutError) as error:
            return rpc.failure(frame.id, rpc.INTERNAL, str(error) or "the server does not answer")
        except PinsUnusable as error:
            log.error("mcp.pins_unusable", error=str(error))  # noqa: TRY400 - the message says it all
            return rpc.failure(frame.id, rpc.INTERNAL, str(error))

    async def _pass_on(self, frame: Frame) -> Frame:
        given = await self.upstream.ask(self._curbed(frame))
        asked = self._asks_too_much(given)
        if asked:
            return rpc.failure(frame.id, rpc.INTERNAL, f"the server asks for {asked}, which is not allowed here")
        return given

    def _curbed(self, frame: Frame) -> Frame:
        """The request, with no more capabilities of the client in it than servers may use."""
        if frame.params is None:
            return frame
        params = frame.params_dict()
        meta = params.get("_meta")
        curbed = False
        if isinstance(meta, dict) and isinstance(meta.get(rpc.CAPABILITIES_KEY), dict):
            params["_meta"] = meta | {rpc.CAPABILITIES_KEY: self._kept(meta[rpc.CAPABILITIES_KEY])}
            curbed = True
        if frame.method == "initialize" and isinstance(params.get("capabilities"), dict):
            params["capabilities"] = self._kept(params["capabilities"])
            curbed = True
        assert frame.id is not None
        return rpc.request(frame.id, frame.method, params) if curbed else frame

    def _kept(self, capabilities: dict[str, Any]) -> dict[str, Any]:
        gone = {_CAPABILITY_OF[method] for method in self._denied} | {"tasks"}
        return {name: value for name, value in capabilities.items() if name not in gone}

    def _asks_too_much(self, given: Frame) -> str:
        """What an answer asks of the client that servers may not ask; empty if nothing."""
        try:
            result = given.result_dict()
        except BadFrame:
            return ""
        asked = result.get("inputRequests")
        for each in asked.values() if isinstance(asked, dict) else ():
            method = each.get("method") if isinstance(each, dict) else None
            if method in self._denied:
                return str(method)
        return ""

    async def _greet(self, frame: Frame) -> Frame:
        """The beginning, in either version: neither side hears of what is not passed on."""
        curbed = self._curbed(frame)
        given = await self.upstream.ask(curbed)
        if given.error is not None:
            return given
        if frame.method == "initialize":
            self._greeting = curbed.params_dict()
        result = given.result_dict()
        capabilities = result.get("capabilities")
        if isinstance(capabilities, dict):
            result["capabilities"] = {name: value for name, value in capabilities.items() if name != "tasks"}
        if "instructions" in result:
            before, said = set(self.offer.changed), result["instructions"]
            if not isinstance(said, str) or not await self.offer.takes_instructions(said):
                del result["instructions"]
            self._report_changed(before)
        return rpc.answer(frame.id, result)

    async def _greet_again(self) -> None:
        """After a restart: the server's side of the handshake, which the client has behind it."""
        self.offer.forget()
        if self._greeting is not None:
            await self.upstream.own("initialize", self._greeting, INITIALIZE_S, greeting=True)
            await self.upstream.say(rpc.notification("notifications/initialized"))

    # --- tools ---

    async def _list(self, frame: Frame) -> Frame:
        given = await self.upstream.ask(self._curbed(frame))
        if given.error is not None:
            return given
        result, before = given.result_dict(), set(self.offer.changed)
        tools = await self.offer.take(result.get("tools"))
        self._report_changed(before)
        hidden = await self._hidden("tool", [tool["name"] for tool in tools])
        self.offer.hide_only((self.offer.hidden - {tool["name"] for tool in tools}) | hidden)
        shown = [tool for tool in tools if tool["name"] not in hidden]
        return rpc.answer(frame.id, reading.known(result) | {"tools": shown})

    async def _hidden(self, kind: str, names: list[str]) -> set[str]:
        """Those of the server's names that the agent could do nothing with: they are shown to nobody."""
        if not names:
            return set()
        own = {self.offer.gate_name(name): name for name in names}
        hidden = await self._door.hidden(list(own), kind)
        if hidden is None:
            self._unjudged.add(kind)
            return set(names) & self.offer.hidden if kind == "tool" else set()
        return {own[name] for name in hidden if name in own}

    def _joined(self) -> None:
        """There is a gate again: what was listed without one is worth listing again."""
        self.offer.show_all()
        kinds, self._unjudged = self._unjudged, set()
        if self._greeting is not None and self._group is not None:
            for kind in sorted(kinds):
                self._group.start_soon(self._tell, rpc.notification(f"notifications/{kind}s/list_changed"))

    async def _know(self, meta: dict[str, Any] | None) -> None:
        """Hear of all tools, unless that is done.

        Raises:
            Refusal: The server does not say.
        """
        async with self._listing:
            if self.offer.is_complete:
                return
            try:
                await self._list_all(meta)
            except (ServerGone, TimeoutError, PinsUnusable) as error:
                why = str(error) or f"no answer within {LISTING_S:g} s"
                raise Refusal("tools_unknown", f"It cannot be told which tools there are ({why}); {NOT_RUN}.") from None

    async def _list_all(self, meta: dict[str, Any] | None) -> None:
        names: list[str] = []
        before = set(self.offer.changed)
        params: dict[str, Any] = {} if meta is None else {"_meta": meta}
        with anyio.fail_after(LISTING_S):
            for _ in range(PAGES_MAX):
                result = await self.upstream.own("tools/list", params or None, LISTING_S)
                names += [tool["name"] for tool in await self.offer.take(result.get("tools"))]
                cursor = result.get("nextCursor")
                if not isinstance(cursor, str) or not cursor:
                    break
                params = params | {"cursor": cursor}
        self.offer.keep_only(names)
        self._report_changed(before)

    def _report_changed(self, before: set[str]) -> None:
        changed = sorted(set(self.offer.changed) - before)
        if changed and self._group is not None:
            names = tuple(self.offer.gate_name(name) for name in changed)
            self._group.start_soon(self._door.tell_unsafe, names, CHANGED)
        for name in changed:
            log.error(
                "mcp.tool_changed",
                server=self.upstream.label,
                tool=name,
                digest=self.offer.changed[name],
                remedy="supervisor tools diff",
            )

    async def _call(self, frame: Frame) -> Frame:
        params = frame.params_dict()
        name, args, meta = params.get("name"), params.get("arguments"), params.get("_meta")
        if not isinstance(name, str):
            raise BadFrame("must have a name")
        era = _era(meta)
        try:
            await self._know(era)
            await self._check(name, {} if args is None else args)
            async with self._door.grant(self.offer.gate_name(name), args or {}) as granted:
                return await self._carry_out(frame, params, granted)
        except _Failed as failed:
            return failed.frame
        except Refusal as refused:
            if refused.code == "tool_timeout":
                assert self._group is not None
                self._group.start_soon(self.upstream.probe, era)
            if refused.code == "unknown_tool":
                await self._hide(name)
            log.info("mcp.refused", tool=name[:128], code=refused.code)
            return rpc.refusal(frame.id, refused.code, str(refused))
        except ServerGone as gone:
            text = f"The server of the tool {name[:128]!r} is gone: {gone}. The call may have been carried out."
            return rpc.refusal(frame.id, "tool_lost", text)

    def _nudged(self, frame: Frame) -> Frame:
        """The answer to a call, with what the supervisor wants the model to read after it."""
        if frame.error is not None:
            return frame
        try:
            result = frame.result_dict()
        except BadFrame:
            return frame
        nudged = self._door.nudged(result)
        return frame if nudged is result else rpc.answer(frame.id, nudged)

    async def _hide(self, name: str) -> None:
        """The gate says that the agent has no such tool: it is listed no more, until there is another run."""
        if self.offer.hide(name) and self._greeting is not None:
            await self._tell(rpc.notification("notifications/tools/list_changed"))

    async def _check(self, name: str, args: Any) -> None:
        try:
            self.offer.check(name, args)
        except Refusal as refused:
            if refused.code == "unknown_tool":
                await self._door.tell_unknown(self.offer.gate_name(name))
            raise

    async def _carry_out(self, frame: Frame, params: dict[str, Any], granted: Granted) -> Frame:
        assert frame.id is not None
        told = {"name": params["name"], "arguments": granted.args}
        told |= {key: params[key] for key in _CALL_KEYS if key in params}
        given = await self.upstream.ask(self._curbed(rpc.request(frame.id, frame.method, rpc.traced(told))))
        if given.error is not None:
            raise _Failed(given, f"the server says: {rpc.error_text(given)}")
        try:
            result = given.result_dict()
        except BadFrame as error:
            raise ServerGone(f"its result {error}") from None
        asked = self._asks_too_much(given)
        if asked:
            raise Refusal("input_denied", f"The tool's server asks for {asked}, which it may not; it did not finish.")
        if result.get("resultType", "complete") not in ("complete", "input_required"):
            raise Refusal("result_unknown", "The server's answer is of a kind that this proxy does not pass on.")
        if result.get("isError") is True:
            raise _Failed(given, _text_of(result))
        granted.result = {key: value for key, value in result.items() if key != "_meta"}
        return given

    # --- resources and prompts ---

    async def _list_others(self, frame: Frame, listing: reading.Listing) -> Frame:
        given = await self.upstream.ask(self._curbed(frame))
        if given.error is not None:
            return given
        result = given.result_dict()
        hidden = await self._hidden(listing.kind, reading.names_of(result, listing))
        return rpc.answer(frame.id, reading.without(result, listing, hidden))

    async def _read(self, frame: Frame) -> Frame:
        params = frame.params_dict()
        want = reading.wanted(frame.method, params)
        try:
            async with self._door.grant(self.offer.gate_name(want.name), want.args, want.kind) as granted:
                told = reading.granted(want, granted.args)
                told |= {key: params[key] for key in _CALL_KEYS if key in params}
                assert frame.id is not None
                given = await self._pass_on(rpc.request(frame.id, frame.method, rpc.traced(told)))
                if given.error is not None:
                    raise _Failed(given, f"the server says: {rpc.error_text(given)}")
                return given
        except _Failed as failed:
            return failed.frame
        except Refusal as refused:
            log.info("mcp.refused", what=want.name[:128], kind=want.kind, code=refused.code)
            return reading.refusal(frame, refused.code, str(refused))

    async def _complete(self, frame: Frame) -> Frame:
        """Completions tell what a server has: of what may not be read there are none."""
        kind, name = reading.completed(frame.params_dict())
        hidden = await self._door.hidden([self.offer.gate_name(name)], kind)
        if hidden is None:
            return reading.refusal(frame, "gate_unavailable", f"The gate cannot be asked; {NOT_RUN}.")
        text = f"The {kind} {name[:200]!r} may not be used; {NOT_RUN}."
        return reading.refusal(frame, "denied", text) if hidden else await self._pass_on(frame)

    # --- from the server ---

    async def _from_server(self, frame: Frame) -> None:
        if frame.kind == "request":
            assert frame.id is not None
            if frame.method in self._denied or len(self._asked_client) >= REQUESTS_MAX:
                log.warning("mcp.server_request_denied", server=self.upstream.label, method=frame.method[:80])
                text = f"{frame.method[:80]} is not allowed here"
                with_answer = rpc.failure(frame.id, rpc.METHOD_NOT_FOUND, text)
                await self._say_upstream(with_answer)
                return
            self._asked_client[frame.id] = None
        elif frame.method == "notifications/tools/list_changed":
            self.offer.forget()
        await self._tell(frame)

    async def _say_upstream(self, frame: Frame) -> None:
        try:
            await self.upstream.say(frame)
        except ServerGone:
            log.debug("mcp.answer_not_taken", server=self.upstream.label)

    async def _tell(self, frame: Frame) -> None:
        await self._writer.write(frame.encode())


def _era(meta: Any) -> dict[str, Any] | None:
    """What a request of our own must say in the client's version; None where there was a handshake."""
    if not isinstance(meta, dict) or rpc.VERSION_KEY not in meta:
        return None
    return {key: meta[key] for key in _ERA_KEYS if key in meta} | {rpc.CAPABILITIES_KEY: {}}


def _text_of(result: dict[str, Any]) -> str:
    """The first text of a result."""
    content = result.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return str(part["text"])[:500]
    return "the tool says that it failed"
