"""Runner: scenarios run over seeds in a simulation, and what came of each collected; failing runs made small."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from crewkeeper_supervisor.chaos.plan.scenario import Scenario
from crewkeeper_supervisor.chaos.shrink import minimal
from crewkeeper_supervisor.chaos.sim.stage import play
from crewkeeper_supervisor.chaos.trial.played import Played
from crewkeeper_supervisor.chaos.trial.record import Result, plain, row, told, worst

FAILURES_MAX = 5
"""Runs of one scenario that may fail before the rest of its seeds is left out."""
SHRINK_RUNS_MAX = 300

Tell = Callable[[Played], None]
"""Told of every run."""


def run_sim(
    scenario: Scenario,
    seeds: Iterable[int],
    *,
    shrink: bool = False,
    mutated: Callable[[], AbstractContextManager[None]] = nullcontext,
    tell: Tell = lambda _: None,
) -> Result:
    """Play a scenario over seeds in simulation.

    Args:
        scenario: With agents.
        seeds: Which.
        shrink: Whether to find the fewest faults with which the first run that failed still fails in the same way.
        mutated: Puts a fault into the product for a while.
        tell: Told of every run.
    """
    result = Result(scenario=plain(scenario), path=scenario.path, mode="sim", verdict="skipped")
    first: Played | None = None
    failures = 0
    with mutated():
        for seed in seeds:
            played = play(scenario, seed)
            tell(played)
            result.runs.append(row(played))
            if first is None or (first.verdict.word == "pass" and played.verdict.word != "pass"):
                first = played
            failures += played.verdict.word != "pass"
            if failures >= FAILURES_MAX:
                break
        kept: tuple[str, ...] | None = None
        if shrink and first is not None and first.verdict.word == "fail":
            kept = shrunk(scenario, first)
            first = play(scenario, first.seed, frozenset(kept))
    result.verdict = worst(result.runs)
    result.told = None if first is None else told(first, kept)
    return result


def shrunk(scenario: Scenario, failed: Played) -> tuple[str, ...]:
    """Names of the faults without any of which this run does not fail in the same way."""
    wanted = _how(failed)

    def fails(names: Iterable[str]) -> bool:
        return bool(wanted & _how(play(scenario, failed.seed, frozenset(names))))

    return minimal(failed.faults, fails, SHRINK_RUNS_MAX)


def _how(played: Played) -> set[str]:
    """What failed in a run."""
    return {check.what for check in played.verdict.checks if check.word == "fail"}
