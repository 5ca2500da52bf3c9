"""Sweep: many seeds, what they broke, and whether everything worth seeing was seen; and seeds kept as files."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.chaos.coverage import SOMETIMES
from crewkeeper_supervisor.chaos.options import Options
from crewkeeper_supervisor.chaos.shrink import Shrinker, settled
from crewkeeper_supervisor.chaos.simulation import Outcome, simulate

COVERED_FROM: Final = 50
"""A sweep over fewer seeds cannot be expected to see everything."""


class SeedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A failing run as it is kept: enough to run it again."""

    seed: int
    invariant: str
    """What it broke when it was found."""
    options: Options
    kept: tuple[str, ...] | None = None
    """Faults that may strike; None: all."""
    note: str = ""
    mutation: str = ""
    """The fault that was put into the core when it was found: with it the run fails, without it does not."""

    def run(self) -> Outcome:
        """Run it again."""
        return simulate(self.seed, self.options, None if self.kept is None else frozenset(self.kept))


class Sweep:
    """The runs of a range of seeds.

    Attributes:
        failures: Outcomes with violations, in order.
        counts: How often each situation arose.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.failures: list[Outcome] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(SOMETIMES, 0))
        self.seeds = self.events = 0
        self.virtual_s = 0.0

    def run(
        self, seeds: Iterable[int], each: Callable[[Outcome], None] = lambda _: None, failures_max: int = 0
    ) -> None:
        """Run these seeds.

        Args:
            seeds: Which.
            each: Told every outcome.
            failures_max: Stop after so many failures; 0: never.
        """
        for seed in seeds:
            outcome = simulate(seed, self.options)
            self.add(outcome)
            each(outcome)
            if failures_max and len(self.failures) >= failures_max:
                return

    def add(self, outcome: Outcome) -> None:
        """Take one outcome into account."""
        self.seeds += 1
        self.events += outcome.events
        self.virtual_s += outcome.virtual_s
        self.counts.update(outcome.counts)
        if outcome.violations:
            self.failures.append(outcome)

    @property
    def never(self) -> list[str]:
        """Situations that should have arisen and did not; empty for a sweep too small to tell."""
        return [name for name in SOMETIMES if not self.counts[name]] if self.seeds >= COVERED_FROM else []

    @property
    def ok(self) -> bool:
        """Whether nothing was broken and nothing was left out."""
        return not self.failures and not self.never


def shrunk(outcome: Outcome, mutation: str = "") -> SeedFile:
    """A failing run made small; `mutation` names the fault that is in the core meanwhile."""
    kept, best = Shrinker(outcome).shrunk()
    violation = best.violations[0]
    return SeedFile(
        seed=outcome.seed,
        invariant=violation.invariant,
        options=settled(best),
        kept=kept,
        note=violation.text,
        mutation=mutation,
    )


def whole(outcome: Outcome) -> SeedFile:
    """A failing run as it is."""
    violation = outcome.violations[0]
    return SeedFile(seed=outcome.seed, invariant=violation.invariant, options=settled(outcome), note=violation.text)


def write(file: SeedFile, folder: Path) -> Path:
    """Keep a failing run; its file is named after its mutation or invariant, and seed."""
    path = folder / f"{(file.mutation or file.invariant).replace(' ', '-')}-{file.seed}.json"
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = msgspec.to_builtins(file)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n")
    return path


def read(path: Path) -> SeedFile:
    """Read a kept run. Raises msgspec.ValidationError where it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=SeedFile)
