"""Faults of controllers: killed, stopped beyond their lease."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, nothing, once

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.stage import SimStage

PASSAGE_S: Final = 60.0
"""How long a controller may take until it passes its fail point; from then on counts how long it stays dead. So long
is also waited for those that other faults keep down: they are to come back first."""
POLL_S: Final = 0.02


def _kill_sim(stage: "SimStage", fault: "Fault", target: str) -> Strike:
    return Strike(nothing, once(stage.world.kill_owner(fault.for_s, everybody=target == "all")))


async def _kill_real(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    ends = await stage.controllers.take_down(target)
    return Strike(partial(_all, ends), once(len(ends)))


async def _freeze_real(stage: "RealStage", _fault: "Fault", target: str) -> Strike:
    ends = await stage.controllers.freeze(target)

    async def heal() -> None:
        for end in ends:
            end()

    return Strike(heal, once(len(ends)))


async def _kill_at(stage: "RealStage", fault: "Fault", target: str) -> Strike:
    log = stage.folder / f"fail-points-{fault.index}"
    with anyio.move_on_after(PASSAGE_S):
        while not stage.controllers.can_be_armed(target):  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(POLL_S)
    ends = await stage.controllers.arm(target, fault.point, log)

    def struck() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    with anyio.move_on_after(PASSAGE_S):
        while not struck():  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(POLL_S)
    return Strike(partial(_all, ends), struck)


async def _all(ends: list[Callable[[], Awaitable[None]]]) -> None:
    for end in ends:
        await end()


FAULTS: Final = (
    FaultKind(
        word="kill_supervisor",
        doc="kill -9 of controllers; they are started again when it heals.",
        targets=("supervisor",),
        default_target="supervisor:owner",
        for_s=2.0,
        sim=_kill_sim,
        real=_kill_real,
    ),
    FaultKind(
        word="freeze_supervisor",
        doc="SIGSTOP of controllers, longer than their lease where `for` says so; SIGCONT when it heals.",
        targets=("supervisor",),
        default_target="supervisor:owner",
        for_s=5.0,
        real=_freeze_real,
    ),
    FaultKind(
        word="kill_at",
        doc="Controllers are started anew, die at the fail point `point`, and stay dead for so long.",
        targets=("supervisor",),
        default_target="supervisor:all",
        for_s=2.0,
        real=_kill_at,
    ),
)
