"""A host on a real server with tiny agents, and what its journal says."""

import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from nats_process import until

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_bus.messages import (
    Control,
    OperatorAsked,
    ProcessExited,
    ProcessStarted,
    RestartsExhausted,
    RunDeclared,
    RunEnded,
)
from crewkeeper_bus.subjects import HOST, SIDE, SUPERVISOR, Kind
from crewkeeper_supervisor.core.crew import Agent, Crew, Restart
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.callout import Callout
from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.ground import Ground, open_ground
from crewkeeper_supervisor.shell.host import Host
from crewkeeper_supervisor.shell.nats_link import Link, connect

SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"


def agent(name: str, program: str, **options: Any) -> Agent:
    """An agent that is a few lines of Python and knows nothing of buses."""
    return Agent(name=name, run=("python", "-S", "-c", textwrap.dedent(program)), **options)


def crew(*agents: Agent, name: str = "trip", **options: Any) -> Crew:
    return Crew(name=name, agents=agents, **options)


def rule(policy: str = "transient", **options: Any) -> Restart:
    return Restart(policy=policy, **options)  # type: ignore[arg-type]


class Stage:
    """One host and its journal."""

    def __init__(self, ground: Ground, link: Link, host: Host, told: list[str]) -> None:
        self.ground = ground
        self.link = link
        self.host = host
        self.told = told

    async def facts(self, run: str) -> list[str]:
        """What the host reported, in the journal's order, as short lines; what it said twice under one id, once."""
        lines: list[str] = []
        for subject, payload in {each.subject: each.payload for each in await journal.read_all(self.link, run)}.items():
            address = subjects.parse(subject)
            if address.kind != Kind.OP:
                continue
            match codec.decode_supervisor(Kind.OP, payload):
                case RunDeclared():
                    lines.append("declared")
                case ProcessStarted(agent=name, restarts=restarts):
                    lines.append(f"started {name} {restarts}")
                case ProcessExited(agent=name, code=code, restart=restart):
                    lines.append(f"exited {name} {code}" + (" again" if restart else ""))
                case RestartsExhausted(agent=name):
                    lines.append(f"exhausted {name}")
                case RunEnded(state=state):
                    lines.append(f"ended {state}")
                case OperatorAsked(action=action):
                    lines.append(f"asked {action}")
            assert address.sender in SIDE
        return lines

    async def order(self, run: str, message: Control) -> None:
        """Say something to the host, as the owner of the run does: again until the journal has it."""
        subject = subjects.build(run, Kind.CTL, SUPERVISOR, HOST, message.id)

        async def stored() -> bool:
            with suppress(ConnectionLost, StoreUnavailable):
                await self.link.publish(subject, codec.encode(message))
                return await self.link.last(subjects.stream_name(run), subject) is not None
            return False

        await until(stored)

    def log(self, run: str, name: str) -> str:
        path = self.ground.place.state / "runs" / run / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""


@asynccontextmanager
async def stage(directory: Path, inherited: dict[str, str] | None = None) -> AsyncIterator[Stage]:
    """A host without a controller, on an embedded server whose logins are decided here."""
    told: list[str] = []
    async with (
        open_ground(directory, None) as ground,
        connect(ground.place, name="test host") as link,
        anyio.create_task_group() as tasks,
    ):
        callout = Callout(link, Access(link), ground.authority)
        await callout.open()
        await tasks.start(callout.serve)
        host = Host(ground, link, name="here", controller=False, tell=told.append, inherited=inherited)
        yield Stage(ground, link, host, told)
        tasks.cancel_scope.cancel()
