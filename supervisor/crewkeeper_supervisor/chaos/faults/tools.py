"""Faults of tools: they fail, hang, or return what they should not."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, undoing

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage
    from crewkeeper_supervisor.chaos.sim.stage import SimStage


def _sim(stage: "SimStage", fault: "Fault", target: str) -> Strike:
    tools = stage.world.tool_host
    trouble = tools.trouble(target, fault)
    return Strike(lambda: tools.calm(target, trouble), lambda: trouble.fired)


async def _real(stage: "RealStage", fault: "Fault", target: str) -> Strike:
    trouble = stage.tools.trouble(target, fault.do, fault.percent)
    return Strike(undoing(stage.tools.calm, target, trouble), lambda: stage.tools.fired(trouble))


def _kind(word: str, doc: str) -> FaultKind:
    return FaultKind(
        word=word,
        doc=doc,
        targets=("tool",),
        default_target="tool:any",
        for_s=5.0,
        heeds=("percent",),
        sim=_sim,
        real=_real,
    )


FAULTS: Final = (
    _kind("tool_fails", "`percent` of the calls of a tool raise an error."),
    _kind("tool_hangs", "Calls of a tool do not come back; the gate cuts them at the tool's timeout."),
    _kind("tool_corrupts", "A tool returns bytes of rubbish instead of its answer."),
    _kind("tool_misshapes", "A tool returns a well-formed answer of another shape than the one that its callers know."),
    _kind("tool_bloats", "A tool returns far more than it may."),
)
