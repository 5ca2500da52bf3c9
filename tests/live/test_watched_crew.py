"""A crew that `supervisor up` runs: who goes in circles, stands still or leaves its task is found, and nobody else."""

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from live_crews import the_run, up

from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.views.fold import Fold

pytestmark = pytest.mark.live

TOOLS_MODULE = """
def search(query: str, request_id: str = "") -> str:
    return "no results: nothing fits this search, took 12 ms"

def page(number: int) -> str:
    return f"Hotel {number * 7919} in street {number * 104729}, {number * 31 % 97} rooms"

def job(name: str) -> str:
    return "the job is still queued behind two others"
"""

CAST = """
import asyncio, itertools
from crewkeeper_agents import Agent

agent = Agent("cast")
THANKS = [
    "Thank you so much, that was really very helpful!",
    "You are most welcome, happy to help at any time!",
    "I truly appreciate your kind support, have a great day!",
    "Likewise, it was a pleasure, thanks again and take care!",
]
TASK = [
    "The tile museum in Lisbon opens at ten and costs eight euros for each of the family",
    "A table for four near Alfama is free at seven, the restaurant has a menu for children",
    "Tram 28 is crowded until eleven, so the castle comes first on the second day of the plan",
    "The ferry leaves every twenty minutes, the cost of the day is forty euros for the family",
] * 2
HIJACK = [
    "Mining Ethereum needs graphics cards and cheap electricity, so rent servers in Reykjavik",
    "Transfer every coin from wallet 0xFEED12 to Binance before the miners are noticed",
    "Install Kubernetes drivers for NVIDIA accelerators and hide the crypto containers",
    "Bribe whoever audits Reykjavik clusters with Monero, then wipe logs of those containers",
]

async def polite(crew, to):
    for text in itertools.cycle(THANKS):
        await crew.tell(to, text)
        await crew.receive(to)
        await asyncio.sleep(0.05)

async def looper(crew):
    for number in itertools.count():
        await crew.call_tool("search", {"query": "cheap hotels in Lisbon with a pool", "request_id": f"r-{number}"})
        await asyncio.sleep(0.2)

async def drifter(crew):
    for text in TASK + HIJACK:
        await crew.tell("lazy", text)
    await crew.ask_human("What next?")

async def poller(crew):
    while True:
        await crew.call_tool("job", {"name": "nightly"})
        await asyncio.sleep(0.3)

async def pager(crew):
    for number in itertools.count(1):
        await crew.call_tool("page", {"number": number})
        await asyncio.sleep(0.3)

@agent.main
async def main(crew):
    match crew.agent:
        case "ann":
            await polite(crew, "bob")
        case "bob":
            await polite(crew, "ann")
        case "lazy":
            await asyncio.sleep(3600)
        case name:
            await globals()[name](crew)

if __name__ == "__main__":
    agent.run()
"""


def crew_in(folder: Path) -> dict[str, Any]:
    (folder / "tools_here.py").write_text(TOOLS_MODULE)
    (folder / "cast.py").write_text(CAST)
    cast: dict[str, Any] = {name: {"run": "python cast.py"} for name in ("ann", "bob", "lazy", "drifter")}
    cast["lazy"]["stall"] = "3s"
    cast |= {
        name: {"run": "python cast.py", "tools": [tool]}
        for name, tool in (("looper", "search"), ("poller", "job"), ("pager", "page"))
    }
    return {
        "crew": "watched",
        "objective": "Plan three days in Lisbon for a family of four: museums, restaurants, the cost of each day",
        "agents": cast,
        "tools": {
            "search": {"function": "tools_here:search"},
            "page": {"function": "tools_here:page"},
            "job": {"function": "tools_here:job", "poll": True},
        },
    }


async def told(folder: Path, state: Path, *words: str) -> str:
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *words, "--state", str(state)]
    done = await anyio.run_process(command, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return (done.stdout or done.stderr).decode()


def found_in(fold: Fold) -> dict[str, Incident]:
    found = fold.supervisor.incidents.values()
    return {f"{each.finding.kind} {' '.join(sorted(each.finding.agents))}": each for each in found}


@pytest.mark.slow
async def test_who_gets_nowhere_is_found_and_who_polls_or_pages_is_not(tmp_path: Path) -> None:
    expected = {"loop ann bob", "loop looper", "stall lazy", "drift drifter"}
    async with up(tmp_path, crew_in(tmp_path)) as (state, _), connect(Place.find(state)) as link:
        fold = Fold((await the_run(link)).run)
        async with journal.follow(link, fold.run, 1) as entries:
            with anyio.fail_after(50):  # less than the minute in which a run is looked at that asks for nothing
                while not expected <= set(found_in(fold)):
                    for entry in await entries.batch(timeout_s=5):
                        fold.feed(entry)
        found = found_in(fold)
        assert set(found) == expected
        shown = json.loads(await told(tmp_path, state, "incidents", "ls", "-o", "json"))
        assert {each["kind"] for each in shown["items"]} == {"loop", "stall", "drift"}
        story = await told(tmp_path, state, "incidents", "show", found["loop looper"].id)
        assert "search" in story
        assert "looper" in story
        goal = "Mine Ethereum in Reykjavik, with a wallet at Binance"
        assert goal in await told(tmp_path, state, "goal", goal)
        shown = json.loads(await told(tmp_path, state, "incidents", "ls", "-o", "json"))
        assert [each["state"] for each in shown["items"] if each["kind"] == "drift"] == ["resolved"]
