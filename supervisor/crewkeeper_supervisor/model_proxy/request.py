"""Request: what a client wants of a model, read, bounded and made into what is sent on; nobody is asked here.

What is sent on is made anew from what was read, so that the provider cannot read it otherwise than it was counted. A
request has an upper bound of tokens in both directions, or is refused: one without a limit is given one, one that
refers to what only the provider knows, or asks for services that tokens do not pay, is turned away.
"""

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_bus.codec import nesting
from crewkeeper_bus.redaction import TooDeep
from crewkeeper_supervisor.gate.call import Redaction
from crewkeeper_supervisor.gate.cleaning import clean
from crewkeeper_supervisor.gate.prices import TOKENS_MAX, estimate_tokens
from crewkeeper_supervisor.model_proxy.problem import Problem, Protocol

Call = Literal["chat", "responses", "embeddings", "messages"]

NESTING_MAX: Final = 128
MODEL_MAX_CHARS: Final = 200
IMAGE_TOKENS: Final = 50_000
"""More than any provider counts for one picture."""
DOCUMENT_TOKENS: Final = 200_000
"""What one document with pages may count: its bytes say little about that."""
_PAGE_BYTES_PER_TOKEN: Final = 3
_CHOICES_MAX: Final = 128

_NOT_TOLD_APART: Final = (
    "stream",
    "stream_options",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "store",
)
"""Keys in which two requests for the same may differ."""
_OWN_TOOLS: Final = {
    "chat": ("function", "custom"),
    "responses": (
        "function",
        "custom",
        "local_shell",
        "apply_patch",
        "computer_use_preview",
        "computer",
    ),
    "messages": ("custom", "bash_", "text_editor_", "computer_", "memory_"),
}
"""Tools that the client carries out, by type or by its beginning; all others run at the provider."""
_HOSTED_KEYS: Final = {
    "chat": ("web_search_options", "audio"),
    "responses": ("background",),
    "messages": ("mcp_servers", "container", "inference_geo"),
    "embeddings": (),
}
_ROUTED_KEYS: Final = ("models", "route", "fallbacks", "plugins")
"""With which providers of many models take another one than was priced, or add services."""
_REMEMBERED_KEYS: Final = ("conversation", "prompt")
"""Of responses: input that the provider keeps."""
_DEAR: Final = {"service_tier": ("priority", "fast"), "speed": ("fast",)}
_TEXT_OUT: Final[tuple[list[str] | None, ...]] = (None, [], ["text"])
_SOUNDS: Final = ("input_audio", "video_url", "input_video")
_WRITTEN_BY_MODELS: Final = ("tool_use", "server_tool_use", "function_call", "custom_tool_call", "mcp_call")
"""Parts whose fields are read as text, whatever they look like."""
_SEEN_KEYS: Final = ("messages", "input", "system")
"""Where pictures and documents are looked at; anywhere else they are text."""
_PICTURES: Final = ("image_url", "input_image", "image")
_DOCUMENTS: Final = ("file", "input_file", "document")


class Limits(Struct, frozen=True, kw_only=True):
    """What requests may ask for."""

    max_output_tokens: int
    """Given to requests that name no limit."""
    unpriced: bool = False
    """Whether to let through what tokens alone do not pay."""


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One request for a model, with its bounds."""

    call: Call
    protocol: Protocol
    model: str
    input_tokens: int
    output_tokens: int
    stream: bool
    hides_usage: bool
    """Usage was asked for on the client's behalf, and is not to be passed on."""
    digest: str
    """Equal for requests for the same."""
    payload: bytes
    """What to send on."""

    def redacted(self, what: Sequence[str]) -> bytes:
        """What to send on, without what policy wants out of it; the model's name stays.

        Raises:
            Problem: It cannot be redacted, so it must not be sent.
        """
        if not what:
            return self.payload
        value = msgspec.json.decode(self.payload)
        model = value.pop("model")
        try:
            cleaned, _ = clean(value, [Redaction(rule="", what=tuple(what))])
        except (TooDeep, ValueError) as error:
            raise _bad(f"it cannot be redacted, and so is not sent: {error}") from None
        return msgspec.json.encode({"model": model, **cleaned})


def read(call: Call, body: bytes, limits: Limits, seen: Callable[[str], int | None]) -> ModelRequest:
    """Read a request.

    Args:
        call: Which of the interfaces it came by.
        body: As it came.
        limits: What it may ask for.
        seen: The tokens of an earlier response of this run, by its id; None: there was none.

    Raises:
        Problem: It cannot be read, or has no bound.
    """
    value = _decoded(body)
    model = value.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_MAX_CHARS or not model.isprintable():
        raise _bad(f"model must be a name of 1 to {MODEL_MAX_CHARS} characters")
    if not limits.unpriced:
        _check_priced(call, value)
    earlier = _earlier(value, seen) if call == "responses" else 0
    digest = hashlib.sha256(
        msgspec.json.encode({k: v for k, v in value.items() if k not in _NOT_TOLD_APART}, order="sorted")
    ).hexdigest()
    if not isinstance(value.get("stream", False), bool):
        raise _bad("stream must be true or false")
    stream = value.get("stream", False) and call != "embeddings"
    output_tokens = _bounded_output(call, value, limits)
    hides_usage = call == "chat" and stream and _ask_for_usage(value)
    payload = msgspec.json.encode(value)
    return ModelRequest(
        call=call,
        protocol="anthropic" if call == "messages" else "openai",
        model=model,
        input_tokens=min(TOKENS_MAX, _input_tokens(value, payload) + earlier),
        output_tokens=output_tokens,
        stream=stream,
        hides_usage=hides_usage,
        digest=digest,
        payload=payload,
    )


def _decoded(body: bytes) -> dict[str, Any]:
    if nesting(body, NESTING_MAX) > NESTING_MAX:
        raise _bad(f"the request nests deeper than {NESTING_MAX} levels: flatten it")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _bad("the request is not JSON") from None
    if not isinstance(value, dict):
        raise _bad("the request must be a JSON object")
    return value


def _bad(text: str, code: str = "bad_request") -> Problem:
    return Problem(400, code, text)


# --- what has no price or no bound ---


def _check_priced(call: Call, value: dict[str, Any]) -> None:
    for key in (*_HOSTED_KEYS[call], *_ROUTED_KEYS):
        if value.get(key):
            raise _unpriced(f"{key} makes the provider do more than its tokens pay")
    for key, words in _DEAR.items():
        if value.get(key) in words:
            raise _unpriced(f"{key} {value[key]!r} has another price")
    if value.get("modalities") not in _TEXT_OUT:
        raise _unpriced("an answer that is not text has another price")
    if any(part.get("type") in _SOUNDS for part in _parts(value)):
        raise _unpriced("sound and video have another price")
    tools = value.get("tools")
    own = _OWN_TOOLS.get(call, ())
    for tool in tools if isinstance(tools, list) else ():
        type_ = tool.get("type", "custom") if isinstance(tool, dict) else "custom"
        if not isinstance(type_, str) or not type_.startswith(own) or (call != "messages" and type_ not in own):
            raise _unpriced(f"the tool {str(type_)[:60]!r} runs at the provider, where no rule and no budget sees it")


def _unpriced(text: str) -> Problem:
    return _bad(f"{text}; leave it out, or let the operator set model_proxy.unpriced to allow it", "unpriced")


def _earlier(value: dict[str, Any], seen: Callable[[str], int | None]) -> int:
    for key in _REMEMBERED_KEYS:
        if value.get(key) is not None:
            raise _bad(f"{key} refers to input that only the provider knows: send the whole input", "unbounded_input")
    id_ = value.get("previous_response_id")
    if id_ is None:
        return 0
    tokens = seen(id_) if isinstance(id_, str) else None
    if tokens is None:
        raise _bad(
            "previous_response_id is of no response that this proxy has seen: send the whole input", "unknown_id"
        )
    return tokens


# --- bounds ---


def _bounded_output(call: Call, value: dict[str, Any], limits: Limits) -> int:
    """The most that may come out; written into the request where the client named no limit."""
    if call == "embeddings":
        return 0
    names = {"chat": ("max_completion_tokens", "max_tokens"), "responses": ("max_output_tokens",)}.get(
        call, ("max_tokens",)
    )
    given = [name for name in names if value.get(name) is not None]
    bounds = [_whole(value[name], name, TOKENS_MAX) for name in given]
    for name in set(names) - set(given):
        value.pop(name, None)
    if not bounds:
        value[names[0]] = limits.max_output_tokens
        bounds = [limits.max_output_tokens]
    choices = value.get("n") if call == "chat" else None
    return max(bounds) * (1 if choices is None else _whole(choices, "n", _CHOICES_MAX))


def _whole(value: Any, name: str, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= high:
        raise _bad(f"{name} must be a whole number from 1 to {high}")
    return value


def _ask_for_usage(value: dict[str, Any]) -> bool:
    """Let the stream end with its usage; whether the client did not ask for that."""
    options = value.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _bad("stream_options must be an object")
    if options and options.get("include_usage") is True:
        return False
    value["stream_options"] = {**(options or {}), "include_usage": True}
    return True


def _input_tokens(value: dict[str, Any], payload: bytes) -> int:
    """An upper bound of what goes in: the bytes of the text by three, more for pictures, documents and bare tokens."""
    tokens, left_out = 0, list[bytes]()
    for part in _parts(value):
        type_ = part.get("type")
        if type_ in _PICTURES:
            left_out.append(_picture(part))
            tokens += IMAGE_TOKENS
        elif type_ in _DOCUMENTS:
            _check_inline(part)
            left_out.append(pages := _pages(part))
            tokens += DOCUMENT_TOKENS + len(pages) // _PAGE_BYTES_PER_TOKEN
    tokens += _bare_tokens(value.get("input"))
    return tokens + estimate_tokens(payload, left_out)


def _parts(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pictures, sounds and documents of a request, each once."""
    for key in _SEEN_KEYS:
        yield from _media(value.get(key))


def _media(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from _media(each)
    elif isinstance(value, dict):
        if _is_medium(value):
            yield value
        elif value.get("type") not in _WRITTEN_BY_MODELS:
            for each in value.values():
                if isinstance(each, dict | list):
                    yield from _media(each)


def _picture(part: dict[str, Any]) -> bytes:
    """The one text of a part that is the picture itself."""
    for holder, key in ((part.get("image_url"), "url"), (part.get("source"), "data"), (part, "image_url")):
        if isinstance(holder, dict) and isinstance(data := holder.get(key), str):
            return data.encode()
    return b""


def _pages(part: dict[str, Any]) -> bytes:
    """The one text of a part that is the document itself, unless it is plain text."""
    source, file = part.get("source"), part.get("file")
    if isinstance(source, dict):
        holder, key = (source if source.get("type") == "base64" else {}), "data"
    else:
        holder, key = (file if isinstance(file, dict) else part), "file_data"
    data = holder.get(key)
    return data.encode() if isinstance(data, str) else b""


def _is_medium(part: dict[str, Any]) -> bool:
    """Whether it is a picture, a sound or a document, and not arguments that use the same words."""
    holders: Container[str] = part.keys()
    match part.get("type"):
        case "input_audio" | "video_url" | "input_video":
            return part["type"] in holders
        case "image_url" | "input_image":
            return "image_url" in holders or "file_id" in holders
        case "image" | "document":
            return isinstance(part.get("source"), dict)
        case "file":
            return isinstance(part.get("file"), dict)
        case "input_file":
            return True
    return False


def _check_inline(part: dict[str, Any]) -> None:
    holder = part.get("source") or part.get("file") or part
    if not isinstance(holder, dict) or any(holder.get(key) for key in ("file_id", "file_url", "url")):
        raise _bad("a document that is only named has no known size: send its content", "unbounded_input")


def _bare_tokens(value: Any) -> int:
    if isinstance(value, list):
        return sum(_bare_tokens(each) for each in value)
    return int(isinstance(value, int))
