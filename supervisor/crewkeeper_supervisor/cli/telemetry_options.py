"""Telemetry options: `--metrics` and `--traces`, of commands that run a controller."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def telemetry_options(command: _Command) -> _Command:
    """Add `--metrics HOST:PORT` and `--traces otlp`; the command gets them as `metrics` and `traces`."""
    command = click.option(
        "--traces",
        type=click.Choice(["otlp"]),
        callback=lambda _ctx, _param, value: value or "",
        envvar="CREWKEEPER_TRACES",
        help="Export spans to the collector that the OTEL_… variables name; default: $CREWKEEPER_TRACES, else no.",
    )(command)
    return click.option(
        "--metrics",
        default="",
        metavar="HOST:PORT",
        envvar="CREWKEEPER_METRICS",
        help="Show /metrics, /healthz and /readyz there; default: $CREWKEEPER_METRICS, else nowhere.",
    )(command)


def told_to_children(metrics: str, traces: str) -> dict[str, str]:
    """What the environment of a host's children says of these options.

    Raises:
        ConfigError: `metrics` is no address, or one that cannot be listened on.
        Failure: What exports spans is not installed.
    """
    if metrics:
        _check_free(metrics)
    if traces:
        from crewkeeper_bus import trace_export

        trace_export.check_installed()
    return {"CREWKEEPER_METRICS": metrics, "CREWKEEPER_TRACES": traces}


def _check_free(listen: str) -> None:
    """Say at once what would otherwise only be read in the controller's log."""
    from crewkeeper_bus.errors import ConfigError
    from crewkeeper_supervisor.shell.listening import listener, parted

    host, port = parted(listen, "127.0.0.1:9464")
    try:
        listener(host, port).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"metrics cannot be shown at {listen}: {why}; choose another --metrics") from None
