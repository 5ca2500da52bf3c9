"""Controllers as stable data: who serves, what each owns, and how it is; read from what they say themselves."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from crewkeeper_supervisor.shell.members import SILENT_S, Member
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.tables import Table, build_table
from crewkeeper_supervisor.views.wording import ago, count, duration, moment, safe


class OwnedRow(Struct, frozen=True, kw_only=True):
    """One run of a controller."""

    run: str
    term: int
    """Fencing token of its ownership."""
    seq: int
    """Journal entries that are folded."""
    behind: int
    """Entries that have arrived and are not folded yet."""
    age_s: float
    """Seconds since it was taken."""


class ControllerRow(Struct, frozen=True, kw_only=True):
    """One controller."""

    name: str
    id: str
    state: str
    """`serving`, `draining`, or `silent` when nothing was heard of it for three seconds."""
    owns: int
    runs: tuple[OwnedRow, ...]
    """At most 500 of them."""
    only: tuple[str, ...]
    """Runs that it is confined to; empty: it takes any."""
    behind: int
    """Entries that wait to be folded, over all its runs."""
    late_ms: int
    """How late its event loop was at most within the last second."""
    machine: str
    pid: int
    code: str
    """Version of what decides; equal versions fold equal journals into equal states."""
    began_at: datetime
    heard_at: datetime
    schema_version: int = SCHEMA_VERSION


def controller_row(member: Member, now: datetime) -> ControllerRow:
    """What a controller said last, as data."""
    heard = moment(member.heard_at_s)
    is_silent = (now - heard).total_seconds() > SILENT_S
    return ControllerRow(
        name=member.name,
        id=member.id,
        state="silent" if is_silent else member.state,
        owns=member.count,
        runs=tuple(
            OwnedRow(run=each.run, term=each.term, seq=each.seq, behind=each.behind, age_s=each.age_s)
            for each in member.runs
        ),
        only=member.only,
        behind=sum(each.behind for each in member.runs),
        late_ms=member.late_ms,
        machine=member.machine,
        pid=member.pid,
        code=member.code,
        began_at=moment(member.began_at_s),
        heard_at=heard,
    )


def controllers_table(rows: Sequence[ControllerRow], now: datetime, *, wide: bool = False) -> Table:
    """One line a controller."""
    heads = (
        ("CONTROLLER", False),
        ("STATE", False),
        ("OWNS", False),
        ("BEHIND", False),
        ("LOOP LATE", False),
        ("STARTED", False),
        ("HEARD", False),
        ("WHERE", True),
        ("CODE", True),
        ("RUNS (TERM)", True),
    )
    cells = [
        (
            safe(row.name),
            row.state,
            str(row.owns),
            count(row.behind),
            duration(row.late_ms / 1000),
            ago(row.began_at, now),
            ago(row.heard_at, now),
            safe(f"{row.machine}:{row.pid}"),
            safe(row.code),
            safe(", ".join(f"{each.run} ({each.term})" for each in row.runs), None),
        )
        for row in rows
    ]
    return build_table(heads, cells, wide=wide, empty="no controller serves here: start one with `supervisor serve`")
