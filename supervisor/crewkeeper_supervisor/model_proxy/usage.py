"""Usage: the tokens that a provider reports, out of whole answers and out of events; what they cost is not known here.

Numbers that cannot be are as good as none: then nobody knows what was spent, and the reservation stands.
"""

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_supervisor.model_proxy.problem import Protocol

_TOKENS_MAX: Final = 2**40
_MODEL_MAX_CHARS: Final = 200
_ITEMS_MAX: Final = 100


class Reported(Struct, frozen=True, kw_only=True):
    """What a provider says a call has used. `cached_tokens` and `cache_write_tokens` are part of `input_tokens`.

    `cache_write_1h_tokens`: the part of `cache_write_tokens` that is kept for an hour, and is dearer.
    """

    model: str = ""
    id: str = ""
    """Of the response."""
    items: tuple[str, ...] = ()
    """Ids of its parts, by which a later request may refer to them; the first 100."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether both directions are known."""
        return self.input_tokens is not None and self.output_tokens is not None

    def joined(self, later: "Reported") -> "Reported":
        """With what was said later: counts of a stream grow."""
        return Reported(
            model=self.model or later.model,
            id=self.id or later.id,
            items=later.items or self.items,
            input_tokens=self.input_tokens if later.input_tokens is None else later.input_tokens,
            output_tokens=self.output_tokens if later.output_tokens is None else later.output_tokens,
            cached_tokens=max(self.cached_tokens, later.cached_tokens),
            cache_write_tokens=max(self.cache_write_tokens, later.cache_write_tokens),
            cache_write_1h_tokens=max(self.cache_write_1h_tokens, later.cache_write_1h_tokens),
        )


def reported(protocol: Protocol, value: Any) -> Reported:
    """What an answer, or one event of a stream, says about usage; nothing, where it says nothing usable."""
    if not isinstance(value, dict):
        return Reported()
    inner = value.get("message" if protocol == "anthropic" else "response")
    source = inner if isinstance(inner, dict) else value
    found = Reported(model=_text(source.get("model")), id=_text(source.get("id")), items=_items(source.get("output")))
    usage = source.get("usage", value.get("usage"))
    if not isinstance(usage, dict):
        return found
    counted = _anthropic(usage) if protocol == "anthropic" else _openai(usage)
    return replace(counted, model=found.model, id=found.id, items=found.items) if _is_possible(counted) else found


def _openai(usage: dict[str, Any]) -> Reported:
    """Of chat completions, embeddings (`prompt_tokens`) and responses (`input_tokens`)."""
    chat = "prompt_tokens" in usage
    details = usage.get("prompt_tokens_details" if chat else "input_tokens_details")
    details = details if isinstance(details, dict) else {}
    given = _count(usage.get("prompt_tokens" if chat else "input_tokens"))
    made = _count(usage.get("completion_tokens" if chat else "output_tokens"))
    total = _count(usage.get("total_tokens"))
    if made is None and given is not None and total is not None:  # embeddings make none
        made = max(0, total - given)
    if given is not None and made is not None and total is not None:
        made = max(made, total - given)  # some providers leave reasoning out of the one and not out of the other
    return Reported(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=_count(details.get("cached_tokens")) or 0,
        cache_write_tokens=_count(details.get("cache_write_tokens")) or 0,
    )


def _anthropic(usage: dict[str, Any]) -> Reported:
    """Of messages: what is read from a cache or written to one is counted apart."""
    fresh = _count(usage.get("input_tokens"))
    cached = _count(usage.get("cache_read_input_tokens")) or 0
    written = _count(usage.get("cache_creation_input_tokens")) or 0
    details = usage.get("cache_creation")
    for_an_hour = _count(details.get("ephemeral_1h_input_tokens")) if isinstance(details, dict) else 0
    return Reported(
        input_tokens=None if fresh is None else fresh + cached + written,
        output_tokens=_count(usage.get("output_tokens")),
        cached_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(written, for_an_hour or 0),
    )


def _is_possible(usage: Reported) -> bool:
    if usage.input_tokens is None:
        return usage.cached_tokens == usage.cache_write_tokens == 0
    return usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens


def _count(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKENS_MAX
    return value if good else None


def _items(output: Any) -> tuple[str, ...]:
    listed = output[:_ITEMS_MAX] if isinstance(output, list) else []
    return tuple(id_ for each in listed if isinstance(each, dict) and (id_ := _text(each.get("id"))))


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= _MODEL_MAX_CHARS and value.isprintable() else ""
