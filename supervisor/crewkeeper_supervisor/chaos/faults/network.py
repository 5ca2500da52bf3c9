"""Faults of the network between one agent and the server: cut, late, lossy, doubling, disordered.

With real processes an agent that such a fault is planned for connects through a proxy of the runner's, which knows
where one protocol frame ends: whole messages are late or lost, never halves.
"""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike
from crewkeeper_supervisor.chaos.real import own_network

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.stage import SimStage

CABLE: Final = "cut_link"
"""The fault for which an agent gets a network of its own."""
SLOW: Final = "stop_reading"
"""The fault for which the server is asked whom it has put out, so it must be the runner's own."""


def _sim(stage: "SimStage", fault: "Fault", target: str) -> Strike:
    tampering = stage.world.tamper(fault, target)
    return Strike(tampering.end, lambda: tampering.fired)


async def _real(stage: "RealStage", fault: "Fault", target: str) -> Strike:
    proxy = stage.proxies[target]
    tampering = proxy.tamper(fault.do, fault.direction, fault.percent / 100, fault.by_s)

    async def heal() -> None:
        proxy.end(tampering)

    return Strike(heal, lambda: tampering.fired)


async def _stop_reading(stage: "RealStage", fault: "Fault", target: str) -> Strike:
    servers = stage.servers
    assert servers is not None
    proxy = stage.proxies[target]
    before = await servers.put_out(proxy.ports)
    tampering = proxy.tamper(fault.do, "in", 1.0, 0.0)
    put_out: set[str] = set()

    async def heal() -> None:
        try:
            if proxy.is_at_work(tampering):  # what comes later is not its doing
                put_out.update(await servers.put_out(proxy.ports) - before)
        finally:
            proxy.end(tampering)

    return Strike(heal, lambda: len(put_out))


async def _pull(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    network, pid = stage.networks[target], stage.processes.pid(target)
    if not await network.pull(pid):
        raise OSError(f"{target} has no cable to pull: it does not run, or it has no network of its own")
    held_up, end = [0], stage.holds.take(f"cable {target}")

    async def heal() -> None:
        held_up[0] = max(held_up[0], network.unsent(pid))
        if end() is not None:
            await network.plug(stage.processes.pid(target))

    return Strike(heal, lambda: held_up[0])


def _kind(word: str, doc: str, *heeds: str) -> FaultKind:
    return FaultKind(
        word=word,
        doc=doc,
        targets=("agent",),
        default_target="agent:any",
        for_s=3.0,
        heeds=("direction", *heeds),
        sim=_sim,
        real=_real,
    )


FAULTS: Final = (
    _kind("partition", "Nothing passes between an agent and the server, in the `direction` said."),
    _kind("delay", "`percent` of the messages take `by` longer.", "percent", "by"),
    _kind("drop", "`percent` of the messages are lost, without a word.", "percent"),
    _kind("duplicate", "`percent` of the messages come twice.", "percent"),
    _kind("reorder", "`percent` of the messages come after the one that follows them.", "percent"),
    FaultKind(
        word=SLOW,
        doc="An agent does not read what the server has for it, until the server puts it out as a slow consumer.",
        targets=("agent",),
        default_target="agent:any",
        for_s=10.0,
        real=_stop_reading,
    ),
    FaultKind(
        word=CABLE,
        doc="The cable of an agent with a network of its own is pulled: packets are lost, nobody is told. Takes root.",
        targets=("agent",),
        default_target="agent:any",
        for_s=5.0,
        missing=own_network.missing,
        real=_pull,
    ),
)
PROXIED: Final = frozenset(kind.word for kind in FAULTS)
"""Faults for which an agent must connect through a proxy."""
