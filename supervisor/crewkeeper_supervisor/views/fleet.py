"""The fleet's budget as stable data: what all crews of a server may spend, and what each run has spent of it.

What a run has spent and holds is folded from its journal; its share, and what runs have spent that have ended, is the
account's. So every spending is counted once: in the account when its run has ended, in its journal before.
"""

from collections.abc import Mapping

from msgspec import Struct

from crewkeeper_supervisor.core.budget import Account
from crewkeeper_supervisor.core.budget import amount as in_words
from crewkeeper_supervisor.core.fleet_account import SHARED, FleetAccount
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.tables import Table
from crewkeeper_supervisor.views.wording import safe


class SharedRow(Struct, frozen=True, kw_only=True):
    """One dimension, in whole units: micro-USD, tokens, calls; `limit` null is none."""

    limit: int | None = None
    """Of the fleet: what was set, or what is spent and held where that is more. Of a run: its share."""
    settled: int = 0
    held: int = 0
    over: int = 0
    """Spent beyond the limit."""
    idle: int = 0
    """In shares of runs, neither spent nor held; given back when another run lacks it."""
    left: int | None = None
    """In nobody's share; null: there is no limit."""


class FleetView(Struct, frozen=True, kw_only=True):
    """The budget of all crews, by dimension."""

    fleet: dict[str, SharedRow]
    runs: dict[str, dict[str, SharedRow]]
    """Of runs that have not ended."""
    ended: dict[str, int]
    """Spent by runs that have."""
    ended_count: int
    by: str
    """Who has set the limits."""
    schema_version: int = SCHEMA_VERSION


def fleet_view(account: FleetAccount, folds: Mapping[str, Fold]) -> FleetView:
    """The budget as it stands.

    Args:
        account: The account.
        folds: The journal of every run that has a share in it or goes on, folded.
    """
    runs = {name: _of_run(account, name, fold) for name, fold in folds.items() if name not in account.ended}
    return FleetView(
        fleet={name: _of_all(account, name, [rows[name] for rows in runs.values()]) for name in SHARED},
        runs=runs,
        ended=dict(account.closed),
        ended_count=account.ended_count,
        by=account.by,
    )


def fleet_table(view: FleetView, *, wide: bool = False) -> Table:
    """What is limited and spent; `wide` has every dimension."""
    shown = [name for name, row in view.fleet.items() if wide or row.limit is not None]
    rows = [_cells("fleet", name, view.fleet[name]) for name in shown]
    for run, dimensions in view.runs.items():
        rows += [_cells(run, name, dimensions[name]) for name in shown]
    if view.ended_count:
        who = f"{view.ended_count} ended"
        rows += [_cells(who, name, SharedRow(settled=view.ended.get(name, 0))) for name in shown]
    return Table(
        columns=("WHO", "WHAT", "LIMIT", "SPENT", "HELD", "IDLE", "LEFT"),
        rows=tuple(rows),
        empty="all crews together have no limit: supervisor budget set fleet usd=20",
    )


def _cells(who: str, dimension: str, row: SharedRow) -> tuple[str, ...]:
    amounts = (row.limit, row.settled + row.over, row.held, row.idle, row.left)
    told = ("-" if each is None else in_words(dimension, each).partition(" ")[0] for each in amounts)
    return (safe(who), "usd" if dimension == "microusd" else dimension, *told)


def _of_run(account: FleetAccount, run: str, fold: Fold) -> dict[str, SharedRow]:
    accounts = fold.supervisor.gate.accounts
    mine: Account = accounts.crew if accounts.fleet is None else accounts.fleet
    share = account.shares.get(run)
    rows = {}
    for name in SHARED:
        settled, held = mine.settled.get(name, 0), mine.held.get(name, 0)
        leased = 0 if share is None else share.leased.get(name, 0)
        limited = name in account.limit
        rows[name] = SharedRow(
            limit=leased if limited else None,
            settled=settled,
            held=held,
            over=mine.over.get(name, 0),
            idle=max(0, leased - settled - held) if limited else 0,
        )
    return rows


def _of_all(account: FleetAccount, dimension: str, rows: list[SharedRow]) -> SharedRow:
    limited = dimension in account.limit
    return SharedRow(
        limit=account.bound(dimension),
        settled=account.closed.get(dimension, 0) + sum(row.settled for row in rows),
        held=sum(row.held for row in rows),
        over=sum(row.over for row in rows),
        idle=sum(row.idle for row in rows),
        left=account.left(dimension) if limited else None,
    )
