"""Faults of nats-servers: killed and started again, stopped in their tracks, without their leader, on a full disk."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from crewkeeper_supervisor.chaos.faults import network
from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, once, undoing
from crewkeeper_supervisor.chaos.real import small_disk

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.server import OwnServer
    from crewkeeper_supervisor.chaos.real.servers import OwnServers
    from crewkeeper_supervisor.chaos.real.stage import RealStage

CLUSTER_MIN: Final = 3
"""Servers without one of which a leader can still be chosen."""
SMALL_DISK: Final = "disk_full"
"""The fault for which the server's disk is a small one."""
NO_SPACE: Final = "no space left on device"


async def _kill(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    assert stage.servers is not None
    return _down(stage.servers, stage.servers.members)


async def _freeze(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    assert stage.servers is not None
    return _still(stage.servers, stage.servers.members)


async def _kill_leader(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    assert stage.servers is not None
    return _down(stage.servers, stage.servers.named(await stage.journal_leader()))


async def _freeze_leader(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    assert stage.servers is not None
    return _still(stage.servers, stage.servers.named(await stage.journal_leader()))


def _down(servers: "OwnServers", victims: "Sequence[OwnServer]") -> Strike:
    """Kill servers; each is started again when no fault keeps it down any more."""
    struck = [each for each in victims if each.kill() or servers.is_down(each)]
    ends = [servers.keep_down(each) for each in struck]

    async def heal() -> None:
        for end in ends:
            end()
        await servers.start()

    return Strike(heal, once(len(struck)))


def _still(servers: "OwnServers", victims: "Sequence[OwnServer]") -> Strike:
    """Stop servers in their tracks; each goes on when no fault stops it any more. One that is killed is another."""
    ends = [end for each in victims if (end := servers.freeze(each)) is not None]

    def heal() -> None:
        for end in ends:
            end()

    return Strike(undoing(heal), once(len(ends)))


async def _full(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    servers = stage.servers
    assert servers is not None
    assert servers.disk is not None
    (server,), disk = servers.members, servers.disk
    before = server.said(NO_SPACE)
    disk.fill()
    end = servers.holds.take("disk")

    async def heal() -> None:
        if end() is not None:
            disk.free()
            server.kill()  # a stream that could not be written to takes nothing more until its server is started anew
        await servers.start()

    return Strike(heal, lambda: server.said(NO_SPACE) - before)


def _kind(word: str, doc: str, for_s: float, real: Any, servers_min: int = 1) -> FaultKind:
    missing = small_disk.missing if word == SMALL_DISK else None
    return FaultKind(
        word=word,
        doc=doc,
        targets=("nats",),
        default_target="nats",
        for_s=for_s,
        servers_min=servers_min,
        missing=missing,
        real=real,
    )


FAULTS: Final = (
    _kind(
        "kill_nats", "kill -9 of the nats-server, started again on the same address and disk when it heals.", 2.0, _kill
    ),
    _kind("freeze_nats", "SIGSTOP of the nats-server, SIGCONT when it heals.", 3.0, _freeze),
    _kind(
        "kill_leader",
        "kill -9 of the one of `servers: 3` that leads the run's journal.",
        8.0,
        _kill_leader,
        CLUSTER_MIN,
    ),
    _kind(
        "freeze_leader",
        "SIGSTOP of the one of `servers: 3` that leads the run's journal.",
        8.0,
        _freeze_leader,
        CLUSTER_MIN,
    ),
    _kind(
        SMALL_DISK,
        "The server's disk is full; when it heals there is space, and the server is started anew.",
        4.0,
        _full,
    ),
)
OWN_SERVER: Final = frozenset(kind.word for kind in FAULTS) | {network.SLOW}
"""Faults for which the runner starts the server itself: a host ends its crew together with a server of its own."""
