"""A real nats-server for the shell's tests, and the waiting that they do."""

import contextlib
import inspect
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio

from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.core.crew import Agent, Crew, Webhook
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place

LIMIT_S = 120.0


class NatsProcess:
    """One server with JetStream on a port that stays the same over restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.password = secrets.token_hex(8)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def place(self) -> Place:
        return Place(state=self.directory, url=self.url, user="sup", password=self.password)

    def start(self) -> None:
        conf = self.directory / "nats.conf"
        conf.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.directory / 'store'))} }}\n"
            f"authorization {{ users: [ {{user: sup, password: {json.dumps(self.password)}}} ] }}\n"
        )
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        self.process = subprocess.Popen(
            [str(binary), "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            assert self.process.poll() is None, "nats-server exited"
            time.sleep(0.01)
        raise AssertionError("nats-server did not start")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(LIMIT_S)
            self.process = None
        (self.directory / "server.json").unlink(missing_ok=True)

    def announce(self) -> None:
        """Write what the embedded server writes, for processes that find it by state directory."""
        assert self.process is not None
        path = self.directory / "server.json"
        path.write_text(
            json.dumps({"url": self.url, "user": "sup", "password": self.password, "pid": self.process.pid})
        )
        path.chmod(0o600)


@contextlib.contextmanager
def nats_process(directory: Path):
    server = NatsProcess(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@contextlib.asynccontextmanager
async def linked(directory: Path) -> AsyncIterator[tuple[NatsProcess, Link]]:
    with nats_process(directory) as server:
        async with connect(server.place, name="test") as link:
            yield server, link


async def until(condition: Callable[[], object | Awaitable[object]], limit_s: float = LIMIT_S) -> object:
    """Wait for a condition, with a limit; returns what it returned."""
    with anyio.move_on_after(limit_s):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await anyio.sleep(0.01)
    raise AssertionError(f"not within {limit_s} s: {inspect.getsource(condition)}")


def crew(name: str = "trip", escalate: tuple[Webhook, ...] = (), **options) -> Crew:
    agents = (Agent(name="a", run=("true",)), Agent(name="b", run=("true",)))
    return Crew(name=name, agents=agents, escalate=escalate, **options)


class Process:
    """A Python child of the test, with its output in a file."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdout=output, stderr=output, env={**os.environ, **(env or {})}
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)

    def text(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def python(arguments: list[str], log: Path, env: dict[str, str] | None = None):
    child = Process(arguments, log, env)
    try:
        yield child
    finally:
        child.end()
