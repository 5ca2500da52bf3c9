"""Gate rules: what the core needs of the libraries that read schemas, rules and prices; they are given to it.

Everything here is asked while a journal entry is handled, and must depend on nothing but the crew, the facts of the
journal that were told, and the arguments: whoever folds the same journal must hear the same answers.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from crewkeeper_bus.tool_messages import HookAnswered, PolicyChanged, ToolsReady
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.rules import Hop, Rule, Verdict
from crewkeeper_supervisor.core.tools import Tool


class Known(Struct, frozen=True, kw_only=True):
    """A tool that exists, and that its caller may use."""

    name: str
    declared: str
    """The key of the crew file."""
    tool: Tool


class Refused(Struct, frozen=True, kw_only=True):
    """An answer instead: what is wrong, and what to do, for a model to read."""

    code: str
    text: str


class Asked(Struct, frozen=True, kw_only=True):
    """What a decision may depend on."""

    agent: str
    role: str
    hop: Hop
    tool: str = ""
    to: str = ""
    """The agent or model called."""
    to_role: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    crew: str = ""
    task: str = ""
    depth: int = 0
    chain: tuple[str, ...] = ()
    cost_microusd: int = 0
    at_s: float = 0.0


class Decided(Struct, frozen=True, kw_only=True):
    """What the policy says."""

    effect: Verdict
    version: str
    rule: str = ""
    because: str = ""
    error: str = ""
    """The rule could not be evaluated."""
    redactions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Rules, with what they want out of the arguments."""
    warned: tuple[str, ...] = ()
    """Rules that warn of it."""
    shadow: tuple[str, ...] = ()
    """Rules that would have done something, as `<rule>:<effect>`."""


class HookNeeded(Exception):  # noqa: N818 - what is the case
    """A rule's Python hook has to be asked first.

    Attributes:
        hook: `module:name`.
        deadline_s: How long it may take.
    """

    def __init__(self, hook: str, deadline_s: float) -> None:
        super().__init__(hook)
        self.hook = hook
        self.deadline_s = deadline_s


class RulesMemory(Struct, frozen=True, kw_only=True):
    """What rules know beyond the crew: enough to make the same rules again."""

    rules: tuple[Rule, ...]
    default: Literal["allow", "deny"]
    tools: tuple[tuple[str, str, str, dict[str, Any] | None], ...]
    """As their sources told them: the declared name, the source's own, the description, the schema."""
    failed: dict[str, str]
    untold: tuple[str, ...]
    roles: dict[str, tuple[str, ...]]
    known: tuple[tuple[str, str], ...]
    """Answers that are kept, by role and name."""
    found: tuple[str, ...]


class GateRules(Protocol):
    """The tools, rules and prices of one run, as they are at this place of its journal."""

    @property
    def version(self) -> str:
        """Of the policy."""

    def find(self, role: str, allowed: tuple[str, ...], name: str) -> Known | Refused | Literal["later"]:
        """The tool of exactly this name; `later`: its source has not told yet what it has."""

    def lacks(self, role: str, allowed: tuple[str, ...], name: str) -> bool:
        """Whether `find` would refuse this name, which costs much less to know than what to say then."""

    def check(self, name: str, args: Any) -> Refused | None:
        """What is wrong with the arguments of a known tool."""

    def decide(self, asked: Asked, hooks: Mapping[str, HookAnswered]) -> Decided:
        """What the policy says.

        Raises:
            HookNeeded: The answer of a hook is missing in `hooks`.
        """

    def never(self, asked: Asked) -> str:
        """Why the policy allows no call like this, whatever its arguments; empty: it may allow one."""

    def clean(self, args: dict[str, Any], decided: Decided) -> dict[str, Any]:
        """The arguments without what the decision wants out of them."""

    def clean_result(self, result: Any, decided: Decided) -> Any:
        """A result without the secrets and personal data that the decision wants out of the arguments."""

    def reserve(self, model: str, input_tokens: int, max_output_tokens: int, at_s: float) -> int | Refused:
        """The most that a model call can cost, in micro-USD."""

    def cost(self, model: str, tokens: tuple[int, int, int, int, int], at_s: float) -> int | None:
        """What a model call has cost, in micro-USD; None: the price is not known.

        `tokens`: in, out, cached, written to a cache, written for an hour; the last is part of the one before it, and
        these are part of the first.
        """

    def misfits(self, schema: dict[str, Any], document: Any) -> list[str]:
        """What is wrong with a document by a JSON Schema, each in words; empty if nothing is."""

    def tools_ready(self, message: ToolsReady) -> tuple[str, ...]:
        """Sources have told their tools; returns what is wrong with any of them."""

    def policy_changed(self, message: PolicyChanged) -> str:
        """Other rules from now on; returns why they cannot be used, and then the old ones stay."""

    def memory(self) -> RulesMemory:
        """What they know beyond the crew."""

    def remember(self, memory: RulesMemory) -> None:
        """Know so much, and nothing else; for rules that were just made of the same crew."""


class MakeGateRules(Protocol):
    """Makes the rules of a crew."""

    def __call__(self, crew: Crew) -> GateRules:
        """The rules.

        Raises:
            ValueError: What the crew declares cannot be used.
        """
