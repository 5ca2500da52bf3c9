"""Remote run: what one run has on a host that takes agents: the orders it obeys, the processes, and their reports.

Each `StartProcess` that names this incarnation of the host opens a place, known by the order's id: what is reported of
the process carries it, and so does what it logs in with, which the supervisor can therefore make void for one place
alone. Orders are read from the journal in their order, so a host that was stopped or cut off for a while learns, before
anything else, which of its places were given up meanwhile, and ends what is left of them.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.abc
import msgspec

from crewkeeper_bus import codec
from crewkeeper_bus.errors import CodecError, ConnectionLost
from crewkeeper_bus.messages import (
    HostLeaving,
    HostLost,
    ProcessExited,
    ProcessStarted,
    RestartsExhausted,
    RunDeclared,
    StartProcess,
    StartRefused,
    StopProcess,
    StopRun,
)
from crewkeeper_bus.subjects import TOOLS, Kind, stream_name
from crewkeeper_bus.tool_messages import ToolsGone
from crewkeeper_bus.tool_service import incarnation
from crewkeeper_supervisor.core.crew import Crew, Restart
from crewkeeper_supervisor.core.reach import reach_of
from crewkeeper_supervisor.shell import tokens, tool_hosts
from crewkeeper_supervisor.shell.access import AccessRefused
from crewkeeper_supervisor.shell.errors import RunNotFound, SettingMissing, StoreUnavailable
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.host_reports import HostReports
from crewkeeper_supervisor.shell.launcher import CANNOT_START, Launch, agent_launch, stored_access
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.model_proxies import CannotListen, HostedProxy
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link
from crewkeeper_supervisor.shell.orders import Orders
from crewkeeper_supervisor.shell.restart import KeptProcess

PREPARE_LIMIT_S: Final = 30.0
"""How long it is tried to let an agent in while the store does not answer."""
PREPARE_PAUSE_S: Final = 0.5
LEAVE_LIMIT_S: Final = 30.0


class Self(Protocol):
    """What a run has to know of the host that it is on."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def inc(self) -> str:
        """Its incarnation."""

    @property
    def leaving(self) -> bool:
        """Whether it is about to end."""

    def tell(self, text: str) -> None:
        """Tell people on this machine."""

    def has_room(self) -> bool:
        """Whether a slot is free."""

    def changed(self) -> None:
        """What it runs has changed."""


async def declared_crew(link: Link, run: str) -> Crew:
    """The crew of a run, as its journal has it.

    Raises:
        RunNotFound: The journal is not there, or holds no crew that this version can read.
        StoreUnavailable: The server did not answer.
    """
    try:
        first = await link.js.get_msg(stream_name(run), seq=1)
        declared = codec.decode_supervisor(Kind.OP, first.data or b"")
        if isinstance(declared, RunDeclared):
            return msgspec.convert(declared.crew, Crew)
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"run {run}: its journal cannot be read: {type(error).__name__}") from error
    except (CodecError, msgspec.ValidationError):
        pass
    raise RunNotFound(f"run {run}: its journal does not begin with a crew that this version understands")


def localized(crew: Crew, folder: Path) -> Crew:
    """The crew with working directories as they are here: what is below the crew file's folder is below `folder`."""
    agents = tuple(msgspec.structs.replace(agent, cwd=_local(agent.cwd, crew, folder)) for agent in crew.agents)
    tools = {
        name: msgspec.structs.replace(tool, cwd=_local(tool.cwd, crew, folder)) for name, tool in crew.tools.items()
    }
    return msgspec.structs.replace(crew, agents=agents, tools=tools)


def _local(cwd: str, crew: Crew, folder: Path) -> str:
    if not cwd or not crew.folder:
        return cwd or str(folder)
    with contextlib.suppress(ValueError):
        return str(folder / Path(cwd).relative_to(crew.folder))
    return cwd  # outside the crew's folder: it is meant as it stands


class _Place:
    """One process that was ordered, and its reports."""

    def __init__(self, order: StartProcess, reports: HostReports, host: Self) -> None:
        self.agent = order.agent
        self.id = order.id
        self.kept: KeptProcess | None = None
        self.asked = False
        self.over = anyio.Event()
        self._reports = reports
        self._host = host

    async def stop(self, grace_s: float) -> None:
        """End it for good."""
        self.asked = True
        if self.kept is not None:
            await self.kept.stop(grace_s)

    def kill(self) -> None:
        """End it for good, now."""
        self.asked = True
        if self.kept is not None:
            self.kept.kill()

    # --- restart.Reports ---

    async def started(self, name: str, pid: int, restarts: int) -> None:
        """Report a start."""
        started = ProcessStarted(agent=self.agent, pid=pid, restarts=restarts, place=self.id)
        await self._reports.state(started, name)

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        """Report an exit; a host that is about to end reports all of them together."""
        if self._host.leaving:
            return
        exited = ProcessExited(agent=self.agent, pid=pid, code=code, restart=restart, why=why[:2000], place=self.id)
        await self._reports.state(exited, name)
        if self.agent == TOOLS and pid and code != 0:  # it had no time to say so itself
            await self._reports.state(ToolsGone(host=incarnation(pid), why=why[:500] or "its process has ended"))

    async def exhausted(self, name: str, rule: Restart) -> None:
        """Report that it is given up."""
        given_up = RestartsExhausted(agent=self.agent, intensity=rule.intensity, period_s=rule.period_s, place=self.id)
        await self._reports.state(given_up, name)


class RemoteRun:
    """One run's agents on this host: `serve` until the run has ended.

    Attributes:
        run: The run.
        crew: Its crew, with working directories as they are here.
    """

    def __init__(
        self, link: Link, ground: Ground, run: str, crew: Crew, host: Self, inherited: Mapping[str, str]
    ) -> None:
        self.run = run
        self.crew = crew
        self._link = link
        self._ground = ground
        self._host = host
        self._inherited = inherited
        self._reports = HostReports(link, run)
        self._places: dict[str, _Place] = {}
        self._obeyed: set[str] = set()
        self._directory = ground.place.state / "runs" / run
        self._tasks: anyio.abc.TaskGroup | None = None
        self._models: HostedProxy | None = None
        """The run's model proxy on this machine, once an agent of it is started here."""

    @property
    def agents(self) -> list[str]:
        """What it has on this host now, in the order of its orders."""
        return [place.agent for place in self._places.values()]

    async def serve(self, ended: anyio.Event) -> None:
        """Obey orders until `ended` is set; what is left then is killed."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._obey, tasks)
            await ended.wait()
            self.kill()
            tasks.cancel_scope.cancel()

    def kill(self) -> None:
        """SIGKILL everything now."""
        for place in self._places.values():
            place.kill()

    async def leave(self, why: str) -> None:
        """End everything in order, and state that this host is gone."""
        if not self._places:
            return
        await self._reports.state(HostLeaving(host=self._host.name, inc=self._host.inc))
        with anyio.move_on_after(LEAVE_LIMIT_S + max(self._grace_s(each) for each in self._places.values())):
            await self._stop_all()
        self.kill()  # what even that has not ended
        await self._reports.state(HostLost(host=self._host.name, inc=self._host.inc, why=why))

    async def renew(self) -> None:
        """Write new credentials files, where they end soon.

        Raises:
            StoreUnavailable: The server did not answer.
            OSError: A file could not be written.
        """
        renewed = await self._ground.signed(self._link, self.run, self.agents)
        for name, credentials in renewed.items():
            stored_access(credentials, self._directory, name)

    # --- orders ---

    async def _obey(self, tasks: anyio.abc.TaskGroup) -> None:
        async with contextlib.aclosing(Orders(self._link, self.run).follow()) as orders:
            async for order in orders:
                match order:
                    case StartProcess():
                        self._ordered(order, tasks)
                    case StopProcess():
                        for place in self._places.values():
                            if place.agent == order.agent and order.place in ("", place.id):
                                place.asked = True
                                tasks.start_soon(place.stop, order.grace_s)
                    case StopRun():
                        tasks.start_soon(self._stop_all)

    def _ordered(self, order: StartProcess, tasks: anyio.abc.TaskGroup) -> None:
        if (order.host, order.inc) != (self._host.name, self._host.inc) or order.id in self._obeyed:
            return
        self._obeyed.add(order.id)  # an order may stand in the journal twice, and is obeyed once
        if self._host.leaving or not self._host.has_room():
            why = "it is about to end" if self._host.leaving else "its slots are taken"
            tasks.start_soon(self._reports.state, StartRefused(agent=order.agent, place=order.id, why=why))
            return
        place = self._places[order.id] = _Place(order, self._reports, self._host)
        self._host.changed()
        tasks.start_soon(self._run, place)

    async def _stop_all(self) -> None:
        """All at once, each within its grace: what one host has of a crew is no order to end it in."""
        async with anyio.create_task_group() as ends:
            for place in reversed(list(self._places.values())):
                place.asked = True
                ends.start_soon(place.stop, self._grace_s(place))
        for place in list(self._places.values()):
            await place.over.wait()

    def _grace_s(self, place: _Place) -> float:
        return self._rule(place.agent).shutdown_s

    def _rule(self, name: str) -> Restart:
        agent = next((agent for agent in self.crew.agents if name in agent.instances), None)
        return tool_hosts.RULE if agent is None else agent.restart

    # --- one process ---

    async def _run(self, place: _Place) -> None:
        """Start one process and keep it, until it has ended for good and that is reported."""
        try:
            try:
                launch = await self._prepare(place)
            except (AccessRefused, CannotListen, RunNotFound, SettingMissing, StoreUnavailable, OSError) as error:
                logger().error("host.cannot_start", crew=self.run, agent=place.agent, error=str(error)[:300])
                await place.exited(place.agent, 0, CANNOT_START, restart=False, why=str(error))
                return
            if place.asked:
                await place.exited(place.agent, 0, 0, restart=False, why="told to end before it was started")
                return
            place.kept = KeptProcess(launch, self._rule(place.agent), place)
            await place.kept.run()
        finally:
            del self._places[place.id]
            place.over.set()
            self._host.changed()

    async def _prepare(self, place: _Place) -> Launch:
        """Let the agent in, as this place, and say how it is started.

        Raises:
            AccessRefused: It was killed, the run is over, or the place was given up.
            RunNotFound: The crew, as it is understood here, has no such agent.
            CannotListen: The address of the run's model proxy is taken here.
            SettingMissing: Its `env`, or the crew's `model_proxy`, names a variable that is not set here.
            StoreUnavailable: The server did not answer for long.
            OSError: A file could not be written.
        """
        until_s = anyio.current_time() + PREPARE_LIMIT_S
        while True:
            try:
                return await self._let_in(place)
            except (StoreUnavailable, ConnectionLost) as error:
                if place.asked or anyio.current_time() > until_s:
                    raise StoreUnavailable(str(error)) from error
            await anyio.sleep(PREPARE_PAUSE_S)

    async def _let_in(self, place: _Place) -> Launch:
        name, crew, by = place.agent, self.crew, tokens.issuer_of(place.id)
        if name == TOOLS:
            let_in = await self._ground.let_in(self._link, self.run, [(TOOLS, TOOLS)], tool_hosts.PAYLOAD_BYTES, by=by)
            access = stored_access(let_in[TOOLS], self._directory, TOOLS)
            [(launch, _)] = tool_hosts.launches(crew, self.run, access, self._directory, self._inherited)
            return launch
        agent = next((agent for agent in crew.agents if name in agent.instances), None)
        if agent is None:
            raise RunNotFound(f"crew {crew.name} has no agent {name!r}")
        reaches = {agent.name: reach_of(crew, agent)}
        wanted = [(name, agent.name)]
        let_in = await self._ground.let_in(self._link, self.run, wanted, crew.payload_bytes, reaches, by=by)
        access = stored_access(let_in[name], self._directory, name)
        launch = agent_launch(crew, agent, name, self.run, access, self._directory, self._inherited)
        if crew.model_proxy is None:
            return launch
        keys = await self._ground.service_keys(self._link, self.run, wanted, let_in, by=by)
        models = await self._proxy()
        return msgspec.structs.replace(launch, env=launch.env | models.settings(keys[name]))

    async def _proxy(self) -> HostedProxy:
        """The run's model proxy on this machine, which is begun with the first agent that needs it."""
        if self._models is None:
            assert self._tasks is not None, "orders are obeyed inside serve"
            env = self._ground.environment(self._inherited)
            self._models = HostedProxy(self.crew, self.run, self._ground.place.state, env, self._host.tell)
            self._tasks.start_soon(self._keep_proxy, self._models)
        await self._models.ready()
        return self._models

    async def _keep_proxy(self, models: HostedProxy) -> None:
        async with models.serving():
            await anyio.sleep_forever()
