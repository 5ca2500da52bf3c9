"""Gate rules: what the core asks of schemas, policy, redaction and prices, answered for one run.

They change only by facts of the run's journal, so every fold of it has the same rules at the same place. Libraries are
loaded when a crew is first held to its rules, not when its state is merely looked at.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from crewkeeper_bus.tool_messages import HookAnswered, PolicyChanged, ToolsReady
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.core.gate_rules import Asked, Decided, HookNeeded, Known, Refused, RulesMemory
from crewkeeper_supervisor.core.rules import REDACT_ALL, Rule
from crewkeeper_supervisor.core.supervisor import Supervisor

if TYPE_CHECKING:
    from crewkeeper_supervisor.gate.arguments import BadArguments
    from crewkeeper_supervisor.gate.call import Call, Decision
    from crewkeeper_supervisor.gate.registry import ToolEntry, UnknownTool


_KNOWN_MAX: Final = 4096


def make_fold(run: str) -> Supervisor:
    """The core of a run with a gate: what whoever folds a journal must use, so that all see the same."""
    return Supervisor(run, build)


def build(crew: Crew, key: bytes = b"") -> "Rules":
    """The rules of a crew.

    Args:
        crew: As declared.
        key: Key of the hashes in placeholders; without, the run's own, which everybody who folds its journal has.

    Raises:
        ValueError: What it declares cannot be used.
    """
    return Rules(crew, key or bytes.fromhex(crew.redact.key))


class _Answers:
    """Hooks as far as they have been answered for the call that is being decided."""

    def __init__(self) -> None:
        self.told: Mapping[str, HookAnswered] = {}

    def ask(self, hook: str, call: "Call", deadline_s: float) -> bool | str:
        """The answer in the journal.

        Raises:
            HookNeeded: There is none yet.
            HookFailed: It says that the hook failed.
        """
        from crewkeeper_supervisor.gate.policy import HookFailed

        answer = self.told.get(hook)
        if answer is None:
            raise HookNeeded(hook, deadline_s)
        if answer.answer == "failed":
            raise HookFailed(answer.because or "the hook failed")
        return answer.answer == "yes" and (answer.because or True)


class Rules:
    """Implements `core.gate_rules.GateRules`.

    Args:
        crew: As declared.
        key: Key of placeholders.

    Raises:
        ValueError: What the crew declares cannot be used.
    """

    def __init__(self, crew: Crew, key: bytes = b"") -> None:
        from crewkeeper_supervisor.gate.policy import Policy
        from crewkeeper_supervisor.gate.prices import PriceBook
        from crewkeeper_supervisor.gate.registry import Registry

        self._key = key
        self._answers = _Answers()
        self._policy = Policy(crew.rules, default=crew.policy_default, hooks=self._answers)
        self._registry = Registry(crew.tools, {})
        self._prices = PriceBook(crew.prices)
        self._roles: dict[str, tuple[str, ...]] = {}
        self._found: dict[str, ToolEntry] = {}
        self._known: dict[tuple[str, str], Known] = {}
        """Answers of `find`, until the tools or who may use them change."""
        self._failed: dict[str, str] = {}
        self._inside = tuple(name for name, tool in crew.tools.items() if tool.inside)
        self._untold = {name: None for name, tool in crew.tools.items() if tool.function or tool.mcp}
        """Declared sources that have not said yet what they have, nor that they cannot be had."""

    @property
    def version(self) -> str:
        """Of the policy."""
        return self._policy.version

    def find(self, role: str, allowed: tuple[str, ...], name: str) -> Known | Refused | Literal["later"]:
        """The tool of exactly this name, if the role may use it."""
        if not self._allow(role, allowed) and (known := self._known.get((role, name))) is not None:
            return known
        from crewkeeper_supervisor.gate.registry import UnknownTool

        found = self._registry.find(role, name)
        if isinstance(found, UnknownTool):
            return self._missing(role, name, found)
        if len(self._known) >= _KNOWN_MAX:  # an agent can make up names of tools inside of it
            self._known.clear()
            self._found.clear()
        self._found[found.name] = found
        known = self._known[role, name] = _known(found)
        return known

    def lacks(self, role: str, allowed: tuple[str, ...], name: str) -> bool:
        """Whether there certainly is no tool of this name that the role may use, or it cannot be had."""
        self._allow(role, allowed)
        if self._registry.has(role, name):
            return False
        if self._registry.waits_for(role, name):
            return name.partition(".")[0] in self._failed
        return not any(self._registry.waits_for(role, each) for each in self._untold)

    def _allow(self, role: str, allowed: tuple[str, ...]) -> bool:
        """Know what a role may use; whether that is news."""
        if self._roles.get(role) == allowed:
            return False
        self._roles[role] = allowed
        self._registry.allow(role, allowed)
        self._known.clear()
        return True

    def _missing(self, role: str, name: str, answer: "UnknownTool") -> Refused | Literal["later"]:
        head = name.partition(".")[0]
        if not self._registry.waits_for(role, name):
            # What exists can only be said, and a near name found, once all sources have told what they have.
            if any(self._registry.waits_for(role, each) for each in self._untold):
                return "later"
            return Refused(code="unknown_tool", text=answer.text())
        if head in self._failed:
            text = f"the tool {name!r} cannot be used: {self._failed[head]}; nothing was executed"
            return Refused(code="tool_failed", text=text)
        return "later"

    def check(self, name: str, args: Any) -> Refused | None:
        """What is wrong with the arguments."""
        entry = self._found.get(name)
        if entry is None:
            return Refused(
                code="bad_arguments", text=f"the tool {name[:200]!r} was not looked for; nothing was executed"
            )
        wrong: BadArguments | None = entry.arguments.check(args)
        return None if wrong is None else Refused(code="bad_arguments", text=wrong.text())

    def decide(self, asked: Asked, hooks: Mapping[str, HookAnswered]) -> Decided:
        """What the policy says.

        Raises:
            HookNeeded: The answer of a hook is missing.
        """
        from crewkeeper_supervisor.gate.call import Call

        self._answers.told = hooks
        call = Call(
            agent=asked.agent,
            hop=asked.hop,
            role=asked.role,
            tool=asked.tool,
            to=asked.to,
            to_role=asked.to_role,
            args=asked.args,
            crew=asked.crew,
            task=asked.task,
            depth=asked.depth,
            chain=asked.chain,
            cost_microusd=asked.cost_microusd,
            at_s=asked.at_s,
        )
        return _decided(self._policy.decide(call))

    def never(self, asked: Asked) -> str:
        """Why the policy allows no call like this, whatever its arguments; empty: it may allow one."""
        from crewkeeper_supervisor.gate.call import Call

        return self._policy.never(Call(**{name: getattr(asked, name) for name in asked.__struct_fields__}))

    def clean(self, args: dict[str, Any], decided: Decided) -> dict[str, Any]:
        """The arguments without what the decision wants out of them."""
        from crewkeeper_supervisor.gate.call import Redaction
        from crewkeeper_supervisor.gate.cleaning import clean

        redactions = [Redaction(rule=rule, what=what) for rule, what in decided.redactions]
        return clean(args, redactions, self._key)[0]

    def clean_result(self, result: Any, decided: Decided) -> Any:
        """A result without the kinds of findings that the decision wants out of the arguments."""
        from crewkeeper_supervisor.gate.call import Redaction
        from crewkeeper_supervisor.gate.cleaning import clean

        kinds = [
            Redaction(rule=rule, what=tuple(word for word in what or REDACT_ALL if not word.startswith("args.")))
            for rule, what in decided.redactions
        ]
        return clean({"result": result}, [each for each in kinds if each.what], self._key)[0]["result"]

    def reserve(self, model: str, input_tokens: int, max_output_tokens: int, at_s: float) -> int | Refused:
        """The most that a model call can cost, in micro-USD."""
        from crewkeeper_supervisor.gate.prices import UnknownPrice

        try:
            cost = self._prices.reservation(model, input_tokens=input_tokens, max_tokens=max_output_tokens, at_s=at_s)
        except UnknownPrice as error:
            return Refused(code="denied", text=f"{error}; nothing was called")
        except ValueError as error:
            return Refused(code="bad_arguments", text=f"{error}; nothing was called")
        return cost.microusd

    def cost(self, model: str, tokens: tuple[int, int, int, int, int], at_s: float) -> int | None:
        """What a model call has cost, in micro-USD; None: the price is not known, or the tokens make no sense."""
        from crewkeeper_supervisor.gate.prices import Usage

        given, made, cached, written, for_an_hour = tokens
        usage = Usage(
            input_tokens=given,
            output_tokens=made,
            cached_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=for_an_hour,
        )
        try:
            return self._prices.cost(model, usage, at_s=at_s).microusd
        except (LookupError, ValueError):
            return None

    def misfits(self, schema: dict[str, Any], document: Any) -> list[str]:
        """Implements the protocol."""
        from crewkeeper_supervisor.gate.arguments import SchemaRefused, misfits

        try:
            return misfits(schema, document)
        except SchemaRefused as refused:
            return [f"cannot be held to its schema: {refused}"]

    def tools_ready(self, message: ToolsReady) -> tuple[str, ...]:
        """Sources have told their tools."""
        problems: list[str] = []
        for declared in dict.fromkeys([*(told.declared for told in message.tools.values()), *message.failed]):
            if declared not in self._inside:
                self._registry.remove(declared)
            self._failed.pop(declared, None)
            self._untold.pop(declared, None)
        for name, told in message.tools.items():
            bare = name.removeprefix(f"{told.declared}.") if name != told.declared else ""
            try:
                self._registry.add(told.declared, name=bare, description=told.description, schema=told.schema)
            except (KeyError, ValueError) as error:
                said = f"{name[:100]}: {error}"[:500]
                problems.append(said)
        for declared, why in message.failed.items():
            self._failed[declared] = why
            problems.append(f"{declared[:100]} cannot be had: {why}"[:500])
        self._found.clear()
        self._known.clear()
        return tuple(problems)

    def policy_changed(self, message: PolicyChanged) -> str:
        """Other rules from now on; returns why they cannot be used, and then the old ones stay."""
        from crewkeeper_supervisor.gate.policy import Policy

        try:
            rules = tuple(msgspec.convert(rule, Rule) for rule in message.rules)
            default: Literal["allow", "deny"] = "deny" if message.default == "deny" else "allow"
            policy = Policy(rules, default=default, hooks=self._answers)
        except (msgspec.ValidationError, ValueError) as error:
            return str(error)[:500]
        if message.version and policy.version != message.version:
            return f"the rules have version {policy.version}, not {message.version} as stated"
        self._policy = policy
        return ""

    def memory(self) -> RulesMemory:
        """What they know beyond the crew."""
        return RulesMemory(
            rules=self._policy.rules,
            default=self._policy.default,
            tools=self._registry.told(),
            failed=dict(self._failed),
            untold=tuple(self._untold),
            roles=dict(self._roles),
            known=tuple(self._known),
            found=tuple(self._found),
        )

    def remember(self, memory: RulesMemory) -> None:
        """Know so much, and nothing else.

        Raises:
            ValueError: It is not of these rules' crew.
        """
        from crewkeeper_supervisor.gate.policy import Policy

        if (memory.rules, memory.default) != (self._policy.rules, self._policy.default):
            self._policy = Policy(memory.rules, default=memory.default, hooks=self._answers)
        self._registry.tell(memory.tools)
        self._failed = dict(memory.failed)
        self._untold = dict.fromkeys(memory.untold)
        self._roles = dict(memory.roles)
        for role, allowed in memory.roles.items():
            self._registry.allow(role, allowed)
        self._found = {name: entry for name in memory.found if (entry := self._registry.entry(name)) is not None}
        self._known = {key: _known(self._found[key[1]]) for key in memory.known}


def _known(entry: "ToolEntry") -> Known:
    return Known(name=entry.name, declared=entry.declared, tool=entry.tool)


def _decided(decision: "Decision") -> Decided:
    return Decided(
        effect=decision.effect,
        version=decision.version,
        rule=decision.rule,
        because=decision.because,
        error=decision.error,
        redactions=tuple((each.rule, each.what) for each in decision.redactions),
        warned=tuple(each.rule for each in decision.warnings),
        shadow=tuple(f"{each.rule}:{each.do}" for each in decision.shadow),
    )
