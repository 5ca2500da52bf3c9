"""Faults of clocks: the wall clock of a Python process jumps, its monotonic clock does not."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage

HOUR_S: Final = 3600.0


async def _jump(stage: "RealStage", fault: "Fault", target: str) -> Strike:
    assert stage.clocks is not None
    names = [target] if target in stage.cast.instances else stage.controllers.which(target)
    clocks = [stage.clocks.of(name) for name in names]
    before = sum(clock.readings for clock in clocks)
    by_s = -fault.by_s if fault.do == "clock_back" else fault.by_s
    ends = [clock.shift(by_s) for clock in clocks]

    async def heal() -> None:
        for end in ends:
            end()

    return Strike(heal, lambda: sum(clock.readings for clock in clocks) - before)


def _kind(word: str, doc: str) -> FaultKind:
    return FaultKind(
        word=word,
        doc=doc,
        targets=("agent", "supervisor"),
        default_target="supervisor:owner",
        for_s=5.0,
        by_s=HOUR_S,
        heeds=("by",),
        real=_jump,
    )


FAULTS: Final = (
    _kind("clock_back", "The wall clock of a Python process goes back by `by`; its monotonic clock runs on."),
    _kind("clock_forward", "The wall clock of a Python process goes forward by `by`; its monotonic clock runs on."),
)
CLOCKED: Final = frozenset(kind.word for kind in FAULTS)
"""Faults for which processes must be started with a clock of their own."""
