"""Gate door: a proxy's connection to the gate, as one agent; while it cannot be had, every call is refused."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import anyio
import msgspec
import structlog

from crewkeeper_bus.client import Client
from crewkeeper_bus.errors import BusError, Killed, Pending, Timeout, ToolRefused, ToolTimeout
from crewkeeper_bus.nudges import HEADING
from crewkeeper_bus.outgoing import new_id
from crewkeeper_supervisor.mcp.offer import NOT_RUN, Refusal

ANSWER_S: Final = 20.0
"""How long the gate may be silent about a call; a tool that is busy for so long is not waited for, either."""
APPROVAL_S: Final = 50.0
"""How long a person is waited for. MCP clients commonly give up after a minute."""
JOIN_S: Final = 5.0
"""How long a listing waits for the first connection."""
SURVEY_S: Final = 5.0
"""How long it waits for the gate to say what can be shown."""
UNSAFE_MAX: Final = 1000
"""Withheld tools that are told."""
PENDING_MAX: Final = 100
"""Calls that wait for a person, and can be resumed by being made again."""
RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 30.0

log = structlog.get_logger()


class Granted(Protocol):
    """A call that may be carried out."""

    args: dict[str, Any]
    """With these arguments."""
    result: Any
    """Set it to what came of it."""


class Door(Protocol):
    """Who is asked about calls.

    Attributes:
        on_joined: Called when a run has been joined.
    """

    on_joined: Callable[[], None]

    async def hidden(self, names: Sequence[str], kind: str = "tool") -> frozenset[str] | None:
        """Those that no call could be made of, and that are shown to nobody; None: nobody can say now."""

    def grant(self, tool: str, args: dict[str, Any], kind: str = "tool") -> Any:
        """An async context manager of a `Granted`; leaving it settles the call, by an exception as failed.

        Raises:
            Refusal: The call may not be carried out, or it was cut.
        """

    def nudged(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result of a call, with what the supervisor wants the model to read after it, each text once."""

    async def tell_unknown(self, tool: str) -> None:
        """A tool was asked for that there is not."""

    async def tell_unsafe(self, tools: Sequence[str], why: str) -> None:
        """Tools are withheld."""


class GateDoor:
    """The real one.

    Args:
        make_client: Makes a context of a client that has not joined yet, with credentials that are good now.
        answer_s: How long silence is waited for.
        approval_s: How long a person is waited for.
    """

    def __init__(
        self,
        make_client: Callable[[], AbstractAsyncContextManager[Client]],
        *,
        answer_s: float = ANSWER_S,
        approval_s: float = APPROVAL_S,
    ) -> None:
        """Closed until `run`."""
        self.on_joined: Callable[[], None] = lambda: None
        self._make_client = make_client
        self._answer_s = answer_s
        self._approval_s = approval_s
        self._client: Client | None = None
        self._why = "there is no connection yet"
        self._tried = anyio.Event()
        self._unsafe: dict[str, str] = {}
        self._pending: OrderedDict[str, str] = OrderedDict()

    async def run(self) -> None:
        """Stay connected; returns when the supervisor has stopped this agent."""
        delay_s = RETRY_MIN_S
        while True:
            client: Client | None = None
            try:
                async with self._make_client() as client, client:
                    self._client, self._why, delay_s = client, "", RETRY_MIN_S
                    self._tried.set()
                    self.on_joined()
                    await self._say_unsafe()
                    log.info("mcp.gate_joined", agent=client.agent, run=client.run)
                    await client.run_forever()
            except (BusError, OSError) as error:
                self._why = str(error)[:300]
                log.warning("mcp.gate_unreachable", error=self._why)
            finally:
                self._client = None
                self._tried.set()
            if client is not None and client.is_stopped and not self._why:
                log.warning("mcp.stopped", why="the supervisor has stopped this agent")
                return
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MAX_S)

    async def opened(self, limit_s: float) -> bool:
        """Whether it is connected, once it has been tried."""
        with anyio.move_on_after(limit_s):
            await self._tried.wait()
        return self._client is not None

    async def hidden(self, names: Sequence[str], kind: str = "tool") -> frozenset[str] | None:
        """As `Door.hidden`. A connection that is being made is waited for, so that it holds for the first listing."""
        await self.opened(JOIN_S)
        client = self._client
        if client is None or not client.is_connected:
            return None
        try:
            return frozenset(await client.never_callable(names, kind=kind, limit_s=SURVEY_S))
        except (BusError, TimeoutError) as error:
            log.warning("mcp.not_surveyed", error=str(error)[:300])
            return None

    def nudged(self, result: dict[str, Any]) -> dict[str, Any]:
        """As `Door.nudged`."""
        content = result.get("content")
        if self._client is None or not isinstance(content, list):
            return result
        texts = [f"{HEADING} {nudge.text}" for nudge in self._client.take_nudges()]
        if not texts:
            return result
        return result | {"content": [*content, *({"type": "text", "text": text} for text in texts)]}

    async def tell_unknown(self, tool: str) -> None:
        """A tool was asked for that there is not."""
        if self._client is not None and self._client.is_connected:
            with anyio.move_on_after(1.0):
                await self._client.propose((tool,))

    async def tell_unsafe(self, tools: Sequence[str], why: str) -> None:
        """Tools are withheld. It is told when there is a connection; their calls are refused all the same."""
        self._unsafe |= dict.fromkeys(tools[: UNSAFE_MAX - len(self._unsafe)], why)
        await self._say_unsafe()

    async def _say_unsafe(self) -> None:
        if self._client is not None:
            for why in dict.fromkeys(self._unsafe.values()):
                with anyio.move_on_after(1.0):
                    names = [tool for tool, reason in self._unsafe.items() if reason == why]
                    await self._client.propose(names, unsafe=why)

    @asynccontextmanager
    async def grant(self, tool: str, args: dict[str, Any], kind: str = "tool") -> AsyncIterator[Granted]:
        """As `Door.grant`."""
        client = self._client
        if client is None or not client.is_connected:
            why = self._why if client is None else "the connection is lost"
            raise _unavailable(why)
        try:
            async with AsyncExitStack() as stack:
                yield await self._granted(client, stack, tool, args, kind)
        except ToolTimeout as cut:  # what the gate itself refused has become a refusal above
            raise Refusal("tool_timeout", f"{cut}.") from None

    async def _granted(
        self, client: Client, stack: AsyncExitStack, tool: str, args: dict[str, Any], kind: str
    ) -> Granted:
        key = _key(tool, args, kind)
        call = self._pending.pop(key, "") or new_id()
        end_s = time.monotonic() + self._approval_s
        try:
            # A pause has no limit of its own; the grant below must not be inside of one, as it outlives this function.
            with anyio.fail_after(self._answer_s):
                await client.checkpoint()
            approval = why = ""
            while not approval or time.monotonic() < end_s:
                limit_s = min(self._answer_s, max(0.1, end_s - time.monotonic()))
                context = client.grant_tool(tool, args, call_id=call, limit_s=limit_s, kind=kind)
                try:
                    return await stack.enter_async_context(context)
                except Pending as pending:
                    approval, why = pending.approval, str(pending)
                except Timeout:
                    if not approval:
                        raise
            self._remember(key, call)
            if approval == "held":
                raise Refusal("held", f"{why[:600]} {NOT_RUN[:1].upper()}{NOT_RUN[1:]}.")
            raise Refusal("approval_pending", _pending_text(tool, approval))
        except ToolRefused as refused:
            raise Refusal(refused.reason, str(refused)) from None
        except Killed:
            raise Refusal("stopped", f"The supervisor has stopped this agent; {NOT_RUN}.") from None
        except (Timeout, TimeoutError):
            client.give_up_call(call, "no decision in time")
            raise _unavailable("it does not answer in time, or holds this agent") from None
        except BusError as error:
            raise _unavailable(str(error)[:300]) from None

    def _remember(self, key: str, call: str) -> None:
        self._pending[key] = call
        while len(self._pending) > PENDING_MAX:
            self._pending.popitem(last=False)


def _unavailable(why: str) -> Refusal:
    return Refusal("gate_unavailable", f"The gate cannot be asked ({why}), so the call was refused; {NOT_RUN}.")


def _pending_text(tool: str, approval: str) -> str:
    return (
        f"A person must approve this call of {tool!r} and has not decided yet (approval {approval}); {NOT_RUN}. "
        f"Make the same call again later to hear the decision, or go on without it."
    )


def _key(tool: str, args: dict[str, Any], kind: str) -> str:
    return hashlib.sha256(msgspec.json.encode([kind, tool, args], order="deterministic")).hexdigest()
