"""Real servers on which logins are decided by the product's own callout, embedded and existing ones alike."""

import asyncio
import contextlib
import json
import secrets
import socket
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import nats
import pytest

from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.shell import journal, nats_link, system_link
from crewkeeper_supervisor.shell.access import Access
from crewkeeper_supervisor.shell.authority import Authority, make_config_block
from crewkeeper_supervisor.shell.callout import Callout
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.shell.sessions import Sessions
from crewkeeper_supervisor.shell.system_link import SystemLink
from crewkeeper_supervisor.shell.violations import Violations
from support.bus import until

RUN = "r1"
LIMIT_S = 120.0

both_modes = pytest.mark.parametrize("mode", ["operator", "config"])
"""Runs a test that takes `mode` on an embedded server and on an existing one with the documented block."""


class Stage:
    """A server, the supervisor's connections to it, and whoever knocks."""

    def __init__(self, url: str, authority: Authority, link: Link, system: SystemLink) -> None:
        self.url = url
        self.authority = authority
        self.link = link
        self.system = system
        self.access = Access(link)
        self.violations = Violations(link, every_s=0.2)
        self.sessions = Sessions(link, system, self.violations, renewal_s=0.3, checks_s=(0.02, 0.1))

    def callout(self, link: Link | None = None) -> Callout:
        link = link or self.link
        sessions = Sessions(link, self.system, self.violations, renewal_s=0.3, checks_s=(0.02, 0.1))
        self.sessions = sessions
        return Callout(link, Access(link), self.authority, violations=self.violations, sessions=sessions)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Callout]:
        """One callout, for as long as this lasts, and a declared run."""
        callout = self.callout()
        await callout.open()
        async with anyio.create_task_group() as group:
            group.start_soon(self.violations.work)
            await group.start(callout.serve)
            yield callout
            group.cancel_scope.cancel()

    async def declare(self, run: str = RUN) -> None:
        """A run whose journal takes facts."""
        registry = Registry(self.link)
        await registry.open()
        await registry.declare(run, "trip", "here")
        await journal.create_run(self.link, run, Crew(name="trip", agents=(Agent(name="a", run=("x",)),)), "here")

    async def told(self, run: str = RUN) -> list[Any]:
        """The violations that a run has been told of."""
        from crewkeeper_bus import codec
        from crewkeeper_bus.messages import Violation
        from crewkeeper_bus.subjects import Kind

        entries = await journal.read_all(self.link, run)
        facts = [codec.decode_supervisor(Kind.OP, each.payload) for each in entries if ".op." in each.subject]
        return [fact for fact in facts if isinstance(fact, Violation)]

    @asynccontextmanager
    async def knock(self, user: str, password: str, **options: Any) -> AsyncIterator[Any]:
        """A stock client that logs in once and stays out if it is put out."""
        errors: list[Exception] = []
        gone = anyio.Event()

        async def failed(error: Exception) -> None:
            errors.append(error)

        async def closed() -> None:
            gone.set()

        client = await nats.connect(
            self.url,
            user=user,
            password=password,
            error_cb=failed,
            closed_cb=closed,
            **{"allow_reconnect": False, "max_reconnect_attempts": 0, "connect_timeout": 5, **options},
        )
        client.errors, client.gone = errors, gone
        try:
            yield client
        finally:
            await client.close()

    async def is_let_in(self, user: str, password: str, **options: Any) -> bool:
        """Whether a login succeeds now, seen from a bare socket."""
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            with anyio.fail_after(LIMIT_S):
                assert (await reader.readline()).startswith(b"INFO ")
                given = {"user": user, "pass": password, "verbose": False, "lang": "test", **options}
                writer.write(f"CONNECT {json.dumps(given)}\r\nPING\r\n".encode())
                while line := await reader.readline():
                    if line.startswith(b"PONG"):
                        return True
                    if line.startswith(b"-ERR"):
                        return False
                return False
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def may_publish(client: Any, subject: str) -> bool:
    """Whether the server takes what this client publishes there."""
    before = len(client.errors)
    await client.publish(subject, b"{}")
    await client.flush()
    await client.flush()
    return not any("permissions violation" in str(error).lower() for error in client.errors[before:])


async def may_subscribe(client: Any, subject: str, queue: str = "") -> bool:
    """Whether the server takes this subscription."""
    before = len(client.errors)
    await client.subscribe(subject, queue=queue)
    await client.flush()
    await client.flush()
    return not any("permissions violation" in str(error).lower() for error in client.errors[before:])


@asynccontextmanager
async def login_stage(mode: str, directory: Path) -> AsyncIterator[Stage]:
    """A running server of this mode, with nobody who answers about logins yet."""
    state = directory / "state"
    async with _server(mode, state) as authority:
        place = Place.of(state, authority.supervisor)
        async with (
            nats_link.connect(place, name="test") as link,
            system_link.connect(authority.system) as system,
        ):
            yield Stage(place.url, authority, link, system)


@asynccontextmanager
async def _server(mode: str, state: Path) -> AsyncIterator[Authority]:
    if mode == "operator":
        async with EmbeddedServer(state):
            authority = Authority.load(state)
            assert authority is not None
            assert authority.mode == mode
            yield authority
        return
    await anyio.Path(state).mkdir(mode=0o700, parents=True)
    block = make_config_block(state)
    with _existing(state, block) as url:
        authority = Authority.load(state, url)
        assert authority is not None
        assert authority.mode == mode
        yield authority


@contextlib.contextmanager
def _existing(state: Path, block: str):
    port = free_port()
    conf = state / f"existing-{secrets.token_hex(2)}.conf"
    store = json.dumps(str(state / "existing"))
    conf.write_text(f"listen: 127.0.0.1:{port}\nmax_payload: 1MB\njetstream {{ store_dir: {store} }}\n{block}")
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    log = state / "existing.log"
    process = subprocess.Popen([str(binary), "-c", str(conf), "-l", str(log)])
    try:
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.01)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(LIMIT_S)


__all__ = ["RUN", "Stage", "both_modes", "login_stage", "may_publish", "may_subscribe", "until"]
