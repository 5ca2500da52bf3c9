"""Tools as their authors write them: functions of a module, described by their hints; running them is `tool_host`'s.

```python
from crewkeeper_agents.tools import ToolError, tool


@tool
def pay(to: str, cents: int) -> dict:
    \"\"\"Pay somebody.\"\"\"
    if cents > 100_00:
        raise ToolError("at most 100 EUR at once")
    return {"receipt": transfer(to, cents)}
```
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.function_schema import FunctionSchema, SignatureRefused, schema_of

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__crewkeeper_tool__"


class ToolError(Exception):
    """Raise it in a tool to tell the agent's model what went wrong: its text is all that is told."""


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """Return it from a tool whose call cost something other than the crew file says."""

    result: Any
    cost_microusd: int | None = None
    """Millionths of a dollar; None: the declared price."""
    input_tokens: int = 0
    output_tokens: int = 0


@overload
def tool(function: _F) -> _F: ...
@overload
def tool(*, description: str) -> Callable[[_F], _F]: ...
def tool(function: _F | None = None, *, description: str = "") -> _F | Callable[[_F], _F]:
    """Declare a function as a tool: its hints and docstring are checked now, not when the crew starts.

    It stays the function that it is. Functions without the decorator can be tools, too.

    Args:
        function: The function, sync or async, with a type hint for each argument.
        description: Told to models instead of the first paragraph of its docstring.

    Raises:
        SignatureRefused: No schema can be made of it.
    """

    def declare(function: _F) -> _F:
        told = schema_of(function)
        if description:
            told = msgspec.structs.replace(told, description=description)
        setattr(function, _MARK, told)
        return function

    return declare if function is None else declare(function)


def describe(function: Callable[..., Any]) -> FunctionSchema:
    """What models are told of a function.

    Raises:
        SignatureRefused: No schema can be made of it.
    """
    told = getattr(function, _MARK, None)
    return told if isinstance(told, FunctionSchema) else schema_of(function)


def find(place: str) -> Callable[..., Any]:
    """Import the function that `place` names, as `module:name`.

    Raises:
        ConfigError: There is no such module or function. Errors inside the module pass through.
    """
    module_name, _, name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise ConfigError(f"there is no module {error.name!r} beside the crew file or on {sys.path[1:]}") from None
    found = getattr(module, name, None)
    if not callable(found):
        what = "has no function" if found is None else f"has a {type(found).__name__}, no function, as"
        raise ConfigError(f"module {module_name!r} {what} {name!r}")
    return found  # type: ignore[no-any-return]


__all__ = ["Priced", "SignatureRefused", "ToolError", "describe", "find", "tool"]
