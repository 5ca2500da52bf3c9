"""`supervisor chaos`: list, write and check scenarios; run them, report and replay what was seen."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from crewkeeper_supervisor.cli.chaos_run import BAD_FILE, JOURNAL, run
from crewkeeper_supervisor.cli.failure import INVALID, NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say, write

if TYPE_CHECKING:
    from crewkeeper_supervisor.chaos.plan.scenario import Scenario, ScenarioError
    from crewkeeper_supervisor.chaos.trial.record import Record

SCHEMA_VERSION: Final = 1
"""Of the JSON that these commands print."""


@click.group()
def chaos() -> None:
    """Prove what holds when things go wrong, in simulation and on real processes."""


chaos.add_command(run)


@chaos.command()
@click.argument("journal", type=click.Path(path_type=Path, dir_okay=False), default=JOURNAL, metavar="[JOURNAL]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: beside the journal, as .html.")
def report(journal: Path, out: Path | None) -> None:
    """Write the journal of a run as one page of HTML that needs nothing else."""
    from crewkeeper_supervisor.chaos.trial.report import html

    out = out or journal.with_suffix(".html")
    out.write_text(html(_record(journal)), encoding="utf-8")
    write(str(out))


@chaos.command()
@click.argument("journal", type=click.Path(path_type=Path, dir_okay=False), default=JOURNAL, metavar="[JOURNAL]")
def replay(journal: Path) -> None:
    """Play the simulated runs of a journal again, with its scenarios, seeds and mutation, and compare.

    Exit status: 0 every run came out as before, 1 one did not, 4 the journal has no simulated run.
    """
    from crewkeeper_supervisor.chaos.trial.replay import replayed
    from crewkeeper_supervisor.chaos.trial.told import EXIT

    runs = same = 0
    for told in replayed(_record(journal)):
        runs, same = runs + 1, same + told.same
        if not told.same:
            write(f"{told.scenario} seed {told.seed}: {told.detail}")
    if not runs:
        why = "it has no simulated run, and only those come out the same again"
        raise Failure(f"{journal}: {why}", code=EXIT["skipped"], remedy="supervisor chaos run --mode sim")
    write(f"{same} of {runs} runs came out as before")
    raise click.exceptions.Exit(EXIT["pass" if same == runs else "fail"])


def _record(path: Path) -> "Record":
    import msgspec

    from crewkeeper_supervisor.chaos.trial import record

    try:
        return record.read(path)
    except FileNotFoundError:
        raise Failure(f"{path} is not there", code=NOT_FOUND, remedy="supervisor chaos run writes one") from None
    except msgspec.MsgspecError as error:
        raise Failure(f"{path} is no journal of a chaos run: {str(error)[:200]}", code=INVALID) from None


@chaos.command("list")
@click.argument("places", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE|FOLDER]...")
@output_option()
def list_(places: tuple[Path, ...], output: str) -> None:
    """List scenarios: those that come along, or those in the files and folders named.

    Exit status: 0 listed, 2 a file is refused.
    """
    scenarios = read(places)
    if output == "name":
        for scenario in scenarios:
            write(scenario.path)
    elif output not in ("table", "wide"):
        listed = {"schema_version": SCHEMA_VERSION, "scenarios": [_summary(each) for each in scenarios]}
        emit_document(listed, output, list)
    else:
        width = max((len(each.id) for each in scenarios), default=0)
        for each in scenarios:
            write(f"{each.id.ljust(width)}  {'+'.join(each.modes).ljust(8)}  {' '.join(each.guarantees)}  {each.title}")


@chaos.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
def init(file: Path) -> None:
    """Write a new scenario to start from, and its JSON Schema beside it. The name of the file is the scenario's.

    Exit status: 0 written, 2 the file is there already, or its name is none for a scenario.
    """
    from crewkeeper_supervisor.chaos.plan.library import FIRST, SUFFIX
    from crewkeeper_supervisor.chaos.plan.scenario import ScenarioError, parse

    if file.exists():
        raise Failure(f"{file} exists; nothing was written", code=USAGE, remedy="name a new file")
    if file.suffix != SUFFIX:
        remedy = f"supervisor chaos init {file.with_suffix(SUFFIX)}"
        raise Failure(f"{file}: scenario files end in {SUFFIX}; nothing was written", code=USAGE, remedy=remedy)
    text = FIRST.format(id=file.stem)
    try:
        parse(text.encode(), str(file))
    except ScenarioError as error:
        why = error.problems[0].message.removeprefix("id: ")
        remedy = "a name such as search-is-slow.yaml: letters, digits, - and _, at most 32, and no word of YAML's"
        raise Failure(
            f"{file}: the name of the scenario {why}; nothing was written", code=USAGE, remedy=remedy
        ) from None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    (file.parent / "scenario.schema.json").write_text(_schema())
    say(f"wrote {file}; next: supervisor chaos run {file}")


@chaos.command()
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE|FOLDER...")
@output_option()
def validate(places: tuple[Path, ...], output: str) -> None:
    """Check scenario files: every mistake at once, with file, line and column. Nothing is run.

    Exit status: 0 all are valid, 2 one is not.
    """
    import msgspec

    from crewkeeper_supervisor.chaos.plan.library import loaded

    scenarios, refused = loaded(_files(places))
    if output not in ("table", "wide"):
        problems = [msgspec.to_builtins(problem) for error in refused for problem in error.problems]
        names = [scenario.path for scenario in scenarios]
        checked = {"schema_version": SCHEMA_VERSION, "ok": not refused, "valid": names, "problems": problems}
        emit_document(checked, output, list, name=" ".join(names))
    else:
        for scenario in scenarios:
            write(f"{scenario.path}: ok")
        for error in refused:
            say(str(error))
    if refused:
        raise click.exceptions.Exit(BAD_FILE)


@chaos.command()
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    click.echo(_schema(), nl=False)


@chaos.command()
def faults() -> None:
    """List the kinds of faults, where each can be injected, and what it does."""
    from crewkeeper_supervisor.chaos.faults.registry import KINDS

    width = max(map(len, KINDS))
    for kind in KINDS.values():
        write(f"{kind.word.ljust(width)}  {'+'.join(kind.modes).ljust(8)}  {kind.doc}")


def read(places: tuple[Path, ...]) -> "list[Scenario]":
    """The scenarios in these places, or those that come along.

    Raises:
        Failure: A file is refused, or nothing is there.
    """
    from crewkeeper_supervisor.chaos.plan.library import loaded, shipped

    if not places:
        folder = shipped()
        if folder is None:
            raise Failure("no scenarios are part of this installation", code=USAGE, remedy="name a file or folder")
        places = (folder,)
    scenarios, refused = loaded(_files(places))
    if refused:
        raise _refused(refused)
    return scenarios


def _files(places: tuple[Path, ...]) -> list[Path]:
    from crewkeeper_supervisor.chaos.plan.library import files

    try:
        return files(places)
    except FileNotFoundError as error:
        remedy = "supervisor chaos list prints what comes along; supervisor chaos init FILE writes a new one"
        raise Failure(f"{error.filename}: {error.strerror}", code=BAD_FILE, remedy=remedy) from None


def _refused(refused: "list[ScenarioError]") -> Failure:
    for error in refused:
        say(str(error))
    names = ", ".join(error.problems[0].file for error in refused)
    return Failure(f"{names}: refused; nothing was run", code=BAD_FILE)


def _schema() -> str:
    from crewkeeper_supervisor.chaos.plan.schema import schema as made

    return json.dumps(made(), indent=2) + "\n"


def _summary(scenario: "Scenario") -> dict[str, Any]:
    return {
        "id": scenario.id,
        "title": scenario.title,
        "modes": list(scenario.modes),
        "guarantees": list(scenario.guarantees),
        "tags": list(scenario.tags),
        "path": scenario.path,
    }
