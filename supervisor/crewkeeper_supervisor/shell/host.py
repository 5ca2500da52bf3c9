"""Host: runs crews here. It declares runs, starts a controller and the agents as its children, and ends them in order.

The host owns processes and decides nothing about agents: the controller does, and asks the host through the journal.
So a controller may die and come back while agents work; and when the host goes, by whatever means, all it started goes.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import anyio
import anyio.abc
import msgspec

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import RunEnded
from crewkeeper_bus.subjects import HOST, TOOLS
from crewkeeper_supervisor.core.crew import Crew, Restart
from crewkeeper_supervisor.core.reach import reach_of
from crewkeeper_supervisor.shell import journal, tool_hosts
from crewkeeper_supervisor.shell.authority import SIGNED_LIFE_S
from crewkeeper_supervisor.shell.crew_variables import unset_variables
from crewkeeper_supervisor.shell.declaration import Declarations, named_run
from crewkeeper_supervisor.shell.errors import ShellError, StoreUnavailable
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.hosted_run import SETTLE_S, HostedRun, RunResult
from crewkeeper_supervisor.shell.launcher import Launch, agent_launch, external_hint, stored_access
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.model_proxies import HostedProxy
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link
from crewkeeper_supervisor.shell.registry import ENDED, Registry
from crewkeeper_supervisor.shell.restart import KeptProcess
from crewkeeper_supervisor.shell.signals import heed_signals

CONTROLLER_RULE: Final = Restart(policy="permanent", intensity=1000, period_s=60.0, shutdown_s=5.0)
"""A controller is always started again: the growing delay keeps it far below this intensity."""
DELIVERY_LIMIT_S: Final = 3.0
"""How long the end waits for escalations to be delivered."""
ADMISSION_RETRY_S: Final = 1.0
SHUT_OUT_LIMIT_S: Final = 5.0

Tell = Callable[[str], None]
"""Called with one line for people."""


class Host:
    """Runs of crews on this machine: `declare`, then `serve`.

    Attributes:
        runs: The declared runs, in the order of the crews.
        interrupted: Whether a signal ended it.
    """

    def __init__(
        self,
        ground: Ground,
        link: Link,
        *,
        name: str = "",
        controller: bool = True,
        tell: Tell,
        inherited: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            ground: The server.
            link: A connection to it.
            name: Name of this host in journals; by default the machine's.
            controller: Whether to run a controller.
            tell: Where lines for people go.
            inherited: What the children's environment is made from; by default this process's.
        """
        self.runs: list[HostedRun] = []
        self.interrupted = False
        self._ground = ground
        self._link = link
        self._registry = Registry(link)
        self._declarations = Declarations(link)
        self._name = name or socket.gethostname()
        self._tell = tell
        self._inherited = dict(os.environ if inherited is None else inherited)
        self._proxies: dict[str, HostedProxy] = {}
        self._controller = KeptProcess(self._controller_launch(), CONTROLLER_RULE, self) if controller else None

    # --- before the start ---

    async def declare(self, crews: Sequence[Crew]) -> list[HostedRun]:
        """Declare a run of every crew: users, journal, registration; the processes are started by `serve`.

        Raises:
            SettingMissing: A crew file names a variable that is not set; nothing has been declared then.
            StoreUnavailable: The server did not answer.
            AccessRefused: An agent is not let in.
            CannotListen: The port of a model proxy is taken.
        """
        named = [named_run(crew) for crew in crews]
        for _, crew in named:
            if unset := unset_variables(crew, self._inherited):
                raise unset[0]
        await self._declarations.open()
        if self._ground.server is not None:
            await self._end_left_runs()
        for run, crew in named:
            if crew.model_proxy is not None:
                env = self._ground.environment(self._inherited)
                self._proxies[run] = HostedProxy(crew, run, self._ground.place.state, env, self._tell)
            launches = await self._launches(run, crew)
            crew = await self._declarations.declare(run, crew, self._name)  # noqa: PLW2901 - with what is shared
            services = await self._services(run, crew)
            self.runs.append(HostedRun(self._link, self._registry, run, crew, launches, services))
        return self.runs

    async def _end_left_runs(self) -> None:
        """End what an earlier host of this state directory left open: it is dead, or the directory would be taken."""
        for info in await self._registry.ls():
            if info.state in ENDED or info.spread:
                continue
            ended = RunEnded(state="failed", why="its host ended without ending it")
            try:
                await journal.publish_op(self._link, info.run, ended, sender=HOST)
            except ConnectionLost as error:
                raise StoreUnavailable(f"run {info.run}: cannot be ended: {error}") from error
            await self._registry.set_state(info.run, "failed", unfinished=True)
            await self._shut_out(info.run)
            self._tell(f"{info.run}: ended as failed: its host had ended without ending it")

    async def _launches(self, run: str, crew: Crew) -> list[tuple[Launch, Restart]]:
        names = [(instance, agent.name) for agent in crew.agents for instance in agent.instances]
        reaches = {agent.name: reach_of(crew, agent) for agent in crew.agents}
        credentials = await self._ground.let_in(self._link, run, names, crew.payload_bytes, reaches)
        models = await self._model_settings(run, names, credentials)
        directory = self._ground.place.state / "runs" / run
        launches: list[tuple[Launch, Restart]] = []
        for agent in crew.agents:
            for instance in agent.instances:
                access = stored_access(credentials[instance], directory, instance, always=agent.external)
                if agent.external:
                    self._tell(external_hint(run, instance, access) + self._models_hint(run))
                    continue
                launch = agent_launch(crew, agent, instance, run, access, directory, self._inherited)
                launch = msgspec.structs.replace(launch, env=launch.env | models.get(instance, {}))
                launches.append((launch, agent.restart))
        return launches

    async def _services(self, run: str, crew: Crew) -> list[tuple[Launch, Restart]]:
        if not tool_hosts.needed(crew):
            return []
        let_in = await self._ground.let_in(self._link, run, [(TOOLS, TOOLS)], tool_hosts.PAYLOAD_BYTES)
        directory = self._ground.place.state / "runs" / run
        access = stored_access(let_in[TOOLS], directory, TOOLS)
        return tool_hosts.launches(crew, run, access, directory, self._inherited)

    async def _model_settings(
        self, run: str, names: list[tuple[str, str]], credentials: dict[str, Credentials]
    ) -> dict[str, dict[str, str]]:
        """What each agent's environment must hold to reach models through the run's proxy."""
        proxy = self._proxies.get(run)
        if proxy is None:
            return {}
        keys = await self._ground.service_keys(self._link, run, names, credentials)
        return {name: proxy.settings(keys[name]) for name, _ in names}

    def _models_hint(self, run: str) -> str:
        proxy = self._proxies.get(run)
        hint = "; its key there is user:password of these credentials" if self._ground.authority.enforces else ""
        return f"; it reaches models at {proxy.address}{hint}" if proxy is not None else ""

    def _controller_launch(self) -> Launch:
        place, env = self._ground.place, self._ground.environment(self._inherited)
        module = ("-m", "crewkeeper_supervisor.cli.main", "serve", "--state", str(place.state))
        return Launch(name="controller", argv=(sys.executable, *module), env=env, log=place.state / "controller.log")

    # --- life ---

    async def serve(self, *, signals: bool = True) -> list[RunResult]:
        """Run everything declared until every run has ended; returns how, in the order of `runs`.

        Args:
            signals: Whether SIGINT, SIGTERM and SIGHUP end the runs in order; a second one kills.
        """
        async with anyio.create_task_group() as tasks:
            if signals:
                await tasks.start(heed_signals, self._interrupt, self.kill, self._tell)
            if self._ground.server is not None:
                tasks.start_soon(self._watch_server)
            if self._controller is not None:
                tasks.start_soon(self._controller.run)
            admitted = anyio.Event()
            tasks.start_soon(self._admit, admitted)
            if self._ground.authority.mode == "signing":
                tasks.start_soon(self._renew)
            async with anyio.create_task_group() as running:
                for run in self.runs:
                    running.start_soon(self._serve_run, run, admitted)
            if self._controller is not None:
                await self._wait_for_owner()
                await self._wait_for_deliveries()
                await self._wait_for_books()
                await self._controller.stop(CONTROLLER_RULE.shutdown_s)
            tasks.cancel_scope.cancel()
        return [run.result for run in self.runs if run.result is not None]

    def stop(self, why: str) -> None:
        """Let every run end in order, as stopped."""
        for run in self.runs:
            run.stop(why)

    def kill(self) -> None:
        """SIGKILL every agent now."""
        for run in self.runs:
            run.kill()

    @property
    def controller_pid(self) -> int:
        """Process of the controller; 0 while there is none."""
        return 0 if self._controller is None else self._controller.running

    async def _serve_run(self, run: HostedRun, admitted: anyio.Event) -> None:
        settle_s = SETTLE_S if self._controller is not None else 0.0
        proxy = self._proxies.get(run.run)
        if proxy is None:
            await run.serve(settle_s, admitted)
        else:
            async with proxy.serving():
                await run.serve(settle_s, admitted)
        if run.is_cut_off:
            return
        await self._shut_out(run.run)

    async def _shut_out(self, run: str) -> None:
        """Whoever is left of a run that has ended, agents that were started elsewhere, goes too."""
        try:
            with anyio.fail_after(SHUT_OUT_LIMIT_S):
                await self._ground.shut_out(self._link, run)
        except (ShellError, ConnectionLost, TimeoutError) as error:
            logger().warning("host.users_left", crew=run, error=str(error)[:300] or type(error).__name__)

    async def _admit(self, admitted: anyio.Event) -> None:
        """Let the agents be started once they can log in."""
        while not admitted.is_set():
            try:
                await self._ground.wait_for_admission(self._link, self._tell)
            except ShellError as error:
                logger().warning("host.admission", cause=type(error).__name__, error=str(error)[:300])
                await anyio.sleep(ADMISSION_RETRY_S)
            else:
                admitted.set()

    async def _renew(self) -> None:
        """Keep the credentials files of agents ahead of their end, where credentials cannot be taken back."""
        while True:
            await anyio.sleep(SIGNED_LIFE_S / 3)
            for run in self.runs:
                if run.result is not None:
                    continue
                names = [instance for agent in run.crew.agents for instance in agent.instances]
                names += [TOOLS] if tool_hosts.needed(run.crew) else []
                folder = self._ground.place.state / "runs" / run.run / "credentials"
                try:
                    for name, credentials in (await self._ground.signed(self._link, run.run, names)).items():
                        credentials.to_file(folder / f"{name}.json")
                except (ShellError, OSError) as error:  # two more turns before they end
                    logger().warning("host.renewal", crew=run.run, error=str(error)[:300])

    async def _wait_for_owner(self) -> None:
        """Give the controller a moment to finish with these runs: to decide upon their end, and to sign it."""
        with anyio.move_on_after(DELIVERY_LIMIT_S), contextlib.suppress(StoreUnavailable):
            for run in self.runs:
                while not run.is_cut_off and not await self._is_finished(run.run):  # noqa: ASYNC110 - no event
                    await anyio.sleep(0.05)

    async def _is_finished(self, run: str) -> bool:
        info = await self._registry.get(run)
        return info is None or info.is_over

    async def _wait_for_deliveries(self) -> None:
        """Give the controller a moment to tell people what it has decided to tell them."""
        from crewkeeper_supervisor.shell.outbox import STREAM  # late: it brings an HTTP client along

        waiting = 0
        try:
            with anyio.move_on_after(DELIVERY_LIMIT_S):
                while waiting := (await self._link.js.stream_info(STREAM)).state.messages:  # noqa: ASYNC110 - no event
                    await anyio.sleep(0.05)
        except LINK_ERRORS:
            return  # there is no outbox, or no server any more
        if waiting:
            self._tell(
                f"{waiting} message(s) to people could not be delivered yet; they are kept, and tried again whenever "
                "a controller runs on this state directory"
            )

    async def _wait_for_books(self) -> None:
        """Give the controller a moment to write down what these runs have spent of what all crews share."""
        runs = {run.run for run in self.runs}
        with anyio.move_on_after(DELIVERY_LIMIT_S), contextlib.suppress(StoreUnavailable):
            while runs & set((await self._declarations.fleet.read()).shares):  # noqa: ASYNC110 - no event
                await anyio.sleep(0.05)

    def _interrupt(self, name: str) -> None:
        self.interrupted = True
        self._tell(f"{name}: stopping every agent in order; again to kill them")
        self.stop(f"the host was told to end ({name})")

    async def _watch_server(self) -> None:
        assert self._ground.server is not None
        code = await self._ground.server.wait()
        self._tell(f"the embedded nats-server ended with status {code}: ending every agent; see nats-server.log")
        for run in self.runs:
            run.cut_off("the nats-server ended")

    # --- the controller's reports (restart.Reports) ---

    async def started(self, name: str, pid: int, restarts: int) -> None:
        """Tell when the controller is back."""
        if restarts:
            self._tell(f"the controller is back, process {pid}")

    async def exited(self, name: str, pid: int, code: int, *, restart: bool, why: str) -> None:
        """Tell when the controller died; agents go on."""
        if restart:
            log = self._ground.place.state / "controller.log"
            self._tell(f"the controller died ({why or 'exit status 0'}) and is started again; its log: {log}")

    async def exhausted(self, name: str, rule: Restart) -> None:
        """Tell that the controller is given up; agents go on unsupervised."""
        self._tell("the controller cannot be kept running: nothing supervises the agents; end this and see its log")
