"""Tracing: the spans of one client, and the context that goes with what it sends; exporting them is `trace_export`.

Theory of operation. All spans of a run are in one trace, whose id is a digest of the run's name, so every process knows
it without asking. What an agent sends carries the `traceparent` of the span that sent it, as a field of the message:
it is recorded with the message, and is content like all the rest; who sent it is told by the subject alone. A receiver
takes it as the parent of its own span, or as nothing where it is malformed.

A client traces if its program has set up OpenTelemetry, and then uses what that has set up. Else it holds no `Tracing`,
imports nothing of it, and sends no context but one that was handed to it (`carrying`), as a proxy of MCP is.
"""

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

import structlog

from crewkeeper_bus import trace_names as names
from crewkeeper_bus.printable import inert

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
SCOPE: Final = "crewkeeper"
TEXT_MAX_CHARS: Final = 200

VARIABLE: Final = "TRACEPARENT"
"""By this variable a program is told in which context it was started."""
META: Final = "traceparent"
"""By this key of `_meta` an MCP request carries it."""
_carried: ContextVar[str] = ContextVar("crewkeeper_carried", default="")

log = structlog.get_logger()


def root_of(run: str) -> str:
    """The `traceparent` of a run as a whole: the parent of whatever has no other."""
    digest = hashlib.sha256(f"crewkeeper run {run}".encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


def parsed(traceparent: str) -> tuple[int, int, int] | None:
    """Trace id, span id and flags; None if it is none."""
    found = _TRACEPARENT.match(traceparent)
    if found is None:
        return None
    trace, span, flags = (int(part, 16) for part in found.groups())
    return (trace, span, flags) if trace and span else None


@contextlib.contextmanager
def carrying(traceparent: Any) -> Iterator[None]:
    """Be in a context around a block that somebody else has sent; what is none changes nothing.

    Where the program has OpenTelemetry, that context is the current one there as well.
    """
    found = parsed(traceparent) if isinstance(traceparent, str) else None
    if found is None:
        yield
        return
    taken = _carried.set(traceparent)
    api, context = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.context")
    token = None
    if api is not None and context is not None:
        token = context.attach(api.set_span_in_context(api.NonRecordingSpan(_remote(api, found))))
    try:
        yield
    finally:
        if token is not None and context is not None:
            context.detach(token)
        _carried.reset(taken)


def current() -> str:
    """The `traceparent` of the code that runs now, by its own span or the one that is carried; empty: none."""
    api = sys.modules.get("opentelemetry.trace")
    context = None if api is None else api.get_current_span().get_span_context()
    return _carried.get() if context is None or not context.is_valid else _written(context)


def _written(context: Any) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _remote(api: Any, found: tuple[int, int, int]) -> Any:
    trace_id, span_id, flags = found
    return api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=api.TraceFlags(flags))


class Span:
    """One span; a context manager that makes it the current one around a block, and ends it."""

    __slots__ = ("_api", "_context", "_ended", "_span", "_token")

    def __init__(self, span: Any, api: Any, context: Any) -> None:
        self._span = span
        self._api = api
        self._context = context
        self._token: Any = None
        self._ended = False

    @property
    def traceparent(self) -> str:
        """The context to send along."""
        return _written(self._span.get_span_context())

    def note(self, **attributes: Any) -> None:
        """Add attributes, by the names of `trace_names` in lower case; empty ones are left out."""
        for name, value in attributes.items():
            if value not in ("", None, ()):
                self._span.set_attribute(getattr(names, name.upper()), bounded(value))

    def fail(self, kind: str) -> None:
        """What it spans has failed."""
        self._span.set_attribute(names.ERROR_TYPE, bounded(kind))
        self._span.set_status(self._api.StatusCode.ERROR)

    def end(self, error: BaseException | None = None) -> None:
        """End it; idempotent."""
        if self._ended:
            return
        self._ended = True
        if error is not None:
            self.fail(getattr(error, "reason", "") or type(error).__name__)
        self._span.end()

    def __enter__(self) -> "Span":
        self._token = self._context.attach(self._api.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.detach(self._token)
        self.end(error)


class Tracing:
    """The spans of one agent in one run.

    Args:
        run: The run.
        agent: Its name.
        provider: OpenTelemetry's tracer provider.

    Attributes:
        agent: Its name.
    """

    def __init__(self, run: str, agent: str, provider: Any) -> None:
        from opentelemetry import context, trace

        self.agent = agent
        self._trace = trace
        self._context = context
        self._tracer = provider.get_tracer(SCOPE)
        self._own = {names.RUN: run, names.CONVERSATION: run, names.AGENT: agent}
        self._root = root_of(run)

    def here(self) -> str:
        """The `traceparent` of the code that runs now."""
        return current() or self._root

    def work(self, agent: str, parent: str = "", **attributes: Any) -> Span:
        """This agent works: on a call, whose context is `parent`, or on an activity of its own."""
        kind = self._trace.SpanKind.SERVER if parent else self._trace.SpanKind.INTERNAL
        return self._start(f"{names.INVOKE_AGENT} {agent}", kind, parent, operation=names.INVOKE_AGENT, **attributes)

    def call(self, to: str, **attributes: Any) -> Span:
        """This agent calls another one."""
        kind = self._trace.SpanKind.CLIENT
        return self._start(
            f"{names.INVOKE_AGENT} {to}",
            kind,
            operation=names.INVOKE_AGENT,
            agent_name=to,
            messaging="nats",
            destination=to,
            **attributes,
        )

    def tool(self, tool: str, call: str) -> Span:
        """This agent uses a tool."""
        return self._start(
            f"{names.EXECUTE_TOOL} {tool}",
            self._trace.SpanKind.INTERNAL,
            operation=names.EXECUTE_TOOL,
            tool_name=tool,
            tool_call=call,
            call=call,
        )

    def ran(self, tool: str, call: str, agent: str, parent: str) -> Span:
        """This tool host runs a tool for an agent, whose call's context is `parent`."""
        return self._start(
            f"{names.RUN_TOOL} {tool}",
            self._trace.SpanKind.SERVER,
            parent,
            agent_name=agent,
            tool_name=tool,
            tool_call=call,
            call=call,
        )

    def model(self, model: str, call: str, provider: str = "") -> Span:
        """This agent asks a model."""
        return self._start(
            f"{names.CHAT} {model}",
            self._trace.SpanKind.CLIENT,
            operation=names.CHAT,
            request_model=model,
            provider=provider,
            call=call,
        )

    def send(self, to: str, message: str) -> Span:
        """This agent sends a one-way message."""
        kind = self._trace.SpanKind.PRODUCER
        return self._start(f"send {to}", kind, messaging="nats", destination=to, message=message)

    def receive(self, sender: str, message: str, context: str) -> Span:
        """This agent takes one; the sender's span is linked, for what is going on here is not its doing."""
        kind = self._trace.SpanKind.CONSUMER
        return self._start(f"receive {sender}", kind, link=context, messaging="nats", message=message)

    def _start(self, name: str, kind: Any, parent: str = "", link: str = "", **attributes: Any) -> Span:
        trace = self._trace
        around = None
        if parsed(parent) is None and not trace.get_current_span().get_span_context().is_valid:
            parent = self._root
        if (remote := self._remote(parent)) is not None:
            around = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        linked = self._remote(link)
        links = () if linked is None else (trace.Link(linked),)
        try:
            started = self._tracer.start_span(bounded(name), around, kind, self._own, links)
        except Exception as error:  # noqa: BLE001 - what traces must not be why a call fails
            log.warning("traces.no_span", agent=self.agent, error=type(error).__name__)
            started = trace.INVALID_SPAN
        span = Span(started, trace, self._context)
        span.note(**attributes)
        return span

    def _remote(self, traceparent: str) -> Any:
        found = parsed(traceparent)
        return None if found is None else _remote(self._trace, found)


def tracing_of(run: str, agent: str) -> Tracing | None:
    """How a client traces; None if its program has not set up OpenTelemetry."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
        return None
    return Tracing(run, agent, provider)


def bounded(value: Any) -> Any:
    """A name or an attribute of a span: short, and inert in whatever shows it. What is no text stays what it is."""
    if isinstance(value, tuple | list):
        return [bounded(each) for each in value[:100]]
    # What is no UTF-8 would cost everything that is exported together with it; as an escape it is.
    return inert(value, TEXT_MAX_CHARS) if isinstance(value, str) else value
