"""Deadlock: from the closing of a ring on a real bus to the finding, and to the broken wait, by the journal's clock."""

import anyio

import crewkeeper_bus as bus
from benchmarks.ground import Ground, median, report
from crewkeeper_bus import messages
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.shell import journal

TIMES = 10


async def _ring_once(left: bus.Client, right: bus.Client) -> None:
    """Two activities that each hold their agent's one slot, and each ask the other's agent."""

    async def ask(me: bus.Client, other: str) -> None:
        async with me.task("ask"):
            try:
                await me.ask(other, {}, verb="never")
            except (bus.WouldDeadlock, bus.Refused):
                return  # a crew would hold back for `retry_after_s`; here the ring is closed again on purpose

    async with anyio.create_task_group() as group:
        group.start_soon(ask, left, "right")
        group.start_soon(ask, right, "left")


async def run(ground: Ground) -> None:
    """Measure and print."""
    async with (
        await ground.client("left", supervised=True) as left,
        await ground.client("right", supervised=True) as right,
    ):
        await left.ready()
        await right.ready()
        for client in (left, right):
            client.serve("never")(_never)
        for _ in range(TIMES):
            await _ring_once(left, right)
    entries = await journal.read_all(ground.link, ground.run)
    finding, broken = [], []
    closed_s = told_s = 0.0
    for entry in entries:
        event = events.read(entry.seq, entry.at_s, entry.subject, entry.payload)
        message = getattr(event, "message", None)
        if isinstance(message, messages.WaitBegan) and event.sender in ("left", "right"):
            closed_s = entry.at_s
        elif isinstance(message, messages.Break):
            told_s = entry.at_s
            finding.append(1e3 * (told_s - closed_s))
        elif isinstance(message, messages.WaitEnded) and message.outcome == "broken":
            broken.append(1e3 * (entry.at_s - closed_s))
    assert len(finding) == TIMES, f"{len(finding)} rings were broken, expected {TIMES}"
    report(
        f"Deadlock of two agents, {TIMES} times, confirmation set to 250 ms",
        [
            ("closing to finding and order to break", f"p50 {median(finding):6.1f} ms   max {max(finding):6.1f} ms"),
            ("closing to the wait failed", f"p50 {median(broken):6.1f} ms   max {max(broken):6.1f} ms"),
            ("beyond the confirmation time", f"p50 {median(broken) - 250:6.1f} ms"),
        ],
    )


async def _never(request: bus.Request) -> object:
    return request.body
