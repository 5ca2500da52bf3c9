"""A siege: `supervisor up` with a crew that goes on for as long as a test wants, and outsiders who have credentials.

The crew: `keeper`, which waits for a file; `worker-1` and `worker-2`, which answer whoever calls; and `eve`, `bob`,
`mallory`, `carol`, external agents whom nobody starts: tests log in as them, over raw sockets or with the client. All
may call everybody but for `carol`, who may call `worker` and tell `bob`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from crewkeeper_bus import codec
from crewkeeper_bus import messages as m
from crewkeeper_bus.client import Client, connect
from crewkeeper_bus.credentials import Credentials, from_file
from crewkeeper_bus.subjects import Kind, parse, stream_name
from crewkeeper_supervisor.shell import journal, nats_link
from crewkeeper_supervisor.shell.access import Access, Issued
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.views.fold import Fold
from support.bus import until
from support.raw_nats import Raw

LIMIT_S = 180.0
LOOK_S = 0.05
"""Pause between two readings of the whole journal."""
SIEGE_S = 3600
"""How long the run goes on unless it is told to end: longer than the tests of any file take."""
OUTSIDERS = ("eve", "bob", "mallory", "carol")


def _wait(condition: Any, what: str, log: Path) -> Any:
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {LIMIT_S} s: {what}\n{log.read_text(errors='replace')[-3000:]}")


def crew_file(gate: Path) -> dict[str, Any]:
    """The crew, as the loader takes it."""

    def scripted(script: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {"run": [sys.executable, "-m", "crewkeeper_agents.scripted", json.dumps(script)], **fields}

    answering = {"handlers": {"ask": [{"reply": "ok"}]}}
    return {
        "crew": "siege",
        "agents": {
            "keeper": scripted({"main": [{"barrier": {"file": str(gate), "timeout": SIEGE_S}}], **answering}),
            "worker": scripted(answering, replicas=2),
            **{name: {"external": True} for name in OUTSIDERS},
            "carol": {"external": True, "may_call": ["worker"], "may_tell": ["bob"]},
        },
    }


class Siege:
    """One run under siege.

    Attributes:
        directory: Where everything is.
        state: State directory of the host.
        log: What `up` printed.
        run: The run's id.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "up.log"
        self.gate = directory / "gate"
        self.run = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, crew: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> None:
        file = self.directory / "crew.yaml"
        file.write_text(json.dumps(crew or crew_file(self.gate)))
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "up", "--plain", "--state", str(self.state)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(file)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environ or {})},
            )
        credentials = _wait(self._credentials_files, "external agents have credentials", self.log)
        self.run = credentials[0].parent.parent.name
        keeper = self.state / "runs" / self.run / "logs" / "keeper.log"
        _wait(lambda: keeper.exists() and b"agent.began" in keeper.read_bytes(), "the crew has begun", self.log)

    def _credentials_files(self) -> list[Path]:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        found = list(self.state.glob("runs/*/credentials/*.json"))
        return found if len(found) >= len(OUTSIDERS) else []

    def stop(self) -> None:
        assert self._process is not None
        self.gate.touch()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LIMIT_S)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait(LIMIT_S)

    def credentials(self, agent: str) -> Credentials:
        """What the host gave an outsider to log in with."""
        return from_file(self.state / "runs" / self.run / "credentials" / f"{agent}.json")

    async def issued(self, link: Link, agent: str, *, ttl_s: float = 600.0) -> Issued:
        """One more token for an agent, as `supervisor creds issue` makes it."""
        known = await Access(link).get(self.run, agent)
        return await Access(link).issue(self.run, agent, known.role if known else "", ttl_s=ttl_s, by="test")

    def client(self, agent: str, **options: Any) -> Client:
        """The product's own client as an outsider, not joined yet."""
        own = self.credentials(agent)
        options = {"url": own.url, "user": own.user, "password": own.password, "session_s": own.session_s, **options}
        return connect(run=self.run, agent=agent, heartbeat_s=0.5, **options)

    def subject(self, kind: str, sender: str, to: str, id_: str = "x1") -> str:
        """A subject of the run."""
        return f"crew.{self.run}.{kind}.{sender}.{to}.{id_}"

    def supervisor(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the CLI on this state directory."""
        command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *arguments, "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """A connection with the supervisor's rights."""
        async with nats_link.connect(Place.find(state=self.state), name="test") as link:
            yield link

    async def fold(self, link: Link) -> Fold:
        """The core's state, from the journal as it is now."""
        fold = Fold(self.run)
        for entry in await journal.read_all(link, self.run):
            fold.feed(entry)
        return fold

    async def stored(self, link: Link) -> list[journal.Entry]:
        """The whole journal."""
        return await journal.read_all(link, self.run)

    async def facts(self, link: Link, type_: Any) -> list[Any]:
        """Facts of one type in the journal, oldest first."""
        found = []
        for entry in await self.stored(link):
            with contextlib.suppress(ValueError):
                if parse(entry.subject).kind is Kind.OP:
                    found.append(codec.decode_supervisor(Kind.OP, entry.payload))
        return [each for each in found if isinstance(each, type_)]

    async def violation(self, link: Link, agent: str, what: str, detail: str = "") -> m.Violation:
        """The first such thing the server saw, once it stands in the journal."""

        async def told() -> Any:
            await anyio.sleep(LOOK_S)
            every = await self.facts(link, m.Violation)
            return next((v for v in every if v.agent == agent and v.what == what and detail in v.detail), None)

        return await until(told, f"violation {what} of {agent or 'nobody'} {detail}")  # type: ignore[no-any-return]

    async def finding(self, link: Link, kind: str, agent: str = "", text: str = "") -> Any:
        """The first such finding, once there is one."""

        async def found() -> Any:
            await anyio.sleep(LOOK_S)
            incidents = (await self.fold(link)).supervisor.incidents.values()
            return next(
                (
                    each.finding
                    for each in incidents
                    if each.finding.kind == kind
                    and (not agent or agent in each.finding.agents)
                    and text in each.finding.summary
                ),
                None,
            )

        return await until(found, f"finding {kind} {agent} {text}")

    def controller_pid(self) -> int:
        """The process of the controller that the host runs."""
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = status.read_bytes().split(b"\0")
                if b"serve" in words and str(self.state).encode() in words:
                    return int(status.parent.name)
        raise AssertionError(f"no controller runs on {self.state}")

    async def last_seq(self, link: Link) -> int:
        """How many messages the journal has."""
        return int((await link.js.stream_info(stream_name(self.run))).state.last_seq)


def join(siege: Siege, who: Raw, name: str) -> str:
    """Say hello over a raw socket as an agent does; returns the incarnation."""
    inc = uuid.uuid4().hex[:12]
    said = {"t": "joined", "inc": inc, "seq": 1, "role": name}
    who.pub(siege.subject("note", name, "_", uuid.uuid4().hex[:12]), json.dumps(said).encode())
    return inc


@contextlib.contextmanager
def besieged(
    directory: Path, crew: dict[str, Any] | None = None, environ: dict[str, str] | None = None
) -> Iterator[Siege]:
    """Start it, and stop it at the end."""
    siege = Siege(directory)
    try:
        siege.start(crew, environ)
        yield siege
    finally:
        if siege._process is not None:
            siege.stop()
