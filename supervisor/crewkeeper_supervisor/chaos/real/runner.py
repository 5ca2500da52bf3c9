"""Runner: one scenario played by real processes, once, and what came of it."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio

from crewkeeper_bus.errors import BusError
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.plan.scenario import Scenario
from crewkeeper_supervisor.chaos.real import run_folder
from crewkeeper_supervisor.chaos.real.cast import Cast, Own, Scripted
from crewkeeper_supervisor.chaos.real.children import CannotPlay
from crewkeeper_supervisor.chaos.real.stage import RealStage
from crewkeeper_supervisor.chaos.trial.record import Interrupted, Result, RunRow, Told, plain, row, told
from crewkeeper_supervisor.chaos.trial.verdict import Check, Observed
from crewkeeper_supervisor.shell.errors import ShellError
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS


def run_real(
    scenario: Scenario,
    *,
    crew: Path | None = None,
    mutation: str = "",
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Play a scenario with real processes.

    Args:
        scenario: What is played.
        crew: Somebody's crew file; None: the scenario's own agents.
        mutation: Fault of the product in the controllers; empty: none.
        seed: Of who is hit.
        tell: Told in a few words what goes on.

    Raises:
        CrewFileError: The crew file is refused.
        Interrupted: By SIGINT. Everything has ended and the folder of the run is gone.
        RuntimeError: The runner itself broke off; says where the logs are.
    """
    result = Result(scenario=plain(scenario), path=scenario.path, mode="real", verdict="skipped")
    lacking = {fault.do: why for fault in scenario.faults if (why := KINDS[fault.do].lacks())}
    if lacking:
        result.skipped = "; ".join(f"{do} cannot be injected here: {why}" for do, why in lacking.items())
        return result
    cast: Cast = Scripted(scenario) if crew is None else Own(crew)
    run_folder.sweep()
    stage = RealStage(scenario, cast, seed, mutation, tell)
    try:
        # A server that goes away on purpose is no news; whoever looks for the reason of a failure finds it there.
        log = (stage.folder / "runner.log").open("w")
        with run_folder.in_use(stage.folder), log, contextlib.redirect_stderr(log):
            played = anyio.run(stage.run)
    except BaseException as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, KeyboardInterrupt):
            shutil.rmtree(stage.folder, ignore_errors=True)
            result.skipped = "interrupted while it was played"
            result.told = Told(seed=seed, verdict="skipped", checks=(), observed=stage.observed())
            raise Interrupted(result) from None
        foreseen = isinstance(cause, (CannotPlay, ShellError, BusError, *LINK_ERRORS))
        if not foreseen:
            raise RuntimeError(f"{type(cause).__name__}: {cause}; logs: {stage.folder}") from error
        _break_off(result, seed, cause, str(stage.folder))
        return result
    result.runs.append(row(played))
    result.verdict = played.verdict.word
    result.told = told(played)
    return result


def _break_off(result: Result, seed: int, cause: BaseException, folder: str) -> None:
    """Let a run that was not played to its end count as failed, for a reason that was foreseen."""
    what, detail = "broke off", str(cause)[:500] or type(cause).__name__
    if isinstance(cause, CannotPlay):
        what, detail = "start", f"{cause}: {cause.log[-500:]}"
    check = Check(what=what, line=0, word="fail", detail=detail)
    nothing = Observed(seen=[], anchors={}, struck=[], metrics=[], unsteady=[], unhealed=[], spans=[], end_s=0.0)
    result.verdict = "fail"
    result.runs.append(RunRow(seed=seed, verdict="fail", reasons=(check,)))
    result.told = Told(seed=seed, verdict="fail", checks=(check,), observed=nothing, folder=folder)
