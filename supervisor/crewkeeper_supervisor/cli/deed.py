"""Deeds: what a command has changed, told to people in a line, and to programs as data."""

from msgspec import Struct

from crewkeeper_supervisor.cli.failure import FAILED
from crewkeeper_supervisor.cli.output import emit_document


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


def tell(deed: Deed, output: str) -> int:
    """Tell of a deed; returns the exit status."""
    emit_document(deed, output, lambda: deed.text, name=deed.name)
    return 0 if deed.ok else FAILED
