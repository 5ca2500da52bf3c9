"""What a file says about tools, rules, their tests and prices: checked together, and made into what the gate takes."""

from typing import Any, Final

from crewkeeper_bus.detectors import PACKAGES, lacks
from crewkeeper_supervisor.core.crew import Redact
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import CallRate, Price, Tool
from crewkeeper_supervisor.gate.arguments import SchemaRefused, check_schema
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.name_pattern import matches
from crewkeeper_supervisor.gate.policy import RuleFlaw, check
from crewkeeper_supervisor.gate.trial import Trial
from crewkeeper_supervisor.shell.crew_problems import Path, shown
from crewkeeper_supervisor.shell.crew_reading import INVALID, Reading
from crewkeeper_supervisor.shell.scalar_places import locate

RESERVED_ENV: Final = "CREWKEEPER_"
SOURCES: Final = ("function", "mcp", "command", "inside")
_CODES: Final = {"condition": "CREW-123", "name": "CREW-116", "contradiction": "CREW-119", "no effect": "CREW-202"}
_TOOL_UNITS: Final = {
    "cost_usd": "cost_microusd",
    "timeout": "timeout_s",
    "args_size": "args_bytes",
    "result_size": "result_bytes",
}
_CALL_UNITS: Final = {"cost_usd": "cost_microusd", "at": "at_s"}
_PRICE_UNITS: Final = {"input": "input_microusd", "output": "output_microusd", "cached": "cached_microusd"}


class GateChecks:
    """What the keys for the gate mean together. Values already refused are passed over.

    Args:
        reading: The walk that read the file; problems go there.
        surface: What it read.
        text: The file, to place a flaw inside of a condition.
        names: Names of the crew's roles; None for a file of rules alone, in which nobody is known.
    """

    def __init__(self, reading: Reading, surface: dict[str, Any], text: str, names: dict[str, int] | None) -> None:
        """Hold them."""
        self.reading = reading
        self.surface = surface
        self.text = text
        self.names = names
        self.tools: dict[str, Any] = surface.get("tools", {})

    def run(self) -> None:
        """Note every problem."""
        for name, tool in self.tools.items():
            if tool is not INVALID:
                self._tool(("tools", name), tool)
        outcome = self.surface.get("outcome", {})
        if isinstance(outcome, dict) and isinstance(outcome.get("schema"), dict):
            self._schema(("outcome", "schema"), outcome["schema"])
        self._detectors()
        listed = self.surface.get("rules", ())
        good = [(index, rule) for index, rule in enumerate(listed) if rule is not INVALID]
        for index, rule in good:
            self._names(rule, ("rules", index))
        complete = len(good) == len(listed) and all("do" in rule and INVALID not in _values(rule) for _, rule in good)
        rules = [_rule(index, {"do": "deny"} | _valid(rule)) for index, rule in good]
        for flaw in check(rules):
            # With something missing, only what a rule says by itself is certain.
            if complete or flaw.kind == "condition" or flaw.key == "id":
                self._flaw(flaw, good[flaw.index][0])
        self._tests([rule.id for rule in rules] if complete else None)

    def _detectors(self) -> None:
        """Packages that redaction wants must be here; functions are looked for where they are used."""
        redact = self.surface.get("redact", {})
        for index, word in enumerate(_listed(redact, "detectors") if isinstance(redact, dict) else ()):
            if word is INVALID or ":" in word:
                continue
            path: Path = ("redact", "detectors", index)
            package = PACKAGES.get(word)
            if package is None:
                hint = self.reading.found.suggest(word, PACKAGES)
                remedy = f"use {', '.join(PACKAGES)}, or module:function"
                self.reading.add("CREW-118", path, f"no detector is named {shown(word)}{hint}", remedy)
            elif why := lacks(word):
                self.reading.add("CREW-118", path, why, f"pip install 'crewkeeper[{package.extra}]'")

    def _flaw(self, flaw: RuleFlaw, at: int) -> None:
        path: Path = ("rules", at, flaw.key)
        code = "CREW-107" if flaw.key == "id" else _CODES[flaw.kind]
        if flaw.kind == "no effect":
            self.reading.add(code, path, flaw.message, flaw.remedy, warning=True)
            return
        if flaw.kind != "condition" or path not in self.reading.places:
            self.reading.add(code, path, flaw.message, flaw.remedy)
            return
        value: str = self.surface["rules"][at]["when"]
        offset = sum(len(line) + 1 for line in value.split("\n")[: flaw.line - 1]) + flaw.column - 1
        line, column = locate(self.text, self.reading.places[path], value, offset)
        self.reading.found.add(code, flaw.message, flaw.remedy, line=line, column=column, path=path)

    def _tool(self, path: Path, tool: dict[str, Any]) -> None:
        add = self.reading.add_at_key
        given = [key for key in SOURCES if (*path, key) in self.reading.keys and tool.get(key) is not False]
        if len(given) != 1:
            add("CREW-119", path, f"a tool is one of {', '.join(SOURCES)}", "give exactly one of them")
        if given == ["command"] and (*path, "schema") not in self.reading.keys:
            add(
                "CREW-111",
                (*path, "command"),
                "nothing says which arguments the program takes",
                "add schema: its JSON Schema",
            )
        if given == ["mcp"] and "schema" in tool:
            add("CREW-119", (*path, "schema"), "an MCP server tells the schemas of its tools itself", "remove schema")
        schema = tool.get("schema")
        if isinstance(schema, dict):
            self._schema((*path, "schema"), schema)
        for variable in tool.get("env", {}):
            if variable.startswith(RESERVED_ENV):
                add(
                    "CREW-119",
                    (*path, "env", variable),
                    "variables CREWKEEPER_… are set by the supervisor",
                    "remove it, or give it another name",
                )
        if tool.get("inside") is True and tool.get("env"):
            add(
                "CREW-119",
                (*path, "env"),
                "it runs inside the agent, which has an environment of its own",
                "move it to the agent's env",
            )

    def _schema(self, path: Path, schema: dict[str, Any]) -> None:
        try:
            check_schema(schema)
        except SchemaRefused as refused:
            self.reading.add("CREW-114", path, str(refused), refused.remedy)

    def _names(self, rule: dict[str, Any], path: Path) -> None:
        if self.names is None:
            return
        for index, tool in enumerate(_listed(rule, "tools")):
            head = tool.partition(".")[0] if tool is not INVALID else "*"
            if "*" in head or head in self.tools:
                continue
            hint = self.reading.found.suggest(head, self.tools)
            self.reading.add(
                "CREW-118",
                (*path, "tools", index),
                f"no tool is named {shown(tool)}{hint}",
                "declare it under tools, or correct the name",
            )
        for key in ("agents", "to") if rule.get("hop") in (None, INVALID, "agent") else ("agents",):
            for index, agent in enumerate(_listed(rule, key)):
                if agent is not INVALID and not self._is_agent(agent):
                    hint = self.reading.found.suggest(agent, self.names)
                    self.reading.add(
                        "CREW-118",
                        (*path, key, index),
                        f"no agent is named {shown(agent)}{hint}",
                        "correct the name, or add the agent",
                    )

    def _is_agent(self, pattern: str) -> bool:
        """Whether somebody of the crew bears the name, as a role or as one of its instances."""
        assert self.names is not None
        for role, replicas in self.names.items():
            if matches(pattern, role):
                return True
            stem, _, number = pattern.rpartition("-")
            if stem == role and replicas > 1 and number.isdigit() and 1 <= int(number) <= replicas:
                return True
        return False

    def _tests(self, rules: list[str] | None) -> None:
        policy = self.surface.get("policy", {})
        for index, test in enumerate(policy.get("tests", ()) if policy is not INVALID else ()):
            named = test.get("rule") if test is not INVALID else None
            if rules is not None and named is not None and named not in rules:
                hint = self.reading.found.suggest(named, rules)
                path: Path = ("policy", "tests", index, "rule")
                self.reading.add("CREW-118", path, f"no rule is named {shown(named)}{hint}", "name a rule by its id")


def tools_of(surface: dict[str, Any], folder: str) -> dict[str, Tool]:
    """The tools of a file without problems.

    Args:
        surface: What was read.
        folder: Where the file is, absolute: there its tools run.
    """
    made = {}
    for name, tool in surface.get("tools", {}).items():
        given: dict[str, Any] = {
            _TOOL_UNITS.get(key, key): tuple(value) if key in ("mcp", "command") else value
            for key, value in tool.items()
        }
        if "rate" in given:
            given["rate"] = CallRate(
                **{"per_s" if key == "per" else key: value for key, value in given["rate"].items()}
            )
        made[name] = Tool(**given, cwd=folder)
    return made


def rules_of(surface: dict[str, Any]) -> tuple[Rule, ...]:
    """The rules of a file without problems."""
    return tuple(_rule(index, rule) for index, rule in enumerate(surface.get("rules", ())))


def prices_of(surface: dict[str, Any]) -> dict[str, Price]:
    """The prices of a file without problems, by model or pattern of models."""
    return {
        model: Price(**{_PRICE_UNITS[key]: value for key, value in price.items()})
        for model, price in surface.get("prices", {}).items()
    }


def redact_of(surface: dict[str, Any]) -> Redact:
    """What a file without problems says of redaction."""
    given = surface.get("redact", {})
    fields: dict[str, Any] = {"places" if key == "in" else key: tuple(value) for key, value in given.items()}
    more = fields.pop("detectors", ())
    if more:
        fields["kinds"] = (*fields.get("kinds", Redact().kinds), *more)
    return Redact(**fields)


def trials_of(surface: dict[str, Any], reading: Reading) -> tuple[Trial, ...]:
    """The tests of a file without problems."""
    made = []
    for index, test in enumerate(surface.get("policy", {}).get("tests", ())):
        given: dict[str, Any] = {
            _CALL_UNITS.get(key, key): tuple(value) if key == "chain" else value for key, value in test["call"].items()
        }
        trial = Trial(
            name=test.get("name", f"test-{index + 1}"),
            call=Call(**given),
            expect=test["expect"],
            rule=test.get("rule"),
            warns=tuple(test["warns"]) if "warns" in test else None,
            redacted=test.get("redacted"),
            line=reading.places[("policy", "tests", index)][0],
        )
        made.append(trial)
    return tuple(made)


def _rule(index: int, given: dict[str, Any]) -> Rule:
    lists = {key: tuple(given[key]) for key in ("tools", "agents", "to", "redact") if key in given}
    rest = {"deadline_s" if key == "deadline" else key: value for key, value in given.items() if key not in lists}
    return Rule(**{"id": f"rule-{index + 1}"} | rest | lists)


def _listed(rule: dict[str, Any], key: str) -> Any:
    return rule.get(key, ())


def _valid(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without what was refused in its lists."""
    return {
        key: [each for each in value if each is not INVALID] if isinstance(value, list) else value
        for key, value in rule.items()
    }


def _values(rule: dict[str, Any]) -> list[Any]:
    """The values of a rule, those of its lists included."""
    return [each for value in rule.values() for each in (value if isinstance(value, list) else [value])]
