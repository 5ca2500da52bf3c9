"""`supervisor simulate`: seeded runs of the production core in a simulated world of agents, bus and faults."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from crewkeeper_supervisor.cli.failure import FAILED
from crewkeeper_supervisor.cli.output import emit_document, output_option, say, write
from crewkeeper_supervisor.cli.progress import Progress

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.simulation import Outcome
    from crewkeeper_supervisor.chaos.sweep import SeedFile, Sweep

SCHEMA_VERSION: Final = 1
"""Of the JSON that `simulate -o json` prints."""
SEEDS_MAX: Final = 1_000_000
"""Of one sweep: each seed leaves a row."""
FAILURES_MAX: Final = 10
"""A sweep stops after so many failing seeds."""


class SeedRange(click.ParamType[range]):
    """`A..B` with both ends, or one seed."""

    name = "A..B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """Read it."""
        first, dots, last = str(value).partition("..")
        try:
            seeds = range(int(first), int(last if dots else first) + 1)
        except ValueError:
            self.fail(f"{value!r} is no range of seeds: give A..B, for example 0..99", param, ctx)
        if not seeds or seeds.start < 0:
            self.fail(f"{value!r} is empty or below 0: give A..B with 0 <= A <= B", param, ctx)
        if len(seeds) > SEEDS_MAX:
            self.fail(f"{value!r} is {len(seeds)} seeds; the limit is {SEEDS_MAX}", param, ctx)
        return seeds


@click.command()
@click.option("--seeds", type=SeedRange(), default="0..99", show_default=True, help="Which seeds, both ends included.")
@click.option("--agents", type=click.IntRange(1, 1000), default=6, show_default=True, help="Agents of the crew.")
@click.option(
    "--events", type=click.IntRange(50, 10_000_000), default=1500, show_default=True, help="Journal entries of a run."
)
@click.option(
    "--mode",
    type=click.Choice(["safety", "liveness", "swarm"]),
    default="safety",
    show_default=True,
    help="Faults all the time; faults that stop and progress demanded; features and faults chosen by the seed.",
)
@click.option("--shrink", is_flag=True, help="Make the first failing run small and write it to --keep.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("seeds"),
    show_default=True,
    help="Folder for the shrunk run.",
)
@click.option(
    "--mutate",
    metavar="NAME",
    help="Put this fault into the core first, in the mode that shows it; 'list' prints their names.",
)
@output_option()
def simulate(
    seeds: range, agents: int, events: int, mode: str, shrink: bool, keep: Path, mutate: str | None, output: str
) -> None:
    """Run the supervisor's core against simulated crews and faults.

    Exit status: 0 nothing was broken, 1 an invariant was, or a situation that must arise never did, 2 usage.
    """
    from crewkeeper_supervisor.chaos.mutations import MUTATIONS, named
    from crewkeeper_supervisor.chaos.options import Options
    from crewkeeper_supervisor.chaos.sweep import Sweep, shrunk
    from crewkeeper_supervisor.chaos.sweep import write as write_seed

    if mutate == "list":
        for mutation in MUTATIONS:
            write(f"{mutation.name}  ({mutation.mode})")
        return
    if mutate is not None and mutate not in {mutation.name for mutation in MUTATIONS}:
        raise click.BadParameter(f"{mutate!r} is no mutation; 'list' prints them", param_hint="'--mutate'")
    options = Options(agents=agents, events=events, mode=mode)  # type: ignore[arg-type]
    sweep = Sweep(named(mutate).options(options) if mutate is not None else options)
    kept: SeedFile | None = None
    with named(mutate).applied() if mutate is not None else nullcontext():
        with Progress("simulated seeds", len(seeds)) as progress:
            tell = _tell if output in ("table", "wide") else _nothing

            def each(outcome: "Outcome") -> None:
                tell(outcome)
                progress.add(1)

            sweep.run(seeds, each, failures_max=FAILURES_MAX)
        if shrink and sweep.failures:
            say(f"shrinking seed {sweep.failures[0].seed}")
            kept = shrunk(sweep.failures[0], mutate or "")
            say(f"kept as {write_seed(kept, keep)}: {len(kept.kept or ())} faults, {kept.options.events} events")
    if output in ("table", "wide"):
        _summary(sweep)
    else:
        emit_document(_document(sweep, kept), output, list, name=f"seeds {seeds.start}..{seeds.stop - 1}")
    if not sweep.ok:
        raise click.exceptions.Exit(FAILED)


def _nothing(_outcome: "Outcome") -> None:
    return


def _tell(outcome: "Outcome") -> None:
    for violation in outcome.violations[:3]:
        write(f"seed {outcome.seed}  {violation.invariant}  at {violation.at_s:.3f} s: {violation.text}")


def _summary(sweep: "Sweep") -> None:
    write(
        f"{sweep.seeds} seeds, {sweep.events} events, {sweep.virtual_s / 3600:.1f} virtual hours: "
        f"{len(sweep.failures)} failed"
    )
    for name, count in sweep.counts.items():
        write(f"{count:9}  {name}")
    for name in sweep.never:
        write(f"never: {name}")


def _document(sweep: "Sweep", kept: "SeedFile | None") -> dict[str, Any]:
    import msgspec

    return {
        "schema_version": SCHEMA_VERSION,
        "ok": sweep.ok,
        "options": msgspec.to_builtins(sweep.options),
        "seeds": sweep.seeds,
        "events": sweep.events,
        "virtual_s": round(sweep.virtual_s, 3),
        "sometimes": dict(sweep.counts),
        "never": sweep.never,
        "failures": [
            {
                "seed": outcome.seed,
                "options": msgspec.to_builtins(outcome.options),
                "faults": list(outcome.faults),
                "violations": [msgspec.to_builtins(violation) for violation in outcome.violations],
            }
            for outcome in sweep.failures
        ],
        "kept": None if kept is None else msgspec.to_builtins(kept),
    }
