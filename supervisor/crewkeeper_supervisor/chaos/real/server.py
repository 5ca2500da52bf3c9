"""Server: a nats-server of the runner's own, on one port and one disk, which can be killed and started again."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release
from crewkeeper_bus.server_binary import find_binary

READY_S: Final = 15.0
POLL_S: Final = 0.02


class OwnServer:
    """One server.

    Args:
        directory: Its configuration, store and log; made if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens, also while it is down."""
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it unless it runs, and return when it takes connections.

        Raises:
            TimeoutError: It does not.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._port = self._port or _free_port()
        config = self._directory / "nats-server.conf"
        store = {"store_dir": str(self._directory / "store"), "sync_interval": "always"}
        config.write_text(json.dumps({"listen": f"127.0.0.1:{self._port}", "jetstream": store}))
        log = os.open(self._directory / "nats-server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = popen_guarded([str(find_binary()), "-c", str(config)], stdout=log, stderr=log)
        finally:
            os.close(log)
        with anyio.fail_after(READY_S):
            while not self._listens():  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(POLL_S)

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
        """SIGSTOP; 1 if it ran."""
        return int(self._process is not None and kill_group(self._process.pid, signal.SIGSTOP))

    async def thaw(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            kill_group(self._process.pid, signal.SIGCONT)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
