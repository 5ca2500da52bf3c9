"""Record: the journal that a chaos run leaves: every option as it was used, every verdict, one run of each in full."""

from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from crewkeeper_supervisor.chaos.plan.scenario import Scenario
from crewkeeper_supervisor.chaos.trial.advice import advice
from crewkeeper_supervisor.chaos.trial.played import Played
from crewkeeper_supervisor.chaos.trial.verdict import Check, Observed, Word

SCHEMA_VERSION: Final = 1
SEEN_MAX: Final = 5000
"""Most sightings that are kept of one run."""
_ORDER: Final[tuple[Word, ...]] = ("unhealed", "fail", "vacuous", "skipped", "pass")


class RunRow(Struct, frozen=True, kw_only=True):
    """One run: enough to play it again."""

    seed: int
    verdict: Word
    reasons: tuple[Check, ...] = ()
    digest: str = ""
    entries: int = 0
    took_s: float = 0.0


class Told(Struct, frozen=True, kw_only=True):
    """One run in full: the first that did not pass, else the first of all."""

    seed: int
    verdict: Word
    checks: tuple[Check, ...]
    observed: Observed
    faults: tuple[str, ...] = ()
    kept: tuple[str, ...] | None = None
    """Faults that are needed for it, where it was shrunk; None: it was not."""
    digest: str = ""
    folder: str = ""
    """Where its logs are kept."""
    advice: tuple[str, ...] = ()
    """What its team should know and do."""


class Result(Struct, kw_only=True):
    """All runs of one scenario in one mode."""

    scenario: dict[str, Any]
    """As it was read, every default filled in."""
    path: str
    mode: str
    verdict: Word
    runs: list[RunRow] = field(default_factory=list)
    told: Told | None = None
    skipped: str = ""
    """Why it was not run."""


class Record(Struct, kw_only=True):
    """One call of `supervisor chaos run`."""

    schema_version: int = SCHEMA_VERSION
    version: str = ""
    """Of the product."""
    started_at: str = ""
    """ISO 8601, UTC; a label only."""
    mutation: str = ""
    crew: str = ""
    """Crew file that was used, where it was not the scenario's own."""
    results: list[Result] = field(default_factory=list)

    @property
    def word(self) -> Word:
        """The worst verdict; `skipped` only where nothing was run."""
        words = {result.verdict for result in self.results}
        for word in _ORDER:
            if word in words and (word != "skipped" or words == {"skipped"}):
                return word
        return "skipped"


class Interrupted(KeyboardInterrupt):
    """A person, or the system, wants the run to end; `result` is what came of the scenario until then."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


def row(played: Played) -> RunRow:
    """A run as one row."""
    return RunRow(
        seed=played.seed,
        verdict=played.verdict.word,
        reasons=tuple(played.verdict.reasons),
        digest=played.digest,
        entries=played.entries,
        took_s=played.took_s,
    )


def told(played: Played, kept: tuple[str, ...] | None = None) -> Told:
    """A run in full."""
    observed = msgspec.structs.replace(played.observed, seen=played.observed.seen[:SEEN_MAX])
    return Told(
        seed=played.seed,
        verdict=played.verdict.word,
        checks=played.verdict.checks,
        observed=observed,
        faults=played.faults,
        kept=kept,
        digest=played.digest,
        folder=played.folder,
        advice=advice(played.observed),
    )


def plain(scenario: Scenario) -> dict[str, Any]:
    """A scenario as data that `scenario_of` reads back."""
    made: dict[str, Any] = msgspec.to_builtins(scenario)
    return made


def scenario_of(data: dict[str, Any]) -> Scenario:
    """A scenario from a record. Raises msgspec.ValidationError where it is none."""
    return msgspec.convert(data, Scenario)


def write(record: Record, path: Path) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        OSError: It cannot be read.
        msgspec.MsgspecError: It is no record of this version.
    """
    return msgspec.json.decode(path.read_bytes(), type=Record)


def worst(rows: list[RunRow]) -> Word:
    """The worst verdict of some runs."""
    words = {each.verdict for each in rows}
    return next((word for word in _ORDER if word in words), "skipped")
