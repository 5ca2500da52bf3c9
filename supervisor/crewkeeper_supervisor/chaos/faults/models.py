"""Faults of models: the provider behind the model proxy refuses, fails, breaks off or does not stop."""

from typing import TYPE_CHECKING, Final

from crewkeeper_supervisor.chaos.faults.kind import FaultKind, Strike, undoing

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Fault
    from crewkeeper_supervisor.chaos.real.stage import RealStage


async def _real(stage: "RealStage", fault: "Fault", _target: str) -> Strike:
    trouble = stage.models.trouble(fault.do, fault.percent / 100)
    return Strike(undoing(stage.models.calm, trouble), lambda: trouble.fired)


def _kind(word: str, doc: str) -> FaultKind:
    return FaultKind(
        word=word, doc=doc, targets=("model",), default_target="model", for_s=5.0, heeds=("percent",), real=_real
    )


FAULTS: Final = (
    _kind("model_limits", "`percent` of the calls of a model are answered with 429."),
    _kind("model_fails", "`percent` of the calls of a model are answered with 500."),
    _kind("model_cuts", "`percent` of the answers of a model break off in the middle."),
    _kind("model_runs_away", "`percent` of the answers of a model are fifty times as long as was asked for."),
)
