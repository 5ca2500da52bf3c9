"""Stdio: a proxy over this process's own stdin and stdout, until its client, its server or the supervisor ends it."""

import signal
import sys
from collections.abc import Callable

import anyio
import structlog

from crewkeeper_supervisor.mcp.gate_door import GateDoor
from crewkeeper_supervisor.mcp.lines import standard_streams
from crewkeeper_supervisor.mcp.offer import Offer
from crewkeeper_supervisor.mcp.proxy import Proxy
from crewkeeper_supervisor.mcp.upstream import Upstream


def log_to_stderr() -> None:
    """Keep stdout for the protocol: whatever logs in this process does so on stderr, one JSON object a line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


async def serve(
    make_upstream: Callable[..., Upstream], offer: Offer, door: GateDoor, *, allow: tuple[str, ...] = ()
) -> str:
    """Run one proxy.

    Returns:
        Who ended it: `client`, `server`, `supervisor` or `signal`.

    Raises:
        ConfigError: Stdin and stdout are no pipes.
    """
    ended = ""
    client = await standard_streams()
    proxy = Proxy(make_upstream, offer, door, client, allow=allow)
    async with anyio.create_task_group() as group:

        async def stand_at_the_gate() -> None:
            nonlocal ended
            await door.run()
            ended = ended or "supervisor"
            group.cancel_scope.cancel()

        async def obey_signals() -> None:
            nonlocal ended
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    ended = ended or "signal"
                    group.cancel_scope.cancel()

        group.start_soon(stand_at_the_gate)
        group.start_soon(obey_signals)
        who = await proxy.run()
        ended = ended or who
        group.cancel_scope.cancel()
    return ended
