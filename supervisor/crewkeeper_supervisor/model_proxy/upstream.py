"""Upstream: the providers, and the one place that knows their keys; nothing of a key leaves but in requests to them.

An answer is taken as it is: no redirect is followed, nothing is unpacked, and no proxy of the environment is used.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import httpx2
from msgspec import Struct

from crewkeeper_supervisor.model_proxy.problem import Protocol

CONNECT_LIMIT_S: Final = 10.0
IDLE_LIMIT_S: Final = 600.0
"""How long a provider may send nothing."""
CONNECTIONS_MAX: Final = 512
REDACTED: Final = b"[redacted:provider_key]"
_PASSED_ON: Final = ("accept", "anthropic-version", "anthropic-beta", "openai-beta")
_PASSED_BACK: Final = ("content-type", "retry-after", "retry-after-ms", "request-id", "x-request-id", "x-should-retry")
_VERSION: Final = "2023-06-01"


class Upstream(Struct, frozen=True, kw_only=True):
    """One provider. Its representation never shows the key.

    `url`: what `/v1` of the protocol stands for at OpenAI (it ends in `/v1` there), and what comes before `/v1` at
    Anthropic: as their own clients want it.
    """

    protocol: Protocol
    url: str
    key: str = ""

    def __repr__(self) -> str:
        return f"Upstream(protocol={self.protocol!r}, url={self.url!r})"

    def address(self, path: str) -> str:
        """The address of a path that begins with `/v1`."""
        base = self.url.rstrip("/")
        return base + (path if self.protocol == "anthropic" else path.removeprefix("/v1"))

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """Headers for a request: few of the client's, and the key."""
        headers = {name: given[name] for name in _PASSED_ON if name in given}
        headers |= {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "crewkeeper"}
        if self.protocol == "anthropic":
            headers.setdefault("anthropic-version", _VERSION)
            return headers | ({"x-api-key": self.key} if self.key else {})
        return headers | ({"authorization": f"Bearer {self.key}"} if self.key else {})

    def without_key(self, data: bytes) -> bytes:
        """What a provider says, should it repeat the key."""
        key = self.key.encode()
        return data.replace(key, REDACTED) if len(key) >= 8 and key in data else data

    def headers_back(self, given: httpx2.Headers) -> dict[str, str]:
        """What a client may see of the headers of an answer."""
        found = {name: given[name] for name in _PASSED_BACK if name in given}
        return {name: self.without_key(value.encode()).decode() for name, value in found.items()}


class Providers:
    """The providers that a run may use. An asynchronous context manager, for one use."""

    def __init__(self, upstreams: Mapping[Protocol, Upstream]) -> None:
        """Use these."""
        self._upstreams = dict(upstreams)
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(IDLE_LIMIT_S, connect=CONNECT_LIMIT_S, pool=CONNECT_LIMIT_S),
            follow_redirects=False,
            trust_env=False,
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=32),
        )

    async def __aenter__(self) -> "Providers":
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def get(self, protocol: Protocol) -> Upstream | None:
        """The provider that speaks a protocol; None: there is none."""
        return self._upstreams.get(protocol)

    def post(
        self, upstream: Upstream, path: str, given: Mapping[str, str], payload: bytes
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """Send a request; its answer is to be read while the context lasts."""
        return self._http.stream("POST", upstream.address(path), headers=upstream.headers(given), content=payload)

    def fetch(
        self, upstream: Upstream, path: str, given: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """Ask for what costs nothing."""
        return self._http.stream("GET", upstream.address(path), headers=upstream.headers(given))
