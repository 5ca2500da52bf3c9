"""kill -9 of the controller in the middle of a deadlock: it still ends in the right break, once."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from live_crews import the_run, up

from crewkeeper_bus import messages
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import LIMIT_S, until

pytestmark = pytest.mark.live


def agent(other: str, gate: Path) -> dict[str, Any]:
    """An agent that is busy until the gate is there, and then asks the other one."""
    held = {"barrier": {"file": str(gate), "timeout": 600}}
    script = {"main": [held, {"ask": {"to": other}}], "handlers": {"ask": [{"reply": "ok"}]}}
    return {"run": [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(script)]}


async def recorded(link: Link, run: str) -> list[Recorded]:
    entries = await journal.read_all(link, run)
    read = [events.read(e.seq, e.at_s, e.subject, e.payload) for e in entries]
    return [event for event in read if isinstance(event, Recorded)]


def controllers_of(state: Path) -> list[int]:
    """Process ids of the controllers that serve this state directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(state).encode() in words:
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the controller through /proc, which only Linux has")
@pytest.mark.parametrize("moment", ["before the ring closes", "while it is being confirmed"])
async def test_the_ring_is_broken_once(tmp_path: Path, moment: str):
    confirm = "3s" if moment == "while it is being confirmed" else "250ms"
    deadlock = {"confirm": confirm, "do": ["break"]}
    gate = tmp_path / "gate"
    agents = {"a": agent("b", gate), "b": agent("a", gate)}
    crew = {"crew": "ring", "agents": agents, "responses": {"deadlock": deadlock}}
    async with up(tmp_path, crew) as (state, process), connect(Place.find(state=state), name="test") as link:
        info = await the_run(link)

        async def has(kind: type, count: int = 1) -> bool:
            return sum(isinstance(event.message, kind) for event in await recorded(link, info.run)) >= count

        await until(lambda: has(messages.TaskBegan, 2), "both are busy: whoever asks one of them waits")
        if moment == "while it is being confirmed":
            gate.touch()
            await until(lambda: has(messages.Probe), "the ring is suspected")
        [pid] = controllers_of(state)
        os.kill(pid, signal.SIGKILL)
        gate.touch()
        with anyio.fail_after(LIMIT_S):
            assert await process.wait() == 0, (tmp_path / "up.log").read_text()[-3000:]
    log = (tmp_path / "up.log").read_text()
    assert log.count("DEADLOCK") == 1, log
    assert log.count("wait has failed") == 1, log
    # The journal is on disk; read it as anybody would afterwards.
    async with EmbeddedServer(state), connect(Place.find(state=state), name="test") as link:
        read = await recorded(link, info.run)
    owners = [event.message for event in read if isinstance(event.message, messages.OwnerChanged)]
    breaks = {event.message.id for event in read if isinstance(event.message, messages.Break)}
    broken = [e for e in read if isinstance(e.message, messages.WaitEnded) and e.message.outcome == "broken"]
    assert len(owners) == 2
    assert owners[1].term > owners[0].term
    assert len(breaks) == 1
    assert len(broken) == 1
