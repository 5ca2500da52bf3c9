"""A hundred agents in ten crews on one server: every planted deadlock is named, no planted look-alike is."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.views.fold import Fold

pytestmark = pytest.mark.live

HEAD_START_S = 1.5
"""Every main holds its slot this long before it asks, so that rings close whatever the order of starting."""

Agents = dict[str, dict[str, Any]]
Rings = list[set[str]]


def agent(*main: dict[str, Any], answer: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    script = {"main": [{"work": HEAD_START_S}, *main], "handlers": {"ask": answer or [{"reply": "ok"}]}}
    return {"run": [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(script)], **spec}


def ask(to: str) -> dict[str, Any]:
    return {"ask": {"to": to}}


def ring(size: int, name: str, **spec: Any) -> Agents:
    names = [f"{name}{n}" for n in range(size)]
    return {me: agent(ask(names[(n + 1) % size]), **spec) for n, me in enumerate(names)}


def crews() -> Iterator[tuple[str, Agents, Rings]]:
    """Ten crews of ten: name, agents, the deadlocks planted in it."""
    yield "ten", ring(10, "r"), [{f"r{n}" for n in range(10)}]
    yield (
        "small",
        ring(2, "a") | ring(3, "b") | ring(2, "c") | ring(3, "d"),
        [{"a0", "a1"}, {"b0", "b1", "b2"}, {"c0", "c1"}, {"d0", "d1", "d2"}],
    )
    # ALL of a stuck and of a live branch: the live one does not help.
    both = {"and0": agent({"ask_all": [{"to": "and1"}, {"to": "busy"}]}), "and1": agent(ask("and0"))}
    busy = {"busy": agent({"work": 4})}
    tail = {f"tail{n}": agent(ask("and0")) for n in range(4)}
    yield "every", both | busy | tail | ring(3, "e"), [{"and0", "and1"}, {"e0", "e1", "e2"}]
    yield "again", ring(10, "s"), [{f"s{n}" for n in range(10)}]
    yield (
        "pairs",
        {k: v for n in range(5) for k, v in ring(2, f"p{n}x").items()},
        [{f"p{n}x0", f"p{n}x1"} for n in range(5)],
    )
    # Look-alikes: nothing below is a deadlock.
    one = {"any0": agent({"ask_any": [{"to": "any1"}, {"to": "slow"}]}), "any1": agent(ask("any0"))}
    two = {
        "k0": agent({"gather": {"k": 2, "of": [{"to": "k1"}, {"to": "slow"}, {"to": "slow2"}]}}),
        "k1": agent(ask("k0")),
    }
    slow = {name: agent({"work": 3}) for name in ("slow", "slow2")}
    yield "either", one | two | slow | {f"w{n}": agent({"work": 2}) for n in range(4)}, []
    # Reentrant agents let the crossing calls in.
    yield "cross", ring(5, "f", reentrant="full") | ring(5, "g", concurrency=2), []
    # Chain reentrancy: a callback of one's own call comes in.
    back: Agents = {}
    for n in range(5):
        back[f"boss{n}"] = agent(ask(f"aide{n}"), reentrant="chain")
        back[f"aide{n}"] = agent(answer=[ask(f"boss{n}"), {"reply": "ok"}])
    yield "callback", back, []
    # Parents that wait for children who are busy for long.
    down = {f"c{n}": agent(ask(f"c{n + 1}") if n < 9 else {"work": 3}) for n in range(10)}
    yield "parents", down, []
    # A hub with room for all of its callers.
    yield (
        "hub",
        {"hub": agent({"work": 2}, concurrency=6, answer=[{"work": 1}, {"reply": "ok"}])}
        | {f"caller{n}": agent(ask("hub")) for n in range(9)},
        [],
    )


async def read_runs(state: Path) -> dict[str, Supervisor]:
    """Every run of a state directory, folded from its journal, by crew name."""
    folds = {}
    async with EmbeddedServer(state), connect(Place.find(state=state), name="test") as link:
        registry = Registry(link)
        await registry.open()
        for info in await registry.ls():
            fold = Fold(info.run)
            for entry in await journal.read_all(link, info.run):
                fold.feed(entry)
            folds[info.crew] = fold.supervisor
    return folds


@pytest.mark.slow
async def test_every_planted_deadlock_is_named_and_no_look_alike(tmp_path: Path):
    planted = {}
    files = []
    for name, agents, rings in crews():
        assert len(agents) == 10, f"{name} has {len(agents)} agents"
        crew = {"crew": name, "agents": agents, "limits": {"start_timeout": "120s"}}
        crew["responses"] = {"deadlock": {"do": ["break"]}}
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(json.dumps(crew))  # JSON is YAML
        planted[name] = rings
    state = tmp_path / "state"
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "up", "--plain", "--state", str(state)]
    with anyio.fail_after(400):
        done = await anyio.run_process([*command, *map(str, files)], check=False)
    assert done.returncode == 0, (done.stdout[-3000:] + done.stderr[-3000:]).decode()

    folds = await read_runs(state)
    assert set(folds) == set(planted)
    for name, core in folds.items():
        found = [i.finding for i in core.incidents.values() if i.finding.kind == "deadlock"]
        members = sorted(sorted(task.partition("/")[0] for task in finding.core[0]) for finding in found)
        assert members == sorted(sorted(one) for one in planted[name]), f"crew {name}"
        others = [i.finding.summary for i in core.incidents.values() if i.finding.kind != "deadlock"]
        assert others == [], f"crew {name}"
        assert core.state == "done", f"crew {name} did not finish after its deadlocks were broken"
