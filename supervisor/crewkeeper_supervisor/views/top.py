"""Top: the agents of running crews in one list, with what each costs and does a minute; whoever is in trouble first."""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from crewkeeper_supervisor.views.fold import Fold, JournalEntry
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, AgentRow, RunView, snapshot
from crewkeeper_supervisor.views.tables import Table, budget_text, build_table, incident_counts, waits_cell
from crewkeeper_supervisor.views.wording import ago, count, dollars, duration, money, safe

WINDOW_S: Final = 60.0
"""Rates are of the last so many seconds."""
SAMPLE_S: Final = 5.0
"""What agents have spent is kept in steps of so much, by journal time."""
_TROUBLE: Final = ("crashed", "gave_up", "still talking", "end unknown")
_STOPPED: Final = ("paused", "pausing", "held", "resuming", "stopping", "ending")
_GONE: Final = ("gone", "terminated", "expected")

Order = Literal["trouble", "rate", "cost", "name"]


class Spent(NamedTuple):
    """What one agent has done and spent so far."""

    messages: int = 0
    tokens: int = 0
    microusd: int = 0


class TopRow(Struct, frozen=True, kw_only=True):
    """One agent of one run."""

    run: str
    crew: str
    agent: AgentRow
    deadlocked: bool
    """Whether it belongs to a deadlock that is not resolved."""
    messages_per_min: float
    tokens_per_min: float
    usd_per_min: Decimal
    schema_version: int = SCHEMA_VERSION

    @property
    def state(self) -> str:
        """Its state in one word."""
        return self.agent.confinement or self.agent.status


class Meter:
    """A run's fold that remembers what its agents had spent during the last minute."""

    def __init__(self, run: str) -> None:
        self.fold = Fold(run)
        self._samples: deque[tuple[float, dict[str, Spent]]] = deque()

    def feed(self, entry: JournalEntry) -> None:
        """Take in the next entry."""
        if not self._samples or entry.at_s - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((entry.at_s, self._spent()))
            while len(self._samples) > 1 and self._samples[1][0] < entry.at_s - WINDOW_S:
                self._samples.popleft()
        self.fold.feed(entry)

    def rows(self, now_s: float) -> tuple[RunView, list[TopRow]]:
        """The run, and its agents with their rates of the minute before `now_s`, in seconds since the epoch."""
        view = snapshot(self.fold, now_s)
        # Each sample is from just before an entry: the first within the window is what there was when it began.
        now = self._spent()
        before = next((spent for at_s, spent in self._samples if at_s >= now_s - WINDOW_S), now)
        age_s = now_s - (self.fold.began_at_s or now_s)
        minutes = max(1.0, min(WINDOW_S, age_s)) / 60
        blocked = {edge.agent for edge in view.waits if edge.deadlocked}
        return view, [
            _row(view, each, each.name in blocked, _more(now[each.name], before.get(each.name, Spent())), minutes)
            for each in view.agents
        ]

    def _spent(self) -> dict[str, Spent]:
        return {
            name: Spent(
                each.usage.messages, each.usage.input_tokens + each.usage.output_tokens, each.usage.cost_microusd
            )
            for name, each in self.fold.supervisor.agents.items()
        }


def _more(now: Spent, before: Spent) -> Spent:
    return Spent(*(max(0, new - old) for new, old in zip(now, before, strict=True)))


def _row(view: RunView, agent: AgentRow, deadlocked: bool, more: Spent, minutes: float) -> TopRow:
    return TopRow(
        run=view.run,
        crew=view.crew,
        agent=agent,
        deadlocked=deadlocked,
        messages_per_min=round(more.messages / minutes, 2),
        tokens_per_min=round(more.tokens / minutes, 1),
        usd_per_min=money(round(more.microusd / minutes)),
    )


def ordered(rows: Sequence[TopRow], order: Order) -> list[TopRow]:
    """The rows, what matters most first."""
    keys: dict[Order, Callable[[TopRow], Any]] = {
        "trouble": lambda row: (_rank(row), _waiting_since(row), -row.usd_per_min, -row.messages_per_min),
        "rate": lambda row: (-row.usd_per_min, -row.tokens_per_min, -row.messages_per_min),
        "cost": lambda row: (-row.agent.usage.cost_usd, -row.agent.usage.messages),
        "name": lambda row: (row.run, row.agent.name),
    }
    return sorted(rows, key=keys[order])


def _rank(row: TopRow) -> int:
    if row.state in _TROUBLE:
        return 0
    if row.deadlocked:
        return 1
    if row.state in _STOPPED:
        return 2
    if row.state in _GONE:
        return 5
    return 3 if row.agent.waiting_since is not None else 4


def _waiting_since(row: TopRow) -> float:
    since = row.agent.waiting_since
    return since.timestamp() if since is not None else 0.0


def top_table(rows: Sequence[TopRow], now: datetime, *, wide: bool = False) -> Table:
    """One line an agent, in the order given; the run is named where there are several."""
    several = len({row.run for row in rows}) > 1
    heads = (
        ("AGENT", False),
        ("RUN", not several),
        ("STATE", False),
        ("WAITS FOR", False),
        ("TASKS", False),
        ("QUEUED", False),
        ("MSGS/MIN", False),
        ("TOKENS/MIN", False),
        ("USD/MIN", False),
        ("COST", False),
        ("RESTARTS", True),
        ("SEEN", True),
        ("PROGRESS", True),
    )
    cells = [
        (
            safe(row.agent.name),
            safe(row.run),
            "DEADLOCK" if row.deadlocked and _rank(row) == 1 else row.state,
            waits_cell(row.agent, now),
            str(row.agent.tasks),
            str(row.agent.queued),
            _rate(row.messages_per_min),
            _rate(row.tokens_per_min),
            dollars(row.usd_per_min) if row.usd_per_min else "0",
            dollars(row.agent.usage.cost_usd),
            str(row.agent.restarts),
            ago(row.agent.last_seen, now),
            safe(row.agent.progress, 60),
        )
        for row in rows
    ]
    return build_table(heads, cells, wide=wide, empty="no run is active")


def _rate(number: float) -> str:
    return count(round(number)) if number >= 10 or number == 0 else f"{number:.1f}"


def head_lines(views: Sequence[RunView], rows: Sequence[TopRow], now: datetime) -> list[str]:
    """What there is to say of each run, a line each."""
    lines = []
    for view in views:
        mine = [row for row in rows if row.run == view.run]
        up = sum(row.agent.status in ("up", "paused") for row in mine)
        asked = len(view.questions) + sum(row.state == "pending" for row in view.approvals)
        money_ = next((budget_text(row) for row in view.budget if row.what == "usd"), "")
        age_s = (now - view.began_at).total_seconds() if view.began_at is not None else 0.0
        facts = [
            f"{view.state} for {duration(age_s)}" if not view.ended else view.state,
            f"{up} of {len(mine)} agents up",
            f"incidents {incident_counts(view.incidents)}",
            f"{asked} for people" if asked else "",
            money_ or f"cost {dollars(view.usage.cost_usd)}",
            f"{dollars(sum((row.usd_per_min for row in mine), Decimal(0)))} a minute",
        ]
        lines.append(f"{safe(view.run)}  {', '.join(fact for fact in facts if fact)}")
    return lines
