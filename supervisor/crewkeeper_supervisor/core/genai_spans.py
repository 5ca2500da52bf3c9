"""Spans: OpenTelemetry traces of generative AI, as JSON, turned into the events of recorded runs.

Follows the semantic conventions for generative AI: spans `invoke_agent`, `execute_tool` and model calls with their
`gen_ai.*` attributes, messages as attributes or as span events. Spans of anything else are only looked at for who is
whose parent. A call of a tool that has no span of its own is taken from the model's messages.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_bus import trace_names as names

_MODEL_CALLS: Final = frozenset((names.CHAT, "text_completion", "generate_content", "completion"))
_USER: Final = "user"
_AGENT: Final = "agent"
_TOOLS: Final = "tools"
DEPTH_MAX: Final = 1000
"""Ancestors of a span that are looked at."""


class Span(Struct, kw_only=True):
    """One span, whatever form it came in."""

    trace: str
    id: str
    parent: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    failed: bool

    @property
    def operation(self) -> str:
        """What it spans: `chat`, `execute_tool`, `invoke_agent`, …; empty if it is none of generative AI."""
        return str(self.attributes.get(names.OPERATION, ""))


def spans_of(document: Any) -> list[Span]:
    """The spans in a document: OTLP/JSON, a list of spans as SDKs print them, or one span.

    Raises:
        ValueError: It is none of these; the text says where.
    """
    if isinstance(document, Mapping) and ("resourceSpans" in document or "resource_spans" in document):
        found = []
        for resource in document.get("resourceSpans", document.get("resource_spans")) or ():
            for scope in resource.get("scopeSpans", resource.get("scope_spans")) or ():
                found += [_otlp(span) for span in scope.get("spans") or ()]
        return found
    if isinstance(document, list):
        return [span for part in document for span in spans_of(part)]
    if isinstance(document, Mapping) and ("context" in document or "traceId" in document):
        return [_sdk(document) if "context" in document else _otlp(document)]
    raise ValueError("is neither OTLP/JSON (resourceSpans), nor a span, nor a list of spans")


def events_of(spans: Iterable[Span]) -> dict[str, list[dict[str, Any]]]:
    """The events of each trace, in the order of time, ready to be written as lines.

    Returns:
        Trace id to events; traces without a span of generative AI are left out.
    """
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace, []).append(span)
    told = {trace: _Teller(members).tell() for trace, members in traces.items()}
    return {trace: events for trace, events in told.items() if events}


class _Teller:
    """Tells the spans of one trace as events."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = {span.id: span for span in spans}
        self._order = sorted(spans, key=lambda span: (span.start_ns, span.id))
        self._told: list[tuple[int, int, dict[str, Any]]] = []
        own = (span.attributes.get(names.TOOL_CALL) for span in spans if span.operation == names.EXECUTE_TOOL)
        self._calls = {str(call) for call in own if call}
        self._answered: set[str] = set()

    def tell(self) -> list[dict[str, Any]]:
        for span in self._order:
            if span.operation == names.INVOKE_AGENT:
                self._agent(span)
            elif span.operation == names.EXECUTE_TOOL:
                self._tool(span)
            elif span.operation in _MODEL_CALLS:
                self._model(span)
        self._told.sort(key=lambda one: one[:2])
        return [{"i": index, **event} for index, (_, _, event) in enumerate(self._told)]

    def _add(self, at_ns: int, sender: str, to: str, kind: str, text: str, **more: Any) -> None:
        event = {"ts": at_ns / 1e9, "from": sender, "to": to, "kind": kind, "text": text, "chars": len(text)}
        event |= {name: value for name, value in more.items() if value is not None}
        self._told.append((at_ns, len(self._told), event))

    def _agent(self, span: Span) -> None:
        name, asker = self._who(span), self._asker(span)
        asked, answered = _messages(span, "input"), _messages(span, "output")
        brief = [text for role, text, _ in asked if role == "user" and text] or [text for _, text, _ in asked if text]
        if brief:
            self._add(span.start_ns, asker, name, "message", brief[-1])
        answer = [text for _, text, _ in answered if text]
        if answer:
            self._add(span.end_ns, name, asker, "message", answer[-1])

    def _tool(self, span: Span) -> None:
        name = self._who(span)
        tool = str(span.attributes.get(names.TOOL_NAME, "") or span.name.removeprefix(f"{names.EXECUTE_TOOL} "))
        call = str(span.attributes.get(names.TOOL_CALL, "")) or span.id
        args = _parsed(span.attributes.get("gen_ai.tool.call.arguments"))
        result = _text(span.attributes.get("gen_ai.tool.call.result"))
        if not result and span.failed:
            result = f"Error: {span.attributes.get(names.ERROR_TYPE) or 'failed'}"
        self._add(span.start_ns, name, _TOOLS, "tool_call", _text(args), tool=tool, args=args, call=call)
        error = True if span.failed else None
        self._add(span.end_ns, _TOOLS, name, "tool_result", result, tool=tool, call=call, error=error)

    def _model(self, span: Span) -> None:
        name = self._who(span)
        for _, _, parts in _messages(span, "input"):
            for part in parts:
                self._response(span, name, part)
        tokens = {
            key: count
            for key, attribute in (("in", names.INPUT_TOKENS), ("out", names.OUTPUT_TOKENS))
            if isinstance(count := span.attributes.get(attribute), int)
        }
        said = _messages(span, "output")
        text = "\n".join(text for _, text, _ in said if text)
        self._add(span.end_ns, name, name, "llm", text, tokens=tokens or None)
        for _, _, parts in said:
            for part in parts:
                call = str(part.get("id") or "")
                if part.get("type") == "tool_call" and call not in self._calls:
                    args = _parsed(part.get("arguments"))
                    tool = str(part.get("name", ""))
                    self._add(span.end_ns, name, _TOOLS, "tool_call", _text(args), tool=tool, args=args, call=call)

    def _response(self, span: Span, name: str, part: Mapping[str, Any]) -> None:
        """The answer of a tool that the model was given, unless its own span told it or an earlier call did."""
        call = str(part.get("id") or "")
        if part.get("type") != "tool_call_response" or call in self._calls or call in self._answered:
            return
        self._answered.add(call)
        self._add(
            span.start_ns, _TOOLS, name, "tool_result", _text(part.get("response", part.get("result"))), call=call
        )

    def _who(self, span: Span) -> str:
        """The agent that did this: its own name, or that of the nearest span around it that has one."""
        one: Span | None = span
        for _ in range(DEPTH_MAX):
            if one is None:
                break
            name = one.attributes.get(names.AGENT_NAME) or one.attributes.get("gen_ai.agent.id")
            if name:
                return str(name)
            one = self._spans.get(one.parent)
        return _AGENT

    def _asker(self, span: Span) -> str:
        """Who invoked an agent: the agent around it, or a person."""
        one = self._spans.get(span.parent)
        for _ in range(DEPTH_MAX):
            if one is None:
                break
            if one.operation == names.INVOKE_AGENT:
                return self._who(one)
            one = self._spans.get(one.parent)
        return _USER


def _messages(span: Span, side: str) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """Role, text and parts of the messages that went in or came out."""
    value = _parsed(span.attributes.get(f"gen_ai.{side}.messages"))
    if not isinstance(value, list):
        value = _indexed(span.attributes, "gen_ai.prompt" if side == "input" else "gen_ai.completion")
    if not value:
        wanted = ("gen_ai.choice",) if side == "output" else ("gen_ai.user.message", "gen_ai.tool.message")
        value = [
            {"role": name.split(".")[1], **{key: _parsed(part) for key, part in attributes.items()}}
            for name, attributes in span.events
            if name in wanted
        ]
    return [_message(one) for one in value if isinstance(one, Mapping)]


def _message(message: Mapping[str, Any]) -> tuple[str, str, list[Mapping[str, Any]]]:
    if isinstance(message.get("message"), Mapping):
        message = {**message, **message["message"]}
    parts = [part for part in message.get("parts") or () if isinstance(part, Mapping)]
    texts = [_text(part.get("content", part.get("text"))) for part in parts if part.get("type", "text") == "text"]
    if message.get("content") and not texts:
        texts = [_text(message["content"])]
    if message.get("role") == "tool" and not parts:
        parts = [{"type": "tool_call_response", "id": message.get("id"), "response": message.get("content")}]
    for call in message.get("tool_calls") or ():
        if isinstance(call, Mapping):
            function = call.get("function") if isinstance(call.get("function"), Mapping) else call
            parts.append({"type": "tool_call", "id": call.get("id"), **(function or {})})
    return str(message.get("role", "")), "\n".join(text for text in texts if text), parts


def _indexed(attributes: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Messages spelled as `prefix.0.role`, `prefix.0.content`, …."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        if key.startswith(f"{prefix}."):
            number, _, name = key.removeprefix(f"{prefix}.").partition(".")
            if number.isdigit() and name in ("role", "content"):
                found.setdefault(int(number), {})[name] = value
    return [found[number] for number in sorted(found)]


def _parsed(value: Any) -> Any:
    """JSON in a string as what it says; anything else as it is."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _otlp(span: Mapping[str, Any]) -> Span:
    status = span.get("status") or {}
    return Span(
        trace=str(span.get("traceId", span.get("trace_id", ""))),
        id=str(span.get("spanId", span.get("span_id", ""))),
        parent=str(span.get("parentSpanId", span.get("parent_span_id")) or ""),
        name=str(span.get("name", "")),
        start_ns=int(span.get("startTimeUnixNano", span.get("start_time_unix_nano")) or 0),
        end_ns=int(span.get("endTimeUnixNano", span.get("end_time_unix_nano")) or 0),
        attributes=_otlp_attributes(span.get("attributes") or ()),
        events=[
            (str(event.get("name", "")), _otlp_attributes(event.get("attributes") or ()))
            for event in span.get("events") or ()
        ],
        failed=status.get("code") in (2, "STATUS_CODE_ERROR"),
    )


def _otlp_attributes(attributes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(one["key"]): _otlp_value(one.get("value") or {}) for one in attributes if "key" in one}


def _otlp_value(value: Mapping[str, Any]) -> Any:
    for kind, content in value.items():
        match kind:
            case "intValue":
                return int(content)
            case "arrayValue":
                return [_otlp_value(item) for item in content.get("values") or ()]
            case "kvlistValue":
                return _otlp_attributes(content.get("values") or ())
            case _:
                return content
    return None


def _sdk(span: Mapping[str, Any]) -> Span:
    context = span["context"] if isinstance(span["context"], Mapping) else {}
    status = span.get("status") or {}
    return Span(
        trace=str(context.get("trace_id", "")),
        id=str(context.get("span_id", "")),
        parent=str(span.get("parent_id") or ""),
        name=str(span.get("name", "")),
        start_ns=_nanoseconds(span.get("start_time")),
        end_ns=_nanoseconds(span.get("end_time")),
        attributes=dict(span.get("attributes") or {}),
        events=[
            (str(event.get("name", "")), dict(event.get("attributes") or {})) for event in span.get("events") or ()
        ],
        failed=str(status.get("status_code", "")).upper().endswith("ERROR"),
    )


def _nanoseconds(value: Any) -> int:
    """Nanoseconds, or the order of an ISO 8601 time in UTC: its digits, which sort as the times do."""
    if isinstance(value, int):
        return value
    digits = "".join(character for character in str(value or "") if character.isdigit())
    return int(digits.ljust(23, "0")[:23]) if digits else 0
