"""Model tools: functions that a framework hands to its model, with the gate, the supervisor and its errors between.

Every framework takes plain functions with hints and a docstring as tools; so there is one adapter for all of them, and
none is imported here.
"""

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

from crewkeeper_bus.client import Client
from crewkeeper_bus.errors import ConfigError, PeerGone, Refused, Repeated, Timeout, WouldDeadlock

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_F = TypeVar("_F", bound=Callable[..., Any])
NO_ANSWER: Final = "No answer can come: whoever was asked waits, in the end, for this very work. Go on without it"
"""What a model is told where the supervisor has failed the wait of its tool."""
_TOLD = (Refused, Repeated, PeerGone, Timeout)
"""Whose text a model is told instead of a result: it can act on it, and its run goes on."""


def model_tool(
    crew: Client, *, name: str | None = None, gate: bool = False, blocking: bool = False
) -> Callable[[_F], _F]:
    """Make a function a tool that a framework may run for its model; goes below the framework's own decorator.

    - What it waits for counts as a wait of the handler or activity that runs the model (`Client.errand`).
    - A refusal, a broken wait, a peer that is gone and a deadline are told to the model as text: the run goes on.
    - What the supervisor wants the model to read is added to results that are text.
    - With `gate` it is asked for a grant first, under its name, and runs with the arguments of the grant; the crew file
      declares it with `inside: true`. Without, it is not a tool of the crew: for functions that ask other agents, or
      that call a tool of the crew by `call_tool`.

    Args:
        crew: The client of this agent.
        name: The tool in the crew file; the function's name if absent.
        gate: Whether the gate decides about each call.
        blocking: Make an `async` function one that blocks, for a framework that has no others, as CrewAI.

    Returns:
        A decorator that keeps name, hints and docstring. What is not `async` must be run in a thread of its own, as
        frameworks do with such tools, and be decorated in the event loop.

    Raises:
        ConfigError: With `gate`, where an argument cannot be given by its name.
        RuntimeError: From a function that is not `async`, if the thread of the event loop runs it.
    """

    def wrap(function: _F) -> _F:
        tool = _ModelTool(crew, name or function.__name__, function, gate=gate)
        if tool.is_async and not blocking:

            @functools.wraps(function)
            async def in_task(*args: Any, **kwargs: Any) -> Any:
                return await tool.run(*args, **kwargs)

            return in_task  # type: ignore[return-value]
        loop = asyncio.get_running_loop()

        @functools.wraps(function)
        def in_thread(*args: Any, **kwargs: Any) -> Any:
            return tool.run_in(loop, *args, **kwargs)

        return in_thread  # type: ignore[return-value]

    return wrap


class _ModelTool:
    """One function, and what stands between it and the model."""

    def __init__(self, crew: Client, name: str, function: Callable[..., Any], *, gate: bool) -> None:
        self._crew = crew
        self._name = name
        self._function = function
        self._gate = gate
        self._signature = inspect.signature(function)
        self.is_async = inspect.iscoroutinefunction(function)
        unnamed = [each.name for each in self._signature.parameters.values() if each.kind not in _NAMED]
        if gate and unnamed:
            raise ConfigError(f"the tool {name!r}: {unnamed[0]!r} has no name for the gate; take plain arguments")

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        async with self._crew.errand():
            try:
                result = await (self._granted if self._gate else self._call)(*args, **kwargs)
            except WouldDeadlock as error:
                result = f"{NO_ANSWER} ({str(error).strip()})."
            except _TOLD as error:
                result = str(error)
        return self._crew.with_nudges(result) if isinstance(result, str) else result

    def run_in(self, loop: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> Any:
        """Run in the loop, as descending from what this thread works for, and wait for it in this thread."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            text = f"the tool {self._name!r} is called in the event loop, which it would stop: make it async"
            raise RuntimeError(text)
        return asyncio.run_coroutine_threadsafe(self.run(*args, **kwargs), loop).result()

    async def _granted(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        async with self._crew.grant_tool(self._name, bound.arguments) as grant:
            grant.result = result = await self._call(**grant.args)
        return result

    async def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_async:
            return await self._function(*args, **kwargs)
        return await asyncio.to_thread(self._function, *args, **kwargs)
