"""A server that is not ours: started with a configuration as its owner would write it."""

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from crewkeeper_bus.server_binary import find_binary
from support.bus import until


@asynccontextmanager
async def server_of(directory: Path, conf: str, *, streams: bool = True) -> AsyncIterator[str]:
    """A server with the given configuration, and JetStream where `streams` says so; yields its address."""
    store = f'jetstream {{ store_dir: "{directory}/store" }}\n' if streams else ""
    (directory / "existing.conf").write_text(f'listen: "127.0.0.1:-1"\nports_file_dir: "{directory}"\n{store}{conf}')
    log = (directory / "log").open("wb")
    command = [str(find_binary()), "-c", str(directory / "existing.conf")]
    server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - it starts in a millisecond
    ports = directory / f"nats-server_{server.pid}.ports"

    def listening() -> str:
        assert server.poll() is None, (directory / "log").read_text()
        try:
            return str(json.loads(ports.read_text())["nats"][0])
        except (OSError, ValueError):
            return ""

    try:
        yield await until(listening, "the server listens")
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait(120)
        log.close()
