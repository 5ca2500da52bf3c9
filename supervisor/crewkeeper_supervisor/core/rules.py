"""Policy rules as declared: whom each is about, when it applies, what it does; how they are applied is in `gate`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Hop = Literal["tool", "agent", "model", "resource", "prompt"]
"""Where a call goes: to a tool, to another agent, to a model, to a resource or a prompt of an MCP server."""

RuleEffect = Literal["allow", "deny", "approve", "redact", "warn"]
"""What a rule does. The first three decide, the others add to whatever is decided."""

Verdict = Literal["allow", "deny", "approve"]
"""What becomes of a call; `approve` waits for a person."""

REDACT_ALL = ("secrets", "personal")


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule. None in a list of names means every one of them; `*` in a name stands for any characters."""

    id: str
    do: RuleEffect
    hop: Hop | None = None
    """None: every kind of call."""
    tools: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    """Who calls, by the name of the instance or of its role."""
    to: tuple[str, ...] | None = None
    """Who is called: agents, or what the hop says: models, resources, prompts."""
    when: str = ""
    """CEL; empty is always."""
    hook: str = ""
    """`module:name` of a function that says whether the rule applies; with `when`, both must hold."""
    deadline_s: Annotated[float, Meta(gt=0, le=10)] = 1.0
    """Longest a hook may take."""
    redact: tuple[str, ...] = ()
    """With `redact`: classes and kinds of findings, and paths of arguments."""
    because: str = ""
    shadow: bool = False
    """Counted, not enforced."""
