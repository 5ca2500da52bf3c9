"""Server: a nats-server of the runner's own, on one port and one disk, which can be killed and started again."""

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Set
from pathlib import Path
from typing import Any, Final

import anyio

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release
from crewkeeper_bus.server_binary import find_binary
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.chaos.real.small_disk import SmallDisk

READY_S: Final = 30.0
POLL_S: Final = 0.02
ASK_S: Final = 5.0
STORE_BYTES: Final = 8 * 1024**3
"""What streams may reserve in all, whatever the disk has: on a small one the server's own choice is too little."""
CLOSED_MAX: Final = 10_000
"""Of so many connections that it has closed a server can tell."""
_NOT_READ: Final = "Slow Consumer"
WRITE_LIMIT: Final = "2s"
"""How long the server tries to write to a client that does not read, less than usual: it is put out in a scenario's
time. How much may wait for one client is as usual: what flow control lets through to a controller must have room."""


class OwnServer:
    """One server.

    Args:
        directory: Its configuration, store and log; made if missing.
        name: Its name in a cluster.
        disk: Where its store is; None: in `directory`.
    """

    def __init__(self, directory: Path, name: str = "n1", disk: SmallDisk | None = None) -> None:
        self.name = name
        self.log = directory / "nats-server.log"
        self.route_port = free_port()
        self._directory = directory
        self._disk = disk
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self._monitor_port = free_port()
        self._routes: tuple[int, ...] = ()

    @property
    def url(self) -> str:
        """Where it listens, also while it is down."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Its process; 0 while it is down."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def join(self, members: "list[OwnServer]") -> None:
        """Make it one of a cluster from its next start on."""
        self._routes = tuple(each.route_port for each in members)

    async def start(self) -> None:
        """Start it unless it runs, and return when it takes connections, or was killed meanwhile.

        Raises:
            TimeoutError: It does not.
        """
        if self.pid:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [str(find_binary()), "-c", str(self._configured())]
        if self._disk is not None:
            await self._disk.mount()
            command = self._disk.inside(command)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = popen_guarded(command, stdout=log, stderr=log)
        finally:
            os.close(log)
        with anyio.fail_after(READY_S):
            while self._process is not None and not self._listens():  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(POLL_S)

    async def ready(self) -> None:
        """Return when its streams can be used: in a cluster, when that has a leader.

        Raises:
            TimeoutError: They cannot.
        """
        with anyio.fail_after(READY_S):
            while True:
                try:
                    await self._ask("/healthz")
                except OSError:
                    await anyio.sleep(POLL_S)
                else:
                    return

    async def put_out(self, ports: Set[int]) -> set[str]:
        """Which connections from these ports it has closed because they were not read, each by a name of its own.

        Raises:
            OSError: It does not answer.
        """
        closed = (await self._ask(f"/connz?state=closed&limit={CLOSED_MAX}"))["connections"]
        return {
            f"{each['cid']} since {each['start']}"
            for each in closed
            if each["port"] in ports and each.get("reason", "").startswith(_NOT_READ)
        }

    def said(self, words: str) -> int:
        """How many lines of its log have these words."""
        return self.log.read_text("utf-8", "replace").count(words) if self.log.exists() else 0

    def kill(self) -> int:
        """SIGKILL; 1 if it ran."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return 0
        kill_group(process.pid, signal.SIGKILL)
        process.wait(10)
        release(process.pid)
        return 1

    def freeze(self) -> int:
        """SIGSTOP; its process, 0 if it did not run."""
        pid = self.pid
        return pid if pid and kill_group(pid, signal.SIGSTOP) else 0

    def thaw(self, pid: int) -> None:
        """SIGCONT of this process, unless another runs by now."""
        if pid == self.pid:
            kill_group(pid, signal.SIGCONT)

    def _configured(self) -> Path:
        store = self._directory / "store" if self._disk is None else self._disk.directory / "store"
        config: dict[str, Any] = {
            "server_name": self.name,
            "listen": f"127.0.0.1:{self._port}",
            "http": f"127.0.0.1:{self._monitor_port}",
            "write_deadline": WRITE_LIMIT,
            "jetstream": {"store_dir": str(store), "sync_interval": "always", "max_file_store": STORE_BYTES},
        }
        if self._routes:
            routes = [f"nats://127.0.0.1:{port}" for port in self._routes]
            config["cluster"] = {"name": "chaos", "listen": f"127.0.0.1:{self.route_port}", "routes": routes}
        path = self._directory / "nats-server.conf"
        path.write_text(json.dumps(config))
        return path

    async def _ask(self, path: str) -> dict[str, Any]:
        """What it says of itself. Raises OSError: nothing, or that it is not well."""
        url = f"http://127.0.0.1:{self._monitor_port}{path}"

        def ask() -> dict[str, Any]:
            with urllib.request.urlopen(url, timeout=ASK_S) as answer:
                said: dict[str, Any] = json.loads(answer.read())
                return said

        return await anyio.to_thread.run_sync(ask)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False
