"""Where a transport dials: the given address every other turn, and the servers that were named; on a real cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crewkeeper_bus.addresses import KNOWN_MAX, Addresses
from crewkeeper_bus.credentials import redacted
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_supervisor.shell import nats_link
from crewkeeper_supervisor.shell.place import Place
from support.bus import until
from support.cluster import Node

GIVEN = "nats://eve:secret@a:1"


def turns(addresses: Addresses, count: int, url: str = GIVEN) -> list[str]:
    return [addresses.following(url) for _ in range(count)]


def test_the_given_address_has_every_other_turn() -> None:
    addresses = Addresses()
    assert turns(addresses, 2) == [GIVEN, GIVEN]
    addresses.linked(GIVEN)
    addresses.named(["b:2", "a:1", "c:3", "b:2"])
    b, c = GIVEN.replace("a:1", "b:2"), GIVEN.replace("a:1", "c:3")
    assert turns(addresses, 6) == [GIVEN, b, GIVEN, c, GIVEN, b]


def test_it_begins_again_after_a_link_and_keeps_what_was_named() -> None:
    addresses = Addresses()
    turns(addresses, 2, "nats://a:1")
    addresses.named(["b:2"])
    turns(addresses, 3, "nats://a:1")
    addresses.linked("nats://b:2")
    addresses.named([])
    assert addresses.here("nats://a:1") == addresses.current == "nats://b:2"
    assert turns(addresses, 2, "nats://a:1") == ["nats://a:1", "nats://b:2"]


def test_another_given_address_is_another_cluster() -> None:
    addresses = Addresses()
    turns(addresses, 1)
    addresses.linked(GIVEN)
    addresses.named(["b:2"])
    assert addresses.here("nats://z:9") == "nats://z:9"
    assert turns(addresses, 2, "nats://z:9") == ["nats://z:9", "nats://z:9"]


def test_several_given_addresses_take_turns() -> None:
    addresses = Addresses()
    given = "nats://a:1, nats://b:2,nats://c:3"
    a, b, c = "nats://a:1", "nats://b:2", "nats://c:3"
    assert turns(addresses, 4, given) == [a, b, c, a]
    addresses.linked(b)
    assert addresses.here(given) == b
    addresses.named(["c:3", "d:4"])
    assert turns(addresses, 6, given) == [a, "nats://d:4", b, "nats://d:4", c, "nats://d:4"]
    assert Addresses().here(given) == a


def test_of_several_addresses_no_login_is_shown() -> None:
    assert redacted("nats://eve:secret@a:1,tls://eve:secret@b:2/x") == "nats://a:1,tls://b:2"


def test_only_so_many_are_kept() -> None:
    addresses = Addresses()
    turns(addresses, 1)
    addresses.named(f"h{number}:1" for number in range(100))
    assert len(set(turns(addresses, 100))) == KNOWN_MAX + 1


@contextmanager
def servers(folder: Path, *names: str) -> Iterator[list[Node]]:
    nodes = [Node(name, folder / name) for name in names]
    routes = ", ".join(f"nats://127.0.0.1:{each.route_port}" for each in nodes)
    try:
        for node in nodes:
            node.directory.mkdir()
            (node.directory / "nats.conf").write_text(
                f"server_name: {node.name}\nlisten: 127.0.0.1:{node.port}\n"
                f"cluster {{name: all, listen: 127.0.0.1:{node.route_port}, routes: [{routes}]}}\n"
            )
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.stop()


@pytest.mark.live
async def test_whoever_loses_its_server_goes_on_at_another(tmp_path: Path) -> None:
    with servers(tmp_path, "one", "two") as (one, two):
        lone = await NatsTransport.open(two.url, name="listener")
        heard: list[bytes] = []
        await lone.subscribe("x", lambda _subject, payload: heard.append(payload))
        transport = await NatsTransport.open(one.url, name="agent")
        own: list[bytes] = []
        await transport.subscribe("y", lambda _subject, payload: own.append(payload))
        # The other server is named when the cluster has come together.
        await until(lambda: transport._link is not None and transport._link.discovered_servers)
        one.stop()
        await until(lambda: transport._addresses.current == two.url and transport.is_connected)
        await transport.publish("x", b"from another server")
        await until(lambda: heard == [b"from another server"])
        await lone.publish("y", b"to it")
        await until(lambda: own == [b"to it"])
        await transport.renew()
        assert transport._addresses.current == two.url, "renewed where it is"
        await transport.close()
        await lone.close()


@pytest.mark.live
async def test_the_first_of_several_servers_may_be_down(tmp_path: Path) -> None:
    with servers(tmp_path, "one", "two", "three") as (one, two, three):
        one.stop()
        url = f"{one.url},{two.url},{three.url}"
        agent = await NatsTransport.open(url, name="agent")
        heard: list[bytes] = []
        await agent.subscribe("x", lambda _subject, payload: heard.append(payload))
        async with nats_link.connect(Place.of_url(url, tmp_path), name="supervisor") as link:
            lost, left = (two, three) if agent._addresses.current == two.url else (three, two)
            lost.stop()
            await until(lambda: agent._addresses.current == left.url and agent.is_connected)
            await until(lambda: link.nc.is_connected and str(left.port) in str(link.nc.connected_url))
            await agent.barrier()  # its subscription is known there
            await link.publish("x", b"from the last one")
            await until(lambda: heard == [b"from the last one"])
        await agent.close()
