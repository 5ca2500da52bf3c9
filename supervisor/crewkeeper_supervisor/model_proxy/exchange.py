"""Exchange: one call of a model, from its grant to its settlement; reading requests is not here.

Once a call is granted it is settled, whatever becomes of it: by what the provider reports, in full where it reports
nothing, and not at all where it certainly did nothing. An answer that is there while its agent is paused is withheld
and given later; its cost is told at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import anyio
import httpx2
import msgspec
from msgspec import Struct

from crewkeeper_bus.tool_messages import SpendAsked, SpendGranted, Spent
from crewkeeper_supervisor.model_proxy.backlog import Backlog
from crewkeeper_supervisor.model_proxy.doorkeeper import Standing
from crewkeeper_supervisor.model_proxy.event_stream import Events, EventTooLarge, data_of, is_last
from crewkeeper_supervisor.model_proxy.nudging import nudged
from crewkeeper_supervisor.model_proxy.outlet import STREAM, Outlet
from crewkeeper_supervisor.model_proxy.problem import Problem
from crewkeeper_supervisor.model_proxy.request import ModelRequest
from crewkeeper_supervisor.model_proxy.spending import Spending
from crewkeeper_supervisor.model_proxy.upstream import Providers, Upstream
from crewkeeper_supervisor.model_proxy.usage import Reported, reported
from crewkeeper_supervisor.shell.logbook import logger

ANSWER_MAX_BYTES: Final = 32 * 1024 * 1024
ERROR_MAX_BYTES: Final = 256 * 1024
_CONTEXT_CHARS: Final = 64
_UNDONE: Final = (503, 529)
"""Of the errors of a provider's side, those that say that it did nothing."""
_KEY_REFUSED: Final = (401, 403)

End = Literal["", "left", "ended"]


class Exchange(Struct, frozen=True, kw_only=True):
    """What every call of a run needs. `carry` does one."""

    spending: Spending
    providers: Providers
    look: Callable[[Standing], Awaitable[None]]
    """Reads again how an agent stands."""
    hold_s: float
    """How long an answer is withheld at the longest."""
    seen: Callable[[str, str, int], None]
    """Called with the agent, the id and all tokens of each response, and with those that it wrote for each part."""

    async def carry(
        self,
        request: ModelRequest,
        *,
        upstream: Upstream,
        path: str,
        headers: Mapping[str, str],
        standing: Standing,
        task: str,
        outlet: Outlet,
        left: Callable[[], Awaitable[None]],
    ) -> None:
        """Ask for a grant, send the request on, answer, and settle.

        Args:
            request: What is wanted.
            upstream: Who is to do it.
            path: Where it is sent, from `/v1` on.
            headers: Of the client's request, names in lower case.
            standing: Whose it is.
            task: The task of the agent that it belongs to.
            outlet: Where the answer goes; every problem goes there too.
            left: Returns when the client is gone.
        """
        call = _Carried(self, request, upstream, standing, outlet)
        end: End = ""
        problem: Problem | None = None

        async def watch_client(scope: anyio.CancelScope) -> None:
            nonlocal end
            await left()
            end = end or "left"
            scope.cancel()

        async def watch_agent(scope: anyio.CancelScope) -> None:
            nonlocal end
            while not standing.ended:
                await standing.change()
            end = end or "ended"
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_client, tasks.cancel_scope)
            tasks.start_soon(watch_agent, tasks.cancel_scope)
            try:
                await call.run(path, headers, task)
            except Problem as found:
                problem = found
            tasks.cancel_scope.cancel()
        if end == "ended":
            problem = Problem(403, "cancelled", standing.ended)
        if problem is not None and end != "left":
            await outlet.fail(problem)


class _Carried:
    """One call under way."""

    def __init__(
        self, exchange: Exchange, request: ModelRequest, upstream: Upstream, standing: Standing, outlet: Outlet
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._upstream = upstream
        self._standing = standing
        self._outlet = outlet
        self._call = exchange.spending.new_call()
        self._settled = False
        self._sent = False
        self._undone = ""
        """Why the provider has certainly not done it."""
        self._error = "broken off"
        self._reported = Reported()
        self._is_complete = False
        """Whether the provider has said all that it had to say."""
        self._head: tuple[int, dict[str, str]] | None = None
        self._problem: Problem | None = None

    async def run(self, path: str, headers: Mapping[str, str], task: str) -> None:
        await self._released()
        request = self._request
        asked = SpendAsked(
            agent=self._standing.agent,
            task=task,
            call=self._call,
            model=request.model,
            provider=request.protocol,
            input_tokens=request.input_tokens,
            max_output_tokens=request.output_tokens,
            digest=request.digest,
            trace=headers.get("traceparent", "")[:_CONTEXT_CHARS],
        )
        grant = await self._exchange.spending.ask(asked, self._outlet.keep, self._exchange.hold_s)
        self._outlet.released()
        try:
            await self._forward(grant, path, headers)
        finally:
            self._settle()

    async def _released(self) -> None:
        """Return when the agent is not held."""
        if self._standing.ended:
            raise Problem(403, "cancelled", self._standing.ended)
        if not self._standing.is_held:
            return
        until_s = anyio.current_time() + self._exchange.hold_s
        while self._standing.is_held:
            if anyio.current_time() >= until_s:
                raise Problem(503, "held", f"the agent has been paused for {self._exchange.hold_s:g} s")
            await self._outlet.keep()
            with anyio.move_on_after(1.0):
                await self._standing.change()
        self._outlet.released()

    # --- the provider ---

    async def _forward(self, grant: SpendGranted, path: str, headers: Mapping[str, str]) -> None:
        backlog, begun = Backlog(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._fetch, grant, path, headers, backlog, begun)
            await begun.wait()
            try:
                await self._hand_on(backlog)
            except Problem as problem:
                self._problem = problem
            tasks.cancel_scope.cancel()
        if self._problem is not None:
            raise self._problem
        await self._outlet.end()

    async def _hand_on(self, backlog: Backlog) -> None:
        if self._head is None:
            return
        # Whoever was paused before the answer came does not get it, even if the notice of that is still on its way.
        await self._exchange.look(self._standing)
        await self._released()
        status, headers = self._head
        if status != 200 and self._outlet.has_begun:
            raise Problem(status, "upstream_error", f"the provider answered {status}")
        await self._outlet.begin(status, headers)
        while (item := await backlog.get()) is not None:
            await self._released()
            await self._outlet.write(item)

    async def _fetch(
        self, grant: SpendGranted, path: str, headers: Mapping[str, str], backlog: Backlog, begun: anyio.Event
    ) -> None:
        """Everything that the provider says into the backlog; its cost is told when it has ended, or has been cut."""
        limit_s = grant.limit_s
        host = self._upstream.url.partition("://")[2].partition("/")[0]
        try:
            with anyio.fail_after(limit_s or None):
                payload = nudged(self._request, grant.nudges).redacted(grant.redact)
                self._sent = True
                async with self._exchange.providers.post(self._upstream, path, headers, payload) as answer:
                    await self._take(answer, backlog, begun)
        except TimeoutError:
            self._problem = Problem(
                504, "upstream_timeout", f"{host} has not finished within {limit_s:g} s: it was cut"
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            self._undone = f"{host} cannot be reached: {type(error).__name__}"
            self._problem = Problem(502, "upstream_unreachable", self._undone, retry=True, after_s=1.0)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            text = f"{host} broke the connection off: {type(error).__name__}; the call may have been carried out"
            self._problem = Problem(502, "upstream_failed", text, retry=True)
        except Problem as problem:
            self._problem = problem
        if self._problem is not None:
            self._error = self._problem.text
            logger().warning(
                "model_proxy.upstream", agent=self._standing.agent, cause=self._problem.code, error=self._error[:300]
            )
        self._settle()
        begun.set()
        backlog.close()

    async def _take(self, answer: httpx2.Response, backlog: Backlog, begun: anyio.Event) -> None:
        if answer.status_code != 200:
            await self._take_error(answer, backlog, begun)
        elif answer.headers.get("content-type", "").partition(";")[0].strip().lower() == STREAM:
            await self._take_stream(answer, backlog, begun)
        else:
            await self._take_whole(answer, backlog, begun)

    async def _take_error(self, answer: httpx2.Response, backlog: Backlog, begun: anyio.Event) -> None:
        status = answer.status_code
        if status >= 300 and (status < 500 or status in _UNDONE):
            self._undone = f"the provider answered {status}"
        self._error = f"the provider answered {status}"
        if status in _KEY_REFUSED:
            raise Problem(
                502, "upstream_key", "the provider refuses the key or the account of the proxy; tell its operator"
            )
        if status < 400:
            raise Problem(502, "upstream_garbage", f"the provider answered {status}, which is no answer")
        body = await _read(answer, ERROR_MAX_BYTES)
        self._head = status, self._upstream.headers_back(answer.headers)
        await backlog.put(self._upstream.without_key(body))
        begun.set()

    async def _take_whole(self, answer: httpx2.Response, backlog: Backlog, begun: anyio.Event) -> None:
        body = await _read(answer, ANSWER_MAX_BYTES)
        try:
            value = msgspec.json.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            text = "the provider answered with what is no JSON; the call is charged, for it may have been carried out"
            raise Problem(502, "upstream_garbage", text) from None
        self._reported, self._is_complete = reported(self._request.protocol, value), True
        self._settle()
        self._head = 200, self._upstream.headers_back(answer.headers)
        await backlog.put(self._upstream.without_key(body))
        begun.set()

    async def _take_stream(self, answer: httpx2.Response, backlog: Backlog, begun: anyio.Event) -> None:
        events = Events()
        self._head = 200, self._upstream.headers_back(answer.headers)
        begun.set()
        try:
            async for chunk in answer.aiter_raw():
                for event in events.feed(chunk):
                    if not self._read(event):
                        await backlog.put(self._upstream.without_key(event))
        except EventTooLarge as error:
            raise Problem(502, "upstream_garbage", f"the provider sends what does not end: {error}") from None
        # A stream that merely stops may have been cut: what it has said of its usage was not the last word then.
        if events.rest:
            await backlog.put(self._upstream.without_key(events.rest))

    def _read(self, event: bytes) -> bool:
        """Take note of an event; whether it holds but the usage, which the client did not ask for."""
        data = data_of(event)
        self._reported = self._reported.joined(reported(self._request.protocol, data))
        if is_last(event, data):
            # A client may leave at this event, before the provider closes its side.
            self._is_complete = True
            self._settle()
        if not self._request.hides_usage or not isinstance(data, dict):
            return False
        return data.get("choices") == [] and isinstance(data.get("usage"), dict)

    # --- what it has cost ---

    def _settle(self) -> None:
        """Tell the gate; the first time counts."""
        if self._settled:
            return
        self._settled = True
        self._exchange.spending.settle(self._spent())
        found = self._reported
        if found.id and found.input_tokens is not None:
            made = found.output_tokens or 0
            self._exchange.seen(self._standing.agent, found.id, found.input_tokens + made)
            for item in found.items:
                self._exchange.seen(self._standing.agent, item, made)

    def _spent(self) -> Spent:
        agent, request, found = self._standing.agent, self._request, self._reported
        if not self._sent or self._undone:
            why = self._undone or "it was never sent"
            return Spent(call=self._call, agent=agent, ok=False, forwarded=False, error=why, digest=request.digest)
        if self._is_complete and found.is_whole:
            assert found.input_tokens is not None
            assert found.output_tokens is not None
            return Spent(
                call=self._call,
                agent=agent,
                ok=self._problem is None,
                model=found.model,
                input_tokens=found.input_tokens,
                output_tokens=found.output_tokens,
                cached_tokens=found.cached_tokens,
                cache_write_tokens=found.cache_write_tokens,
                cache_write_1h_tokens=found.cache_write_1h_tokens,
                error=self._problem.text if self._problem is not None else "",
                digest=request.digest,
            )
        # Nobody knows what was used: it is charged what was reserved.
        return Spent(
            call=self._call,
            agent=agent,
            ok=False,
            input_tokens=request.input_tokens,
            output_tokens=request.output_tokens,
            estimated=True,
            error=f"no usage reported: {self._error}"[:2000],
            digest=request.digest,
        )


async def _read(answer: httpx2.Response, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > limit_bytes:
            raise Problem(502, "upstream_garbage", f"the provider's answer has more than {limit_bytes} bytes")
    return bytes(body)
