"""Budgets of a run as stable data: limits, what is settled and held, and when a limit is likely to be reached."""

from decimal import Decimal
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.core.budget import SPENT, Account
from crewkeeper_supervisor.core.budget import amount as in_words
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.tables import Table
from crewkeeper_supervisor.views.wording import duration, safe

_HOUR_S: Final = 3600
PACE_MIN_S: Final = 10.0
"""A run that is younger has no pace yet: its first call would be taken for its habit."""
SHAPE: Final = ("wall_s", "depth", "fan_out")
"""Limits of what does not add up."""


class DimensionRow(Struct, frozen=True, kw_only=True):
    """One dimension of one account, in whole units: micro-USD, tokens, calls; `limit` null is none."""

    limit: int | None
    settled: int
    held: int
    over: int = 0
    """Spent beyond the limit."""


class ProjectionRow(Struct, frozen=True, kw_only=True):
    """Where one dimension of the crew goes at the pace of the run so far, from its tenth second on."""

    per_hour: int
    reached_in_s: float | None = None
    """When its limit is reached, or what all crews share is used up; null: never, or there is no limit."""
    at_end: int | None = None
    """What will have been spent when the run's time is over, or was when it ended; never more than its limit allows.
    Null: its time is not limited."""


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
    shape: dict[str, dict[str, float]]
    """Limits of `wall_s`, `depth` and `fan_out`, of the `crew` and of agents, where there are any."""
    fleet: dict[str, DimensionRow]
    """This run's share of what all crews of the server may spend; empty where there is no such limit."""
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
    measured_s = fold.measured_s(now_s)
    elapsed_s = max(0.0, measured_s - (fold.began_at_s if fold.began_at_s is not None else measured_s))
    wall_s = core.limit_of("", "wall_s")
    left_s = 0.0 if fold.ended else None if wall_s is None else max(0.0, wall_s - elapsed_s)
    share = accounts.fleet
    crew = _rows(accounts.crew, core.usage.messages)
    return BudgetView(
        run=fold.run,
        crew=crew,
        agents={
            name: _rows(accounts.agent(name, view.spec.budget), view.usage.messages)
            for name, view in core.agents.items()
        },
        tasks={key: _rows(each, 0) for key, each in accounts.tasks.items()},
        wall=TimeRow(limit_s=wall_s, elapsed_s=round(elapsed_s, 3)),
        shape=_shape(core),
        fleet={} if share is None else {name: row for name, row in _rows(share, 0).items() if row.limit is not None},
        projection={name: _projection(row, _room(core, name), elapsed_s, left_s) for name, row in crew.items()},
    )


def budget_table(view: BudgetView, *, wide: bool = False) -> Table:
    """Limits and what is spent of them; `wide` has everything that is spent, limited or not."""
    rows = []
    for who, dimensions in [
        ("fleet share", view.fleet),
        ("crew", view.crew),
        *view.agents.items(),
        *view.tasks.items(),
    ]:
        for dimension, row in dimensions.items():
            spent = row.settled + row.over
            if row.limit is None and not (wide or (who == "crew" and spent)):
                continue
            ahead = view.projection[dimension] if who == "crew" else ProjectionRow(per_hour=0)
            rows.append(
                (
                    safe(who),
                    dimension if dimension != "microusd" else "usd",
                    "-" if row.limit is None else _short(dimension, row.limit),
                    _short(dimension, spent),
                    _short(dimension, row.held),
                    "-" if row.limit is None else _short(dimension, max(0, row.limit - spent - row.held)),
                    "-" if ahead.reached_in_s is None else duration(ahead.reached_in_s),
                    "-" if ahead.at_end is None else _rounded(dimension, ahead.at_end),
                )
            )
    for who, limits in view.shape.items():
        for what, limit in limits.items():
            if what == "wall_s":
                spent_s, left_s = view.wall.elapsed_s, max(0.0, limit - view.wall.elapsed_s)
                told = (duration(limit), duration(spent_s), "-", duration(left_s), duration(left_s), "-")
            else:
                told = (f"{limit:g}", "-", "-", "-", "-", "-")
            rows.append((safe(who), what.removesuffix("_s"), *told))
    return Table(
        columns=("WHO", "WHAT", "LIMIT", "SPENT", "HELD", "LEFT", "LASTS", "AT END"),
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


def _room(core: Supervisor, dimension: str) -> int | None:
    """How much more the crew may spend and hold, of its own limit and of what all crews share; None: any amount."""
    accounts = core.gate.accounts
    rooms = [accounts.crew.room(dimension, hand_back=True)]
    if accounts.fleet is not None and (share := accounts.fleet.room(dimension)) is not None:
        rooms.append(share + core.gate.fleet.left.get(dimension, 0))
    return min((max(0, room) for room in rooms if room is not None), default=None)


def _projection(row: DimensionRow, room: int | None, elapsed_s: float, left_s: float | None) -> ProjectionRow:
    spent = row.settled + row.over
    pace = Decimal(spent) / Decimal(repr(elapsed_s)) if elapsed_s >= PACE_MIN_S else Decimal(0)
    at_end = None
    if left_s is not None and (left_s == 0 or elapsed_s >= PACE_MIN_S):
        more = row.held + int(pace * Decimal(repr(left_s)))  # what is held counts as spent until it is known better
        at_end = spent + (more if room is None else min(more, room + row.held))
    return ProjectionRow(
        per_hour=int(pace * _HOUR_S),
        reached_in_s=None if room is None or pace == 0 or left_s == 0 else round(float(room / pace), 1),
        at_end=at_end,
    )


def _shape(core: Supervisor) -> dict[str, dict[str, float]]:
    found = {}
    for who in ("", *core.agents):
        limits = {name: limit for name in SHAPE if (limit := core.limit_of(who, name)) is not None}
        if limits:
            found[who or "crew"] = limits
    return found


def _rounded(dimension: str, value: int) -> str:
    """An estimate has no fractions of a cent."""
    return _short(dimension, round(value, -4) if dimension == "microusd" and value > 10_000 else value)


def _short(dimension: str, value: int) -> str:
    return in_words(dimension, value).partition(" ")[0]
