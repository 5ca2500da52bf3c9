"""compose.yaml as an engine would read it, merged and filled in, and its services as processes without an engine."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from crewkeeper_supervisor.chaos.real.loopback import free_port

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "compose.yaml"
SERVER_CONFIG = ROOT / "deploy" / "nats-server.conf"
SERVERS = ("nats-1", "nats-2", "nats-3")
LIMIT_S = 180.0

_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}|(?=.))")


class Unset(Exception):  # noqa: N818 - a state of the input, met only in tests
    """A variable that must be set is not."""


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """Fill in `${NAME}`, `${NAME:-default}` and `${NAME:?message}`; `$$` is a dollar."""

    def value(match: re.Match[str]) -> str:
        dollar, name, how, rest = match.groups()
        if dollar:
            return "$"
        assert name, f"a form of variable that this reader does not know: {text[match.start() :][:40]!r}"
        if environ.get(name):
            return environ[name]
        if how == ":?":
            raise Unset(f"{name}: {rest}")
        return rest if how == ":-" else ""

    return _VARIABLE.sub(value, text)


def read(environ: Mapping[str, str]) -> dict[str, Any]:
    """The services, merged and filled in."""

    def fill(node: Any) -> Any:
        if isinstance(node, str):
            return substitute(node, environ)
        if isinstance(node, list):
            return [fill(each) for each in node]
        if isinstance(node, dict):
            return {name: fill(each) for name, each in node.items()}
        return node

    return fill(yaml.safe_load(FILE.read_text()))


def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> Any:
    """Wait for a condition, with a limit; returns what it returned."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s: {what}")


class Composition:
    """The services as processes on this machine: the same commands, environments and configuration, other ports.

    Attributes:
        services: What compose.yaml says of them.
        ports: Ports by the address that stands in the files.
    """

    def __init__(self, services: Mapping[str, Any], directory: Path) -> None:
        self.services = services
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {
            f"{name}:{port}": f"127.0.0.1:{free_port()}" for name in SERVERS for port in ("4222", "6222", "8222")
        }

    def here(self, text: str, service: str) -> str:
        """The text with addresses and folders as they are on this machine."""
        for address, local in self.ports.items():
            text = text.replace(address, local)
        text = text.replace("127.0.0.1:8222", self.ports.get(f"{service}:8222", ""))
        for folder in ("data", "state", "crew"):
            text = re.sub(rf"(?<![\w.])/{folder}(?=/|$)", str(self.folder(service) / folder), text)
        return text

    def folder(self, service: str) -> Path:
        """A folder for what is in the containers `/data`, `/state` and `/crew`."""
        return self.directory / service

    def server_config(self, name: str) -> Path:
        """The configuration of the image, with this machine's ports and folder."""
        text = SERVER_CONFIG.read_text()
        for old, new in (
            ('"0.0.0.0:4222"', f'"{self.ports[f"{name}:4222"]}"'),
            ('"0.0.0.0:6222"', f'"{self.ports[f"{name}:6222"]}"'),
            ('"127.0.0.1:8222"', f'"{self.ports[f"{name}:8222"]}"'),
            ('"/data"', json.dumps(str(self.folder(name) / "data"))),
        ):
            assert text.count(old) == 1, f"{SERVER_CONFIG.name} has {old} {text.count(old)} times"
            text = text.replace(old, new)
        path = self.folder(name) / "nats-server.conf"
        path.write_text(text)
        return path

    def command(self, service: str, words: list[str]) -> list[str]:
        """A command line of the file, as it is run here."""
        first, *rest = words
        if first == "nats-server":
            assert rest == ["--config", "/etc/nats/nats-server.conf"]
            return [str(Path(sysconfig.get_path("scripts")) / first), "--config", str(self.server_config(service))]
        program = {"supervisor": ["-m", "crewkeeper_supervisor.cli.main"], "python": []}[first]
        return [sys.executable, *program, *(self.here(word, service) for word in rest)]

    def environment(self, service: str) -> dict[str, str]:
        """What the container gets, and the little that a process here needs besides."""
        given = self.services[service]["environment"]
        env = {name: self.here(str(value), service) for name, value in given.items() if value is not None}
        image = {"CREWKEEPER_STATE": str(self.folder(service) / "state")}
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "TMPDIR": str(self.directory), **image, **env}

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service; its output goes to a file."""
        self.folder(service).mkdir(exist_ok=True)
        command = self.command(service, self.services[service]["command"])
        with (self.folder(service) / "output").open("ab") as output:
            process = subprocess.Popen(
                command, env=self.environment(service), stdout=output, stderr=output, start_new_session=True
            )
        self.processes[service] = process
        return process

    def output(self, service: str) -> str:
        """What it said so far."""
        return (self.folder(service) / "output").read_text("utf-8", "replace")

    def check(self, service: str) -> subprocess.CompletedProcess[bytes]:
        """Run the service's health check."""
        kind, *words = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        command = self.command(service, words)
        return subprocess.run(command, env=self.environment(service), capture_output=True, timeout=LIMIT_S, check=False)

    def is_healthy(self, server: str) -> bool:
        """Ask a server what its health check asks, without starting a process each time."""
        words = self.services[server]["healthcheck"]["test"]
        (url,) = re.findall(r"http://[^']+", " ".join(words))
        assert self.processes[server].poll() is None, self.output(server)
        try:
            with urlopen(self.here(url, server), timeout=10) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def end(self) -> None:
        """SIGTERM to all, the servers last, then SIGKILL to whatever is left."""
        for name, process in sorted(self.processes.items(), key=lambda item: item[0] in SERVERS):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5 if name in SERVERS else LIMIT_S / 4)
            if process.poll() is None:
                process.kill()
                process.wait(LIMIT_S)


@contextlib.contextmanager
def composed(directory: Path, environ: Mapping[str, str]) -> Iterator[Composition]:
    """The cluster of compose.yaml, running and healthy."""
    composition = Composition(read(environ)["services"], directory)
    try:
        for server in SERVERS:
            composition.start(server)
        for server in SERVERS:
            until(lambda server=server: composition.is_healthy(server), f"{server} is healthy")
        yield composition
    finally:
        composition.end()
