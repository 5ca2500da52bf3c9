"""Python functions as tools: the JSON Schema of their arguments, from hints and docstring, and arguments read by it."""

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

_ARGS: Final = re.compile(r"^[ \t]*(?:Args|Arguments|Parameters):[ \t]*$", re.MULTILINE)
_ENTRY: Final = re.compile(r"^([ \t]+)\*{0,2}(\w{1,100})(?:[ \t]*\([^)\n]{0,100}\))?:[ \t]*(.*)$")
DESCRIPTION_MAX_CHARS: Final = 2000


class SignatureRefused(TypeError):  # noqa: N818 - what happened to it
    """A function cannot be a tool as it is written; its author must act."""


class FunctionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What a model needs to know of a function."""

    name: str
    description: str
    schema: dict[str, Any]
    """JSON Schema 2020-12 of a mapping of arguments; further names are refused."""


def schema_of(function: Callable[..., Any]) -> FunctionSchema:
    """Describe the arguments of `function`.

    Type hints become types, `Annotated[..., msgspec.Meta(...)]` limits and descriptions, defaults optional arguments;
    the first paragraph of the docstring is the description, its `Args:` those of arguments without one.

    Raises:
        SignatureRefused: It takes `*args`, `**kwargs` or positional-only arguments, an argument lacks a type hint, or a
            type is none that JSON has.
    """
    made = _struct(function)
    name = made.__name__
    try:
        (_,), definitions = msgspec.json.schema_components([made], ref_template="#/$defs/{name}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise SignatureRefused(f"{name}: {error}; use types that JSON has") from None
    schema = definitions.pop(name)
    schema.pop("title", None)
    for argument, description in _told(inspect.getdoc(function) or "").items():
        if argument in schema["properties"]:
            schema["properties"][argument].setdefault("description", description)
    if definitions:
        schema["$defs"] = definitions
    return FunctionSchema(name=name, description=_summary(function), schema=schema)


def reader_of(function: Callable[..., Any]) -> Callable[[bytes], dict[str, Any]]:
    """What makes keyword arguments of a JSON object, in the types that the function's hints name.

    It raises `msgspec.ValidationError` where they do not fit the schema.

    Raises:
        SignatureRefused: As `schema_of`.
    """
    made = _struct(function)
    try:
        decoder = msgspec.json.Decoder(made)
    except (TypeError, ValueError) as error:
        raise SignatureRefused(f"{made.__name__}: {error}; use types that JSON has") from None

    def read(raw: bytes) -> dict[str, Any]:
        try:
            arguments = decoder.decode(raw)
        except msgspec.ValidationError:  # to a schema 1.0 is an integer
            arguments = msgspec.convert(_whole(msgspec.json.decode(raw)), made)
        return {name: getattr(arguments, name) for name in made.__struct_fields__}

    return read


def _whole(value: Any) -> Any:
    """The same value with floats that are whole numbers as integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return value


def _struct(function: Callable[..., Any]) -> type[msgspec.Struct]:
    """The arguments as the fields of a struct."""
    name = getattr(function, "__name__", "function")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise SignatureRefused(f"{name}: its signature cannot be read: {error}; check its type hints") from None
    fields: list[Any] = []
    for parameter in parameters:
        _check(name, parameter, hints)
        fields.append(_field(parameter, hints[parameter.name]))
    try:
        return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SignatureRefused(f"{name}: {error}; use types that JSON has") from None


def _check(name: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> None:
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise SignatureRefused(f"{name}: {parameter} takes anything, which no schema can say; name its arguments")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise SignatureRefused(f"{name}: {parameter.name} has no name for callers; remove the '/'")
    if parameter.name not in hints:
        raise SignatureRefused(f"{name}: {parameter.name} has no type hint; add one")


def _field(parameter: inspect.Parameter, hint: Any) -> Any:
    if parameter.default is inspect.Parameter.empty:
        return (parameter.name, hint)
    default = parameter.default
    try:
        msgspec.json.encode(default)
    except (TypeError, ValueError):
        # A default that JSON cannot say is optional all the same.
        return (parameter.name, hint, msgspec.field(default_factory=lambda: default))
    if isinstance(default, list | dict | set | bytearray):
        return (parameter.name, hint, msgspec.field(default_factory=lambda: default))
    return (parameter.name, hint, msgspec.field(default=default))


def _summary(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return " ".join(text.partition("\n\n")[0].split())[:DESCRIPTION_MAX_CHARS]


def _told(text: str) -> dict[str, str]:
    """What a Google-style docstring says of each argument."""
    begin = _ARGS.search(text)
    if begin is None:
        return {}
    found: dict[str, str] = {}
    indent, current = "", ""
    for line in text[begin.end() :].lstrip("\n").split("\n"):
        entry = _ENTRY.match(line)
        if entry and (not indent or entry[1] == indent):
            indent, current = entry[1], entry[2]
            found[current] = entry[3].strip()
        elif current and line.startswith(indent) and line.strip():
            found[current] = f"{found[current]} {line.strip()}"
        else:
            break
    return {name: said[:DESCRIPTION_MAX_CHARS] for name, said in found.items() if said}
