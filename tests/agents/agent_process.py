"""Agents as real processes under a supervisor's double."""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from crewkeeper_bus import messages as m
from support.bus import LIMIT_S, RUN
from support.crew import Crew

EXAMPLES = Path(__file__).parents[2] / "examples"


class AgentProcess:
    """One process of an agent, and what it said on stderr."""

    def __init__(self, name: str, process: anyio.abc.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        with anyio.fail_after(LIMIT_S):
            return await self.process.wait()

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log lines."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]


@asynccontextmanager
async def running(
    argv: Sequence[str], log: Path, name: str, env: Mapping[str, str], cwd: Path | None = None
) -> AsyncIterator[AgentProcess]:
    """A Python process with these arguments; killed at the end if it still runs."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CREWKEEPER_")}
    with log.open("wb") as stderr:
        process = await anyio.open_process(
            [sys.executable, *argv], stdin=None, stdout=stderr, stderr=stderr, cwd=cwd, env=inherited | env
        )
    try:
        yield AgentProcess(name, process, log)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def member(
    crew: Crew,
    tmp_path: Path,
    name: str,
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    begin: bool = True,
) -> AsyncIterator[AgentProcess]:
    """An agent's process that has joined the run on a real server and, unless told otherwise, may begin."""
    credentials = crew.bus.door.let_in(RUN, [(name, name)])[name]
    settings = {
        "CREWKEEPER_URL": credentials.url,
        "CREWKEEPER_USER": credentials.user,
        "CREWKEEPER_PASSWORD": credentials.password,
        "CREWKEEPER_RUN": RUN,
        "CREWKEEPER_AGENT": name,
        "CREWKEEPER_HEARTBEAT_S": "60",
    }
    async with running(argv, tmp_path / f"{name}.log", name, settings | dict(env or {}), cwd) as process:
        await crew.double.wait(name, m.Joined)
        if begin:
            await crew.double.command(name, m.Begin)
        yield process


def scripted(script: dict[str, Any]) -> list[str]:
    """The arguments that play a script."""
    return ["-m", "crewkeeper_agents.scripted", json.dumps(script)]
