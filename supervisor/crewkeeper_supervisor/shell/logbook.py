"""Logbook: the supervisor's own structured log on stderr; JSON unless stderr is a terminal.

Events are dotted constants (`effect.sent`), keys are fixed (`crew agent seq cause command_id finding term
latency_ms`). Payloads and secrets are never among the values.
"""

import sys
from functools import cache
from typing import Any, Final

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

_VALUE_MAX_CHARS: Final = 2000


@cache
def logger() -> FilteringBoundLogger:
    """The logger of this process; bind the run's keys to it."""
    terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    made: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(_Stderr()),  # type: ignore[arg-type]
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _bounded,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=True,
    )
    return made


class _Stderr:
    """Writes to whatever `sys.stderr` is now, so that a redirected one is honoured."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _bounded(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _VALUE_MAX_CHARS and key != "exception":
            event[key] = value[:_VALUE_MAX_CHARS] + "…"
    return event
