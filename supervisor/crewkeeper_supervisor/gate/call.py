"""What the gate is asked and what it answers: calls, decisions and how each rule was considered."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from crewkeeper_supervisor.core.rules import Hop, RuleEffect, Verdict

AT_MAX_S: Final = 32_503_680_000
"""The year 3000: later times are taken for it."""


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call that wants to happen. Everything a decision may depend on is in it, so equal calls are decided alike."""

    agent: str
    """Who calls: the name of the instance."""
    hop: Hop = "tool"
    role: str = ""
    """Its role in the crew file; empty: the same as `agent`."""
    tool: str = ""
    to: str = ""
    """The agent, model, resource or prompt called."""
    to_role: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    """Arguments as JSON values. A message that is no mapping is `{"body": message}`."""
    crew: str = ""
    task: str = ""
    depth: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """How many calls are above this one."""
    chain: tuple[str, ...] = ()
    """Roles of the agents above, outermost first."""
    cost_microusd: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """What it would cost at most."""
    at_s: Annotated[float, Meta(ge=0, le=AT_MAX_S)] = 0.0
    """When, in seconds since 1970: the journal's time, never a clock's."""


class Warned(Struct, frozen=True, kw_only=True):
    """A rule that warns of the call. `error`: it could not be evaluated, which is warned of, too."""

    rule: str
    because: str = ""
    error: str = ""


class Redaction(Struct, frozen=True, kw_only=True):
    """What one rule wants out of the arguments: classes, kinds and paths."""

    rule: str
    what: tuple[str, ...]


class Shadow(Struct, frozen=True, kw_only=True):
    """What a rule in shadow mode would have done. `error`: it could not be evaluated; enforced, it would deny."""

    rule: str
    do: RuleEffect
    error: str = ""


class Decision(Struct, frozen=True, kw_only=True):
    """What becomes of a call, and why."""

    effect: Verdict
    version: str
    """Of the policy that decided: the digest of its rules."""
    rule: str = ""
    """The rule that decided; empty: none did, and the default holds."""
    because: str = ""
    """Reason for people and models."""
    error: str = ""
    """The rule could not be evaluated, so the call is denied."""
    redactions: tuple[Redaction, ...] = ()
    """To be applied before the call goes on; empty for a denied one."""
    warnings: tuple[Warned, ...] = ()
    shadow: tuple[Shadow, ...] = ()


Outcome = Literal["other call", "not so", "decides", "denies by error", "redacts", "warns", "shadow", "not reached"]


class Considered(Struct, frozen=True, kw_only=True):
    """One rule and what came of it for one call.

    `value` is what its condition gave: None when it has none or was not evaluated.
    """

    rule: str
    do: RuleEffect
    outcome: Outcome
    detail: str = ""
    value: bool | None = None


class Explanation(Struct, frozen=True, kw_only=True):
    """A decision with every rule that was considered, in their order."""

    decision: Decision
    rules: tuple[Considered, ...]
