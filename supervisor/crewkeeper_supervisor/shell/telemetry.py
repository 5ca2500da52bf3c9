"""Telemetry: metrics and traces of one controller, opened as asked for; without, nothing of either is imported."""

import contextlib
from collections.abc import AsyncIterator

from crewkeeper_bus import trace_export
from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.observing import Observer, Observers, Standing


@contextlib.asynccontextmanager
async def opened(metrics: str, *, traces: bool) -> AsyncIterator[tuple[Observers | None, Standing]]:
    """What a controller is to tell, around a block.

    Args:
        metrics: `host:port` to show metrics at; empty: nowhere.
        traces: Whether to export spans.

    Raises:
        ConfigError: `metrics` is no address.
    """
    standing = Standing()
    if not metrics and not traces:
        yield None, standing
        return
    parts: dict[str, Observer] = {}
    observers = Observers(parts)
    async with contextlib.AsyncExitStack() as stack:
        exporting = None
        if traces:
            try:
                trace_export.check_installed()
                from crewkeeper_supervisor.shell import run_traces

                parts["traces"] = exporting = stack.enter_context(run_traces.exporting())
            except (ConfigError, ImportError) as error:  # a controller without traces is better than none
                logger().error("traces.not_exported", error=str(error))
        if metrics:
            from crewkeeper_supervisor.shell import metrics_site
            from crewkeeper_supervisor.shell.metrics import Metrics

            counted = Metrics()
            parts["metrics"] = counted

            def refresh() -> None:
                counted.errors = observers.errors
                counted.spans = exporting.counts() if exporting is not None else {}

            address = await stack.enter_async_context(metrics_site.serving(metrics, counted, standing, refresh))
            logger().info("metrics.serving", address=address)
        observers.errors.update(dict.fromkeys(parts, 0))
        yield observers, standing
