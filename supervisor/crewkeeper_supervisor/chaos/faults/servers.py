"""Faults of the nats-server: killed and started again, stopped in its tracks."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, once

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage


async def _kill(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    assert stage.server is not None
    killed = stage.server.kill()
    return Strike(stage.server.start, once(killed))


async def _freeze(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    assert stage.server is not None
    frozen = stage.server.freeze()
    return Strike(stage.server.thaw, once(frozen))


FAULTS: Final = (
    FaultKind(
        word="kill_nats",
        doc="kill -9 of the nats-server, which is started again on the same address and disk when it heals.",
        targets=("nats",),
        default_target="nats",
        for_s=2.0,
        real=_kill,
    ),
    FaultKind(
        word="freeze_nats",
        doc="SIGSTOP of the nats-server, SIGCONT when it heals.",
        targets=("nats",),
        default_target="nats",
        for_s=3.0,
        real=_freeze,
    ),
)
OWN_SERVER: Final = frozenset(kind.word for kind in FAULTS)
"""Faults for which the runner starts the server itself: a host ends its crew together with a server of its own."""
