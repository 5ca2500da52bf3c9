"""What servers are asked through their system account, on real servers."""

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from nats.errors import Error

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.shell import system_link
from support.bus import until
from support.cluster import Identity, callout, cluster, logged_in

pytestmark = pytest.mark.live


async def test_connections_of_a_user_are_found_on_every_server_and_closed(tmp_path: Path):
    with cluster(tmp_path) as servers:
        async with callout(servers) as table, system_link.connect(servers.credentials("_system")) as system:
            await until(lambda: whole(system, 3), "all three servers are known")
            agent, other = table.add("r1", "a"), table.add("r1", "b")
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(logged_in(agent, node)) for node in servers.nodes]
                bystander = await stack.enter_async_context(logged_in(other, servers.nodes[2]))
                clients[2].subscribe_raw("out.crew.r1.req.*.a.*", "", lambda *_: None)
                assert await clients[2].barrier(60)
                scan = await system.connections("r1.a", subjects=True, limit_s=60)
                assert scan.silent == ()
                assert len({each.server for each in scan.connections}) == 3
                assert [each.subjects for each in scan.connections if each.subjects] == [("out.crew.r1.req.*.a.*",)]
                system.kick(scan.connections)
                await until(lambda: all(not client.is_connected for client in clients), "all are cut off")
                await until(lambda: none_of(system, "r1.a"), "the servers know it, too")
                assert bystander.is_connected


async def none_of(system: system_link.SystemLink, user: str) -> bool:
    return (await system.connections(user, limit_s=60)).connections == ()


async def whole(system: system_link.SystemLink, size: int) -> bool:
    await system.connections("nobody")
    return len(system._heard) == size


async def test_a_server_that_does_not_answer_is_named(tmp_path: Path):
    with cluster(tmp_path) as servers:
        async with system_link.connect(servers.credentials("_system")) as system:
            await until(lambda: whole(system, 3), "all three servers are known")
            with servers.nodes[1].frozen():
                await falls_silent(system, "n2")
            await until(lambda: answers(system), "it answers again")
            # A server that was killed may as well be cut off, with agents on it.
            servers.nodes[2].stop()
            await falls_silent(system, "n3")


async def falls_silent(system: system_link.SystemLink, name: str) -> None:
    """It alone does not answer: the others are given more and more time for it, as a busy machine needs it."""
    for limit_s in (0.5, 2, 8, 30):
        if (silent := (await system.connections("r1.a", limit_s=limit_s)).silent) == (name,):
            return
    raise AssertionError(f"silent: {silent}")


async def answers(system: system_link.SystemLink) -> bool:
    return (await system.connections("r1.a", limit_s=10)).silent == ()


async def test_a_server_that_says_goodbye_is_not_waited_for(tmp_path: Path):
    with cluster(tmp_path) as servers:
        async with system_link.connect(servers.credentials("_system")) as system:
            await until(lambda: whole(system, 3), "all three servers are known")
            servers.nodes[2].send(signal.SIGTERM)
            servers.nodes[2].process.wait(120)
            await until(lambda: answers(system), "only two are expected")


async def test_without_a_connection_a_question_fails_at_once(tmp_path: Path):
    with cluster(tmp_path, 1) as servers:
        async with system_link.connect(servers.credentials("_system")) as system:
            servers.nodes[0].stop()
            await until(lambda: not system.is_connected, "the loss is seen")
            with pytest.raises(ConnectionLost):
                await system.connections("r1.a")


async def test_events_tell_who_came_left_and_was_refused(tmp_path: Path):
    with cluster(tmp_path, 1) as servers:
        async with callout(servers) as table, system_link.connect(servers.credentials("_system")) as system:
            agent = table.add("r1", "a")
            seen: list[system_link.Event] = []
            async with anyio.create_task_group() as group:

                async def listen() -> None:
                    async for batch in system.events():
                        seen.extend(each for each in batch if each.user == "r1.a")

                group.start_soon(listen)
                await until(lambda: system._listens, "it listens")
                await system.connections("r1.a")  # answered after the subscriptions are in force
                async with logged_in(agent, servers.nodes[0]) as client:
                    system.kick((await system.connections("r1.a")).connections)
                    await until(lambda: not client.is_connected, "it is cut off")
                with pytest.raises(Error, match="Authorization"):
                    async with logged_in(Identity("r1", "a", "a", "wrong"), servers.nodes[0]):
                        pass
                await until(lambda: len(seen) == 3, "three events")
                group.cancel_scope.cancel()
            assert [(each.kind, each.reason) for each in seen] == [
                ("came", ""),
                ("left", "Kicked"),
                ("refused", "Authentication Failure"),
            ]
