"""Settings: what a proxy is told by its crew file, its environment and its command line; keys are read here alone."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.core.model_proxy import ModelProxy
from crewkeeper_supervisor.model_proxy.problem import Protocol
from crewkeeper_supervisor.model_proxy.request import Limits
from crewkeeper_supervisor.model_proxy.upstream import Upstream
from crewkeeper_supervisor.shell.crew_variables import resolve_env
from crewkeeper_supervisor.shell.listening import parted

PROTOCOLS: Final[tuple[Protocol, ...]] = ("openai", "anthropic")


class BadSetting(ConfigError):  # noqa: N818 - what the operator reads
    """A setting of the proxy cannot work. The text never quotes a key."""


class Settings(Struct, frozen=True, kw_only=True):
    """A proxy's settings, with every variable filled in."""

    host: str
    port: int
    """0: a free one."""
    upstreams: dict[Protocol, Upstream]
    limits: Limits
    body_bytes: int
    hold_s: float


def settings_of(declared: ModelProxy, environ: Mapping[str, str], listen: str = "") -> Settings:
    """The settings of a run's proxy.

    Args:
        declared: What the crew file says.
        environ: Where `${NAME}` are read.
        listen: Where to listen instead.

    Raises:
        SettingMissing: A variable is not set.
        BadSetting: An address is none.
    """
    host, port = _listen(listen or declared.listen)
    found = {protocol: getattr(declared, protocol) for protocol in PROTOCOLS}
    upstreams = {
        protocol: Upstream(
            protocol=protocol,
            url=_url(protocol, _resolved(each.url, environ, protocol)),
            key=_key(protocol, _resolved(each.key, environ, protocol)),
        )
        for protocol, each in found.items()
        if each is not None
    }
    return Settings(
        host=host,
        port=port,
        upstreams=upstreams,
        limits=Limits(max_output_tokens=declared.max_output_tokens, unpriced=declared.unpriced),
        body_bytes=declared.body_bytes,
        hold_s=declared.hold_s,
    )


def _resolved(text: str, environ: Mapping[str, str], protocol: str) -> str:
    return resolve_env(text, environ, f"model_proxy.upstreams.{protocol}")


def _key(protocol: str, key: str) -> str:
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise BadSetting(f"model_proxy.upstreams.{protocol}.key holds what no key does: a space, a line end, an accent")
    return key


def _url(protocol: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.username
    except ValueError:
        good = False
    if not good:
        raise BadSetting(f"model_proxy.upstreams.{protocol}.url is no http or https address without user and query")
    return url


def _listen(text: str) -> tuple[str, int]:
    try:
        return parted(text, "127.0.0.1:8100; port 0 is a free one")
    except ConfigError as error:
        raise BadSetting(str(error)) from None
