"""Deeds: what a command has changed, told to people in a line, and to programs as data; and the options of all such.

The options that belong to what is changed are in the files of the commands.
"""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.consent import dry_run_option
from crewkeeper_supervisor.cli.failure import FAILED
from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.place_options import place_options

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Deed(Struct, frozen=True, kw_only=True):
    """One change that was asked for."""

    action: str
    """The command, as `budget set`."""
    name: str
    """What it is about, as other commands take it."""
    ok: bool
    """Whether it is proven to be in force; with `dry_run`, whether it could be tried."""
    text: tuple[str, ...]
    run: str = ""
    dry_run: bool = False
    """Nothing was changed: this is what would have been."""
    schema_version: int = 1


class How(Struct, frozen=True, kw_only=True):
    """How a change is to be made, and where: the options of all commands that make one."""

    timeout_s: float
    """How long its effect is waited for."""
    dry_run: bool
    state: Path | None
    nats: str | None


def timeout_option(default_s: float = 10.0, help_: str | None = None) -> Callable[[_Command], _Command]:
    """Add `--timeout SECONDS`; the command gets it as `timeout`."""
    limits = click.FloatRange(0.1, 3600)
    return click.option("--timeout", type=limits, default=default_s, show_default=True, metavar="SECONDS", help=help_)


def deed_command(change: Callable[..., Awaitable[Deed]]) -> Callable[..., None]:
    """Make a command's function of what changes something: tells of the deed, and exits as it went.

    It adds `--timeout`, `--dry-run`, `--output` and the options of a place; `change` gets all but the output as `how`.
    """

    @timeout_option()
    @dry_run_option
    @output_option()
    @place_options
    @functools.wraps(change)
    def command(
        *args: Any, timeout: float, dry_run: bool, output: str, state: Path | None, nats: str | None, **kwargs: Any
    ) -> None:
        how = How(timeout_s=timeout, dry_run=dry_run, state=state, nats=nats)
        deed = anyio.run(functools.partial(change, *args, how=how, **kwargs))
        click.get_current_context().exit(tell(deed, output))

    return command


def tell(deed: Deed, output: str) -> int:
    """Tell of a deed; returns the exit status."""
    emit_document(deed, output, lambda: deed.text, name=deed.name)
    return 0 if deed.ok else FAILED
