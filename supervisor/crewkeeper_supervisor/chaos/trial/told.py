"""Told: the outcome of a chaos run in words on a terminal, as it goes and at its end."""

from collections.abc import Iterator
from typing import Final

from crewkeeper_supervisor.chaos.trial.junit import line
from crewkeeper_supervisor.chaos.trial.record import Record, Result
from crewkeeper_supervisor.chaos.trial.verdict import Word
from crewkeeper_supervisor.views.wording import counted

WORDS: Final[dict[Word, str]] = {
    "pass": "pass",
    "fail": "FAIL",
    "vacuous": "VACUOUS",
    "skipped": "skipped",
    "unhealed": "NOT HEALED",
}
EXIT: Final[dict[Word, int]] = {"pass": 0, "fail": 1, "vacuous": 3, "skipped": 4, "unhealed": 5}
"""Exit status of `supervisor chaos run` by verdict; 2 is a bad file."""
REASONS_MAX: Final = 8


def lines(result: Result, *, own_crew: bool = False) -> Iterator[str]:
    """One scenario's outcome: a line, and below it what was not right, and what a team should know of its own crew."""
    id_, title = result.scenario["id"], result.scenario["title"]
    if result.skipped:
        yield f"{WORDS['skipped']:<10} {id_} [{result.mode}]: {result.skipped}"
        return
    passed = sum(row.verdict == "pass" for row in result.runs)
    over = f"{passed}/{len(result.runs)} seeds" if result.mode == "sim" else f"{result.runs[0].took_s:.1f} s"
    yield f"{WORDS[result.verdict]:<10} {id_} [{result.mode}, {over}]: {title}"
    told = result.told
    if told is not None and result.mode == "real" and (own_crew or result.verdict != "pass"):
        yield from (f"           * {sentence}" for sentence in told.advice[:REASONS_MAX])
    if result.verdict == "pass" or told is None:
        return
    if result.mode == "sim":
        yield f"           seed {told.seed}:"
    for check in [each for each in told.checks if each.word != "pass"][:REASONS_MAX]:
        yield f"           - {line(check)}"
    if told.folder:
        yield f"           logs: {told.folder}"
    if told.kept is not None:
        yield f"           needed: {', '.join(told.kept) or 'no fault at all'}"


def summary(record: Record) -> str:
    """The last line."""
    words = [result.verdict for result in record.results]
    counts = ", ".join(f"{words.count(word)} {WORDS[word]}" for word in WORDS if words.count(word))
    runs = sum(len(result.runs) for result in record.results)
    return f"{counted(len(words), 'scenario')}, {counted(runs, 'run')}: {counts}"
