"""Faults of credentials: somebody else has a copy of an agent's and uses it."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, undoing
from crewkeeper_supervisor.chaos.real.thief import Loot, copied, missing

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage


async def _steal(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    loot = Loot(stage.folder, target, copied(stage.processes.pid(target)), stage.server_url())
    thief = stage.start(loot.command(stage.run_id), stage.env(), f"{target}.thief.log")
    return Strike(undoing(stage.end, thief), lambda: loot.logins)


FAULTS: Final = (
    FaultKind(
        word="steal_credential",
        doc="Another process logs in with a copy of an agent's credentials and talks in its name, again and again.",
        targets=("agent",),
        default_target="agent:any",
        for_s=5.0,
        missing=missing,
        real=_steal,
    ),
)
