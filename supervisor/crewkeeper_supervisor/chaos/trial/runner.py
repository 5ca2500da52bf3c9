"""Runner: scenarios run over seeds in a simulation, and what came of each collected; failing runs made small."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from crewkeeper_supervisor.chaos.plan.scenario import Scenario
from crewkeeper_supervisor.chaos.shrink import minimal
from crewkeeper_supervisor.chaos.sim.stage import play
from crewkeeper_supervisor.chaos.trial.played import Played
from crewkeeper_supervisor.chaos.trial.record import Interrupted, Result, plain, row, told, worst

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

    Raises:
        Interrupted: By SIGINT.
    """
    result = Result(scenario=plain(scenario), path=scenario.path, mode="sim", verdict="skipped")
    try:
        _run(result, scenario, seeds, shrink=shrink, mutated=mutated, tell=tell)
    except KeyboardInterrupt:
        if any(each.verdict != "pass" for each in result.runs):
            result.verdict = worst(result.runs)
        else:
            passed = f"after {len(result.runs)} seeds, which passed" if result.runs else "in its first seed"
            result.skipped = f"interrupted {passed}"
        raise Interrupted(result) from None
    return result


def _run(
    result: Result,
    scenario: Scenario,
    seeds: Iterable[int],
    *,
    shrink: bool,
    mutated: Callable[[], AbstractContextManager[None]],
    tell: Tell,
) -> None:
    """As `run_sim`, into a result."""
    first: Played | None = None
    failures = 0
    with mutated():
        for seed in seeds:
            played = play(scenario, seed)
            tell(played)
            result.runs.append(row(played))
            if first is None or (first.verdict.word == "pass" and played.verdict.word != "pass"):
                first, result.told = played, told(played)
            failures += played.verdict.word != "pass"
            if failures >= FAILURES_MAX:
                break
        if shrink and first is not None and first.verdict.word == "fail":
            kept = shrunk(scenario, first)
            result.told = told(play(scenario, first.seed, frozenset(kept)), kept)
    result.verdict = worst(result.runs)


def shrunk(scenario: Scenario, failed: Played) -> tuple[str, ...]:
    """Names of the faults without any of which this run does not fail in the same way."""
    wanted = _how(failed)

    def fails(names: Iterable[str]) -> bool:
        return bool(wanted & _how(play(scenario, failed.seed, frozenset(names))))

    return minimal(failed.faults, fails, SHRINK_RUNS_MAX)


def _how(played: Played) -> set[str]:
    """What failed in a run."""
    return {check.what for check in played.verdict.checks if check.word == "fail"}
