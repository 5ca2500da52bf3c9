"""Arguments of a call checked against the tool's JSON Schema, all mistakes at once; who may call what is in `registry`.

Schemas come from MCP servers and are not trusted: nothing is fetched, their regular expressions run in linear time, and
their size and nesting are bounded before they are compiled.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import jsonschema_rs
import msgspec
from msgspec import Struct

from crewkeeper_supervisor.gate.condition import MAX_DEPTH, too_deep
from crewkeeper_supervisor.gate.name_pattern import near
from crewkeeper_supervisor.gate.schema_work import TooMuchWork, Work

SCHEMA_MAX_BYTES: Final = 256 * 1024
PROBLEMS_MAX: Final = 20
DETAILED_MAX: Final = 200
"""Values of a document whose mistakes are all looked for. To find them costs up to 100 µs for each, and whoever asks
chooses how many there are; of larger documents the first mistake is told."""
_MORE: Final = f"there may be more: of more than {DETAILED_MAX} values, mistakes are told one at a time"
_TELLING_MAX: Final = 100_000
"""Evaluations of a schema that are made at most to say what is wrong with a document, each of some 6 µs."""
_UNTOLD: Final = "is not as its schema says; to tell where is too much work, as it is nested so deep: nest it less"
_VALUE: Final = "the value"
_PATTERN_MAX_BYTES: Final = 4 * 1024 * 1024
_SHOWN_MAX_CHARS: Final = 300


class SchemaRefused(ValueError):  # noqa: N818 - what happened to it
    """A schema cannot be used; the author of the tool must act, and the tool is not loaded.

    Attributes:
        remedy: What to do.
    """

    def __init__(self, message: str, remedy: str) -> None:
        """Hold both."""
        super().__init__(message)
        self.remedy = remedy


class ArgumentProblem(Struct, frozen=True, kw_only=True):
    """One mistake in the arguments; `path` as `items[2].name`, empty for the arguments as a whole."""

    path: str
    message: str


class BadArguments(Struct, frozen=True, kw_only=True, tag="bad_arguments"):
    """The answer to a call whose arguments do not fit. Nothing was executed."""

    tool: str
    problems: tuple[ArgumentProblem, ...]
    omitted: int = 0
    """Problems beyond the first twenty."""
    schema: dict[str, Any] | None = None
    """What is expected."""

    def text(self) -> str:
        """The answer as a model reads it."""
        rows = [f"The arguments of {self.tool!r} are not right; nothing was executed."]
        rows += [f"- {problem.path or 'arguments'}: {problem.message}" for problem in self.problems]
        if self.omitted:
            rows.append(f"- and {self.omitted} more")
        if self.schema is not None:
            rows.append(f"Expected: {msgspec.json.encode(self.schema).decode()}")
        return "\n".join(rows)


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse what cannot be used as a schema of arguments.

    Raises:
        SchemaRefused: It is too large, too deep, no JSON Schema, refers to elsewhere, is too much work, or has an
            expression that does not run in linear time.
    """
    _Compiled(schema)


def misfits(schema: dict[str, Any], document: Any) -> list[str]:
    """What is wrong with any document by a schema, each in words, at most `PROBLEMS_MAX`.

    Raises:
        SchemaRefused: The schema cannot be used.
    """
    compiled = _Compiled(schema)
    if too_deep(document):
        return [f"is nested deeper than {MAX_DEPTH} levels"]
    try:
        found = compiled.mistakes(document)
    except (ValueError, OverflowError) as error:
        return [f"cannot be held to its schema: {error}"[:_SHOWN_MAX_CHARS]]
    if found is None:
        return [_UNTOLD]
    told = [(_path(error.instance_path), error.message) for error in found[:PROBLEMS_MAX]]
    return [f"is not as its schema says: {f'{path}: ' if path else ''}{text}"[:_SHOWN_MAX_CHARS] for path, text in told]


class ArgumentCheck:
    """The compiled check of one tool's arguments. Safe to use from several threads.

    Args:
        tool: Name of the tool, for answers.
        schema: JSON Schema of a mapping; None accepts every mapping.
        limit_bytes: Largest arguments, as compact JSON.

    Raises:
        SchemaRefused: The schema cannot be used.
    """

    def __init__(self, tool: str, schema: dict[str, Any] | None, limit_bytes: int = 64 * 1024) -> None:
        """Compile."""
        self.tool = tool
        self.schema = schema
        self.limit_bytes = limit_bytes
        self._compiled = None if schema is None else _Compiled(schema)

    def check(self, args: Any) -> BadArguments | None:
        """What is wrong with `args`; None when nothing is. Never raises for what they hold."""
        if not isinstance(args, dict):
            return self._refuse(ArgumentProblem(path="", message="must be a mapping of names to values"))
        if too_deep(args):
            return self._refuse(ArgumentProblem(path="", message=f"nested deeper than {MAX_DEPTH} levels"))
        try:
            size = len(msgspec.json.encode(args))
        except (TypeError, ValueError, OverflowError) as error:
            return self._refuse(ArgumentProblem(path="", message=f"not JSON: {error}"[:_SHOWN_MAX_CHARS]))
        if size > self.limit_bytes:
            message = f"{size} bytes; the limit is {self.limit_bytes}; send less, or a reference to it"
            return self._refuse(ArgumentProblem(path="", message=message))
        if self._compiled is None:
            return None
        try:
            errors = self._compiled.mistakes(args)
        except (ValueError, OverflowError) as error:
            return self._refuse(ArgumentProblem(path="", message=f"cannot be checked: {error}"[:_SHOWN_MAX_CHARS]))
        if errors is None:
            return self._refuse(ArgumentProblem(path="", message=_UNTOLD))
        if not errors:
            return None
        problems = sorted((self._problem(error, args) for error in errors), key=lambda each: (each.path, each.message))
        if _extent(args)[0] > DETAILED_MAX:
            problems.append(ArgumentProblem(path="", message=_MORE))
        return BadArguments(
            tool=self.tool,
            problems=tuple(problems[:PROBLEMS_MAX]),
            omitted=max(0, len(problems) - PROBLEMS_MAX),
            schema=self.schema,
        )

    def _refuse(self, problem: ArgumentProblem) -> BadArguments:
        return BadArguments(tool=self.tool, problems=(problem,), schema=self.schema)

    def _problem(self, error: jsonschema_rs.ValidationError, args: dict[str, Any]) -> ArgumentProblem:
        path = _path(error.instance_path)
        details = error.kind.as_dict()
        match error.kind.name:
            case "required":
                path = f"{path}.{details['property']}" if path else str(details["property"])
                message = "is required and missing"
            case "additionalProperties":
                known = self._known(error.schema_path)
                message = "; ".join(_unexpected(name, known) for name in details["unexpected"][:PROBLEMS_MAX])
            case "type":
                message = f"must be {' or '.join(details['types'])}, is {_type(_at(args, error.instance_path))}"
            case _:
                message = error.message
        return ArgumentProblem(path=path, message=message[:_SHOWN_MAX_CHARS])

    def _known(self, schema_path: list[str | int]) -> list[str]:
        """Names of the properties beside the keyword that refused one."""
        at = _at(self.schema, schema_path[:-1])
        properties = at.get("properties") if isinstance(at, dict) else None
        return list(properties) if isinstance(properties, dict) else []


class _Compiled:
    """A schema that documents can be held to.

    Raises:
        SchemaRefused: It cannot be used.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        if too_deep(schema):
            raise SchemaRefused(f"the schema is nested deeper than {MAX_DEPTH} levels", "flatten it")
        try:
            size = len(msgspec.json.encode(schema))
        except (TypeError, ValueError, OverflowError) as error:
            raise SchemaRefused(f"the schema is not JSON: {error}", "write it as plain JSON") from None
        if size > SCHEMA_MAX_BYTES:
            raise SchemaRefused(f"the schema has {size} bytes; the limit is {SCHEMA_MAX_BYTES}", "shorten it")
        try:
            with _without_panic():
                self._validator = jsonschema_rs.Draft202012Validator(
                    schema,
                    offline=True,
                    mask=_VALUE,
                    pattern_options=jsonschema_rs.RegexOptions(
                        size_limit=_PATTERN_MAX_BYTES, dfa_size_limit=_PATTERN_MAX_BYTES
                    ),
                )
            self._work = Work(schema)
        except TooMuchWork as error:
            text = f"the schema is too much work: {error}"
            raise SchemaRefused(text, "have fewer of its parts repeat others") from None
        except ValueError as error:
            where = _path(error.instance_path) if isinstance(error, jsonschema_rs.ValidationError) else ""
            said = f"{where}: {error}".removeprefix(": ").partition("\n")[0][:_SHOWN_MAX_CHARS]
            raise SchemaRefused(f"the schema cannot be used: {said}", _remedy(said)) from None

    def mistakes(self, document: Any) -> list[jsonschema_rs.ValidationError] | None:
        """What is wrong with a document: all of it, or the first where there are many values.

        None: something is, and to tell what is too much work.

        Raises:
            ValueError: Nobody can say, as of a number that is too large.
        """
        with _without_panic():
            if self._validator.is_valid(document):
                return []
            values, depth = _extent(document)
            if values * self._work.to_tell(depth) > _TELLING_MAX:
                return None
            if values <= DETAILED_MAX:
                return list(self._validator.iter_errors(document))
            try:
                self._validator.validate(document)
            except jsonschema_rs.ValidationError as error:
                return [error]
        return []


@contextmanager
def _without_panic() -> Iterator[None]:
    """Where the library gives up on what is given to it, it raises what no `except Exception` catches."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise ValueError("the library that reads schemas has given it up") from None


def _extent(document: Any) -> tuple[int, int]:
    """How many values there are in a document, and how deep they are nested."""
    values, depth, level = 0, 0, [document]
    while level:
        level = [
            below
            for each in level
            if isinstance(each, dict | list | tuple)
            for below in (each.values() if isinstance(each, dict) else each)
        ]
        values += len(level)
        depth += bool(level)
    return values, depth


def _remedy(said: str) -> str:
    if "regex" in said:
        return "use regular expressions without look-around and back-references"
    if "etrieval" in said or "retrieving" in said:
        return "put what it refers to under $defs; nothing is fetched"
    return "write JSON Schema 2020-12"


def _path(parts: list[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text[:_SHOWN_MAX_CHARS]


def _at(value: Any, path: list[str | int]) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _unexpected(name: str, known: list[str]) -> str:
    alike = near(name, known, 1)
    return f"{name[:64]!r} is no argument" + (f"; did you mean {alike[0]!r}?" if alike else "")


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
    return "object"
