"""Draining as stable data: who owns now what a controller has handed over."""

from msgspec import Struct

from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.wording import safe


class Drained(Struct, frozen=True, kw_only=True):
    """A controller that was asked to hand over its runs."""

    name: str
    id: str
    count: int
    """Runs that it had."""
    owners: dict[str, str]
    """By run, of at most 500: who owns it now; empty: nobody yet."""
    dry_run: bool = False
    """Nothing was changed: this is what would be handed over."""
    schema_version: int = SCHEMA_VERSION


def drained_lines(drained: Drained) -> list[str]:
    """What came of it, in lines for people."""
    name = safe(drained.name)
    if drained.dry_run:
        runs = ", ".join(map(safe, drained.owners)) or "nothing"
        return [f"{name} would hand over {runs} and end"]
    lines = [f"{name} owns nothing any more and has ended"]
    for owner in sorted(set(filter(None, drained.owners.values()))):
        runs = ", ".join(safe(run) for run, has in drained.owners.items() if has == owner)
        lines.append(f"{safe(owner)} has {runs}")
    if lost := [safe(run) for run, has in drained.owners.items() if not has]:
        lines.append(f"nobody has {', '.join(lost)}")
    return lines
