"""Verdicts of chaos runs, as tests of mutations read them."""

from crewkeeper_supervisor.chaos.trial.record import Result


def is_red(result: Result) -> bool:
    """Whether what a scenario expects, or an invariant, was seen to be broken.

    A product that does not even start fails, too; that is no proof that the scenario watches anything.
    """
    checks = [check for run in result.runs for check in run.reasons]
    return any(each.word == "fail" and (each.line or each.what.startswith("invariant: ")) for each in checks)
