"""The model proxy as declared: where it listens, whom it sends requests to, and what they may ask for."""

from typing import Annotated

from msgspec import Meta, Struct


class Upstream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider of models. Both values may name environment variables as `${NAME}`, which only the proxy reads."""

    url: str
    key: str = ""


class ModelProxy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proxy through which the agents of a crew call models."""

    listen: str = "127.0.0.1:0"
    """Host and port; port 0: a free one."""
    openai: Upstream | None = None
    anthropic: Upstream | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31)] = 4096
    """The limit of requests that name none."""
    body_bytes: Annotated[int, Meta(ge=1024)] = 8 * 1024 * 1024
    """The largest request."""
    hold_s: Annotated[float, Meta(gt=0, le=7 * 24 * 3600)] = 3600.0
    """How long an answer is withheld at the longest."""
    unpriced: bool = False
    """Whether to let through requests for services that tokens do not pay, as tools that run at the provider."""
