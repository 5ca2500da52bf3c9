"""What a model call costs, in whole micro-USD, rounded up: from the crew file, or from the table of genai-prices.

Nothing is fetched. Every sum is what was used times the price of the model that was recognised; a model that is not
known has no price, which is a refusal and never zero. The table is imported when it is first needed.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from crewkeeper_supervisor.core.tools import Price
from crewkeeper_supervisor.gate.name_pattern import matches, near

_MILLION: Final = 1_000_000
_ASCII: Final = bytes(range(128))
_PLAIN: Final = b"abcdefghijklmnopqrstuvwxyz "
_OTHER_THAN_PLAIN: Final = bytes(set(range(256)) - set(_PLAIN))
_BEYOND_TOKENS: Final = re.compile(r":(online|nitro|exacto)\Z|search-(preview|api)|deep-research", re.IGNORECASE)
"""Names of models, and ways to them, whose services cost more than the tokens that the table prices."""
TOKENS_MAX: Final = 2**40
_CACHED_COSTS: Final = 4096


class UnknownPrice(LookupError):  # noqa: N818 - what is the case
    """Nobody says what a model costs; the operator must declare it under `prices`, or the call is not made.

    Attributes:
        model: As asked for.
        near: Known models most like it.
    """

    def __init__(self, model: str, alike: tuple[str, ...] = ()) -> None:
        """Name the model."""
        hint = f"; known are {', '.join(alike)}" if alike else ""
        super().__init__(
            f"the price of the model {model[:100]!r} is not known{hint}; declare it under prices in the crew file"
        )
        self.model = model
        self.near = alike


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of one call. Those cached and written to a cache are part of `input_tokens`.

    `cache_write_1h_tokens`: the part of `cache_write_tokens` that is kept for an hour. `estimated`: counted here, not
    reported by the provider.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    estimated: bool = False


class Cost(Struct, frozen=True, kw_only=True):
    """A price with where it is from."""

    microusd: int
    model: str
    """The model whose price it is: as declared, or as the table recognised the name."""
    source: Literal["declared", "table"]
    estimated: bool = False


def estimate_tokens(text: bytes, left_out: Iterable[bytes] = ()) -> int:
    """An upper guess at the tokens of a text, without a tokenizer.

    A token for every three bytes is more than running text has. Text can be made to have more: figures, signs and
    capitals without a pattern have up to one for each, and so have the bytes of rare scripts. Where there are many of
    them, three quarters of the former and two thirds of the latter count, and a quarter of what is left.

    Args:
        text: In UTF-8.
        left_out: Parts of it that are counted otherwise, each as often as it is given.
    """
    size, foreign, dense = _sizes(text)
    for part in left_out:
        less = _sizes(part)
        size, foreign, dense = max(0, size - less[0]), max(0, foreign - less[1]), max(0, dense - less[2])
    twelfths = max(4 * size, 9 * dense + 8 * foreign + 3 * max(0, size - dense - foreign))
    return -(-twelfths // 12)


def _sizes(text: bytes) -> tuple[int, int, int]:
    """Bytes in all, those of other scripts than the Latin, and those of figures, signs and capitals."""
    plain = len(text.translate(None, _OTHER_THAN_PLAIN))
    foreign = len(text.translate(None, _ASCII))
    return len(text), foreign, len(text) - foreign - plain


class PriceBook:
    """Prices of one crew.

    Args:
        declared: By model or pattern of models; the exact name goes before patterns, these in their order.
    """

    def __init__(self, declared: Mapping[str, Price] | None = None) -> None:
        """Hold the declared ones."""
        self._declared = dict(declared or {})

    def cost(self, model: str, usage: Usage, *, at_s: float) -> Cost:
        """What a call has cost.

        Args:
            model: As the request or the response names it; `provider/model` is understood.
            usage: What was used.
            at_s: When, in seconds since 1970: prices change.

        Raises:
            UnknownPrice: The model is not known.
            ValueError: Tokens are negative, absurdly many, or more were cached than came in.
        """
        _check(usage)
        price = self._find(model)
        if price is not None:
            return Cost(
                microusd=_declared_cost(price, usage), model=model, source="declared", estimated=usage.estimated
            )
        day = int(at_s // 86_400)
        return _table_cost(model, usage, day)

    def reservation(self, model: str, *, input_tokens: int, max_tokens: int, at_s: float) -> Cost:
        """The most a call can cost: all that may be written is written, and what comes in is priced at the dearest.

        Args:
            model: As the request names it.
            input_tokens: An upper bound of what goes in, as by `estimate_tokens`.
            max_tokens: The most that may come out, with reasoning.
            at_s: When, in seconds since 1970.

        Raises:
            UnknownPrice: The model is not known.
            ValueError: Tokens are negative or absurdly many.
        """
        plain = Usage(input_tokens=input_tokens, output_tokens=max_tokens, estimated=True)
        cases = (
            plain,
            replace(plain, cached_tokens=input_tokens),
            replace(plain, cache_write_tokens=input_tokens),
            replace(plain, cache_write_tokens=input_tokens, cache_write_1h_tokens=input_tokens),
        )
        costs = [self.cost(model, usage, at_s=at_s) for usage in cases]
        return max(costs, key=lambda cost: cost.microusd)

    def _find(self, model: str) -> Price | None:
        exact = self._declared.get(model)
        if exact is not None:
            return exact
        return next((price for pattern, price in self._declared.items() if matches(pattern, model)), None)


def table_models() -> tuple[str, ...]:
    """Every model of the bundled table, as `provider/model`."""
    from genai_prices.data_snapshot import get_snapshot

    return tuple(f"{provider.id}/{model.id}" for provider in get_snapshot().providers for model in provider.models)


def _check(usage: Usage) -> None:
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
    )
    if not all(0 <= count <= TOKENS_MAX for count in counts):
        raise ValueError(f"tokens must be from 0 to {TOKENS_MAX}; got {counts}")
    if usage.cache_write_1h_tokens > usage.cache_write_tokens or (
        usage.cached_tokens + usage.cache_write_tokens > usage.input_tokens
    ):
        raise ValueError(f"more tokens cached or written to a cache than came in; got {counts}")


def _declared_cost(price: Price, usage: Usage) -> int:
    cached_price = price.input_microusd if price.cached_microusd is None else price.cached_microusd
    total = (
        (usage.input_tokens - usage.cached_tokens) * price.input_microusd
        + usage.cached_tokens * cached_price
        + usage.output_tokens * price.output_microusd
    )
    return -(-total // _MILLION)


@lru_cache(maxsize=_CACHED_COSTS)
def _table_cost(model: str, usage: Usage, day: int) -> Cost:
    import genai_prices

    if _BEYOND_TOKENS.search(model):
        raise UnknownPrice(model)
    at = datetime.fromtimestamp(day * 86_400, UTC)
    given: dict[str, Any] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    # Tokens of a kind that the model does not price are input like any other.
    if usage.cached_tokens:
        given["cache_read_tokens"] = usage.cached_tokens
    if usage.cache_write_tokens:
        given["cache_write_tokens"] = usage.cache_write_tokens
    if usage.cache_write_1h_tokens:
        given["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    provider, _, bare = model.partition("/")
    for name, provider_id in ((model, None), (bare, provider)) if bare else ((model, None),):
        try:
            found = genai_prices.calc_price(
                genai_prices.Usage(**given), name, provider_id=provider_id, genai_request_timestamp=at
            )
        except (LookupError, ValueError):
            continue
        price = found.model_price
        if price.input_mtok is None or price.output_mtok is None:
            continue
        return Cost(
            microusd=int((Decimal(found.total_price) * _MILLION).to_integral_value(ROUND_CEILING)),
            model=f"{found.provider.id}/{found.model.id}",
            source="table",
            estimated=usage.estimated,
        )
    raise UnknownPrice(model, _alike(model))


def _alike(model: str) -> tuple[str, ...]:
    from genai_prices.data_snapshot import get_snapshot

    wanted = model.rpartition("/")[2]
    stem = wanted[:4].lower()
    names = sorted(
        {each.id for provider in get_snapshot().providers for each in provider.models if each.id.startswith(stem)}
    )
    return near(wanted, names)
