"""`supervisor crew`: check crew files, print their JSON Schema, and what other words say about the crews that run."""

import json
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from crewkeeper_supervisor.cli.describe import describe
from crewkeeper_supervisor.cli.down import down
from crewkeeper_supervisor.cli.failure import INVALID
from crewkeeper_supervisor.cli.output import emit_document, output_option, say
from crewkeeper_supervisor.cli.pause import pause, resume
from crewkeeper_supervisor.cli.ps import ps

SCHEMA_VERSION: Final = 1
"""Of the JSON that `crew check -o json` prints."""


@click.group()
def crew() -> None:
    """Check crew files, print their schema; list, describe, pause, resume, kill running crews."""


crew.add_command(ps, "ls")
crew.add_command(describe)
crew.add_command(pause, "pause")
crew.add_command(resume, "resume")
crew.add_command(down, "kill")


@crew.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@output_option()
def check(files: tuple[Path, ...], output: str) -> None:
    """Check crew files: every mistake at once, and what their declarations let expect.

    Exit status: 0 all are valid (there may be warnings), 3 one is not.
    """
    results = [_check_one(file) for file in files]
    if output in ("table", "wide"):
        for result in results:
            _print(result)
    else:
        emit_document({"schema_version": SCHEMA_VERSION, "files": results}, output, list)
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(INVALID)


@crew.command()
def schema() -> None:
    """Print the JSON Schema of crew files, for editors."""
    from crewkeeper_supervisor.shell.crew_schema import schema as crew_schema

    click.echo(json.dumps(crew_schema(), indent=2))


def _check_one(file: Path) -> dict[str, Any]:
    """The result for one file, as `-o json` prints it."""
    from crewkeeper_supervisor.shell.crew_problems import CrewFileError
    from crewkeeper_supervisor.shell.crewfile import read

    try:
        loaded = read(file)
    except CrewFileError as error:
        problems = [msgspec.to_builtins(problem) for problem in error.problems]
        return {"file": str(file), "ok": False, "problems": problems, "omitted": error.omitted, "warnings": []}
    warnings = [*loaded.warnings, *loaded.lint()]
    return {
        "file": str(file),
        "ok": True,
        "crew": loaded.crew.name,
        "agents": len(loaded.crew.agents),
        "instances": sum(agent.replicas for agent in loaded.crew.agents),
        "problems": [],
        "omitted": 0,
        "warnings": [msgspec.to_builtins(warning) for warning in warnings],
    }


def _print(result: dict[str, Any]) -> None:
    """Print one result for people: the verdict on stdout, everything else on stderr."""
    from crewkeeper_supervisor.shell.crew_problems import Problem, render
    from crewkeeper_supervisor.views.wording import counted

    told = [msgspec.convert(problem, Problem) for problem in (*result["problems"], *result["warnings"])]
    if told:
        say(render(told, result["omitted"]))
    if not result["ok"]:
        errors = len(result["problems"]) + result["omitted"]
        say(f"{result['file']}: refused, {counted(errors, 'error')}")
        return
    counts = [counted(result["agents"], "agent")]
    if result["instances"] != result["agents"]:
        counts.append(counted(result["instances"], "instance"))
    if result["warnings"]:
        notes = sum(warning["severity"] == "note" for warning in result["warnings"])
        warnings = len(result["warnings"]) - notes
        counts += [counted(number, word) for number, word in ((warnings, "warning"), (notes, "note")) if number]
    click.echo(f"{result['file']}: ok: crew {result['crew']}, {', '.join(counts)}")
