"""Faults of agent processes: killed, stopped in their tracks, slow."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, nothing, nothing_left, once, undoing

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.stage import SimStage

SLOW_FACTOR: Final = 20
"""How many times longer everything takes for a slow agent: it runs for one twentieth of the time."""


def _kill_sim(stage: "SimStage", _fault: "Fault", target: str) -> Strike:
    return Strike(nothing, once(stage.world.kill(target)))


async def _kill_real(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    return Strike(nothing_left, once(await stage.processes.kill(target)))


def _freeze_sim(stage: "SimStage", _fault: "Fault", target: str) -> Strike:
    fired = stage.world.freeze(target)
    heal = stage.holds.undoing(f"freeze {target}", lambda: stage.world.thaw(target))
    return Strike(heal, once(fired))


async def _freeze_real(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    end = await stage.processes.freeze(target)
    return Strike(nothing_left if end is None else undoing(end), once(int(end is not None)))


def _slow_sim(stage: "SimStage", _fault: "Fault", target: str) -> Strike:
    fired, was_frozen = stage.world.slow(target, SLOW_FACTOR), stage.world.is_frozen(target)
    heal = stage.holds.undoing(f"slow {target}", lambda: stage.world.slow(target, 1))
    return Strike(heal, lambda: 0 if was_frozen and stage.world.is_frozen(target) else fired)


async def _slow_real(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    slowed, end = await stage.processes.slow(target, SLOW_FACTOR)
    before = slowed.stops
    return Strike(undoing(end), lambda: slowed.stops - before)


FAULTS: Final = (
    FaultKind(
        word="kill",
        doc="kill -9 of an agent; it is started again where its restart rule says so.",
        targets=("agent",),
        default_target="agent:any",
        for_s=0.1,
        sim=_kill_sim,
        real=_kill_real,
    ),
    FaultKind(
        word="freeze",
        doc="SIGSTOP of an agent, SIGCONT when it heals: it hangs, and its connection stays open.",
        targets=("agent",),
        default_target="agent:any",
        for_s=5.0,
        sim=_freeze_sim,
        real=_freeze_real,
    ),
    FaultKind(
        word="slow",
        doc=f"An agent gets {100 // SLOW_FACTOR} % of its time.",
        targets=("agent",),
        default_target="agent:any",
        for_s=5.0,
        sim=_slow_sim,
        real=_slow_real,
    ),
)
