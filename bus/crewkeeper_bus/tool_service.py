"""Tool service: a tool host's side of the bus: what it is told to run, each once, and what it says; running is its own.

A tool host logs in as `_tools` and may do nothing but this. It keeps no record of what it was told: an order that comes
while it is not there is lost, and the gate counts it so when another incarnation says that it is ready.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from crewkeeper_bus import codec
from crewkeeper_bus.credentials import Credentials, from_file
from crewkeeper_bus.errors import CodecError, ConfigError, ConnectionLost
from crewkeeper_bus.outgoing import clip, new_id
from crewkeeper_bus.subjects import OUT, SUPERVISOR, TOOLS, Kind, build, check_token
from crewkeeper_bus.tool_messages import CutTool, RunTool, ToolRan, ToolsGone, ToolsReady, ToolTold
from crewkeeper_bus.transport import Transport

if TYPE_CHECKING:
    from crewkeeper_bus.nats_transport import NatsTransport

REMEMBERED_MAX: Final = 100_000
"""Orders that are known to have been obeyed."""
READY_MAX_BYTES: Final = 256 * 1024
"""Schemas are told in messages of about this size."""
ENVELOPE_BYTES: Final = 16 * 1024
"""What a report needs around a result."""

log = structlog.get_logger()


def incarnation(pid: int) -> str:
    """How the tool host with this process id is called: its host, which sees it die, says so in its stead."""
    return f"p{pid}"


async def open_transport(environ: Mapping[str, str] = os.environ) -> "tuple[NatsTransport, str]":
    """Connect as `CREWKEEPER_…` say; returns the transport and the run.

    Raises:
        ConfigError: A setting is missing.
        ConnectionLost: No server, or it refuses the credentials.
    """
    from crewkeeper_bus.nats_transport import NatsTransport  # late: fakes need no network

    run = environ.get("CREWKEEPER_RUN", "")
    file = environ.get("CREWKEEPER_CREDENTIALS", "")
    url = environ.get("CREWKEEPER_URL", "")
    if not run or not (file or url):
        raise ConfigError("CREWKEEPER_RUN and CREWKEEPER_URL must be set: a tool host is started by `supervisor up`")
    session_s = environ.get("CREWKEEPER_SESSION_S", "")
    given = Credentials(
        url=url,
        user=environ.get("CREWKEEPER_USER", ""),
        password=environ.get("CREWKEEPER_PASSWORD", ""),
        session_s=float(session_s) if session_s else None,
    )
    transport = await NatsTransport.open(
        url, credentials=(lambda: from_file(Path(file))) if file else (lambda: given), name=TOOLS
    )
    return transport, check_token(run, "run")


class ToolService:
    """One incarnation of a tool host on the bus.

    Attributes:
        host: Its name as an incarnation.
        ignored: Orders that were not obeyed: for another incarnation, of an old term, or obeyed before.
    """

    def __init__(
        self,
        transport: Transport,
        run: str,
        on_run: Callable[[RunTool], None],
        on_cut: Callable[[CutTool], None],
    ) -> None:
        """Prepare.

        Args:
            transport: Connected as `_tools`; closed by whoever opened it.
            run: The run.
            on_run: Called once for each order; must not block or raise.
            on_cut: Called for each call to be ended; the same.
        """
        self.host = incarnation(os.getpid())
        self.ignored = 0
        self._transport = transport
        self._run = run
        self._on_run = on_run
        self._on_cut = on_cut
        self._term = 0
        self._obeyed: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def result_limit_bytes(self) -> int:
        """The largest result that can be reported."""
        return self._transport.max_payload_bytes - ENVELOPE_BYTES

    async def open(self) -> None:
        """Listen; in force on return.

        Raises:
            ConnectionLost: The server did not answer.
        """
        subject = f"{OUT}.crew.{self._run}.{Kind.CTL}.{SUPERVISOR}.{TOOLS}.*"
        await self._transport.subscribe(subject, self._deliver)
        await self._transport.barrier()

    async def ready(self, tools: Mapping[str, ToolTold], failed: Mapping[str, str]) -> None:
        """Say which tools there are, and which declared ones there are not. May be said again at any time.

        All tools of one declared source are told in one message, so that it can replace what was told before.
        """
        of_source: dict[str, dict[str, ToolTold]] = {}
        for name, told in tools.items():
            of_source.setdefault(told.declared, {})[name] = told
        piece: dict[str, ToolTold] = {}
        size = 0
        for source in of_source.values():
            added = len(codec.encode(source))
            if piece and size + added > READY_MAX_BYTES:
                await self._say(ToolsReady(host=self.host, tools=piece))
                piece, size = {}, 0
            piece |= source
            size += added
        why = {name: clip(text, 500) for name, text in failed.items()}
        await self._say(ToolsReady(host=self.host, tools=piece, failed=why))

    async def ran(self, report: ToolRan) -> None:
        """Say how a call ended."""
        await self._say(report)

    async def gone(self, why: str) -> None:
        """Say that this incarnation ends, with everything it was running."""
        await self._say(ToolsGone(host=self.host, why=clip(why)))

    async def _say(self, message: ToolsReady | ToolRan | ToolsGone) -> None:
        subject = build(self._run, Kind.OP, TOOLS, SUPERVISOR, new_id())
        try:
            await self._transport.publish(subject, codec.encode(message))
        except ConnectionLost as error:
            # The gate charges what it never hears of when its time is over.
            log.warning("tools.report_lost", kind=type(message).__name__, error=str(error)[:200])

    def _deliver(self, subject: str, payload: bytes) -> None:
        try:
            order = codec.decode_supervisor(Kind.CTL, payload)
        except CodecError as error:
            log.warning("tools.order_malformed", subject=subject[:200], error=str(error)[:200])
            return
        match order:
            case RunTool():
                if self._is_new(order):
                    self._on_run(order)
                else:
                    self.ignored += 1
            case CutTool() if order.term >= self._term:
                self._on_cut(order)
            case _:
                self.ignored += 1

    def _is_new(self, order: RunTool) -> bool:
        """Whether it is for this incarnation and was never obeyed, neither as this command nor as this call."""
        if order.host != self.host or order.term < self._term:
            return False
        self._term = order.term
        names = [("", order.id), (order.agent, order.call)]
        if any(name in self._obeyed for name in names):
            return False
        for name in names:
            self._obeyed[name] = None
        while len(self._obeyed) > REMEMBERED_MAX:
            self._obeyed.popitem(last=False)
        return True
