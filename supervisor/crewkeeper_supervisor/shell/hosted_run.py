"""One run on its host: its processes, the orders it obeys, and its end; where servers and crews come from is not here.

A run ends in one of three ways: its owner orders it (and says in which state), the host is told to stop, or all its
processes are gone and none is to be started again. Whatever the way, the processes end last started first, and the
last thing the host publishes is `RunEnded`.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Final

import anyio
from msgspec import Struct

from crewkeeper_bus.messages import (
    OperatorAsked,
    ProcessExited,
    ProcessStarted,
    RestartsExhausted,
    RunEnded,
    StopProcess,
    StopRun,
)
from crewkeeper_bus.tool_messages import ToolsGone
from crewkeeper_bus.tool_service import incarnation
from crewkeeper_supervisor.core.crew import Crew, Restart
from crewkeeper_supervisor.shell.errors import RunNotFound, StoreUnavailable
from crewkeeper_supervisor.shell.host_reports import HostReports
from crewkeeper_supervisor.shell.launcher import Launch
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.orders import Orders
from crewkeeper_supervisor.shell.registry import Registry, State
from crewkeeper_supervisor.shell.restart import Ended, KeptProcess

SETTLE_S: Final = 3.0
"""How long the owner of a run has, once all processes are gone, to say in which state it ends."""
HURRY_S: Final = 5.0
"""Beyond one shutdown grace, how long the end may go one process after another; then all that are left end at once."""


class RunResult(Struct, frozen=True, kw_only=True):
    """How a run ended."""

    run: str
    crew: str
    state: State
    why: str
    duration_s: float


class HostedRun:
    """The processes of one run.

    Attributes:
        run: Run id.
        crew: The crew as declared.
        result: How it ended; None until then.
    """

    def __init__(
        self,
        link: Link,
        registry: Registry,
        run: str,
        crew: Crew,
        launches: Sequence[tuple[Launch, Restart]],
        services: Sequence[tuple[Launch, Restart]] = (),
    ) -> None:
        """Prepare a run whose journal exists.

        Args:
            link: The host's connection.
            registry: Where its end is recorded.
            run: Run id.
            crew: The crew.
            launches: What to start, in this order, and by which rule to restart it.
            services: What serves the agents: started before them, ended after them, and no reason to go on.
        """
        self.run = run
        self.crew = crew
        self.result: RunResult | None = None
        self._link = link
        self._registry = registry
        every = [*services, *launches]
        self._rules = {launch.name: rule for launch, rule in every}
        self._kept = {launch.name: KeptProcess(launch, rule, self) for launch, rule in every}
        self._services = frozenset(launch.name for launch, _ in services)
        self._ends: dict[str, Ended] = {}
        self._told: tuple[State, str] | None = None
        self._reports = HostReports(link, run)
        self._ordered = False
        self._end = anyio.Event()
        self._word = anyio.Event()

    @property
    def is_cut_off(self) -> bool:
        """Whether its server is gone for good, so that nothing can be reported."""
        return self._reports.is_cut_off

    @property
    def pids(self) -> dict[str, int]:
        """Pids of the processes that run now, by agent."""
        return {name: kept.running for name, kept in self._kept.items() if kept.running}

    async def serve(self, settle_s: float = SETTLE_S, admitted: anyio.Event | None = None) -> RunResult:
        """Start the processes, keep them, obey orders, end them and report the end; once.

        Args:
            settle_s: How long to wait for the owner's word about the end once all processes are gone.
            admitted: Set when agents can log in: no process is started before.
        """
        began_s = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._obey, tasks)
            tasks.start_soon(self._start, tasks, admitted)
            await self._end.wait()
            if self._told is None:  # the processes ended by themselves: let the owner say how that is to be read
                with anyio.move_on_after(settle_s):
                    await self._word.wait()
            for kept in self._kept.values():
                kept.expect_end()
            if self._told is not None and not self._ordered and self._kept:
                # So that whoever folds the journal reads the exits that follow as asked for, not as crashes.
                await self._reports.state(OperatorAsked(action="stop_run", by="the host", why=self._told[1][:2000]))
            await self._end_processes()
            tasks.cancel_scope.cancel()
        state, why = self._told or self._verdict()
        await self._report_end(state, why)
        self.result = RunResult(
            run=self.run, crew=self.crew.name, state=state, why=why, duration_s=time.monotonic() - began_s
        )
        return self.result

    def stop(self, why: str, state: State = "stopped") -> None:
        """Let the run end in this state. The first to say so is heard."""
        if self._told is None:
            self._told = (state, why)
        self._word.set()
        self._end.set()

    def kill(self) -> None:
        """SIGKILL every process now; the run then ends as it was told to."""
        for kept in self._kept.values():
            kept.kill()

    def cut_off(self, why: str) -> None:
        """End as failed, reporting nothing: the server is gone for good."""
        self._reports.is_cut_off = True
        self.stop(why, "failed")

    # --- processes ---

    async def _start(self, tasks: anyio.abc.TaskGroup, admitted: anyio.Event | None) -> None:
        if admitted is not None:
            await admitted.wait()
        if not self._end.is_set():
            for kept in self._kept.values():
                tasks.start_soon(self._keep, kept)

    async def _keep(self, kept: KeptProcess) -> None:
        ended = await kept.run()
        if kept.name in self._services:
            return
        self._ends[kept.name] = ended
        if len(self._ends) == len(self._kept) - len(self._services):
            self._end.set()

    async def _end_processes(self) -> None:
        """Last started first, each within its grace; who has not had a turn in time ends together with the rest.

        Without a server none of them can say a last word to another, so all end at once.
        """
        graces = [rule.shutdown_s for rule in self._rules.values()]
        orderly_s = 0.0 if self.is_cut_off else max(graces, default=0.0) + HURRY_S
        hurry_at_s = anyio.current_time() + orderly_s
        async with anyio.create_task_group() as ends:
            for name in reversed(self._kept):
                ended = anyio.Event()
                ends.start_soon(self._end_one, self._kept[name], self._rules[name].shutdown_s, ended)
                with anyio.move_on_after(max(0.0, hurry_at_s - anyio.current_time())):
                    await ended.wait()

    async def _end_one(self, kept: KeptProcess, grace_s: float, ended: anyio.Event) -> None:
        await kept.stop(grace_s)
        ended.set()

    def _verdict(self) -> tuple[State, str]:
        failed = [end for end in self._ends.values() if end.failed]
        if not failed:
            return "done", "every process has ended in order"
        first = failed[0]
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return "failed", f"{first.name} ended with status {first.code}{more}"

    # --- orders ---

    async def _obey(self, tasks: anyio.abc.TaskGroup) -> None:
        async with contextlib.aclosing(Orders(self._link, self.run).follow()) as orders:
            async for order in orders:
                match order:
                    case StopRun():
                        self._ordered = self._told is None
                        self.stop(order.why, _state(order.state))
                    case StopProcess() if order.agent in self._kept:
                        tasks.start_soon(self._kept[order.agent].stop, order.grace_s)
                    case StopProcess():
                        logger().warning("host.no_such_process", crew=self.run, agent=order.agent)

    # --- reports (restart.Reports) ---

    async def started(self, name: str, pid: int, restarts: int) -> None:
        """Report a start to the journal."""
        await self._reports.state(ProcessStarted(agent=name, pid=pid, restarts=restarts), name)

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        """Report an exit to the journal."""
        await self._reports.state(ProcessExited(agent=name, pid=pid, code=code, restart=restart, why=why[:2000]), name)
        if name in self._services and pid and code != 0:  # it had no time to say so itself
            await self._reports.state(ToolsGone(host=incarnation(pid), why=why[:500] or "its process has ended"))

    async def exhausted(self, name: str, rule: Restart) -> None:
        """Report to the journal that the host gives up on a process."""
        await self._reports.state(RestartsExhausted(agent=name, intensity=rule.intensity, period_s=rule.period_s), name)

    async def _report_end(self, state: State, why: str) -> None:
        """Publish `RunEnded` and register the state."""
        if self.is_cut_off:
            return
        await self._reports.state(RunEnded(state=state, why=why[:2000]))
        try:
            await self._registry.set_state(self.run, state, unfinished=True)
        except (StoreUnavailable, RunNotFound) as error:
            logger().error("host.end_not_registered", crew=self.run, error=str(error))


def _state(word: str) -> State:
    match word:
        case "done" | "failed" | "stopped":
            return word
        case _:
            raise AssertionError(f"a run cannot end as {word!r}")
