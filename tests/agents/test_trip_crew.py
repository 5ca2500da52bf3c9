"""The trip crew as three real processes: it deadlocks, a wait is broken, and it finishes its work."""

import csv

import msgspec
import pytest
from agent_process import EXAMPLES, member

from crewkeeper_bus import messages as m
from support.bus import until
from support.crew import open_crew

pytestmark = pytest.mark.live

TRIP = EXAMPLES / "trip"


async def deadlock(crew):
    """The two waits that close the ring, planner's and reviewer's, once both are open and the last call is queued."""
    planner = await crew.double.wait("planner", m.WaitBegan)
    reviewer = await crew.double.wait("reviewer", m.WaitBegan)
    assert planner.condition == m.OnCall(call=crew.double.sent("planner", m.Request)[0].address.id)
    (breakdown,) = crew.double.sent("reviewer", m.Request)
    assert (breakdown.address.to, breakdown.message.verb) == ("planner", "breakdown")
    assert reviewer.condition == m.OnCall(call=breakdown.address.id)
    assert breakdown.message.chain == (planner.condition.call,)
    (started,) = await crew.double.told("reviewer", m.CallStarted)
    assert started.call == planner.condition.call
    return planner, reviewer, breakdown.address.id


async def is_queued(crew, call):
    return call in (await crew.double.probe("planner")).queued


def check_files(folder):
    page = (folder / "itinerary.md").read_text()
    with (folder / "bookings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["kind"] == "hotel"
    assert all(row["name"] in page for row in rows)
    return page


@pytest.mark.parametrize("victim", ["reviewer", "planner"])
async def test_the_trip_is_booked_whichever_wait_is_broken(tmp_path, victim):
    out = tmp_path / "out"
    env = {"TRIP_OUT": str(out)}
    async with (
        open_crew("nats", tmp_path) as crew,
        member(crew, tmp_path, "executor", ["executor.py"], cwd=TRIP, env=env) as executor,
        member(crew, tmp_path, "reviewer", ["reviewer.py"], cwd=TRIP, env=env) as reviewer,
        member(crew, tmp_path, "planner", ["planner.py"], cwd=TRIP, env=env) as planner,
    ):
        planners, reviewers, call = await deadlock(crew)
        await until(lambda: is_queued(crew, call), "the planner has the call in its queue")
        assert not (await crew.double.told("planner", m.CallStarted))

        broken = reviewers if victim == "reviewer" else planners
        await crew.double.break_wait(victim, broken, retry_after_s=0.05)

        main = await crew.double.wait("planner", m.TaskBegan, name="main")
        await crew.double.wait("planner", m.TaskEnded, task=main.task)
        page = check_files(out)
        assert ("The planner could not give the breakdown" in page) == (victim == "reviewer")
        replies = crew.double.sent("executor", m.Reply)
        assert msgspec.json.decode(replies[0].message.body)["total_cents"] <= 900_00
        assert not (await crew.double.told("planner", m.Usage))

        for process in (executor, reviewer, planner):
            await crew.double.command(process.name, m.Stop, why="the work is done")
            assert await process.ended() == 0, process.text
