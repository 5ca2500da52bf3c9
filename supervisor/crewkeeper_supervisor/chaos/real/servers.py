"""Servers: the nats-servers of the runner's own, one or a cluster, as the faults of servers see them."""

from collections.abc import Callable, Set
from pathlib import Path
from typing import Final

from crewkeeper_supervisor.chaos.faults.holds import Holds
from crewkeeper_supervisor.chaos.real.server import OwnServer
from crewkeeper_supervisor.chaos.real.small_disk import SmallDisk

REPLICAS_MAX: Final = 3
LOG_CHARS: Final = 2000


class OwnServers:
    """One server, or a cluster.

    Args:
        directory: Where their directories are.
        count: How many.
        small_disk: Whether the store of the only one is on a disk that can be filled.

    Attributes:
        members: They.
        disk: The small disk; None without one.
        holds: What faults do to them at the moment.
    """

    def __init__(self, directory: Path, count: int, *, small_disk: bool) -> None:
        self.disk = SmallDisk(directory / "disk") if small_disk else None
        self.holds = Holds()
        self.members = [OwnServer(directory / f"n{i + 1}", f"n{i + 1}", self.disk) for i in range(count)]
        if count > 1:
            for member in self.members:
                member.join(self.members)

    @property
    def url(self) -> str:
        """Where to connect: at the first that runs. Clients learn of the others from it."""
        return next((each.url for each in self.members if each.pid), self.members[0].url)

    @property
    def replicas(self) -> int:
        """How many of them keep each stream."""
        return min(REPLICAS_MAX, len(self.members))

    async def start(self) -> None:
        """Start those that do not run and that nothing keeps down, and return when streams can be used.

        While a fault holds any of them, what the others can do is not waited for: it may be nothing until it heals.

        Raises:
            TimeoutError: They cannot.
        """
        for member in self.members:
            if not self.is_down(member):
                await member.start()
        for member in self.members if len(self.members) > 1 else ():
            if not self.holds.any:
                await member.ready()

    def keep_down(self, member: OwnServer) -> Callable[[], object]:
        """Have `start` pass it over; returns what ends that. Several may do so at once: the last one's end counts."""
        return self.holds.take(_down(member))

    def is_down(self, member: OwnServer) -> bool:
        """Whether something keeps it down."""
        return self.holds.held(_down(member))

    def freeze(self, member: OwnServer) -> Callable[[], None] | None:
        """SIGSTOP; what ends that, with SIGCONT if nothing else stops this process; None: it does not run."""
        pid = member.freeze()
        return self.holds.undoing(f"{member.name} frozen {pid}", lambda: member.thaw(pid)) if pid else None

    def named(self, name: str) -> list[OwnServer]:
        """The server of this name, if it runs; else none."""
        return [each for each in self.members if each.name == name and each.pid]

    async def put_out(self, ports: Set[int]) -> set[str]:
        """Which connections from these ports were closed because they were not read. Raises OSError: no answer."""
        return set().union(*[await each.put_out(ports) for each in self.members if each.pid])

    def last_words(self) -> str:
        """The end of the log of the first that does not run, else of the first."""
        log = next((each.log for each in self.members if not each.pid), self.members[0].log)
        return log.read_text("utf-8", "replace")[-LOG_CHARS:] if log.exists() else ""

    def stop(self) -> None:
        """End everything."""
        for member in self.members:
            member.kill()
        if self.disk is not None:
            self.disk.unmount()

    def processes(self) -> dict[str, int]:
        """Process ids by name of what runs."""
        found = {f"nats-server {each.name}": each.pid for each in self.members if each.pid}
        return found | ({"small disk": self.disk.pid} if self.disk is not None and self.disk.pid else {})


def _down(member: OwnServer) -> str:
    return f"{member.name} down"
