"""Trace export: OpenTelemetry's SDK set up to send spans to a collector, so that a dead one costs nothing but a count.

Where to and how is said by the `OTEL_…` variables; `crewkeeper[otel]` brings what is needed. Used by whoever owns a
process: the runtime of an agent, a controller. A program that sets up OpenTelemetry by itself needs none of this.
"""

import contextlib
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.tracing import tracing_of

VARIABLE: Final = "CREWKEEPER_TRACES"
QUEUE_MAX: Final = 4096
"""Spans that wait for the collector; what comes while they do is dropped."""
CLOSE_LIMIT_S: Final = 2.0
"""How long an end may wait for the collector."""
_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_NOISY: Final = ("opentelemetry.exporter", "opentelemetry.sdk", "opentelemetry.attributes")

log = structlog.get_logger()


def is_asked_for(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to export spans."""
    return environ.get(VARIABLE, "") == "otlp"


def check_installed() -> None:
    """Look whether what exports spans is there.

    Raises:
        ConfigError: It is not.
    """
    for name in _NEEDED:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(f"traces need {name}, which is not installed: pip install 'crewkeeper[otel]'")


@contextlib.contextmanager
def exported(service: str, run: str = "") -> Iterator[None]:
    """Export the spans of this process around a block, if it is told to and its program does not by itself.

    What is not installed or cannot be used is logged; nothing is exported then.

    Args:
        service: What the process is called.
        run: The run that it is in.
    """
    made: Exporting | None = None
    if is_asked_for() and tracing_of("", "") is None:
        try:
            made = exporting(service, {"service.namespace": run})
        except ConfigError as error:
            log.warning("traces.none", service=service, error=str(error))
    if made is None:
        yield
        return
    from opentelemetry import trace

    trace.set_tracer_provider(made.provider)
    try:
        yield
    finally:
        made.close()


class Exporting:
    """Spans of this process on their way to the collector; `exporting` makes one.

    Attributes:
        provider: OpenTelemetry's tracer provider.
    """

    def __init__(self, provider: Any, processor: Any, told: "_Told") -> None:
        self.provider = provider
        self._processor = processor
        self._told = told

    def counts(self) -> dict[str, int]:
        """How many spans were `exported`, have `failed` on the way, or were `dropped` because too many waited."""
        return dict(self._told.counts)

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Send what is left, and wait for that no longer than `limit_s`. Blocks."""
        # The SDK would wait half a minute for a collector that does not answer.
        closing = threading.Thread(target=self.provider.shutdown, daemon=True, name="traces-close")
        closing.start()
        closing.join(limit_s)
        if left := self._processor.taken - sum(self._told.counts[outcome] for outcome in ("exported", "failed")):
            log.warning("traces.left", spans=left)


class _Told:
    """An exporter that counts, and says once when the collector begins to fail, and when it is back."""

    def __init__(self, inner: Any, success: Any, failure: Any) -> None:
        self.counts = {"exported": 0, "failed": 0, "dropped": 0}
        self._inner = inner
        self._success, self._failure = success, failure
        self._failing = False

    def export(self, spans: Sequence[Any]) -> Any:
        """Send spans; called from a thread of the SDK's."""
        try:
            result = self._inner.export(spans)
        except Exception:  # noqa: BLE001 - whatever its HTTP client raises costs these spans and no more
            result = self._failure
        failing = result is not self._success
        self.counts["failed" if failing else "exported"] += len(spans)
        if failing != self._failing:
            self._failing = failing
            tell = log.warning if failing else log.info
            tell("traces.failing" if failing else "traces.back", spans=len(spans))
        return result

    def shutdown(self) -> None:
        """Send nothing more."""
        self._inner.shutdown()


def _processor(told: _Told) -> Any:
    """The SDK's queue before the exporter, which takes no more than `QUEUE_MAX` that are not through."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class Bounded(BatchSpanProcessor):
        taken = 0

        def on_end(self, span: Any) -> None:
            if not span.context.trace_flags.sampled:
                return
            if self.taken - told.counts["exported"] - told.counts["failed"] >= QUEUE_MAX:
                told.counts["dropped"] += 1
                return
            self.taken += 1
            super().on_end(span)

    return Bounded(told, max_queue_size=2 * QUEUE_MAX)  # type: ignore[arg-type]


def exporting(service: str, attributes: Mapping[str, str], ids: Any = None) -> Exporting:
    """Set up the export of spans.

    Args:
        service: What this process is called, unless `OTEL_SERVICE_NAME` says.
        attributes: What all its spans have in common.
        ids: Makes the ids of spans; None: the SDK does.

    Raises:
        ConfigError: What is needed is not installed, or the `OTEL_…` variables cannot be used.
    """
    check_installed()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult

    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # an outage is one line, not one for each attempt
    try:
        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, **attributes})
        told = _Told(OTLPSpanExporter(), SpanExportResult.SUCCESS, SpanExportResult.FAILURE)
        processor = _processor(told)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=ids)
    except (ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"the OTEL_… variables cannot be used: {str(error)[:300]}") from None
    provider.add_span_processor(processor)
    return Exporting(provider, processor, told)
