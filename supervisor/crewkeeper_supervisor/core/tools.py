"""Tools and prices as declared: where a tool comes from, what it costs, its limits; calling them is not known here."""

from typing import Annotated, Any

from msgspec import Meta, Struct, field


class CallRate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `calls` within `per_s` seconds."""

    calls: Annotated[int, Meta(ge=1)]
    per_s: Annotated[float, Meta(gt=0)] = 60.0


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One declared tool, or the MCP server of several. Exactly one of the four sources is set."""

    function: str = ""
    """`module:name` of a Python function."""
    mcp: tuple[str, ...] = ()
    """Command line of an MCP server, whose tools are named `<this tool>.<theirs>`."""
    command: tuple[str, ...] = ()
    """A program that reads its arguments as JSON and prints its result."""
    inside: bool = False
    """Runs in the agent, behind a grant."""
    description: str = ""
    schema: dict[str, Any] | None = None
    """JSON Schema of the arguments; None: the source knows it."""
    cost_microusd: Annotated[int, Meta(ge=0)] = 0
    timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    concurrency: Annotated[int, Meta(ge=1)] = 16
    rate: CallRate | None = None
    poll: bool = False
    """It is meant to be asked again and again until something changes: no loop for a long while."""
    args_bytes: Annotated[int, Meta(ge=64)] = 64 * 1024
    result_bytes: Annotated[int, Meta(ge=64)] = 1024 * 1024
    env: dict[str, str] = field(default_factory=dict)
    """Its own environment variables; `${NAME}` in a value is read when it is started. No agent gets them."""
    cwd: str = ""
    """Where its modules and files are, absolute."""


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs, in micro-USD for a million tokens. `cached` None: as any other input."""

    input_microusd: Annotated[int, Meta(ge=0)]
    output_microusd: Annotated[int, Meta(ge=0)]
    cached_microusd: Annotated[int, Meta(ge=0)] | None = None
