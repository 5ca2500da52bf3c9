"""Controllers die between decision and effect, hang, lose the leader: nothing is lost, doubled or contradicted.

The long one goes through every fail point that needs no power over logins, on three servers with three controllers.
"""

import signal
from pathlib import Path

import pytest

from crewkeeper_bus.subjects import stream_name
from crewkeeper_supervisor.shell import ledger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS
from support.bus import until
from support.failover import LIMIT_S, RUN, Failover, failover

pytestmark = pytest.mark.live
NAMES = ("one", "two", "three")
AT_THE_START = ("lease-taken", "folded", "fenced")
AT_WORK = ("decided", "recorded", "effect-due", "effect-due:2", "effects-sent")
TELLING = ("escalation-stored", "webhook-sent", "delivery-recorded", "delivery-reported")
AT_THE_END = "head-due,run-over"


async def test_a_death_between_record_and_effect_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async with failover(tmp_path, servers=1, grants=2) as run:
        run.serve("one", "two", point="recorded")
        await run.act(4)
        await run.struck("recorded")
        await run.settled()
        await run.end()
        await run.has_ended()
        await run.settled()
        found = await run.verify()
    assert len(found.calls) == 4
    assert len({record.term for record in found.records}) >= 2


@pytest.mark.slow
async def test_no_fault_loses_doubles_or_contradicts(tmp_path: Path) -> None:
    async with failover(tmp_path, servers=3, grants=20) as run:
        for point in (*AT_THE_START, *AT_WORK):
            run.kill()
            run.serve(*NAMES, point=point)
            await run.act(2)
            await run.struck(point)
            await run.settled()
        for point in TELLING:
            run.kill()
            run.serve(*NAMES, point=point)
            await run.disturb()
            await run.struck(point)
            await run.settled()
        await dies_while_it_lets_go(run)
        await dies_in_the_middle(run)
        await is_stopped_for_long(run)
        for stream in (stream_name(RUN), ledger.STREAM):
            await loses_the_leader(run, stream)
        run.kill()
        run.serve(*NAMES, point=AT_THE_END)
        await run.owner()
        await run.end()
        await run.struck(AT_THE_END)
        await run.has_ended()
        await run.settled()
        found = await run.verify()
    assert len(found.calls) > 20, "the budget was never at its end"
    assert len(found.escalations) >= len(TELLING)


async def dies_while_it_lets_go(run: Failover) -> None:
    """It is drained, and dies as soon as it has given the lease back."""
    run.kill()
    run.serve(*NAMES, point="lease-released")
    await run.act()
    await run.settled()  # whoever has taken the lease is at work, and has something to let go
    run.controllers[await run.owner()].send_signal(signal.SIGTERM)
    await run.act(2)
    await run.struck("lease-released")
    await run.settled()


async def dies_in_the_middle(run: Failover) -> None:
    """kill -9 of whoever owns the run, five times, while questions come in."""
    for _ in range(5):
        await run.act(2, confirm=False)
        name = await run.owner()
        run.kill(name)
        run.serve(name)
        await run.settled()


async def is_stopped_for_long(run: Failover) -> None:
    """SIGSTOP beyond the lease; when it goes on, it must know that it was replaced."""
    name = await run.owner()
    stopped = run.controllers[name]
    stopped.send_signal(signal.SIGSTOP)
    await run.act(2)
    await run.settled()  # by another one
    stopped.send_signal(signal.SIGCONT)
    log = run.folder / f"{name}.log"
    await until(lambda: "lease.lost" in log.read_text(), "it knows that it was replaced", LIMIT_S)
    await run.act(2)
    await run.settled()


async def loses_the_leader(run: Failover, stream: str) -> None:
    """kill -9 of the server that leads a stream, in the middle; it comes back."""

    async def led_by() -> str:
        try:
            cluster = (await run.link.js.stream_info(stream)).cluster
        except LINK_ERRORS:
            return ""
        return str(cluster.leader or "") if cluster is not None else ""

    leader = await until(led_by, f"{stream} has a leader", LIMIT_S)
    node = next(node for node in run.servers.nodes if node.name == leader)
    await run.act(2)
    node.stop()
    await until(led_by, f"{stream} has another leader", LIMIT_S)
    await until(lambda: run.link.is_connected, "the test is connected", LIMIT_S)
    await run.act(2)
    await run.settled()
    node.start()
    await run.settled()
