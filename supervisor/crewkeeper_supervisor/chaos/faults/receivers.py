"""Faults of webhook receivers: they refuse, or do not answer."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.stage import SimStage


def _down_sim(stage: "SimStage", _fault: "Fault", _target: str) -> Strike:
    post = stage.world.post
    post.down += 1
    before = post.refused
    over: list[bool] = []

    def heal() -> None:
        if not over:
            over.append(True)
            post.down -= 1

    return Strike(heal, lambda: post.refused - before)


async def _down_real(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    before = stage.receiver.refused
    stage.receiver.down = True

    async def heal() -> None:
        stage.receiver.down = False

    return Strike(heal, lambda: stage.receiver.refused - before)


FAULTS: Final = (
    FaultKind(
        word="webhook_down",
        doc="The receiver of webhooks answers every request with 503.",
        targets=("webhook",),
        default_target="webhook",
        for_s=3600.0,
        sim=_down_sim,
        real=_down_real,
    ),
)
