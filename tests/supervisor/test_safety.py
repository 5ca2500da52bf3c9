"""Safety: which settings of a server are named, which keep a controller from serving, and what a real server shows."""

import contextlib
import re

import pytest
from msgspec.structs import replace
from nats.js.api import RePublish, StreamConfig, StreamInfo, StreamState
from nats_process import linked

from crewkeeper_supervisor.shell import controller, ledger, safety
from crewkeeper_supervisor.shell.errors import StoreUnavailable, UnsafeServer
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.safety import Facts
from support.bus import until
from support.cluster import cluster


def stream(name: str, copies: int = 3, **settings) -> StreamInfo:
    """A stream as it is made here, but for some settings."""
    made = {
        "no_ack": name.startswith("CREW_"),
        "republish": RePublish(src="crew.r1.>", dest="out.crew.r1.>") if name.startswith("CREW_") else None,
        "deny_delete": True,
        "deny_purge": True,
    }
    config = StreamConfig(name=name, num_replicas=copies, **{**made, **settings})
    state = StreamState(messages=0, bytes=0, first_seq=0, last_seq=0, consumer_count=0)
    return StreamInfo(config=config, state=state)


GOOD = Facts(
    servers=3,
    is_clustered=True,
    sync_s={"n1": 0.0, "n2": 1.0},
    streams=tuple(stream(name) for name in ("LEDGER", "KV_LEASES", "KV_CREWS", "CREW_r1", "SOMEBODY_ELSES")),
)


def with_stream(changed: StreamInfo) -> Facts:
    others = (each for each in GOOD.streams if each.config.name != changed.config.name)
    return replace(GOOD, streams=(*others, changed))


def test_what_is_as_it_should_be_is_not_named():
    assert safety.judge(GOOD) == []
    assert safety.judge(Facts(streams=(stream("LEDGER", 1), stream("CREW_r1", 1)))) == []
    assert safety.judge(with_stream(stream("SOMEBODY_ELSES", 1, deny_purge=False))) == []


@pytest.mark.parametrize(
    ("facts", "name", "grade", "text"),
    [
        (with_stream(stream("LEDGER", 1)), "replicas", "fail", "keep LEDGER"),
        (replace(with_stream(stream("KV_LEASES", 1)), replicas_named=1), "replicas", "warn", "keep KV_LEASES"),
        (with_stream(stream("CREW_r1", 2)), "replicas", "warn", "fewer than 3 of 3 servers keep CREW_r1"),
        (
            replace(with_stream(stream("LEDGER", 1)), servers=1, counted=False),
            "replicas",
            "warn",
            "a cluster's servers .* keep LEDGER",
        ),
        (replace(with_stream(stream("LEDGER", 1)), counted=False), "replicas", "warn", "of 3 servers keep LEDGER"),
        (replace(GOOD, servers=2), "cluster", "warn", "two servers"),
        (replace(GOOD, payload_bytes=65536), "max_payload", "fail", "65,536 bytes"),
        (with_stream(stream("CREW_r1", no_ack=False)), "streams", "warn", "CREW_r1 has other settings .*: no_ack"),
        (with_stream(stream("CREW_r1", republish=None)), "streams", "warn", "republish"),
        (with_stream(stream("LEDGER", max_msgs=10)), "streams", "warn", "LEDGER .*: max_msgs"),
        (with_stream(stream("LEDGER", deny_delete=False)), "streams", "warn", "deny_delete"),
        (replace(GOOD, sync_s={"n1": 120.0, "n2": 1.0}), "sync_interval", "warn", "n1 write to disk every 120 s"),
        (replace(GOOD, asks_who=False), "logins", "warn", "whoever reaches it"),
        (replace(GOOD, stored_bytes=95, store_bytes=100), "room", "warn", "95% of"),
    ],
)
def test_what_is_not_is_named_with_a_remedy(facts, name, grade, text):
    (risk,) = safety.judge(facts)
    assert (risk.name, risk.grade) == (name, grade)
    assert re.search(text, risk.text)
    assert risk.fix
    assert len(risk.text + risk.fix) < 220


@pytest.mark.live
async def test_a_controller_refuses_a_server_that_would_lose_decisions(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(safety, "PAYLOAD_MIN_BYTES", 2 * 1024 * 1024)
    async with linked(tmp_path) as (server, link):
        (risk,) = await safety.examine(link, None)
        assert risk.name == "max_payload"
        with pytest.raises(BaseExceptionGroup) as refused:
            await controller.serve(server.place, "one")
        assert refused.group_contains(UnsafeServer, match="is not safe to serve on: it takes messages of 1,048,576")
    assert '"server.unsafe"' in capfd.readouterr().err


@pytest.mark.live
async def test_servers_behind_one_address_are_counted_and_used(tmp_path):
    with cluster(tmp_path / "servers", hidden=True) as servers:
        async with connect(Place.of(tmp_path, servers.credentials("_supervisor"))) as link:
            assert link.advertised < 3
            await until(lambda: opened(link), "the servers keep streams", 60)
            assert (await link.js.stream_info(ledger.STREAM)).config.num_replicas == 3
            for system in (servers.credentials("_system"), None):
                facts = await safety.facts(link, system)
                assert (facts.servers, facts.counted) == (3, True)
                assert "replicas" not in {risk.name for risk in safety.judge(facts)}


async def opened(link) -> bool:
    with contextlib.suppress(StoreUnavailable):
        await ledger.open_stream(link)
        return True
    return False
