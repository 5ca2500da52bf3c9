"""Request: what a client wants of a model, read, bounded and made into what is sent on; its input is counted elsewhere.

What is sent on is made anew from what was read, so that the provider cannot read it otherwise than it was counted. A
request has an upper bound of tokens in both directions, or is refused: one without a limit is given one, one that
refers to what only the provider knows, or asks for services that tokens do not pay, is turned away.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from crewkeeper_bus.codec import nesting
from crewkeeper_bus.redaction import TooDeep
from crewkeeper_supervisor.gate.call import Redaction
from crewkeeper_supervisor.gate.cleaning import clean
from crewkeeper_supervisor.gate.prices import TOKENS_MAX, estimate_tokens
from crewkeeper_supervisor.model_proxy.input_bound import Seen, has_sound, input_tokens, remembered_tokens
from crewkeeper_supervisor.model_proxy.problem import Problem, Protocol

Call = Literal["chat", "responses", "embeddings", "messages"]

NESTING_MAX: Final = 128
MODEL_MAX_CHARS: Final = 200
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
    "chat": ("web_search_options", "audio", "search_parameters", "enable_search"),
    "responses": ("background",),
    "messages": ("mcp_servers", "container", "inference_geo"),
    "embeddings": (),
}
_ROUTED_KEYS: Final = ("models", "route", "fallbacks", "plugins", "preset")
"""With which providers of many models take another one than was priced, or add services."""
_PLAIN: Final = {
    "service_tier": (None, "auto", "default", "standard", "standard_only", "on_demand", "flex"),
    "speed": (None, "standard"),
}
"""Tiers that cost what the tokens tell, or less."""
_TEXT_OUT: Final[tuple[list[str] | None, ...]] = (None, [], ["text"])
_REDACTED_MORE: Final = 200
"""Bytes that placeholders may make a request larger than twice what it was; it was reserved for what it was."""


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
            Problem: It cannot be redacted, or grows by that, so it must not be sent.
        """
        if not what:
            return self.payload
        value = msgspec.json.decode(self.payload)
        model = value.pop("model")
        try:
            cleaned, _ = clean(value, [Redaction(rule="", what=tuple(what))])
        except (TooDeep, ValueError) as error:
            raise _bad(f"it cannot be redacted, and so is not sent: {error}") from None
        payload = msgspec.json.encode({"model": model, **cleaned})
        if len(payload) - len(self.payload) > len(self.payload) + _REDACTED_MORE:
            raise _bad(
                "what stands in for what is redacted makes it more than twice as large as what was reserved: not sent"
            )
        return payload


def read(call: Call, body: bytes, limits: Limits, seen: Seen) -> ModelRequest:
    """Read a request.

    Args:
        call: Which of the interfaces it came by.
        body: As it came.
        limits: What it may ask for.
        seen: The tokens of an earlier response of this run, or of the one that an item was part of, by its id.

    Raises:
        Problem: It cannot be read, or has no bound.
    """
    value = _decoded(body)
    model = value.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_MAX_CHARS or not model.isprintable():
        raise _bad(f"model must be a name of 1 to {MODEL_MAX_CHARS} characters")
    if not limits.unpriced:
        _check_priced(call, value)
    earlier = remembered_tokens(value, seen) if call == "responses" else 0
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
        input_tokens=min(TOKENS_MAX, input_tokens(value, payload) + earlier),
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
    for key, words in _PLAIN.items():
        if value.get(key) not in words:
            raise _unpriced(f"{key} {str(value[key])[:60]!r} may have another price")
    if _compacts(value.get("context_management")):
        raise _unpriced("a provider that shortens the talk by itself calls a model for that, beyond every limit")
    if value.get("modalities") not in _TEXT_OUT:
        raise _unpriced("an answer that is not text has another price")
    if has_sound(value):
        raise _unpriced("sound and video have another price")
    tools = value.get("tools")
    own = _OWN_TOOLS.get(call, ())
    for tool in tools if isinstance(tools, list) else ():
        type_ = tool.get("type", "custom") if isinstance(tool, dict) else "custom"
        if not isinstance(type_, str) or not type_.startswith(own) or (call != "messages" and type_ not in own):
            raise _unpriced(f"the tool {str(type_)[:60]!r} runs at the provider, where no rule and no budget sees it")


def _unpriced(text: str) -> Problem:
    return _bad(f"{text}; leave it out, or let the operator set model_proxy.unpriced to allow it", "unpriced")


def _compacts(managed: Any) -> bool:
    edits = managed.get("edits") if isinstance(managed, dict) else managed
    listed = edits if isinstance(edits, list) else []
    return any(isinstance(edit, dict) and str(edit.get("type", "")).startswith("compact") for edit in listed)


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
    if call != "chat":
        return max(bounds)
    choices = [_whole(value[name], name, _CHOICES_MAX) for name in ("n", "best_of") if value.get(name) is not None]
    # What was predicted and does not come is paid as if it had been written.
    predicted = value.get("prediction")
    missed = 0 if predicted is None else estimate_tokens(msgspec.json.encode(predicted))
    return min(TOKENS_MAX, (max(bounds) + missed) * max(choices, default=1))


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
