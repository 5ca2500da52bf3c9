"""Stage: one scenario played by real processes: nats-server, host, controllers, agents, all ended whatever happens.

Everything is started under the orphan guard: where this process dies by kill -9, what it has started dies with it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus import subjects
from crewkeeper_bus.errors import BusError
from crewkeeper_supervisor.chaos.faults.clocks import CLOCKED
from crewkeeper_supervisor.chaos.faults.holds import Holds
from crewkeeper_supervisor.chaos.faults.kind import Strike, nothing_left, once
from crewkeeper_supervisor.chaos.faults.network import CABLE, PROXIED
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.faults.servers import OWN_SERVER, SMALL_DISK
from crewkeeper_supervisor.chaos.plan.scenario import Action, Fault, Scenario
from crewkeeper_supervisor.chaos.real import records, run_folder
from crewkeeper_supervisor.chaos.real.agent_logs import agent_log, last_words
from crewkeeper_supervisor.chaos.real.cast import Cast
from crewkeeper_supervisor.chaos.real.children import CannotPlay, Children
from crewkeeper_supervisor.chaos.real.clocks import Clocks
from crewkeeper_supervisor.chaos.real.controllers import Controllers, program_of
from crewkeeper_supervisor.chaos.real.left_over import StartedProcesses
from crewkeeper_supervisor.chaos.real.models import Models
from crewkeeper_supervisor.chaos.real.oracle import Oracle
from crewkeeper_supervisor.chaos.real.own_network import OwnNetwork
from crewkeeper_supervisor.chaos.real.processes import Processes
from crewkeeper_supervisor.chaos.real.proxy import Proxy
from crewkeeper_supervisor.chaos.real.receiver import Receiver
from crewkeeper_supervisor.chaos.real.servers import OwnServers
from crewkeeper_supervisor.chaos.real.targets import Targets
from crewkeeper_supervisor.chaos.real.tools import Tools
from crewkeeper_supervisor.chaos.trial.events import Sighting
from crewkeeper_supervisor.chaos.trial.metrics import metrics_of
from crewkeeper_supervisor.chaos.trial.operator import OVER, CannotAct, Fact, Operator
from crewkeeper_supervisor.chaos.trial.played import Played, shifted, since
from crewkeeper_supervisor.chaos.trial.sightings import Sightings
from crewkeeper_supervisor.chaos.trial.steady import unsteady
from crewkeeper_supervisor.chaos.trial.timeline import Timeline
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck, judge
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.errors import JournalGap, RunNotFound, ShellError
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry

START_S: Final = 30.0
"""How long server, run and controllers may take to be there."""
END_S: Final = 20.0
HEAL_S: Final = 30.0
SETTLE_S: Final = 3.0
"""How long a run is watched on after its end, for messages to people."""
POLL_S: Final = 0.05
BATCH_S: Final = 0.5
STOPPED_AT_WORK: Final = 3
"""Exit status of an agent that was stopped in the middle of its work: no failure."""

Tell = Callable[[str], None]


class _Embedded(msgspec.Struct):
    """What is needed of an embedded server's record."""

    url: str = ""
    pid: int = 0


class Injected:
    """One fault at work."""

    def __init__(self, struck: Struck, strike: Strike) -> None:
        self.struck = struck
        self.strike = strike
        self.over = False


class RealStage:
    """One run.

    Args:
        scenario: What is played.
        cast: Whose agents they are, and how they are started.
        seed: Of who is hit.
        mutation: Fault of the product in the controllers; empty: none.
        tell: Told in a few words what goes on.
    """

    def __init__(self, scenario: Scenario, cast: Cast, seed: int, mutation: str, tell: Tell) -> None:
        self.scenario = scenario
        self.cast = cast
        self.seed = seed
        self._mutation = mutation
        self._tell = tell
        self.folder = run_folder.make()
        self.state = self.folder / "state"
        self.receiver = Receiver()
        self.models = Models(seed)
        self.tools = Tools(self.folder, scenario.tools)
        words = {fault.do for fault in scenario.faults}
        own = bool(words & OWN_SERVER) or scenario.servers > 1
        small = SMALL_DISK in words
        self.servers = OwnServers(self.folder / "nats", scenario.servers, small_disk=small) if own else None
        self.clocks = Clocks(self.folder / "clocks") if words & CLOCKED else None
        self.pids: dict[str, int] = {}
        self._targets = Targets(scenario, cast, seed, self.pids)
        wired = self._targets.possible({CABLE})
        self.networks = {name: OwnNetwork(i, self.folder / f"{name}.way") for i, name in enumerate(wired)}
        self.proxies = {
            name: Proxy(self.server_url, seed, self.networks.get(name)) for name in self._targets.possible(PROXIED)
        }
        self.oracle = Oracle("")
        self.timeline = Timeline(scenario)
        self.holds = Holds()
        self._owner = ""
        self._seen: list[Sighting] = []
        self._letters = 0
        self._injected: list[Injected] = []
        self._unsteady: list[str] = []
        self._unhealed: list[str] = []
        self._was_steady = False
        self._due = 0
        self._operator = Operator(cast.instances)
        self._known = StartedProcesses()
        self._children = Children(self.folder, self._known)
        self._link: Link | None = None
        self.run_id = ""
        self._group: anyio.abc.TaskGroup | None = None

    @property
    def sightings(self) -> Sightings:
        """What the journal has shown so far."""
        return self.oracle.sightings

    # --- from beginning to end ---

    async def run(self) -> Played:
        """Play it; everything that was started has ended when this returns."""
        began_s = time.monotonic()
        try:
            async with anyio.create_task_group() as self._group:
                self.processes = Processes(self.pids, self._begin)
                await self._set_up()
                await self._play()
                with anyio.CancelScope(shield=True), anyio.move_on_after(HEAL_S + END_S):
                    await self._heal_all()
                    await self._close()
                self._group.cancel_scope.cancel()
            self._stop_crew()
            self._violations(
                await records.differences(self.state, None if self.servers is None else self.servers.url, self.run_id)
            )
        finally:
            self._stop_crew()
            self._stop_servers()
        self._unhealed += [f"still there: {each}" for each in self._known.left_for_good()]
        played = self._played(time.monotonic() - began_s)
        if played.verdict.word == "pass":
            shutil.rmtree(self.folder, ignore_errors=True)
            played.folder = ""
        return played

    async def _set_up(self) -> None:
        assert self._group is not None
        self._tell("starting")
        await self._group.start(self.receiver.serve)
        await self._group.start(self.models.serve)
        for proxy in self.proxies.values():
            await self._group.start(proxy.serve)
        if self.servers is not None:
            try:
                await self.servers.start()
            except TimeoutError:
                raise CannotPlay("no nats-server in time", self.servers.last_words()) from None
        crew = self.cast.write(self.folder, {name: proxy.way for name, proxy in self.proxies.items()})
        env = self.env()
        self.controllers = Controllers(
            self.scenario.supervisors, self.state, env, self.folder, self._mutation, lambda: self._owner, self._known
        )
        command = [sys.executable, *program_of(self._mutation), "up", "--plain", "--no-controller"]
        self.start(
            [*command, "--name", "chaos", "--state", str(self.state), str(crew)], env, "up.log", self.cast.folder
        )
        if self.servers is None:
            await self._until((self.state / "server.json").exists, "the server is up")
            self._known.add("nats-server", self._embedded().pid)
        for name in self.controllers.names:
            await self.controllers.start(name)

    def env(self) -> dict[str, str]:
        """The environment of everything that is started."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("CREWKEEPER_")}
        env |= {"CHAOS_WEBHOOK": self.receiver.url, "CHAOS_SECRET": self.receiver.secret, "PYTHONUNBUFFERED": "1"}
        env["CHAOS_MODELS"] = self.models.url
        if self.servers is not None:
            env |= {"CREWKEEPER_NATS_URL": self.servers.url, "CREWKEEPER_REPLICAS": str(self.servers.replicas)}
        return env | ({} if self.clocks is None else self.clocks.env())

    def _begin(self, work: Callable[[], Any]) -> None:
        assert self._group is not None
        self._group.start_soon(work)

    def start(
        self, command: list[str], env: dict[str, str], log: str, cwd: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a process that ends with the run at the latest."""
        return self._children.start(command, env, log, cwd)

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        """End one that was started so, now."""
        self._children.end(process)

    def server_url(self) -> str:
        """Where clients connect now; empty while nothing is there."""
        if self.servers is not None:
            return self.servers.url
        return self._embedded().url

    def agent_log(self, agent: str) -> Path:
        """What an agent has printed."""
        return agent_log(self.state, self.run_id, agent)

    async def journal_leader(self) -> str:
        """Name of the server that leads the journal of the run; empty while nobody does.

        Raises:
            LINK_ERRORS: No server answers.
        """
        assert self._link is not None
        info = await self._link.js.stream_info(subjects.stream_name(self.run_id))
        return (info.cluster.leader if info.cluster is not None else None) or ""

    def _embedded(self) -> "_Embedded":
        try:
            return msgspec.json.decode((self.state / "server.json").read_bytes(), type=_Embedded)
        except (OSError, msgspec.MsgspecError):
            return _Embedded()

    def _place(self) -> Place:
        return Place.of_url(self.server_url(), self.state)  # no server that this shell or a context names: only its own

    async def _until(self, condition: Callable[[], Any], what: str) -> None:
        with anyio.move_on_after(START_S):
            while not condition():
                if self._children.first_ended:
                    break
                await anyio.sleep(POLL_S)
            else:
                return
        why = "the host has ended, and not" if self._children.first_ended else f"not within {START_S:g} s"
        raise CannotPlay(f"{why}: {what}", self._last_words())

    def _last_words(self) -> str:
        log = self.folder / "up.log"
        return log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""

    async def _play(self) -> None:
        """Read the journal until the run is over, or its time is."""
        async with connect(self._place(), name="supervisor chaos") as link:
            self._link = link
            self.run_id = await self._find_run(link)
            self.oracle = Oracle(self.run_id)
            for name in self.cast.rogues:
                self._start_rogue(name)
            self._tell("playing")
            with anyio.move_on_after(self.scenario.timeout_s):
                try:
                    async with journal.follow(link, self.run_id) as entries:
                        await self._follow(entries)
                except (RunNotFound, JournalGap) as error:
                    self._unsteady.append(f"the journal is lost: {error}")
            self._link = None

    async def _find_run(self, link: Link) -> str:
        registry = Registry(link)
        with anyio.move_on_after(START_S):
            while True:
                try:
                    await registry.open()
                    infos = await registry.ls()
                    if infos:
                        return infos[0].run
                except (ShellError, BusError):
                    pass  # the host is still making the bucket
                if self._children.first_ended:
                    break
                await anyio.sleep(POLL_S)
        raise CannotPlay("the run was not declared", self._last_words())

    async def _follow(self, entries: journal.Follower) -> None:
        quiet_s = 0.0
        while True:
            try:
                batch = await entries.batch(BATCH_S)
            except (ShellError, BusError):
                if self.sightings.core.state in OVER:
                    return
                raise
            for entry in batch:
                event = self.sightings.core.read(entry.seq, entry.at_s, entry.subject, entry.payload)
                self._take(event)
            self._take_letters()
            over = self.sightings.core.state in OVER and not self._due
            quiet_s = (quiet_s or time.monotonic()) if over else 0.0
            if quiet_s and (time.monotonic() - quiet_s > SETTLE_S or self._children.first_ended):
                return

    # --- what is seen ---

    def _take(self, event: Event) -> None:
        self._operator.saw(event)
        if isinstance(event, Recorded):
            self._note(event)
        for sighting in self.oracle.feed(event):
            self._saw(sighting)

    def _note(self, event: Recorded) -> None:
        message = event.message
        match message:
            case m.ProcessStarted():
                self.pids[message.agent] = message.pid
                self._known.add(message.agent, message.pid)
            case m.ProcessExited():
                self.pids.pop(message.agent, None)
            case m.OwnerChanged():
                self._owner = message.owner

    def _take_letters(self) -> None:
        for letter in self.receiver.letters[self._letters :]:
            self._letters += 1
            fields = {"kind": letter.kind, "type": letter.type, "signed": letter.signed, "again": letter.again}
            self._saw(Sighting(at_s=letter.at_s, event="webhook", fields=fields))

    def _saw(self, sighting: Sighting) -> None:
        assert self._group is not None
        self._seen.append(sighting)
        for due_s, planned in self.timeline.saw(sighting):
            self._due += 1
            self._group.start_soon(self._do, due_s, planned)

    # --- what is planned ---

    async def _do(self, due_s: float, planned: Fault | Action) -> None:
        try:
            await anyio.sleep(max(0.0, due_s - time.time()))
            if isinstance(planned, Action):
                await self._act(planned)
                return
            if not self._was_steady:
                self._was_steady = True
                self._unsteady += [f"before the first fault: {each}" for each in self._not_steady()]
            async with anyio.create_task_group() as group:
                for target in self._targets.of(planned):
                    group.start_soon(self._inject, planned, target)
        finally:
            self._due -= 1

    async def _inject(self, fault: Fault, target: str) -> None:
        real = KINDS[fault.do].real
        assert real is not None, "a scenario with this fault has no mode real"
        self._tell(f"{fault.do} {target}")
        struck = Struck(index=fault.index, do=fault.do, target=target, at_s=time.time())
        fields = {"fault": fault.index, "do": fault.do, "target": target}
        self._saw(Sighting(at_s=struck.at_s, event="fault", fields=fields))
        try:
            strike = await real(self, fault, target)
        except (ShellError, *LINK_ERRORS) as error:
            struck.why = f"{target}: {str(error)[:200] or type(error).__name__}"
            strike = Strike(nothing_left, once(0))
        injected = Injected(struck, strike)
        self._injected.append(injected)
        await anyio.sleep(fault.for_s)
        await self._heal(injected)

    async def _heal(self, injected: Injected) -> None:
        struck = injected.struck
        struck.fired = max(struck.fired, injected.strike.fired())
        try:
            with anyio.fail_after(HEAL_S):
                await injected.strike.heal()
        except (OSError, TimeoutError, ShellError) as error:
            self._unhealed.append(f"{struck.do} {struck.target}: {type(error).__name__}: {str(error)[:200]}")
        struck.fired = max(struck.fired, injected.strike.fired())
        if not injected.over:
            injected.over = True
            struck.end_s = time.time()
            fields = {"fault": struck.index, "do": struck.do, "target": struck.target}
            self._saw(Sighting(at_s=struck.end_s, event="fault.end", fields=fields))

    async def _heal_all(self) -> None:
        for injected in self._injected:
            await self._heal(injected)

    async def _act(self, action: Action) -> None:
        while True:  # for as long as the run lasts: what nobody has asked for yet may still be asked
            try:
                facts = self._operator.facts(action, self.sightings.core)
                break
            except CannotAct as error:
                if not error.later:
                    return
            await anyio.sleep(POLL_S)
        for fact in facts:
            await self._state(fact)
        fields = {"action": action.index, "do": action.do, "agent": action.agent}
        self._saw(Sighting(at_s=time.time(), event="action", fields=fields))

    async def _state(self, fact: Fact) -> None:
        """Put it into the journal; what a person cannot do while the server is down, they try again."""
        assert self._link is not None
        while True:
            try:
                await journal.publish_op(self._link, self.run_id, fact)
            except BusError:
                await anyio.sleep(POLL_S)
            else:
                return

    def _start_rogue(self, name: str) -> None:
        file = self.state / "runs" / self.run_id / "credentials" / f"{name}.json"
        module = "crewkeeper_supervisor.chaos.real.rogue"
        self.start([sys.executable, "-m", module, self.run_id, name, str(file)], dict(os.environ), f"{name}.log")

    # --- the end ---

    def _not_steady(self) -> list[str]:
        return unsteady(self.scenario.steady, self.sightings.core, owned=bool(self.controllers.alive))

    async def _close(self) -> None:
        self._take_letters()
        self._unsteady += [f"at the end: {each}" for each in self._not_steady()]

    def _violations(self, texts: list[str]) -> None:
        """A run that is not decided again as it was breaks what everything else rests on."""
        for text in texts:
            fields = {"invariant": "decided again as recorded", "text": text}
            self._seen.append(Sighting(at_s=time.time(), event="violation", fields=fields))

    def _stop_crew(self) -> None:
        """End all but servers; harmless when repeated. What is stopped goes on first, so that it ends in order."""
        for pid in list(self.pids.values()):
            self.processes.thaw(pid)
        self._children.stop()
        if hasattr(self, "controllers"):
            self.controllers.stop()

    def _stop_servers(self) -> None:
        if self.servers is not None:
            for what, pid in self.servers.processes().items():
                self._known.add(what, pid)
            self.servers.stop()

    def _failed_agents(self) -> list[str]:
        ends = [each.fields for each in self._seen if each.event == "exited"]
        return list(dict.fromkeys(end["agent"] for end in ends if end["code"] > 0 and end["code"] != STOPPED_AT_WORK))

    def observed(self) -> Observed:
        """Everything that was seen so far."""
        zero_s = self.sightings.began_s if self.sightings.began_s is not None else time.time()
        return Observed(
            seen=[msgspec.structs.replace(each, at_s=round(each.at_s - zero_s, 6)) for each in self._seen],
            anchors={name: round(at_s - zero_s, 6) for name, at_s in self.timeline.anchors.items()},
            struck=[since(injected.struck, zero_s) for injected in self._injected],
            metrics=metrics_of(self.sightings, self._seen, {each.id: each.kind for each in self.receiver.letters}),
            unsteady=self._unsteady,
            unhealed=self._unhealed,
            undone=self._operator.undone,
            spans=[shifted(span, zero_s) for span in self.sightings.spans()],
            end_s=round(time.time() - zero_s, 6),
            last_words={name: words for name in self._failed_agents() if (words := last_words(self.agent_log(name)))},
        )

    def _played(self, took_s: float) -> Played:
        observed = self.observed()
        return Played(
            scenario=self.scenario.id,
            mode="real",
            seed=self.seed,
            verdict=judge(self.scenario, observed),
            observed=observed,
            digest=self.sightings.core.digest(),
            entries=self.sightings.core.seq,
            took_s=round(took_s, 3),
            folder=str(self.folder),
        )
