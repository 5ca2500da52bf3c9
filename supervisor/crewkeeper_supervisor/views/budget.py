"""Budgets of a run as stable data: limits, what is settled and held, and when a limit is likely to be reached."""

from decimal import Decimal
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.core.budget import SPENT, Account
from crewkeeper_supervisor.core.budget import amount as in_words
from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.tables import Table
from crewkeeper_supervisor.views.wording import duration, safe

_HOUR_S: Final = 3600


class DimensionRow(Struct, frozen=True, kw_only=True):
    """One dimension of one account, in whole units: micro-USD, tokens, calls; `limit` null is none."""

    limit: int | None
    settled: int
    held: int
    over: int = 0
    """Spent beyond the limit."""


class ProjectionRow(Struct, frozen=True, kw_only=True):
    """Where one dimension of the crew goes at the pace of the run so far."""

    per_hour: int
    reached_in_s: float | None = None
    """When the limit is reached; null: never, or there is none."""
    at_end: int | None = None
    """What will be spent when the run's time is over; null: its time is not limited."""


class TimeRow(Struct, frozen=True, kw_only=True):
    """The run's time, in seconds."""

    limit_s: float | None
    elapsed_s: float


class BudgetView(Struct, frozen=True, kw_only=True):
    """All budgets of one run, by dimension, as `microusd`, `tokens` or `tool_calls`."""

    run: str
    crew: dict[str, DimensionRow]
    agents: dict[str, dict[str, DimensionRow]]
    tasks: dict[str, dict[str, DimensionRow]]
    """Only of tasks with limits of their own, as `agent/task`."""
    wall: TimeRow
    projection: dict[str, ProjectionRow]
    schema_version: int = SCHEMA_VERSION


def budgets(fold: Fold, now_s: float | None = None) -> BudgetView:
    """The budgets as they stand.

    Args:
        fold: The folded journal.
        now_s: Seconds since the Unix epoch; None: the newest entry's time. A run that is over is measured at its end.
    """
    core = fold.supervisor
    accounts = core.gate.accounts
    limits = core.crew.budget if core.crew is not None else Budget()
    measured_s = fold.last_at_s if now_s is None or fold.ended else max(now_s, fold.last_at_s)
    elapsed_s = max(0.0, measured_s - (fold.began_at_s if fold.began_at_s is not None else measured_s))
    left_s = None if limits.wall_s is None else max(0.0, limits.wall_s - elapsed_s)
    crew = _rows(accounts.crew, core.usage.messages)
    return BudgetView(
        run=fold.run,
        crew=crew,
        agents={
            name: _rows(accounts.agent(name, view.spec.budget), view.usage.messages)
            for name, view in core.agents.items()
        },
        tasks={key: _rows(each, 0) for key, each in accounts.tasks.items()},
        wall=TimeRow(limit_s=limits.wall_s, elapsed_s=round(elapsed_s, 3)),
        projection={name: _projection(row, elapsed_s, left_s) for name, row in crew.items()},
    )


def budget_table(view: BudgetView, *, wide: bool = False) -> Table:
    """Limits and what is spent of them; `wide` has everything that is spent, limited or not."""
    rows = []
    for who, dimensions in [("crew", view.crew), *view.agents.items(), *view.tasks.items()]:
        for dimension, row in dimensions.items():
            spent = row.settled + row.over
            if row.limit is None and not (wide or (who == "crew" and spent)):
                continue
            ahead = view.projection[dimension].reached_in_s if who == "crew" else None
            rows.append(
                (
                    safe(who),
                    dimension if dimension != "microusd" else "usd",
                    "-" if row.limit is None else _short(dimension, row.limit),
                    _short(dimension, spent),
                    _short(dimension, row.held),
                    "-" if row.limit is None else _short(dimension, max(0, row.limit - spent - row.held)),
                    "-" if ahead is None else duration(ahead),
                )
            )
    return Table(
        columns=("WHO", "WHAT", "LIMIT", "SPENT", "HELD", "LEFT", "LASTS"),
        rows=tuple(rows),
        empty="nothing is limited or spent",
    )


def _rows(account: Account, messages: int) -> dict[str, DimensionRow]:
    found = {}
    for dimension in SPENT:
        limit, settled = account.limit.get(dimension), account.settled.get(dimension, 0)
        if dimension == "messages" and limit is None:
            settled = messages  # counted for everybody, kept in the account only where it is limited
        held, over = account.held.get(dimension, 0), account.over.get(dimension, 0)
        found[dimension] = DimensionRow(limit=limit, settled=settled, held=held, over=over)
    return found


def _projection(row: DimensionRow, elapsed_s: float, left_s: float | None) -> ProjectionRow:
    spent = row.settled + row.over
    pace = Decimal(spent) / Decimal(repr(elapsed_s)) if elapsed_s > 0 else Decimal(0)
    left = None if row.limit is None else max(0, row.limit - spent - row.held)
    return ProjectionRow(
        per_hour=int(pace * _HOUR_S),
        reached_in_s=None if left is None or pace == 0 else round(float(left / pace), 1),
        at_end=None if left_s is None else spent + int(pace * Decimal(repr(left_s))),
    )


def _short(dimension: str, value: int) -> str:
    return in_words(dimension, value).partition(" ")[0]
