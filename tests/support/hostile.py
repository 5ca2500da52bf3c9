"""The hostile client of the benchmarks as a process, and a witness of what the server took from it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from crewkeeper_bus.wire import WireClient

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "hostile.py"
LIMIT_S = 120.0


class Hostile:
    """One process with several connections of one identity."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def end(self) -> dict[str, int]:
        """What it says once it has given up: how many logins and messages there were."""
        output, _ = self.process.communicate(timeout=LIMIT_S)
        return dict(json.loads(output))

    @property
    def has_ended(self) -> bool:
        """Whether every one of its connections was refused so often that it gave up."""
        return self.process.poll() is not None


@contextlib.contextmanager
def hostile(
    url: str, user: str, password: str, subject: str, *, connections: int = 1, refusals: int = 20
) -> Iterator[Hostile]:
    """A hostile client that publishes on `subject.<n>` until it is refused `refusals` times in a row."""
    command = [sys.executable, str(SCRIPT), url, user, password, subject, str(connections), str(refusals)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield Hostile(process)
    finally:
        process.kill()
        process.communicate()


class Witness:
    """What the server took, by sender: how many messages."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def take(self, subject: str, _payload: bytes, _headers: bytes | None) -> None:
        sender = subject.split(".")[3]
        self.count[sender] = self.count.get(sender, 0) + 1


@contextlib.asynccontextmanager
async def witness(client: WireClient, subject: str = "crew.>") -> AsyncIterator[Witness]:
    """See everything that is published on `subject`."""
    seen = Witness()
    client.subscribe_raw(subject, "", seen.take)
    assert await client.barrier(LIMIT_S)
    yield seen
