"""Consent: `--yes`, `--dry-run`, and the question before something that cannot be undone."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from crewkeeper_supervisor.cli.failure import USAGE, Failure

_Command = TypeVar("_Command", bound=Callable[..., Any])


def yes_option(command: _Command) -> _Command:
    """Add `-y`, `--yes`; the command gets it as `yes`."""
    return click.option(
        "-y", "--yes", is_flag=True, help="Do not ask for confirmation; needed where there is no terminal."
    )(command)


def dry_run_option(command: _Command) -> _Command:
    """Add `--dry-run`; the command gets it as `dry_run`, and changes nothing then."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")(command)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Args:
        question: One sentence with what is meant by name.
        yes: Whether the answer was given beforehand.

    Raises:
        Failure: Nobody can be asked, or the answer is no.
    """
    if yes:
        return
    if os.environ.get("CREWKEEPER_NO_INPUT") or not sys.stdin.isatty():
        raise Failure("this needs a confirmation and there is no terminal to ask on", code=USAGE, remedy="--yes")
    if not click.confirm(question, err=True):
        raise Failure("not done")
