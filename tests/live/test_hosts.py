"""Agents on several hosts: one that is killed, stopped or told to end has its agents taken over once, by one copy."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import anyio.abc
import pytest

from crewkeeper_bus import messages as m
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core.crew import Agent, Crew, Restart
from crewkeeper_supervisor.core.events import Recorded, read
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.spreading import spread
from support.bus import LIMIT_S, until

pytestmark = pytest.mark.live

SERVES = '{"main": [{"sleep": 600}]}'
TTL_S = 6
"""Of the host that is lost; the other one is not to be, however slow the machine is."""


class Fleet:
    """A server, a controller, and hosts that come and go."""

    def __init__(self, ground: Ground, link: Link, folder: Path, stack: AsyncExitStack) -> None:
        self.ground = ground
        self.link = link
        self.folder = folder
        self.hosts: dict[str, anyio.abc.Process] = {}
        self.controller: anyio.abc.Process
        self._stack = stack

    async def start(self, name: str, *words: str) -> anyio.abc.Process:
        state = str(self.ground.place.state)
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *words, "--state", state]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await anyio.open_process(command, stdout=log, stderr=log, stdin=DEVNULL, cwd=self.folder)
        self._stack.push_async_callback(end, process)
        return process

    async def host(self, name: str, *options: str, ttl_s: int = 120) -> None:
        self.hosts[name] = await self.start(name, "host", "--name", name, "--ttl", str(ttl_s), *options)

    async def launch(self, *agents: Agent) -> str:
        crew = Crew(name="trip", agents=agents, heartbeat_s=0.5, folder=str(self.folder))
        [run] = await spread(self.ground, self.link, [crew], lambda _: None)
        return run

    async def heard(self, run: str) -> list[Recorded]:
        entries = await journal.read_all(self.link, run)
        events = [read(entry.seq, entry.at_s, entry.subject, entry.payload) for entry in entries]
        return [event for event in events if isinstance(event, Recorded)]

    async def stated(self, run: str, type_: type[Any]) -> list[Any]:
        return [event.message for event in await self.heard(run) if isinstance(event.message, type_)]

    async def until_joined(self, run: str, count: int) -> None:
        async def joined() -> bool:
            return len(await self.stated(run, m.Joined)) >= count

        await until(joined, f"{count} have joined")


async def end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
    with anyio.fail_after(LIMIT_S, shield=True):
        await process.wait()


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    async with EmbeddedServer(folder / "state") as server, AsyncExitStack() as stack:
        place = Place.of(folder / "state", server.credentials)
        async with connect(place) as link:
            made = Fleet(Ground(place), link, folder, stack)
            made.controller = await made.start("controller", "serve")
            yield made
            await stack.aclose()


def agent(name: str, *, elsewhere: bool = False, **options: Any) -> Agent:
    run = ("python", "-m", "crewkeeper_agents.scripted", SERVES)
    return Agent(name=name, run=run, restart=Restart(elsewhere=elsewhere, shutdown_s=20.0), **options)


def says(events: Sequence[Recorded], name: str) -> list[tuple[int, str]]:
    """What an agent has said: (sequence, incarnation)."""
    return [(event.seq, event.message.inc) for event in events if event.sender == name]


def one_copy_spoke_at_a_time(events: Sequence[Recorded], name: str) -> None:
    """No word of an incarnation comes after the first word of the next."""
    incs = [inc for _, inc in says(events, name)]
    assert incs == sorted(incs, key=list(dict.fromkeys(incs)).index), incs


def folded(run: str, events: Sequence[Recorded]) -> Supervisor:
    core = Supervisor(run)
    for event in events:
        core.handle(event)
    return core


async def test_agents_of_a_killed_host_are_taken_over_once(tmp_path: Path) -> None:
    async with fleet(tmp_path) as stage:
        await stage.host("w1", "--label", "disk=fast", ttl_s=TTL_S)
        run = await stage.launch(agent("moves", elsewhere=True), agent("stays", host={"disk": "fast"}))
        await stage.until_joined(run, 2)
        await stage.host("w2")

        async def both_seen() -> bool:
            return any(len(seen.hosts) == 2 for seen in await stage.stated(run, m.HostsSeen))

        await until(both_seen, "the second host is seen")
        stage.hosts["w1"].kill()
        await stage.until_joined(run, 3)
        given = [(each.agent, each.host) for each in await stage.stated(run, m.StartProcess)]
        assert given == [("moves", "w1"), ("stays", "w1"), ("moves", "w2")]
        cut: dict[str, m.AccessSet] = {}

        async def both_cut() -> bool:
            cut.update({each.agent: each for each in await stage.stated(run, m.AccessSet)})
            return len(cut) == 2

        await until(both_cut, "both have lost their access: each by an order of its own")
        assert {(each.state, each.ok) for each in cut.values()} == {("revoked", True)}
        events = await stage.heard(run)
        one_copy_spoke_at_a_time(events, "moves")
        core = folded(run, events)
        assert {name: view.status for name, view in core.agents.items()} == {"moves": "up", "stays": "crashed"}
        # The run ends like any other, on the host that is left.
        await journal.publish_op(stage.link, run, m.OperatorAsked(action="stop_run", why="enough"))

        async def ended() -> bool:
            return bool(await stage.stated(run, m.RunEnded))

        await until(ended, "the run has ended")
        [over] = await stage.stated(run, m.RunEnded)
        assert (over.state, over.why) == ("stopped", "enough")


@pytest.mark.slow
async def test_a_host_that_was_only_stopped_finds_its_agents_gone_elsewhere(tmp_path: Path) -> None:
    async with fleet(tmp_path) as stage:
        await stage.host("w1", "--label", "disk=fast", ttl_s=TTL_S)
        run = await stage.launch(agent("moves", elsewhere=True), agent("stays", host={"disk": "fast"}))
        await stage.until_joined(run, 2)
        await stage.host("w2")
        pids = {each.agent: each.pid for each in await stage.stated(run, m.ProcessStarted)}
        os.kill(stage.hosts["w1"].pid, signal.SIGSTOP)
        await stage.until_joined(run, 3)
        os.kill(pids["moves"], 0)  # the old copy lives, and may not say a word
        [revoked] = [
            event.seq
            for event in await stage.heard(run)
            if isinstance(event.message, m.AccessSet) and event.message.agent == "moves"
        ]
        os.kill(stage.hosts["w1"].pid, signal.SIGCONT)

        await until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), "the old copies have ended", 90
        )
        events = await stage.heard(run)
        first = says(events, "moves")[0][1]
        assert not [seq for seq, inc in says(events, "moves") if inc == first and seq > revoked]
        one_copy_spoke_at_a_time(events, "moves")
        assert [each.host for each in await stage.stated(run, m.StartProcess) if each.agent == "moves"] == ["w1", "w2"]
        core = folded(run, events)
        assert {name: view.status for name, view in core.agents.items()} == {"moves": "up", "stays": "crashed"}
        assert stage.hosts["w1"].returncode is None


@pytest.mark.slow
async def test_a_host_that_is_told_to_end_hands_its_agents_over(tmp_path: Path) -> None:
    async with fleet(tmp_path) as stage:
        await stage.host("w1", ttl_s=TTL_S)
        run = await stage.launch(agent("moves", elsewhere=True), agent("stays"))
        await stage.until_joined(run, 2)
        await stage.host("w2")
        stage.hosts["w1"].terminate()
        with anyio.fail_after(LIMIT_S):
            assert await stage.hosts["w1"].wait() == 0
        await stage.until_joined(run, 3)
        assert [each.host for each in await stage.stated(run, m.HostLeaving)] == ["w1"]
        [lost] = await stage.stated(run, m.HostLost)
        assert (lost.host, lost.why) == ("w1", "it was told to end, and has ended its agents")
        assert not await stage.stated(run, m.ProcessExited)
        one_copy_spoke_at_a_time(await stage.heard(run), "moves")


@pytest.mark.slow
async def test_agents_survive_their_controller_which_need_not_see_a_host_die(tmp_path: Path) -> None:
    async with fleet(tmp_path) as stage:
        await stage.host("w1", ttl_s=TTL_S)
        run = await stage.launch(agent("moves", elsewhere=True), agent("more", elsewhere=True))
        await stage.until_joined(run, 2)
        await stage.host("w2")
        stage.controller.kill()
        await stage.controller.wait()
        stage.hosts["w1"].kill()
        await stage.hosts["w1"].wait()
        await stage.start("successor", "serve")
        await stage.until_joined(run, 4)
        events = await stage.heard(run)
        given = [(each.agent, each.host) for each in await stage.stated(run, m.StartProcess)]
        assert sorted(given) == [("more", "w1"), ("more", "w2"), ("moves", "w1"), ("moves", "w2")]
        for name in ("moves", "more"):
            one_copy_spoke_at_a_time(events, name)
        assert len(await stage.stated(run, m.OwnerChanged)) == 2
        assert {view.status for view in folded(run, events).agents.values()} == {"up"}
