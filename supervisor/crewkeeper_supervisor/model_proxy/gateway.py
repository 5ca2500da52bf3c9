"""Gateway: the addresses that clients call, as an ASGI application; what becomes of a call is in `exchange`."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import anyio
import httpx2
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope
from starlette.types import Send as AsgiSend

from crewkeeper_bus.errors import SubjectError
from crewkeeper_bus.subjects import check_token
from crewkeeper_supervisor.model_proxy import request as requests
from crewkeeper_supervisor.model_proxy.doorkeeper import Doorkeeper, Standing
from crewkeeper_supervisor.model_proxy.exchange import Exchange
from crewkeeper_supervisor.model_proxy.outlet import PATIENCE_S, Outlet
from crewkeeper_supervisor.model_proxy.problem import Problem, Protocol
from crewkeeper_supervisor.model_proxy.request import Call
from crewkeeper_supervisor.model_proxy.settings import Settings
from crewkeeper_supervisor.model_proxy.spending import Spending
from crewkeeper_supervisor.model_proxy.upstream import Providers
from crewkeeper_supervisor.shell.logbook import logger

BODY_LIMIT_S: Final = 60.0
"""How long a client may take to send its request."""
AT_ONCE_MAX: Final = 512
"""Requests under way."""
OF_AGENT_MAX: Final = 64
"""The same, of one agent."""
FREE_LIMIT_S: Final = 30.0
FREE_MAX_BYTES: Final = 4 * 1024 * 1024
SEEN_MAX: Final = 50_000
TASK_HEADER: Final = "x-crewkeeper-task"
NO_TASK: Final = "-"

_CALLS: Final[dict[str, Call]] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
}

_MODELS: Final = re.compile(r"/v1/models(/[A-Za-z0-9_:@-][A-Za-z0-9._:@-]{0,99}){0,3}\Z")
"""The path goes on to the provider as it is, so it must not lead anywhere else."""


class Gateway:
    """Everything that the addresses of one run's proxy share."""

    def __init__(self, settings: Settings, doorkeeper: Doorkeeper, spending: Spending, providers: Providers) -> None:
        """Answer with these."""
        self._settings = settings
        self._doorkeeper = doorkeeper
        self._providers = providers
        self._under_way = 0
        self._seen: dict[str, dict[str, int]] = {}
        """Tokens of responses and their parts by agent and id: none goes on from what another one has said."""
        self._exchange = Exchange(
            spending=spending,
            providers=providers,
            look=doorkeeper.look,
            hold_s=settings.hold_s,
            seen=self._note_response,
        )

    def app(self) -> Starlette:
        """The application."""
        routes = [Route(path, _Endpoint(self._call, call), methods=["POST"]) for path, call in _CALLS.items()]
        routes += [
            Route("/v1/messages/count_tokens", _Endpoint(self._count, "messages"), methods=["POST"]),
            Route("/v1/models", _Endpoint(self._look, "chat"), methods=["GET"]),
            Route("/v1/models/{model:path}", _Endpoint(self._look, "chat"), methods=["GET"]),
            Route("/{path:path}", _Endpoint(self._unknown, "chat")),
        ]
        return Starlette(routes=routes)

    def _note_response(self, agent: str, id_: str, tokens: int) -> None:
        self._seen.setdefault(agent, {})[id_] = tokens
        while sum(map(len, self._seen.values())) > SEEN_MAX:
            most = max(self._seen.values(), key=len)  # nobody crowds out what others have said
            del most[next(iter(most))]

    # --- what is answered ---

    async def _call(self, asked: "_Asked") -> None:
        """A call of a model."""
        admitted = await self._doorkeeper.admit(asked.headers)
        upstream = self._providers.get(asked.protocol)
        if upstream is None:
            text = f"no provider is set for this interface; let the operator set model_proxy.upstreams.{asked.protocol}"
            raise Problem(404, "no_upstream", text)
        task = _task(asked.headers)
        with self._attend(admitted) as standing:
            body = await asked.body(self._settings.body_bytes)
            agent, limits = standing.agent, self._settings.limits
            request = requests.read(asked.call, body, limits, self._seen.get(agent, {}).get)
            outlet = Outlet(asked.send, request.protocol, stream=request.stream, patience_s=_patience_s(asked.headers))
            await self._exchange.carry(
                request,
                upstream=upstream,
                path=asked.path,
                headers=asked.headers,
                standing=standing,
                task=task,
                outlet=outlet,
                left=asked.left,
            )

    @contextmanager
    def _attend(self, admitted: Standing) -> Iterator[Standing]:
        """A request of an agent is under way, if it is not one too many."""
        with self._doorkeeper.attend(admitted) as standing:
            if standing.requests > OF_AGENT_MAX or self._under_way >= AT_ONCE_MAX:
                text = (
                    f"{OF_AGENT_MAX} requests of an agent, {AT_ONCE_MAX} of all, may be under way: wait for some to end"
                )
                raise Problem(429, "rate_limited", text, retry=True, after_s=1.0)
            self._under_way += 1
            try:
                yield standing
            finally:
                self._under_way -= 1

    async def _count(self, asked: "_Asked") -> None:
        """Counting tokens, which providers do for nothing."""
        with self._attend(await self._doorkeeper.admit(asked.headers)):
            body = await asked.body(self._settings.body_bytes)
            await self._pass(asked, lambda upstream: self._providers.post(upstream, asked.path, asked.headers, body))

    async def _look(self, asked: "_Asked") -> None:
        """Lists of models."""
        with self._attend(await self._doorkeeper.admit(asked.headers)):
            if not _MODELS.match(asked.path):
                raise Problem(404, "not_served", "that is no name of a model")
            await self._pass(asked, lambda upstream: self._providers.fetch(upstream, asked.path, asked.headers))

    async def _pass(self, asked: "_Asked", send: Callable[[Any], Any]) -> None:
        upstream = self._providers.get(asked.protocol)
        if upstream is None:
            raise Problem(404, "no_upstream", f"no provider is set under model_proxy.upstreams.{asked.protocol}")
        body = bytearray()
        try:
            with anyio.fail_after(FREE_LIMIT_S):
                async with send(upstream) as answer:
                    async for chunk in answer.aiter_raw():
                        body += chunk
                        if len(body) > FREE_MAX_BYTES:
                            raise Problem(502, "upstream_garbage", "the provider's answer is too large")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as error:
            text = f"the provider cannot be asked: {type(error).__name__}"
            raise Problem(502, "upstream_failed", text, retry=True) from None
        if answer.status_code in (401, 403):
            raise Problem(502, "upstream_key", "the provider refuses the key or the account of the proxy")
        outlet = Outlet(asked.send, asked.protocol, stream=False)
        await outlet.begin(answer.status_code, upstream.headers_back(answer.headers))
        await outlet.write(upstream.without_key(bytes(body)))
        await outlet.end()

    async def _unknown(self, asked: "_Asked") -> None:
        """Everything else: it might cost what nobody counts."""
        await self._doorkeeper.admit(asked.headers)
        served = ", ".join((*_CALLS, "/v1/messages/count_tokens", "/v1/models"))
        raise Problem(
            404, "not_served", f"{asked.path[:200]} is not served here, for nobody counts what it costs; {served} are"
        )


class _Asked:
    """One HTTP request."""

    def __init__(self, scope: Scope, receive: Receive, send: AsgiSend, call: Call) -> None:
        self.call = call
        self.path: str = scope["path"]
        self.send = send
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        speaks_anthropic = call == "messages" or "anthropic-version" in self.headers
        self.protocol: Protocol = "anthropic" if speaks_anthropic else "openai"
        self._receive = receive

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body."""
        too_large = Problem(413, "too_large", f"the request has more than {limit_bytes} bytes: send less")
        length = self.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:18]) > limit_bytes:
            raise too_large
        body = bytearray()
        try:
            with anyio.fail_after(BODY_LIMIT_S):
                while True:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise Problem(400, "bad_request", "the client left before its request was complete")
                    body += message.get("body", b"")
                    if len(body) > limit_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Problem(408, "bad_request", f"the request was not complete within {BODY_LIMIT_S:g} s") from None

    async def left(self) -> None:
        """Return when the client is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Endpoint:
    """One address as an ASGI application: problems become answers, and nothing else escapes."""

    def __init__(self, serve: Callable[[_Asked], Any], call: Call) -> None:
        self._serve = serve
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        asked = _Asked(scope, receive, send, self._call)
        try:
            await self._serve(asked)
        except Problem as problem:
            await Outlet(send, asked.protocol, stream=False).fail(problem)
        except Exception as error:  # noqa: BLE001 - one request must not be the end of the others
            # The type alone: the text of an error can quote what it failed on.
            logger().error("model_proxy.failed", cause=_kind(error))
            raise RuntimeError("the request failed; see the proxy's log") from None


def _kind(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


def _task(headers: Mapping[str, str]) -> str:
    named = headers.get(TASK_HEADER, "")
    try:
        return check_token(named, "task") if named else NO_TASK
    except SubjectError as error:
        raise Problem(400, "bad_request", f"{TASK_HEADER}: {error}") from None


def _patience_s(headers: Mapping[str, str]) -> float:
    """Half of what the client says that it waits for a sign of life."""
    said = headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout", "")
    try:
        return max(0.2, min(PATIENCE_S, float(said) / 2)) if said else PATIENCE_S
    except ValueError:
        return PATIENCE_S
