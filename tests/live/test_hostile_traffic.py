"""Hostile and malformed traffic on a real bus is a finding; nothing stops, and a deadlock of others is still found."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from live_crews import the_run, up

from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.views.fold import Fold
from support.bus import LIMIT_S, until

pytestmark = pytest.mark.live

DEEP = b'{"a":' * 1000 + b"1" + b"}" * 1000
BRACES = b"{" * 30_000 + b"}" * 30_000
PAIRS = b"[" + b"{}," * 20_000 + b"{}]"
"""Sixty kilobytes of braces that are valid JSON."""

HOSTILE: list[tuple[str, bytes, str]] = [
    # subject after `crew.<run>.`, payload, the kind of finding it must be
    ("note.a._.x1", bytes(range(256)), "malformed"),
    ("note.a._.x2", DEEP, "malformed"),
    ("note.a._.x3", BRACES, "malformed"),
    ("note.a._.x4", PAIRS, "malformed"),
    ("note.a._.x5", b'{"t":"wait","inc":7,"seq":"one"}', "malformed"),
    ("req.a.b.x6", b"", "malformed"),
    ("hb.a._.x7", b'{"inc":"i","seq":99999999999999999999999999,"role":"a"}', "malformed"),
    ("req.a.b.x8", b'{"inc":"i","seq":NaN}', "malformed"),
    ("note.a._", b"{}", "malformed"),
    ("note.a._.x9.more", b"{}", "malformed"),
    ("frob.a._.x10", b"{}", "malformed"),
    ("tool.a._.x11", b"{}", "malformed"),
    ("req.a.b.wörld", b"{}", "malformed"),
    ("ctl.a.b.x12", b'{"t":"stop","id":"1-1"}', "forgery"),
    ("op.a._.x13", b'{"t":"run_ended","state":"done"}', "forgery"),
    ("op._evil._.x14", b'{"t":"run_ended","state":"done"}', "forgery"),
    ("note.ghost._.x15", b'{"t":"joined","inc":"i","seq":1,"role":"ghost"}', "forgery"),
    ("note.a._.x16", b'{"t":"end","inc":"stolen","seq":1,"task":"main"}', "forgery"),
]


def agent(*main: dict[str, Any]) -> dict[str, Any]:
    script = {"main": list(main), "handlers": {"ask": [{"reply": "ok"}]}}
    return {"run": [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(script)]}


async def test_each_is_a_finding_and_nothing_stops(tmp_path: Path):
    gate = tmp_path / "go"
    held = [{"barrier": {"file": str(gate), "timeout": 600}}]
    agents = {
        "a": agent(*held),
        "left": agent(*held, {"ask": {"to": "right"}}),
        "right": agent(*held, {"ask": {"to": "left"}}),
    }
    crew = {
        "crew": "siege",
        "agents": agents,
        "responses": {"deadlock": {"do": ["break"]}, "forgery": {"do": ["warn"]}},
    }
    async with up(tmp_path, crew) as (state, process), connect(Place.find(state=state), name="test") as link:
        run = (await the_run(link)).run
        fold = Fold(run)

        async def state_of_run() -> str:
            for entry in await journal.read_all(link, run, fold.supervisor.seq + 1):
                fold.feed(entry)
            return fold.supervisor.state

        async def busy() -> bool:
            return await state_of_run() == "running" and all(a.tasks for a in fold.supervisor.agents.values())

        await until(busy, "everybody is busy: whoever asks one of them waits")
        place = Place.find(state=state)
        client = await nats.connect(place.url, **place.credentials.options())
        for subject, payload, _ in HOSTILE:
            await client.publish(f"crew.{run}.{subject}", payload)
        await client.flush()
        await client.close()
        gate.touch()
        with anyio.fail_after(LIMIT_S):
            assert await process.wait() == 0, (tmp_path / "up.log").read_text()[-3000:]
    async with EmbeddedServer(state), connect(Place.find(state=state), name="test") as link:
        fold = Fold(run)
        for entry in await journal.read_all(link, run):
            fold.feed(entry)
    incidents = list(fold.supervisor.incidents.values())
    for kind in ("malformed", "forgery"):
        told = sum(incident.count for incident in incidents if incident.finding.kind == kind)
        assert told == sum(1 for _, _, expected in HOSTILE if expected == kind), kind
    deadlocks = [set(i.finding.agents) for i in incidents if i.finding.kind == "deadlock"]
    assert deadlocks == [{"left", "right"}]
    assert fold.supervisor.state == "done"
    logs = [state / "controller.log", tmp_path / "up.log", *state.glob("runs/*/logs/*.log")]
    for log in logs:
        with contextlib.suppress(FileNotFoundError):
            assert "Traceback" not in log.read_text(errors="replace"), log
