"""Conditions of rules in CEL: compiled and type-checked once, then evaluated over the facts of a call.

The engine is Google's. It checks types before anything runs, matches regular expressions in linear time (RE2), and
bounds iterations and nesting. Its errors come back as values; here nothing but a true or false leaves as one.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from msgspec import Struct

from crewkeeper_supervisor.gate.call import AT_MAX_S, Call
from crewkeeper_supervisor.gate.name_pattern import near

MAX_DEPTH: Final = 64
"""Nesting of arguments. Beyond, the engine's own recursion would be at the mercy of whoever calls."""

VARIABLES: Final[dict[str, tuple[str, str]]] = {
    "hop": ("string", "`tool`, `agent`, `model`, `resource` or `prompt`"),
    "agent": ("string", "who calls: the instance"),
    "role": ("string", "its role in the crew file"),
    "tool": ("string", "the tool; empty on other hops"),
    "to": ("string", "the agent, model, resource or prompt called"),
    "args": ("map(string, dyn)", "the arguments"),
    "crew": ("string", "the crew"),
    "task": ("string", "the task of the caller"),
    "depth": ("int", "calls above this one"),
    "chain": ("list(string)", "roles above this call, outermost first"),
    "cost_usd": ("double", "what the call costs at most, in US dollars"),
    "cost_microusd": ("int", "the same, in millionths, exactly"),
    "now": ("timestamp", "when"),
}
"""What a condition may name: its type, and what it is."""

_FUNCTIONS: Final = (
    *("all", "exists", "exists_one", "filter", "map", "has", "size", "type", "dyn", "in"),
    *("contains", "startsWith", "endsWith", "matches", "charAt", "indexOf", "lastIndexOf", "substring", "replace"),
    *("split", "join", "lowerAscii", "upperAscii", "trim", "format", "reverse"),
    *("string", "int", "uint", "double", "bool", "bytes", "duration", "timestamp"),
    *("getFullYear", "getMonth", "getDate", "getDayOfWeek", "getHours", "getMinutes"),
    *("optional", "orValue", "hasValue", "value"),
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VALUES: Final[dict[str, Callable[[Call], Any]]] = {
    "hop": lambda call: call.hop,
    "agent": lambda call: call.agent,
    "role": lambda call: call.role or call.agent,
    "tool": lambda call: call.tool,
    "to": lambda call: call.to,
    "args": lambda call: call.args,
    "crew": lambda call: call.crew,
    "task": lambda call: call.task,
    "depth": lambda call: call.depth,
    "chain": lambda call: list(call.chain),
    "cost_usd": lambda call: call.cost_microusd / 1_000_000,
    "cost_microusd": lambda call: call.cost_microusd,
    "now": lambda call: _EPOCH + timedelta(seconds=min(max(call.at_s, 0.0), AT_MAX_S)),
}
_WORDS: Final = re.compile(r"\w+")
_ERROR: Final = re.compile(r"ERROR: <input>:(\d{1,6}):(\d{1,6}): ([^\n]{1,2000})")
_UNDECLARED: Final = re.compile(r"undeclared reference to '([^']{1,200})'")
_OVERLOAD: Final = re.compile(r"found no matching overload for '([^']{1,100})' applied to '\(?([^']{0,300}?)\)?'")
_TOKENS: Final = re.compile(
    r"""(?P<call>\bmatches\s{0,8}\(\s{0,8})?(?P<text>[rR]?(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))|//[^\n]*"""
)


class Flaw(Struct, frozen=True, kw_only=True):
    """What is wrong with a condition. `line` and `column` count from 1 within its text."""

    message: str
    remedy: str
    line: int = 1
    column: int = 1


class ConditionError(ValueError):
    """A condition does not compile; its author must act.

    Attributes:
        flaws: Everything wrong with it; at least one.
    """

    def __init__(self, flaws: tuple[Flaw, ...]) -> None:
        """Hold them."""
        super().__init__("; ".join(flaw.message for flaw in flaws))
        self.flaws = flaws


class ConditionFailed(Exception):  # noqa: N818 - what happened, not a defect
    """A condition cannot be evaluated for this call: an absent argument, a wrong type, too much work."""


class Facts:
    """The facts of one call, prepared once for all conditions.

    Args:
        call: The call.
        names: Which of `VARIABLES` are needed; converting one costs about as much as evaluating a condition.

    Raises:
        ConditionFailed: Its arguments are nested too deep.
    """

    def __init__(self, call: Call, names: Iterable[str] = tuple(VARIABLES)) -> None:
        """Convert the call."""
        if too_deep(call.args):
            raise ConditionFailed(f"the arguments are nested deeper than {MAX_DEPTH} levels")
        self.activation = _env().Activation({name: _VALUES[name](call) for name in names})


class Condition:
    """One compiled condition.

    Args:
        text: CEL over `VARIABLES`, giving true or false.

    Raises:
        ConditionError: It does not compile, gives something else, or has a regular expression that is none.
    """

    def __init__(self, text: str) -> None:
        """Compile it."""
        try:
            self._expression = _env().compile(text)
        except RuntimeError as error:
            raise ConditionError(_flaws(text, str(error))) from None
        kind = self._expression.return_type()
        if kind != cel.Type.BOOL:
            raise ConditionError((_not_bool(kind.name()),))
        bad = _bad_patterns(text)
        if bad:
            raise ConditionError(bad)
        self.names = frozenset(name for name in _WORDS.findall(text) if name in VARIABLES)
        """The variables that it may look at: every one that its text names, be it in a comment."""

    def holds(self, facts: Facts) -> bool:
        """Whether it is true.

        Raises:
            ConditionFailed: It gives neither true nor false.
        """
        try:
            result = self._expression.eval(facts.activation)
        except RuntimeError as error:
            raise ConditionFailed(_plain(str(error))) from None
        value = result.value()
        if value is True or value is False:
            return value
        raise ConditionFailed(_plain(str(value)))


def too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list | tuple)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list | tuple)
        ]
        if not level:
            return False
    return True


@cache
def _env() -> cel.Env:
    kinds = {
        "string": cel.Type.STRING,
        "int": cel.Type.INT,
        "double": cel.Type.DOUBLE,
        "timestamp": cel.Type.TIMESTAMP,
        "list(string)": cel.Type.List(cel.Type.STRING),
        "map(string, dyn)": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
    }
    return cel.NewEnv(
        variables={name: kinds[kind] for name, (kind, _) in VARIABLES.items()},
        extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional()],
    )


def _flaws(text: str, error: str) -> tuple[Flaw, ...]:
    found = tuple(_flaw(text, int(match[1]), int(match[2]), match[3]) for match in _ERROR.finditer(error))
    if found:
        return found
    limit = "recursion limit" in error
    return (
        Flaw(
            message="nested too deep" if limit else _plain(error),
            remedy="split it into several rules" if limit else "see the page on policy",
        ),
    )


def _flaw(text: str, line: int, column: int, message: str) -> Flaw:
    lines = text.split("\n")
    source = lines[line - 1] if line <= len(lines) else ""
    undeclared = _UNDECLARED.search(message)
    if undeclared:
        name = undeclared[1].partition(".")[0]
        # The engine points at the dot or bracket behind the name.
        begin = source.rfind(name, 0, column)
        column = begin + 1 if begin >= 0 else column
        alike = near(name, (*VARIABLES, *_FUNCTIONS), 1)
        hint = f" (did you mean {alike[0]!r}?)" if alike else ""
        return Flaw(
            message=f"nothing is named {name!r}{hint}", remedy=f"use {', '.join(VARIABLES)}", line=line, column=column
        )
    overload = _OVERLOAD.search(message)
    if overload:
        name = overload[1].strip("_@")
        return Flaw(
            message=f"{name} cannot be applied to {overload[2] or 'nothing'}",
            remedy="compare and combine values of the same type; string(), int() and double() convert",
            line=line,
            column=column,
        )
    said = message.partition(" expecting ")[0].removeprefix("Syntax error: ").strip()
    remedy = "check the brackets, quotes and operators here and before"
    return Flaw(message=f"not CEL: {said}" if "Syntax" in message else said, remedy=remedy, line=line, column=column)


def _not_bool(kind: str) -> Flaw:
    if kind == "DYN":
        return Flaw(
            message="it may give anything, not only true or false", remedy="compare it, as in args.flag == true"
        )
    return Flaw(message=f"it gives {kind}, not true or false", remedy="compare it with something")


def _bad_patterns(text: str) -> tuple[Flaw, ...]:
    """Flaws of regular expressions written out in `matches`; the engine looks at them only when they are used."""
    found = []
    for token in _TOKENS.finditer(text):
        if not token["call"]:
            continue
        try:
            result = str(_env().compile(f"''.matches({token['text']})").eval(_env().Activation({})).value())
        except RuntimeError as error:
            result = str(error)
        if "invalid regular expression" in result:
            before = text[: token.start("text")]
            found.append(
                Flaw(
                    message=_plain(result).removeprefix("INVALID_ARGUMENT: "),
                    remedy="use RE2 syntax: no look-around, no back-references, repetitions up to 1000",
                    line=before.count("\n") + 1,
                    column=len(before) - before.rfind("\n"),
                )
            )
    return tuple(found)


def _plain(error: str) -> str:
    """The engine's words without its codes, cut: they may quote what the caller sent."""
    said = re.sub(r"^(INVALID_ARGUMENT|NOT_FOUND|UNKNOWN|INTERNAL|CANCELLED): ", "", error)
    said = re.sub(r" ?\[[A-Z_]+\]$", "", said.partition("\n")[0])
    return "".join(char if char.isprintable() else " " for char in said)[:200]
