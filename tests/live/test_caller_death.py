"""kill -9 of an agent whose calls are queued and in work elsewhere: nobody goes on working for it."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from live_crews import the_run, up

from crewkeeper_bus import messages as m
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.subjects import SUPERVISOR
from crewkeeper_supervisor.core import events
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import LIMIT_S, until

pytestmark = pytest.mark.live


def agent(main: list[Any] | None = None, **handlers: list[Any]) -> dict[str, Any]:
    script = ({"main": main} if main else {}) | ({"handlers": handlers} if handlers else {})
    run = [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(script)]
    return {"run": run, "restart": {"policy": "temporary"}}


AGENTS = {
    # The first call is in work and asks somebody else in turn; the second is queued, before that of one who lives on.
    "a": agent(
        [
            {"call": {"to": "b", "verb": "slow", "as": "x"}},
            {"call": {"to": "b", "verb": "quick", "as": "y"}},
            {"tell": {"to": "c", "body": "go"}},
            {"work": 3600},
        ]
    ),
    "b": agent(slow=[{"ask": {"to": "d", "verb": "long"}}, {"reply": "late"}], quick=[{"reply": "ok"}]),
    "c": agent([{"receive": {"from": ["a"]}}, {"ask": {"to": "b", "verb": "quick"}}]),
    "d": agent(long=[{"work": 3600}]),
}


async def recorded(link: Link, run: str) -> list[Recorded]:
    entries = await journal.read_all(link, run)
    read = [events.read(e.seq, e.at_s, e.subject, e.payload) for e in entries]
    return [event for event in read if isinstance(event, Recorded)]


async def test_nobody_works_on_for_an_agent_that_was_killed(tmp_path: Path):
    async with up(tmp_path, {"crew": "cascade", "agents": AGENTS}) as (state, process):
        async with connect(Place.find(state=state), name="test") as link:
            info = await the_run(link)

            async def all_are_busy() -> list[Recorded]:
                read = await recorded(link, info.run)
                asked = {event.sender for event in read if isinstance(event.message, m.Request)}
                busy = {event.sender for event in read if isinstance(event.message, m.CallStarted)}
                return read if asked >= {"a", "b", "c"} and busy >= {"b", "d"} else []

            read = await until(all_are_busy, "b works for a through d, and c waits for b")
            [pid] = [each.message.pid for each in read if isinstance(each.message, m.Joined) and each.sender == "a"]
            os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(LIMIT_S):
            await process.wait()  # c was served: b was free again; d was, too
    async with EmbeddedServer(state), connect(Place.find(state=state), name="test") as link:
        read = await recorded(link, info.run)
    requests = {each.id: each for each in read if isinstance(each.message, m.Request)}
    of_a = {id_: each.message.verb for id_, each in requests.items() if each.sender == "a"}
    cancels = [each for each in read if isinstance(each.message, m.SupervisorCancel)]
    assert [(each.sender, each.to, of_a[each.id]) for each in cancels] == [
        (SUPERVISOR, "b", "quick"),
        (SUPERVISOR, "b", "slow"),
    ]
    started = [requests[each.message.call] for each in read if isinstance(each.message, m.CallStarted)]
    assert [(each.sender, each.message.verb) for each in started] == [("a", "slow"), ("b", "long"), ("c", "quick")]
    passed_on = [(each.sender, each.to) for each in read if isinstance(each.message, m.Cancel)]
    assert passed_on == [("b", "d")]
    answers = [each.to for each in read if isinstance(each.message, m.Reply) and each.message.error is None]
    assert answers == ["c"]
