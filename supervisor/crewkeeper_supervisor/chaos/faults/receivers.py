"""Faults of webhook receivers: they refuse, or do not answer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, undoing

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.receiver import Receiver
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.post import Post
    from crewkeeper_supervisor.chaos.sim.stage import SimStage


def _down(receiver: "Post | Receiver") -> tuple[Callable[[], None], Callable[[], int]]:
    """Bring it down once more; what ends that, once, and what tells how many requests were refused since."""
    receiver.down += 1
    before = receiver.refused
    over: list[bool] = []

    def end() -> None:
        if not over:
            over.append(True)
            receiver.down -= 1

    return end, lambda: receiver.refused - before


def _down_sim(stage: "SimStage", _fault: "Fault", _target: str) -> Strike:
    return Strike(*_down(stage.world.post))


async def _down_real(stage: "RealStage", _fault: "Fault", _target: str) -> Strike:
    end, fired = _down(stage.receiver)
    return Strike(undoing(end), fired)


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
