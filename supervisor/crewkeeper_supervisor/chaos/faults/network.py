"""Faults of the network between one agent and the server: cut, late, lossy, doubling, disordered.

With real processes an agent that such a fault is planned for connects through a proxy of the runner's, which knows
where one protocol frame ends: whole messages are late or lost, never halves.
"""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.stage import SimStage


def _sim(stage: "SimStage", fault: "Fault", target: str) -> Strike:
    tampering = stage.world.tamper(fault, target)
    return Strike(tampering.end, lambda: tampering.fired)


async def _real(stage: "RealStage", fault: "Fault", target: str) -> Strike:
    proxy = stage.proxies[target]
    tampering = proxy.tamper(fault.do, fault.direction, fault.percent / 100, fault.by_s)

    async def heal() -> None:
        proxy.end(tampering)

    return Strike(heal, lambda: tampering.fired)


def _kind(word: str, doc: str) -> FaultKind:
    return FaultKind(
        word=word, doc=doc, targets=("agent",), default_target="agent:any", for_s=3.0, sim=_sim, real=_real
    )


FAULTS: Final = (
    _kind("partition", "Nothing passes between an agent and the server, in the `direction` said."),
    _kind("delay", "Messages take `by` longer."),
    _kind("drop", "`percent` of the messages are lost, without a word."),
    _kind("duplicate", "`percent` of the messages come twice."),
    _kind("reorder", "`percent` of the messages come after the one that follows them."),
)
PROXIED: Final = frozenset(kind.word for kind in FAULTS)
"""Faults for which an agent must connect through a proxy."""
