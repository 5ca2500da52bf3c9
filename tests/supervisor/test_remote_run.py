"""A host obeys the orders that mean it, each once, and says what it does not take."""

import sys
from pathlib import Path

import anyio
import pytest
from nats_process import linked

from crewkeeper_bus import codec, subjects
from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_supervisor.core.crew import Agent, Crew, Restart
from crewkeeper_supervisor.core.events import Recorded, read
from crewkeeper_supervisor.core.model_proxy import ModelProxy, Upstream
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.remote_run import RemoteRun
from support.bus import until
from support.stub_provider import provider

pytestmark = pytest.mark.live

QUICK = Agent(name="quick", run=(sys.executable, "-c", "pass"))
LONG = Agent(name="long", run=(sys.executable, "-c", "import time; time.sleep(600)"), restart=Restart(shutdown_s=0.0))
ASKS = """
import os, urllib.request
url, key = os.environ["OPENAI_BASE_URL"] + "/models", os.environ["OPENAI_API_KEY"]
asked = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
assert urllib.request.urlopen(asked, timeout=60).status == 200
"""
MODELS = Agent(name="models", run=(sys.executable, "-c", ASKS), restart=Restart(policy="temporary"))
UNSET = Agent(name="unset", run=("x",), env={"A": "${NOT_SET_ANYWHERE}"})


class Self:
    """A host with one slot more than it has agents."""

    name, inc, leaving, room = "w1", "i1", False, True

    def has_room(self) -> bool:
        return self.room

    def changed(self) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


async def orders(link: Link, *given: m.StartProcess | m.StopProcess) -> None:
    for order in given:
        await journal.publish(link, subjects.build("r1", Kind.CTL, SUPERVISOR, HOST, order.id), codec.encode(order))


def start(id_: str, agent: str, host: str = "w1", inc: str = "i1") -> m.StartProcess:
    return m.StartProcess(id=id_, term=1, agent=agent, host=host, inc=inc)


async def reported(link: Link) -> list[tuple[str, str, str]]:
    said = []
    # What was said twice under one id, because it was stored late, counts once.
    for entry in {each.subject: each for each in await journal.read_all(link, "r1")}.values():
        event = read(entry.seq, entry.at_s, entry.subject, entry.payload)
        if isinstance(event, Recorded) and event.sender == HOST and hasattr(event.message, "place"):
            said.append((type(event.message).__name__, event.message.agent, event.message.place))
    return said


async def test_orders_are_obeyed_once_by_whom_they_mean(tmp_path: Path) -> None:
    async with linked(tmp_path) as (server, link):
        crew, host, ended = Crew(name="t", agents=(QUICK, LONG, UNSET)), Self(), anyio.Event()
        await journal.create_run(link, "r1", crew, "", spread=True)
        run = RemoteRun(link, Ground(server.place), "r1", crew, host, {"PATH": "/usr/bin"})  # type: ignore[arg-type]

        async def until_said(*wanted: tuple[str, str, str]) -> None:
            async def said() -> bool:
                return sorted(await reported(link)) == sorted(wanted)

            await until(said)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.serve, ended)
            await orders(link, start("1-0", "quick", host="w2"), start("1-1", "quick", inc="earlier"))
            await orders(link, start("2-0", "quick"), start("3-0", "unset"), start("3-1", "nobody"))
            quick = [("ProcessStarted", "quick", "2-0"), ("ProcessExited", "quick", "2-0")]
            cannot = [("ProcessExited", "unset", "3-0"), ("ProcessExited", "nobody", "3-1")]
            await until_said(*quick, *cannot)
            await orders(link, start("2-0", "quick"), start("4-0", "long"))
            long = ("ProcessStarted", "long", "4-0")
            await until_said(*quick, *cannot, long)
            await until(lambda: run.agents == ["long"])
            host.room = False
            await orders(link, m.StopProcess(id="5-0", term=1, agent="long", place="other"), start("5-1", "quick"))
            refused = ("StartRefused", "quick", "5-1")
            await until_said(*quick, *cannot, long, refused)
            assert not run._places["4-0"].asked  # the order before the refused one meant another process
            await orders(link, m.StopProcess(id="6-0", term=1, agent="long", grace_s=0.0, place="4-0"))
            await until_said(*quick, *cannot, long, refused, ("ProcessExited", "long", "4-0"))
            ended.set()


async def test_agents_reach_models_through_a_proxy_of_their_host(tmp_path: Path) -> None:
    async with linked(tmp_path) as (server, link), provider() as stub:
        proxy = ModelProxy(openai=Upstream(url=f"{stub.url}/v1", key="${PROVIDER_KEY}"))
        crew, ended = Crew(name="t", agents=(MODELS,), model_proxy=proxy), anyio.Event()
        await journal.create_run(link, "r1", crew, "", spread=True)
        own = {"PATH": "/usr/bin", "PROVIDER_KEY": "sk-canary-0123456789"}
        run = RemoteRun(link, Ground(server.place), "r1", crew, Self(), own)  # type: ignore[arg-type]

        async def exited() -> str:
            facts = [read(e.seq, e.at_s, e.subject, e.payload) for e in await journal.read_all(link, "r1")]
            ends = [each.message for each in facts if isinstance(getattr(each, "message", None), m.ProcessExited)]
            return f"{ends[0].code} {ends[0].why}" if ends else ""

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.serve, ended)
            await orders(link, start("2-0", "models"))
            assert await until(exited, "it has ended", 120) == "0 "
            ended.set()
        assert [seen.headers["authorization"] for seen in stub.seen] == ["Bearer sk-canary-0123456789"]
