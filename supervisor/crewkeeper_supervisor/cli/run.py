"""`supervisor run`: play scenarios; the same as `supervisor chaos run`, for whoever does not mean a crew by it."""

import re
from pathlib import Path
from typing import Any, Final

import click

from crewkeeper_supervisor.cli import chaos_run
from crewkeeper_supervisor.cli.failure import USAGE, Failure

HEAD_BYTES: Final = 64 * 1024
_NAMES_A_CREW: Final = re.compile(rb"^crew:[ \t]*[^\s{#]", re.MULTILINE)
_IS_A_SCENARIO: Final = re.compile(rb"^(v|id|modes):", re.MULTILINE)


def _run(**chosen: Any) -> Any:
    for place in chosen["places"]:
        if _is_crew(place):
            said = f"{place} is a crew file, and this command plays scenarios"
            raise Failure(said, code=USAGE, remedy=f"supervisor up {place}")
    assert chaos_run.run.callback is not None
    return chaos_run.run.callback(**chosen)


def _is_crew(place: Path) -> bool:
    try:
        with place.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False  # the command itself says what is wrong with it
    return bool(_NAMES_A_CREW.search(head)) and not _IS_A_SCENARIO.search(head)


run = click.Command("run", callback=_run, params=chaos_run.run.params, help=chaos_run.run.help)
