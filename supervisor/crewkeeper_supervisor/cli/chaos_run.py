"""`supervisor chaos run`: play scenarios, say what came of each, and leave a journal."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from crewkeeper_supervisor.cli.failure import Failure
from crewkeeper_supervisor.cli.output import emit_document, is_live, output_option, say, stdout, write
from crewkeeper_supervisor.cli.simulate import SeedRange

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Scenario
    from crewkeeper_supervisor.chaos.real.cast import Own
    from crewkeeper_supervisor.chaos.trial.played import Played
    from crewkeeper_supervisor.chaos.trial.record import Record, Result

BAD_FILE: Final = 2
JOURNAL: Final = Path("chaos-journal.json")
TICK_S: Final = 0.2
"""Time between two repaints of the line that shows progress."""


@click.command("run")
@click.argument("places", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE|FOLDER]...")
@click.option("--mode", type=click.Choice(["sim", "real"]), default=None, help="Default: sim where there is one.")
@click.option(
    "--seeds", type=SeedRange(), default="0..9", show_default=True, help="Of simulations, both ends included."
)
@click.option("--all", "everything", is_flag=True, help="Every scenario that comes along, in every mode it has.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only scenarios with this tag; may be repeated.")
@click.option("--crew", type=click.Path(path_type=Path, dir_okay=False), help="Play them on this crew, for real.")
@click.option(
    "--at",
    "at_s",
    type=click.FloatRange(0, 24 * 3600),
    metavar="SECONDS",
    help="With --crew: when faults come that are counted from the beginning.",
)
@click.option("--target", metavar="TARGET", help="With --crew: whom faults of agents hit, such as agent:planner.")
@click.option("--shrink", is_flag=True, help="Find the fewest faults with which the first failing seed still fails.")
@click.option("--mutate", metavar="NAME", help="Put this fault into the product first; 'list' prints their names.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    default=JOURNAL,
    show_default=True,
    help="What to write.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML here, too.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the HTML report here, too.")
@output_option()
def run(
    places: tuple[Path, ...],
    mode: str | None,
    seeds: range,
    everything: bool,
    tags: tuple[str, ...],
    crew: Path | None,
    at_s: float | None,
    target: str | None,
    shrink: bool,
    mutate: str | None,
    journal: Path,
    junit: Path | None,
    report: Path | None,
    output: str,
) -> None:
    """Run scenarios: those named, or those that come along.

    Exit status: 0 all passed, 1 an expectation was not met, 2 usage or a bad file, 3 a run was vacuous (a fault that
    had no effect, an action not done, an anchor that never happened), 4 nothing was run, 5 a fault could not be undone,
    130 told to end (SIGINT, SIGTERM): everything that was started has ended, and the journal has what was run before.
    """
    from crewkeeper_supervisor.chaos.trial.record import Interrupted
    from crewkeeper_supervisor.chaos.trial.told import EXIT, summary

    if mutate == "list":
        _list_mutations()
        return
    _check_options(mode, everything=everything, crew=crew, shrink=shrink, mutate=mutate)
    mutated, mode = _mutation(mutate), mode or (None if everything else _mode_of(mutate))
    scenarios = _chosen(places, tags)
    if at_s is not None or target is not None:
        scenarios = [_aimed(each, crew, at_s, target) for each in scenarios]
    if crew is not None:
        _own(crew)
    for file in filter(None, (journal, junit, report)):
        _make_room(file)
    record = _new_record(mutate or "", crew)
    progress = _Progress(show=output in ("table", "wide"), own_crew=crew is not None)
    with _kept(record, journal, junit, report), _ended_by_sigterm():
        for scenario in scenarios:
            for chosen in _modes(scenario, mode, everything=everything, crew=crew):
                progress.begin(scenario, chosen)
                try:
                    result = _one(scenario, chosen, seeds, crew, shrink, mutated, mutate or "", progress)
                except Interrupted as interrupted:
                    record.results.append(interrupted.result)
                    progress.end(interrupted.result)
                    raise
                record.results.append(result)
                progress.end(result)
    if output not in ("table", "wide"):
        verdict = {"ok": record.word == "pass", "verdict": record.word, "journal": str(journal)}
        emit_document({**verdict, "results": record.results}, output, list, name=str(journal))
    else:
        write(summary(record))
        say(f"journal: {journal}" + (f", report: {report}" if report else f"; next: supervisor chaos report {journal}"))
    raise click.exceptions.Exit(EXIT[record.word])


def _check_options(mode: str | None, *, everything: bool, crew: Path | None, shrink: bool, mutate: str | None) -> None:
    """Refuse what would be passed over without a word.

    Raises:
        click.UsageError: Two options contradict each other.
    """
    if everything and mode is not None:
        raise click.UsageError(f"--all plays every mode; leave out --all or --mode {mode}")
    if crew is not None and mode == "sim":
        raise click.UsageError("--crew names real programs, which no simulation can play; leave out --mode sim")
    if mode == "sim" and _mode_of(mutate) == "real":
        raise click.UsageError(f"{mutate} is a fault of what no simulation has; leave out --mode sim")
    if shrink and (crew is not None or mode == "real"):
        raise click.UsageError("--shrink plays the same run again and again, which takes a simulation; leave it out")


def _chosen(places: tuple[Path, ...], tags: tuple[str, ...]) -> "list[Scenario]":
    """The scenarios to run.

    Raises:
        Failure: A file is refused, nothing is there, or none has such a tag.
    """
    from crewkeeper_supervisor.cli.chaos import read

    scenarios = read(places)
    chosen = [each for each in scenarios if not tags or set(tags) & set(each.tags)]
    if not chosen:
        there = ", ".join(sorted({tag for each in scenarios for tag in each.tags}))
        what = f"no scenario has the tag {' or '.join(map(repr, tags))}"
        raise Failure(what, code=BAD_FILE, remedy=f"--tag with one of {there}" if there else "leave out --tag")
    return chosen


def _make_room(file: Path) -> None:
    """See that a file can be written, before anything is run.

    Raises:
        Failure: It cannot.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror}", code=BAD_FILE, remedy="name another") from None
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise Failure(f"{file} cannot be written: permission denied", code=BAD_FILE, remedy="name another")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Take SIGTERM as SIGINT, also where a shell has made SIGINT ignored: the way out that cleans up."""
    if threading.current_thread() is not threading.main_thread():  # signals are none of its business
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _aimed(scenario: "Scenario", crew: Path | None, at_s: float | None, target: str | None) -> "Scenario":
    """The scenario with its faults at another time, or of somebody else.

    Raises:
        click.UsageError: The crew is not somebody's own, or has nobody of this name.
    """
    import msgspec

    if crew is None:
        raise click.UsageError("--at and --target are for a crew of your own; name it with --crew")
    if target is not None:
        instances = _own(crew).instances
        names = [*dict.fromkeys([*instances, *instances.values()]), "any", "all"]
        if target not in [f"agent:{name}" for name in names]:
            raise click.BadParameter(
                f"{target!r}: use agent: and one of {', '.join(names)}"[:400], param_hint="'--target'"
            )
    faults = []
    for fault in scenario.faults:
        hits = target if target is not None and fault.target.startswith("agent:") else fault.target
        at = at_s if at_s is not None and fault.after == "start" else fault.at_s
        faults.append(msgspec.structs.replace(fault, at_s=at, target=hits))
    return msgspec.structs.replace(scenario, faults=tuple(faults))


def _own(crew: Path) -> "Own":
    """Somebody's crew.

    Raises:
        Failure: Its file is refused.
    """
    from crewkeeper_supervisor.chaos.real.cast import Own
    from crewkeeper_supervisor.shell.crew_problems import CrewFileError

    try:
        return Own(crew)
    except CrewFileError as error:
        raise Failure(str(error), code=BAD_FILE) from None


class _Progress:
    """Lines about scenarios as they end, and on a terminal a line about the one that runs."""

    def __init__(self, *, show: bool, own_crew: bool) -> None:
        self._show = show
        self._own_crew = own_crew
        self._live = show and is_live(stdout())
        self._shown_s = 0.0
        self._runs = 0
        self._name = ""

    def begin(self, scenario: "Scenario", mode: str) -> None:
        self._runs, self._name = 0, f"{scenario.id} [{mode}]"
        self.say("")

    def tell(self, played: "Played") -> None:
        self._runs += 1
        if time.monotonic() - self._shown_s > TICK_S:
            self.say(f"seed {played.seed}, {self._runs} runs")

    def say(self, what: str) -> None:
        """Show what goes on now."""
        if self._live:
            self._shown_s = time.monotonic()
            stdout().write(f"\r\x1b[2K{'...':<10} {self._name} {what}"[:160])
            stdout().flush()

    def end(self, result: "Result") -> None:
        from crewkeeper_supervisor.chaos.trial.told import lines
        from crewkeeper_supervisor.views.wording import safe

        if self._live:
            stdout().write("\r\x1b[2K")
        for line in lines(result, own_crew=self._own_crew) if self._show else ():
            write(safe(line, None))


def _modes(scenario: "Scenario", mode: str | None, *, everything: bool, crew: Path | None) -> list[str]:
    if crew is not None:
        return ["real"]
    if everything:
        return list(scenario.modes)
    return [mode or ("sim" if "sim" in scenario.modes else "real")]


def _one(
    scenario: "Scenario",
    mode: str,
    seeds: range,
    crew: Path | None,
    shrink: bool,
    mutated: Callable[[], AbstractContextManager[None]],
    mutation: str,
    progress: _Progress,
) -> "Result":
    from crewkeeper_supervisor.chaos.trial.record import Result, plain
    from crewkeeper_supervisor.chaos.trial.runner import run_sim

    why = ""
    if mode not in scenario.modes:
        why = f"it has no mode {mode}"
    elif not scenario.players and crew is None:
        why = "it has no agents of its own; name a crew with --crew"
    elif scenario.players and crew is not None:
        why = "it has agents of its own, and --crew names others"
    if why:
        return Result(scenario=plain(scenario), path=scenario.path, mode=mode, verdict="skipped", skipped=why)
    if mode == "sim":
        return run_sim(scenario, seeds, shrink=shrink, mutated=mutated, tell=progress.tell)
    from crewkeeper_supervisor.chaos.real.runner import run_real

    return run_real(scenario, crew=crew, mutation=mutation, tell=progress.say)


def _mutation(name: str | None) -> Callable[[], AbstractContextManager[None]]:
    """What puts the mutation in, for a while; harmless without one.

    Raises:
        click.BadParameter: There is no such mutation.
    """
    if name is None:
        return nullcontext
    from crewkeeper_supervisor.chaos.product_mutations import find

    found = find(name)
    if found is None:
        raise click.BadParameter(f"{name!r} is no mutation; 'list' prints them", param_hint="'--mutate'")
    return found.applied


def _mode_of(mutation: str | None) -> str | None:
    """Where a mutation of controllers and hosts shows; None: wherever its scenarios are played."""
    from crewkeeper_supervisor.chaos.product_mutations import PRODUCT_MUTATIONS

    real = {each.mutation.name for each in PRODUCT_MUTATIONS if each.mode == "real"}
    return "real" if mutation in real else None


def _list_mutations() -> None:
    from crewkeeper_supervisor.chaos.mutations import MUTATIONS
    from crewkeeper_supervisor.chaos.product_mutations import PRODUCT_MUTATIONS

    for each in PRODUCT_MUTATIONS:
        promises = f"; breaks {', '.join(each.breaks)}" if each.breaks else ""
        write(f"{each.mutation.name}  (turns {', '.join(each.scenarios)} red in {each.mode}{promises})")
    told = {each.mutation.name for each in PRODUCT_MUTATIONS}
    for mutation in MUTATIONS:
        if mutation.name not in told:
            write(f"{mutation.name}  (core)")


def _new_record(mutation: str, crew: Path | None) -> "Record":
    from crewkeeper_supervisor.chaos.trial.record import Record
    from crewkeeper_supervisor.cli.version import version_of

    return Record(
        version=version_of("crewkeeper"),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        mutation=mutation,
        crew="" if crew is None else str(crew),
    )


@contextmanager
def _kept(record: "Record", journal: Path, junit: Path | None, report: Path | None) -> Iterator[None]:
    """Keep what comes into a record, also where its run is interrupted or breaks off."""
    try:
        yield
    except BaseException:
        if any(
            result.runs or result.told for result in record.results
        ):  # else what an earlier run has left is worth more
            _keep(record, journal, junit, report)
            say(f"journal of what was run before: {journal}")
        raise
    _keep(record, journal, junit, report)


def _keep(record: "Record", journal: Path, junit: Path | None, report: Path | None) -> None:
    from crewkeeper_supervisor.chaos.trial import record as records

    records.write(record, journal)
    if junit is not None:
        from crewkeeper_supervisor.chaos.trial.junit import xml

        junit.write_bytes(xml(record))
    if report is not None:
        from crewkeeper_supervisor.chaos.trial.report import html

        report.write_text(html(record), encoding="utf-8")
