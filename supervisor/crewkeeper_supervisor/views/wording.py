"""How text, times, money and sizes are written for people; what is written where is decided elsewhere.

Every text that an agent can influence (names in bad messages, progress, reasons, log lines) is hostile: it may hold
terminal escape sequences, bidirectional overrides or invisible characters. `safe` makes such text harmless, and every
view passes what it shows through it. Markup of the terminal library is never interpreted: views hand it styled text
objects, not markup.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from crewkeeper_bus.printable import inert
from crewkeeper_supervisor.views.redaction import clean_text

TEXT_MAX_CHARS: Final = 300
"""Default limit of one shown text; longer ones end in an ellipsis."""


def safe(text: str, limit: int | None = TEXT_MAX_CHARS) -> str:
    r"""Make hostile text harmless to a terminal: one line of printable characters.

    Control characters (so every ANSI sequence), bidirectional and zero-width characters, line and paragraph
    separators, surrogates and private-use characters become visible escapes such as `\x1b`. Secrets are replaced where
    the crews shown want it.

    Args:
        text: Any string.
        limit: Longest result in characters before escaping; None for no limit.
    """
    text = clean_text(text)  # before it is cut: half a secret is not recognised
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return inert(text)


def safe_json(document: bytes) -> str:
    r"""A JSON document with every unprintable character as a `\uXXXX` escape: the same data, harmless to a terminal."""
    text = document.decode("utf-8", "backslashreplace")
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char == "\n" or char.isprintable() else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def duration(seconds: float) -> str:
    """A span of time, short: `27ms`, `0.4s`, `12s`, `3m05s`, `2h10m`, `5d03h`; negative spans are `0s`."""
    if seconds < 0.001:
        return "0s"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def ago(at: datetime | None, now: datetime) -> str:
    """How long before `now` it was, as `12s ago`; `-` where there is no time."""
    return "-" if at is None else f"{duration((now - at).total_seconds())} ago"


def moment(at_s: float) -> datetime:
    """Seconds since the Unix epoch as an aware UTC time."""
    return datetime.fromtimestamp(at_s, UTC)


def clock(at: datetime) -> str:
    """Time of day in the reader's time zone, `12:00:03`."""
    return at.astimezone().strftime("%H:%M:%S")


def money(microusd: int) -> Decimal:
    """Micro-dollars as exact dollars."""
    return (Decimal(microusd) / 1_000_000).quantize(Decimal("0.000001"))


def dollars(usd: Decimal) -> str:
    """Dollars for a table: `$0.0312`, at least two and at most six decimals."""
    text = f"{usd:.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.ljust(2, '0')}"


def count(number: int) -> str:
    """A count for a table: `950`, `12.3k`, `4M`."""
    if number < 10_000:
        return str(number)
    if number < 1_000_000:
        return f"{number / 1000:.1f}k".replace(".0k", "k")
    return f"{number / 1_000_000:.1f}M".replace(".0M", "M")


def counted(number: int, what: str, many: str = "") -> str:
    """`1 agent`, `2 agents`; `many` is the plural where it takes more than an `s`."""
    return f"{number} {what if number == 1 else many or what + 's'}"
