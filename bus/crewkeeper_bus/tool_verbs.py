"""Tool verbs: what authors call for tools and models, run by the gate or here, once the gate has granted it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import anyio
import msgspec
from msgspec import Raw

from crewkeeper_bus import codec
from crewkeeper_bus.errors import CodecError, Refused, ToolTimeout
from crewkeeper_bus.membership import Membership
from crewkeeper_bus.nudges import Nudge, appended
from crewkeeper_bus.outgoing import clip
from crewkeeper_bus.subjects import check_token
from crewkeeper_bus.tasks import Task
from crewkeeper_bus.tool_messages import CallGivenUp, Settled
from crewkeeper_bus.tracing import Span

_T = TypeVar("_T")
RESULT_MAX_BYTES: Final = 64 * 1024
"""A larger result of a granted tool stays in the agent; only that it succeeded is said."""


class _Granted(msgspec.Struct):
    """What the gate says to a call that the agent is to carry out itself."""

    args: Raw = Raw(b"{}")
    limit_s: float = 0.0
    max_output_tokens: int = 0
    last: bool = False


class ToolGrant:
    """A granted call while its tool runs here.

    Attributes:
        call: The call id.
        tool: The tool.
        args: The arguments to run it with: where a rule redacts, other ones than were asked for.
        limit_s: Seconds until it is cut; 0: never.
        result: Set it to what the tool returned, so that the gate can look at it.
    """

    def __init__(self, call: str, tool: str, granted: _Granted) -> None:
        self.call = call
        self.tool = tool
        self.args: dict[str, Any] = codec.decode_body(granted.args, dict[str, Any])
        self.limit_s = granted.limit_s
        self.result: Any = msgspec.UNSET
        self._cost: dict[str, Any] = {}

    def cost(self, *, microusd: int | None = None, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Say what it cost, where that is not its declared price."""
        self._cost = {"cost_microusd": microusd, "input_tokens": input_tokens, "output_tokens": output_tokens}

    def settlement(self) -> dict[str, Any]:
        """What the gate is told when it is over."""
        told: dict[str, Any] = dict(self._cost)
        if self.result is not msgspec.UNSET:
            try:
                told["result"] = codec.encode_body(self.result, RESULT_MAX_BYTES)
            except CodecError:
                return told
        return told


class ModelGrant:
    """A granted model call while it is made here.

    Attributes:
        call: The call id.
        model: The model.
        max_output_tokens: The most that may come out: ask the provider for no more.
        last: The budget is spent, and this call is for handing back what there is.
        limit_s: Seconds until it is cut; 0: never.
    """

    def __init__(self, call: str, model: str, input_tokens: int, max_output_tokens: int, granted: _Granted) -> None:
        self.call = call
        self.model = model
        self.max_output_tokens = granted.max_output_tokens or max_output_tokens
        self.last = granted.last
        self.limit_s = granted.limit_s
        # What is not said counts as used up: whoever does not report is not better off for it.
        self._used: dict[str, Any] = {"input_tokens": input_tokens, "output_tokens": self.max_output_tokens}

    def usage(
        self, input_tokens: int, output_tokens: int, *, cached_tokens: int = 0, cost_microusd: int | None = None
    ) -> None:
        """Say what the provider reported; all zero if it was never reached.

        Args:
            input_tokens: Tokens in, cached ones among them.
            output_tokens: Tokens out.
            cached_tokens: How many of those in were cached.
            cost_microusd: Cost in millionths of a dollar; None: by the price that the gate knows.
        """
        self._used = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_tokens": cached_tokens,
            "cost_microusd": cost_microusd,
        }

    def settlement(self) -> dict[str, Any]:
        """What the gate is told when it is over."""
        return dict(self._used)


class _Granting:
    """Async context manager around what the agent does by itself; settles it at the end. For one use."""

    def __init__(self, membership: Membership, call_id: str | None, limit_s: float | None) -> None:
        self._membership = membership
        self._call_id = call_id
        self._limit_s = limit_s
        self._grant: ToolGrant | ModelGrant | None = None
        self._scope: anyio.CancelScope | None = None
        self._span: Span | None = None

    async def _granted(self, span: Span | None, asked: Awaitable[_T]) -> _T:
        """Wait for the grant as a part of the span, which lasts as long as the block."""
        self._span = span
        if span is not None:
            span.__enter__()
        try:
            return await asked
        except BaseException as error:
            if span is not None:
                span.__exit__(type(error), error, None)
            raise

    def _begin(self, grant: ToolGrant | ModelGrant) -> None:
        self._grant = grant
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + (grant.limit_s or float("inf")))
        self._scope.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._scope is not None
        assert self._grant is not None
        swallowed = self._scope.__exit__(kind, error, trace)
        cut = self._scope.cancelled_caught
        told = f"cut after {self._grant.limit_s:g} s" if cut else _told(error)
        if self._span is not None:
            used = self._grant.settlement()
            self._span.note(**{name: used.get(name) for name in ("input_tokens", "output_tokens", "cached_tokens")})
            if cut:
                self._span.fail("tool_timeout")
            self._span.__exit__(kind, None if cut else error, trace)
        self._membership.tool_calls.say(
            self._grant.call, Settled, ok=error is None and not cut, error=told, **self._grant.settlement()
        )
        if not cut:
            return swallowed
        name = self._grant.tool if isinstance(self._grant, ToolGrant) else self._grant.model
        text = f"{name} was cut: it ran longer than {self._grant.limit_s:g} s; what it did until then is done"
        raise ToolTimeout(text, reason="tool_timeout", tool=name, call=self._grant.call)


class GrantedTool(_Granting):
    """`async with crew.grant_tool(…) as grant`: `Client.grant_tool` makes one."""

    def __init__(
        self, membership: Membership, tool: str, args: Any, call_id: str | None, limit_s: float | None, kind: str
    ) -> None:
        super().__init__(membership, call_id or membership.tool_calls.fresh_id(), limit_s)
        self._tool = tool
        self._args = args
        self._kind = kind

    async def __aenter__(self) -> ToolGrant:
        assert self._grant is None, "a grant is for one use: ask for another"
        await self._membership.checkpoint.hold()
        assert self._call_id is not None
        asked = self._membership.tool_calls.call(
            self._tool, self._args, self._call_id, self._limit_s, wait=True, inside=True, kind=self._kind
        )
        tracing = self._membership.tracing
        raw = await self._granted(None if tracing is None else tracing.tool(self._tool, self._call_id), asked)
        grant = ToolGrant(self._call_id, self._tool, codec.decode_body(raw, _Granted))
        self._begin(grant)
        return grant


class GrantedModel(_Granting):
    """`async with crew.model_call(…) as grant`: `Client.model_call` makes one."""

    def __init__(self, membership: Membership, call_id: str | None, limit_s: float | None, **fields: Any) -> None:
        super().__init__(membership, call_id, limit_s)
        self._fields = fields

    async def __aenter__(self) -> ModelGrant:
        assert self._grant is None, "a grant is for one use: ask for another"
        fields = self._fields
        await self._membership.checkpoint.hold()
        calls, tracing = self._membership.tool_calls, self._membership.tracing
        call_id = self._call_id or calls.fresh_id()
        span = None if tracing is None else tracing.model(fields["model"], call_id, fields.get("provider", ""))
        call, raw = await self._granted(span, calls.model(call_id, self._limit_s, **fields))
        granted = codec.decode_body(raw, _Granted)
        grant = ModelGrant(call, fields["model"], fields["input_tokens"], fields["max_output_tokens"], granted)
        self._begin(grant)
        return grant


class Errand:
    """`async with crew.errand()`: `Client.errand` makes one. For one use."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._part: Task | None = None

    async def __aenter__(self) -> None:
        self._part = self._membership.tasks.begin_part()
        self._rejoin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part is not None:
            self._membership.tasks.end_part(self._part)
        self._rejoin()

    def _rejoin(self) -> None:
        if self._part is not None and not self._part.top.ended:
            self._membership.waits.rejoin(self._part.top)


class ToolVerbs:
    """The part of a client that asks the gate.

    Every method here may raise, besides what all waits may: `ToolRefused` in one of its kinds, whose text a model can
    read; nothing was executed then, but for `ToolFailed`, `ToolTimeout` and `ToolLost`.
    """

    _membership: Membership

    async def call_tool(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        call_id: str | None = None,
        limit_s: float | None = None,
        wait: bool = True,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> Any:
        """Have a tool of the crew run, if the gate lets it, and return its result.

        While no answer comes the call is repeated, which does nothing twice: it is known by its id.

        Args:
            name: The tool, as the crew file names it, or `tool.function` of an MCP server.
            args: Its arguments, what becomes a JSON object.
            call_id: A name of up to 32 characters for this very call. The same id again is the same call: same answer,
                run and charged once, also after a restart of this agent. A fresh one if absent.
            limit_s: Declared deadline, seconds.
            wait: Whether to wait for a person where the call needs an approval.
            type: What to decode the result into; plain data if absent.

        Raises:
            Pending: A person has yet to decide, and `wait` is false or `limit_s` has passed. Ask again under the same
                `call_id` to resume.
            ToolRefused: In the kind that says why.
            Timeout: No answer within `limit_s`: it may run or have run; the same `call_id` asks about it again.
            SubjectError: `call_id` is no name.
            CodecError: The result is not of `type`.
        """
        await self._membership.checkpoint.hold()
        calls, tracing = self._membership.tool_calls, self._membership.tracing
        if tracing is None:
            return codec.decode_body(await calls.call(name, args, call_id, limit_s, wait=wait), type)
        call_id = call_id or calls.fresh_id()
        with tracing.tool(name, call_id):
            return codec.decode_body(await calls.call(name, args, call_id, limit_s, wait=wait), type)

    def grant_tool(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        call_id: str | None = None,
        limit_s: float | None = None,
        kind: str = "tool",
    ) -> GrantedTool:
        """Ask leave to run a tool here, `async with crew.grant_tool("search", {…}) as grant`; run it with `grant.args`.

        The gate checks and charges it as any call. The block is cut when the grant's time is over; leaving it settles
        the call, as failed if an exception leaves it. For tools that the crew file declares with `inside: true`.

        Args:
            name: The tool.
            args: Its arguments.
            call_id: As `call_tool`.
            limit_s: Declared deadline for the grant, seconds.
            kind: `tool`; or `resource` or `prompt` of an MCP server: policy alone decides, and nothing is charged.
        """
        return GrantedTool(self._membership, name, args, call_id, limit_s, kind)

    def errand(self) -> Errand:
        """Around a function that a framework calls in an asyncio task of its own, `async with crew.errand():`.

        A framework runs the tools of a model in tasks that it starts, and goes on when all of them are done. To the
        supervisor such a task is one by itself, and the handler that waits for it is busy: a ring of waits through it
        is not seen. What is waited for in this block is what the handler or activity waits for from which the running
        task descends: once all of its errands wait, for any of those things. As soon as one of them does something
        else, it is busy again.

        Use it where that is true: the task that started it cannot go on before its errands do. In a task's own code it
        does nothing. `crewkeeper_agents.model_tools` has it built in.
        """
        return Errand(self._membership)

    async def never_callable(self, names: Sequence[str], *, kind: str = "tool", limit_s: float = 10.0) -> list[str]:
        """Those of these tools that no call of this agent can come of, whatever its arguments: to be shown to no model.

        What the agent does not have is one of them, and what a rule denies without a condition.

        Args:
            names: Names as `call_tool` takes them.
            kind: As in `grant_tool`.
            limit_s: How long the gate may take, seconds.

        Raises:
            Timeout: It has not answered.
        """
        return await self._membership.tool_calls.survey(names, kind, limit_s)

    def give_up_call(self, call_id: str, why: str = "") -> None:
        """Tell the gate that nobody waits for a call any more: it is not run, or is cut and charged.

        Only for calls that may be resumed: any other is given up by cancelling whoever waits for it.

        Raises:
            SubjectError: `call_id` is no name.
        """
        self._membership.tool_calls.say(check_token(call_id, "call id"), CallGivenUp, why=clip(why))

    def model_call(
        self,
        model: str,
        *,
        input_tokens: int,
        max_output_tokens: int,
        provider: str = "",
        digest: str = "",
        call_id: str | None = None,
        limit_s: float | None = None,
    ) -> GrantedModel:
        """Ask leave to call a model from here, `async with crew.model_call(…) as grant`; then say `grant.usage(…)`.

        What it can cost at most is reserved until the block is left, and charged if the usage was not said.

        Args:
            model: The model, as its provider names it.
            input_tokens: Upper bound of what goes in.
            max_output_tokens: The most that may come out.
            provider: Whose model it is; empty: known by the model's name.
            digest: Up to 64 hexadecimal digits, equal for equal requests, so that loops are seen.
            call_id: As `call_tool`.
            limit_s: Declared deadline for the grant, seconds.
        """
        return GrantedModel(
            self._membership,
            call_id,
            limit_s,
            model=model,
            provider=clip(provider, 200),
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            digest=digest,
        )

    async def propose(self, names: Sequence[str], *, unsafe: str = "") -> None:
        """Tell the supervisor which tools a model wants to call, as it named them, before any is called.

        Args:
            names: The tools.
            unsafe: Why this side lets nobody call them; that is a finding.
        """
        await self._membership.checkpoint.hold()
        self._membership.tool_calls.propose(tuple(names), unsafe)

    # --- what the supervisor wants the model to read ---

    def take_nudges(self) -> list[Nudge]:
        """What the supervisor wants this agent's model to read, oldest first; every nudge is given once.

        Take them when the model is about to read something, and let it read their `text`: whatever is taken counts as
        read. Ask before every call of a model; it costs nothing where there are none.
        """
        return self._membership.nudges.take()

    def with_nudges(self, text: str) -> str:
        """A text that the model reads next, a tool's result say, with the nudges that were not taken after it."""
        return appended(text, self.take_nudges())

    def on_nudge(self, listener: Callable[[Nudge], None]) -> Callable[[Nudge], None]:
        """Register a function, also as a decorator, that is given every nudge as soon as it is there.

        It then counts as read, and `take_nudges` has none, unless the function raises. It must not wait.
        """
        self._membership.nudges.listen(listener)
        return listener


def _told(error: BaseException | None) -> str:
    """What the gate is told of an error: its type and text, never the traceback."""
    if error is None:
        return ""
    if isinstance(error, Refused):
        return clip(f"{error.reason}: {error}")
    return clip(f"{type(error).__name__}: {error}" if isinstance(error, Exception) else type(error).__name__)
