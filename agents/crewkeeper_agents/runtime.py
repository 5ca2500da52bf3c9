"""Runtime: the life of one agent process, from connecting to its exit status; what the agent does is the author's.

An agent's life:

1. Its handlers are registered, then it connects and thereby announces itself (`Joined`).
2. It waits for the supervisor's `Begin`. Handlers serve from the start: whoever asks early is answered.
3. Its main activity runs as a root activity named "main", which holds a slot. The crew is done when every agent has
   ended its "main" and no call is open.
4. It leaves when main is over (without handlers, or where asked to), when the supervisor stops it, or at SIGTERM. A
   stop fails every wait with `Killed`; code that is still running after the grace is cancelled.

The exit status says which: see `Status`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import anyio
import structlog

import crewkeeper_bus as bus
from crewkeeper_bus import trace_export
from crewkeeper_bus.tasks import Task

if TYPE_CHECKING:
    from crewkeeper_agents.agent import Agent

log = structlog.get_logger()

MAIN: Final = "main"
"""Name of the root activity by whose end the supervisor knows that an agent's work is done."""
BEGIN_LIMIT_S: Final = 3600.0
"""How long an agent waits for the crew to be complete."""
GRACE_S: Final = 3.0
"""How long code may clean up after a signal before it is cancelled: less than the 5 s after which hosts kill."""
_UNTIL: Final = ("stop", "main")


class Status(IntEnum):
    """Exit status of an agent process."""

    LEFT = 0
    """In order: its work is done, or it was told to stop and left nothing unfinished."""
    FAILED = 1
    """Main raised, or the bus could not be reached or refused this agent for good."""
    MISCONFIGURED = 2
    """A setting, the module or the script is wrong; starting it again changes nothing."""
    STOPPED = 3
    """Stopped by the supervisor while main was at work."""


class Life:
    """One life of an agent on one client.

    Args:
        agent: Its handlers are registered already.
        client: Entered.
        until: `"stop"` or `"main"`, see `Agent.run`.

    Attributes:
        main: Where the main activity stands: `none`, `running` (also for good, when it was stopped), `over`, `failed`.
        signalled: The signal that ends this life; empty without one.

    Raises:
        ConfigError: `until` is something else.
    """

    def __init__(self, agent: "Agent", client: bus.Client, *, until: str = "stop") -> None:
        if until not in _UNTIL:
            raise bus.ConfigError(f"until is {until!r}: give one of {', '.join(_UNTIL)}")
        self._agent = agent
        self._client = client
        self._until = until
        self.main = "none"
        self.signalled = ""

    @property
    def status(self) -> Status:
        """The exit status of this life."""
        if self.main == "failed":
            return Status.FAILED
        if self.main == "running" and not self.signalled:
            return Status.STOPPED
        return Status.LEFT

    async def live(self) -> None:
        """Wait for the crew, run main, serve; return when it is time to leave.

        Raises:
            Timeout: The crew did not begin within `BEGIN_LIMIT_S`.
            Exception: What main raised.
        """
        client = self._client
        try:
            await client.ready(BEGIN_LIMIT_S)
            log.info("agent.began", peers=client.peers)
            await self._run_main()
            if not self._agent.handlers or self._agent.leave_when_done or self._until == "main":
                return
            await client.run_forever()
        except bus.Killed as stop:
            if not client.is_stopped:
                raise  # not a stop of ours: the author's
            log.info("agent.stopped", why=str(stop))
            await self._let_handlers_end()

    async def _run_main(self) -> None:
        function = self._agent.main_activity
        if function is None:
            return
        async with self._client.task(MAIN) as task:
            self.main = "running"
            try:
                _conclude(task, await function(self._client))
            except Exception as error:
                if not (isinstance(error, bus.Killed) and self._client.is_stopped):
                    self.main = "failed"
                raise
        self.main = "over"
        log.info("agent.main_over")

    async def _let_handlers_end(self) -> None:
        try:
            await self._client.run_forever()  # stopped: returns by `Killed` when they are done or the grace is over
        except bus.Killed:
            return


def _conclude(task: Task, result: Any) -> None:
    """What main returns is its result, as far as it can be told."""
    if result is None:
        return
    try:
        task.conclude(result)
    except bus.CodecError as error:
        log.warning("agent.result_not_told", error=str(error))


def run(agent: "Agent", *, until: str = "stop") -> Status:
    """Be this agent until it is time to leave; see `Agent.run`. Configures structlog for the whole process."""
    configure_logs()
    name = os.environ.get("CREWKEEPER_AGENT") or agent.name
    with trace_export.exported(name, os.environ.get("CREWKEEPER_RUN", "")):
        return anyio.run(_run, agent, until)


async def _run(agent: "Agent", until: str) -> Status:
    try:
        # The environment wins over the name in the program: one program may run under several names.
        client = bus.connect(agent=None if os.environ.get("CREWKEEPER_AGENT") else agent.name)
        life = Life(agent, client, until=until)
    except bus.ConfigError as error:
        _complain("agent.misconfigured", error)
        return Status.MISCONFIGURED
    configure_logs(crew=client.run, agent=client.agent)
    agent.register(client)
    status = await _live_on(client, life)
    log.info("agent.left", status=int(status), main=life.main, signal=life.signalled)
    return status


async def _live_on(client: bus.Client, life: Life) -> Status:
    """Enter the client, live, leave it; whatever goes wrong is logged and becomes the status."""
    try:
        async with client:
            log.info("agent.joined", pid=os.getpid())
            with _stopped_by_signals(client, life):
                await life.live()
    except Exception as error:  # the boundary of the process: the author's code may raise anything
        if life.main != "failed" and isinstance(error, bus.ConfigError):
            _complain("agent.misconfigured", error)
            return Status.MISCONFIGURED
        if life.main != "failed" and isinstance(error, bus.BusError):
            _complain("agent.bus_failed", error)
        else:
            log.exception("agent.failed", main=life.main)
        return Status.FAILED
    return life.status


def _complain(event: str, error: Exception) -> None:
    """Log what the message says in full; a traceback would add nothing."""
    log.error(event, error=str(error))


@contextmanager
def _stopped_by_signals(client: bus.Client, life: Life) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT stop the agent as the supervisor would; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if life.signalled:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        life.signalled = number.name
        log.info("agent.signalled", signal=number.name)
        client.stop(number.name, grace_s=GRACE_S)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # it is leaving already: a signal now must not cut its last words


def configure_logs(**identity: str) -> None:
    """Log to stderr for the whole process, one JSON object a line, or plain lines on a terminal.

    Args:
        identity: Keys and values on every line.
    """

    def identify(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**identity, **line}

    plain = sys.stderr.isatty()
    render: Any = (
        structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
        )
        if plain
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            identify,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if plain else [structlog.processors.format_exc_info]),
            render,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
