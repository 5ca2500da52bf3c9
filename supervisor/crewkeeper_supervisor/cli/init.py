"""`supervisor init`: write a crew file to begin with, its schema for editors, and two agents that run."""

import json
import sys
from pathlib import Path
from typing import Final

import click

from crewkeeper_supervisor.cli.starter import FILES, SCHEMA_FILE
from crewkeeper_supervisor.shell.crew_schema import schema

EXIT_FAILED: Final = 1


@click.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path, file_okay=False), metavar="[DIR]")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def init(directory: Path, force: bool) -> None:
    """Write a first crew into DIR (default: here).

    Nothing is written when one of the files exists, unless --force is given.
    """
    contents = FILES | {SCHEMA_FILE: json.dumps(schema(), indent=2) + "\n"}
    taken = [name for name in contents if (directory / name).exists()]
    if taken and not force:
        click.echo(
            f"error: {directory} has {', '.join(taken)} already; name another folder, or overwrite with --force",
            err=True,
        )
        sys.exit(EXIT_FAILED)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (directory / name).write_text(content, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        click.echo(f"error: cannot write to {directory}: {reason}; name a folder you may write to", err=True)
        sys.exit(EXIT_FAILED)
    for name in contents:
        click.echo(str(directory / name))
    click.echo(f"next: supervisor up {directory / 'crew.yaml'}", err=True)
