"""`supervisor init`: write a crew file to begin with, its schema for editors, and two agents that run."""

import json
from pathlib import Path

import click

from crewkeeper_supervisor.cli.failure import Failure
from crewkeeper_supervisor.cli.output import say
from crewkeeper_supervisor.cli.starter import FILES, SCHEMA_FILE


@click.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path, file_okay=False), metavar="[DIR]")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def init(directory: Path, force: bool) -> None:
    """Write a new crew to start from.

    Into DIR, or here: a commented crew file, its schema for editors, and two agents that run. Nothing is written when
    one of the files exists, unless --force is given.
    """
    from crewkeeper_supervisor.shell.crew_schema import schema

    contents = FILES | {SCHEMA_FILE: json.dumps(schema(), indent=2) + "\n"}
    taken = [name for name in contents if (directory / name).exists()]
    if taken and not force:
        raise Failure(
            f"{directory} has {', '.join(taken)} already", remedy="name another folder, or overwrite with --force"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (directory / name).write_text(content, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(f"cannot write to {directory}: {reason}", remedy="name a folder you may write to") from error
    for name in contents:
        click.echo(str(directory / name))
    say(f"next: supervisor up {directory / 'crew.yaml'}")
