"""Killing an agent that obeys nothing, on real servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from nats.errors import Error

from crewkeeper_supervisor.shell import enforcer as enforcer_module
from crewkeeper_supervisor.shell import nats_link, system_link
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.enforcer import Done, Enforcer
from crewkeeper_supervisor.shell.place import Place
from support.bus import until
from support.cluster import Callout, Cluster, Identity, TableAccess, callout, cluster, logged_in
from support.hostile import LIMIT_S, Witness, hostile, witness

pytestmark = pytest.mark.live


class Stage:
    """Servers, a callout, a witness on the first one, and an enforcer that is connected there."""

    def __init__(self, servers: Cluster, table: Callout, enforcer: Enforcer, seen: Witness) -> None:
        self.servers = servers
        self.table = table
        self.enforcer = enforcer
        self.seen = seen

    async def kill(self, identity: Identity, *, node: int = 0, churners: int = 3) -> Done:
        """Let an agent run wild, kill it, and check that nothing more was taken from it."""
        agent = identity.agent
        url = self.servers.nodes[node].url
        subject = f"crew.{identity.run}.msg.{agent}.b"
        with hostile(url, identity.user, identity.password, subject, connections=churners) as process:
            await until(lambda: self.are_in(identity.user, churners), "all its connections are there")
            await until(lambda: self.seen.count.get(agent, 0) > 50, "it publishes")
            done = await self.enforcer.kill(identity.run, agent, why="test", term=1)
            before = await self.taken_of(agent)
            await until(lambda: process.has_ended, "every connection was refused again and again")
            assert await self.taken_of(agent) == before
            assert process.end()["logins"] >= churners
        return done

    async def taken_of(self, agent: str) -> int:
        """How many messages of an agent the server has taken so far, however late the witness hears of them."""
        for _ in range(2):  # the second answer also follows what the server's other threads had in hand
            assert await self.enforcer._link.nc.barrier(LIMIT_S)
        return self.seen.count[agent]

    async def are_in(self, user: str, count: int) -> bool:
        """Whether a user has so many connections on which something was said."""
        assert self.enforcer._system is not None
        scan = await self.enforcer._system.connections(user)
        return sum(each.sent > 0 for each in scan.connections) >= count


@contextlib.asynccontextmanager
async def staged(tmp_path: Path, size: int) -> AsyncIterator[Stage]:
    with cluster(tmp_path, size) as servers:
        own = servers.credentials("_supervisor")
        place = Place(state=tmp_path, url=own.url, user=own.user, password=own.password)
        async with (
            callout(servers) as table,
            system_link.connect(servers.credentials("_system")) as system,
            nats_link.connect(place) as link,
            witness(link.nc) as seen,
        ):
            await until(lambda: whole(system, size), "all servers are known")
            yield Stage(servers, table, Enforcer(link, system, TableAccess(table), Authority("config")), seen)


async def whole(system: system_link.SystemLink, size: int) -> bool:
    await system.connections("nobody")
    return len(system._heard) == size


async def test_every_one_of_many_churning_identities_is_cut_off(tmp_path: Path):
    async with staged(tmp_path, 1) as stage:
        for group in range(5):
            identities = [stage.table.add("r1", f"a{group}-{i}") for i in range(5)]
            outcomes = await asyncio.gather(*(stage.kill(each) for each in identities))
            assert [(done.ok, done.detail, done.connections >= 3) for done in outcomes] == [(True, "", True)] * 5


async def test_an_agent_on_another_node_of_the_cluster_is_cut_off(tmp_path: Path):
    async with staged(tmp_path, 3) as stage:
        done = await stage.kill(stage.table.add("r1", "a"), node=2)
        assert done.ok
        assert done.connections >= 3


@pytest.mark.parametrize("slow_s", [0.02, 0.15])
async def test_a_login_that_was_being_judged_is_cut_off_as_well(tmp_path: Path, slow_s: float, monkeypatch):
    monkeypatch.setattr(enforcer_module, "LOOK_AGAIN_S", (0.05, 1.0))  # the last one long after the slowest answer
    async with staged(tmp_path, 1) as stage:
        identity = stage.table.add("r1", "a")
        stage.table.slow_s = slow_s
        outcome: list[Done] = []

        async def kill() -> None:
            await until(lambda: stage.table.asked == 1, "its login is being judged")
            outcome.append(await stage.enforcer.kill("r1", "a", why="test", term=1))

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            with contextlib.suppress(OSError, Error):  # cut off before it has said a word, or soon after
                async with logged_in(identity, stage.servers.nodes[0]) as client:
                    await until(lambda: not client.is_connected, "it is let in, and cut off")
        assert (outcome[0].ok, outcome[0].connections) == (True, 1)


async def test_a_server_that_does_not_answer_makes_no_success(tmp_path: Path):
    async with staged(tmp_path, 3) as stage:
        identity = stage.table.add("r1", "a")
        async with logged_in(identity, stage.servers.nodes[0]) as near, logged_in(identity, stage.servers.nodes[2]):
            with stage.servers.nodes[2].frozen():
                async with anyio.create_task_group() as group:
                    outcome: list[Done] = []

                    async def kill() -> None:
                        outcome.append(await stage.enforcer.kill("r1", "a", why="test", term=1))

                    group.start_soon(kill)
                    await until(lambda: not near.is_connected, "it is cut off where the server answers")
                    assert outcome == []  # the other server is still waited for
                assert not outcome[0].ok
                assert "n3 did not answer" in outcome[0].detail
            # Once it answers, the same order finds what was left.
            done = await stage.enforcer.kill("r1", "a", why="test", term=1)
            assert (done.ok, done.connections) == (True, 1)


async def test_killing_is_final_and_harmless_to_repeat(tmp_path: Path):
    async with staged(tmp_path, 1) as stage:
        stage.table.add("r1", "a")
        assert (await stage.enforcer.kill("r1", "a", why="test", term=1)).ok
        done = await stage.enforcer.kill("r1", "a", why="test", term=2)
        assert (done.ok, done.connections) == (True, 0)


async def test_without_a_system_account_nothing_is_claimed(tmp_path: Path):
    async with staged(tmp_path, 1) as stage:
        identity = stage.table.add("r1", "a")
        weak = Enforcer(stage.enforcer._link, None, TableAccess(stage.table), Authority("signing"))
        done = await weak.kill("r1", "a", why="test", term=1)
        assert not done.ok
        assert not done.enforced
        assert done.detail == Authority("signing").cannot_enforce
        assert identity.state == "killed"


async def test_a_lost_connection_is_an_outcome(tmp_path: Path):
    async with staged(tmp_path, 1) as stage:
        stage.table.add("r1", "a")
        stage.servers.nodes[0].stop()
        await until(lambda: not stage.enforcer._link.is_connected, "the loss is seen")
        done = await stage.enforcer.kill("r1", "a", why="test", term=1)
        assert not done.ok
        assert "not connected" in done.detail
