"""Tables: rows of snapshots as a table for people, styled on a terminal, plain aligned columns when piped."""

import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import IO, Final

from msgspec import Struct
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from crewkeeper_supervisor.views.snapshot import AgentRow, BudgetRow, IncidentRow, QuestionRow, RunView
from crewkeeper_supervisor.views.wording import ago, count, dollars, duration, safe

STYLES: Final = {
    "up": "green",
    "running": "green",
    "done": "green",
    "resolved": "green",
    "starting": "cyan",
    "expected": "cyan",
    "paused": "yellow",
    "stopping": "yellow",
    "pausing": "yellow",
    "held": "yellow",
    "resuming": "yellow",
    "ending": "yellow",
    "terminated": "dim",
    "still talking": "bold red",
    "end unknown": "bold red",
    "acting": "yellow",
    "stopped": "yellow",
    "gone": "dim",
    "open": "bold red",
    "DEADLOCK": "bold red",
    "crashed": "bold red",
    "gave_up": "bold red",
    "failed": "bold red",
}
"""Style of a state word; a state is always written out too, never told by colour alone."""


GAP: Final = 2
"""Cells between columns."""
WORDY: Final = 8
"""A column is not made narrower than this."""
CELL_LINES: Final = 4
_INDENT: Final = 2


class Table(Struct, frozen=True, kw_only=True):
    """Columns and rows of plain text, safe to print."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str = "nothing to show"
    """What to say instead of an empty table."""


def new_console(out: IO[str], *, color: bool = True) -> Console:
    """A console that interprets nothing in the text it is given: no markup, no emoji codes, no highlighting."""
    if color:
        return Console(file=out, markup=False, emoji=False, highlight=False)
    return Console(file=out, markup=False, emoji=False, highlight=False, color_system=None)


def styled(word: str) -> Text:
    """A cell; a state word gets its style, everything else none."""
    return Text(word, style=STYLES.get(word, ""))


class _Fitted:
    """A table as wide as there is room: names and numbers are never broken, so that they can be read and copied.

    Where it does not fit, columns of words are wrapped; where that is not enough, each row is a paragraph.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._widths = [max(map(cell_len, column)) for column in self._columns()]
        self._narrowest = [_narrowest(column) for column in self._columns()]

    def _columns(self) -> Iterator[tuple[str, ...]]:
        return zip(self._table.columns, *self._table.rows, strict=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        spare = options.max_width - GAP * (len(self._widths) - 1) - sum(self._narrowest)
        if spare >= 0:
            yield self._grid(spare)
            return
        for row in self._table.rows:
            yield styled(row[0])
            for line in self._paragraph(row, options.max_width - _INDENT):
                yield Padding(line, (0, 0, 0, _INDENT), expand=False)

    def _grid(self, spare: int) -> RichTable:
        """A table of columns, whose widths are set here: left to itself, the library breaks names before words."""
        rendered = RichTable(
            box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold"
        )
        for name, least, whole in zip(self._table.columns, self._narrowest, self._widths, strict=True):
            more = min(whole - least, spare)
            spare -= more
            rendered.add_column(Text(name), overflow="fold", width=least + more)
        for row in self._table.rows:
            rendered.add_row(*(styled(value) for value in row))
        return rendered

    def _paragraph(self, row: tuple[str, ...], width: int) -> Iterator[Text]:
        """What there is to say of a row beside its name, as lines."""
        line = Text()
        for head, value in zip(self._table.columns[1:], row[1:], strict=True):
            if value == "-":
                continue
            item = Text.assemble((head, "dim"), " ", styled(value))
            if line and line.cell_len + GAP + item.cell_len > width:
                yield line
                line = Text()
            line = Text.assemble(line, " " * GAP, item) if line else item
        if line:
            yield line


def _narrowest(column: Sequence[str]) -> int:
    """How narrow a column may be: no word of it is broken, and no cell has more than `CELL_LINES` lines."""
    whole = max(map(cell_len, column))
    words = max((cell_len(word) for cell in column for word in cell.split(" ")), default=0)
    return min(whole, max(WORDY, words, -(-whole * 5 // (4 * CELL_LINES))))


def rich_table(table: Table) -> _Fitted:
    """The table for a terminal, however narrow."""
    return _Fitted(table)


def plain_lines(table: Table) -> list[str]:
    """The table as aligned columns, two spaces apart, without styles and without trailing blanks."""
    rows = [table.columns, *table.rows]
    widths = [max(cell_len(row[index]) for row in rows) for index in range(len(table.columns))]
    return [
        "  ".join(value + " " * (width - cell_len(value)) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def fitted_lines(table: Table, width: int | None) -> list[str]:
    """The table as part of a page of text: as `plain_lines` where that fits, else as a terminal of this width has it.

    Args:
        table: The table.
        width: Cells there is room for; None: as many as it takes.
    """
    lines = plain_lines(table)
    if width is None or max(map(cell_len, lines)) <= width:
        return lines
    page = io.StringIO()
    Console(file=page, width=width, markup=False, emoji=False, highlight=False, color_system=None).print(_Fitted(table))
    return [line.rstrip() for line in page.getvalue().splitlines()]


def write_table(table: Table, out: IO[str], *, color: bool = True) -> None:
    """Write the table: styled if `out` is a terminal, plain otherwise."""
    if out.isatty():
        new_console(out, color=color).print(rich_table(table))
    else:
        out.write("\n".join(plain_lines(table)) + "\n")


def build_table(heads: Sequence[tuple[str, bool]], rows: Sequence[tuple[str, ...]], *, wide: bool, empty: str) -> Table:
    """A table of these columns, without those that only a wide one has. Every cell is safe to print already."""
    keep = [index for index, (_, only_wide) in enumerate(heads) if wide or not only_wide]
    return Table(
        columns=tuple(heads[index][0] for index in keep),
        rows=tuple(tuple(row[index] or "-" for index in keep) for row in rows),
        empty=empty,
    )


def runs_table(views: Sequence[RunView], now: datetime, *, wide: bool = False) -> Table:
    """One line a run."""
    heads = (
        ("RUN", False),
        ("CREW", False),
        ("STATE", False),
        ("AGENTS UP", False),
        ("WAITS", False),
        ("PEOPLE", False),
        ("INCIDENTS", False),
        ("STARTED", False),
        ("COST", True),
        ("JOURNAL", True),
        ("TERM", True),
    )
    rows = [
        (
            safe(view.run),
            safe(view.crew),
            view.state,
            f"{sum(agent.status in ('up', 'paused') for agent in view.agents)}/{len(view.agents)}",
            str(len({(edge.task, edge.epoch) for edge in view.waits})),
            _people(view),
            incident_counts(view.incidents),
            ago(view.began_at, now),
            dollars(view.usage.cost_usd),
            str(view.seq),
            str(view.term),
        )
        for view in views
    ]
    return build_table(heads, rows, wide=wide, empty="no runs")


def _people(view: RunView) -> str:
    """Whose answers and decisions are waited for, and how many: `operator 2`."""
    asked = [row.who for row in view.questions] + [row.who for row in view.approvals if row.state == "pending"]
    return safe(", ".join(f"{who} {asked.count(who)}" for who in dict.fromkeys(asked)), 60)


def incident_counts(incidents: Sequence[IncidentRow]) -> str:
    """How many are open, how many are resolved."""
    unresolved = sum(row.state != "resolved" for row in incidents)
    resolved = len(incidents) - unresolved
    if not incidents:
        return "0"
    return f"{unresolved} open" + (f", {resolved} resolved" if resolved else "")


def waits_cell(row: AgentRow, now: datetime) -> str:
    """Whom or what an agent waits for, and for how long; empty if for nobody."""
    if row.waiting_since is None:
        return ""
    whom = ", ".join(map(_waited, row.waits_for or row.wait_kinds))
    return f"{safe(whom, 60)} for {duration((now - row.waiting_since).total_seconds())}"


def _waited(name: str) -> str:
    """Whom or what somebody waits for: an agent by its name, others by what they are."""
    kind, mark, whose = name.partition(":")
    if not mark:
        return name
    return f"{whose} (a person)" if kind == "human" else f"{kind} {whose}"


NARROW_AGENTS: Final = ("AGENT", "STATUS", "WAITS FOR", "RESTARTS", "PROGRESS")


def agents_table(agents: Sequence[AgentRow], now: datetime, *, wide: bool = False, narrow: bool = False) -> Table:
    """One line an agent; `narrow` leaves what a live view has room for."""
    heads: tuple[tuple[str, bool], ...] = (
        ("AGENT", False),
        ("STATUS", False),
        ("WAITS FOR", False),
        ("TASKS", False),
        ("QUEUED", False),
        ("RESTARTS", False),
        ("SEEN", False),
        ("PROGRESS", False),
        ("ROLE", True),
        ("PID", True),
        ("SLOTS", True),
        ("MESSAGES", True),
        ("TOKENS", True),
        ("COST", True),
    )
    rows = [
        (
            safe(row.name),
            row.confinement or row.status,
            waits_cell(row, now),
            str(row.tasks),
            str(row.queued),
            str(row.restarts),
            ago(row.last_seen, now),
            safe(row.progress, 60),
            safe(row.role),
            str(row.pid) if row.pid else "",
            str(row.concurrency),
            count(row.usage.messages),
            count(row.usage.input_tokens + row.usage.output_tokens),
            dollars(row.usage.cost_usd),
        )
        for row in agents
    ]
    if narrow:
        heads = tuple((name, name not in NARROW_AGENTS) for name, _ in heads)
    return build_table(heads, rows, wide=wide, empty="no agents")


def incidents_table(incidents: Sequence[IncidentRow], now: datetime, *, wide: bool = False) -> Table:
    """One line an incident."""
    heads = (
        ("INCIDENT", False),
        ("RUN", False),
        ("KIND", False),
        ("STATE", False),
        ("AGE", False),
        ("COUNT", True),
        ("AGENTS", True),
        ("VICTIM", True),
        ("WHAT", False),
    )
    rows = [
        (
            row.id,
            safe(row.run),
            row.kind,
            row.state,
            ago(row.at, now),
            str(row.count),
            safe(", ".join(row.agents), 80),
            "" if row.victim is None else safe(row.victim.task),
            safe(row.summary, 120),
        )
        for row in incidents
    ]
    return build_table(heads, rows, wide=wide, empty="no incidents")


def questions_table(questions: Sequence[QuestionRow], now: datetime, *, wide: bool = False) -> Table:
    """One line an open question."""
    heads = (("QUESTION", False), ("RUN", False), ("AGENT", False), ("FOR", False), ("ASKED", False), ("TEXT", False))
    rows = [
        (safe(row.id), safe(row.run), safe(row.agent), safe(row.who), ago(row.asked_at, now), safe(row.text, None))
        for row in questions
    ]
    return build_table(heads, rows, wide=wide, empty="no open questions")


_AMOUNTS: Final[dict[str, Callable[[BudgetRow], tuple[str, str]]]] = {
    "usd": lambda row: (dollars(row.used), dollars(row.limit)),
    "wall_s": lambda row: (duration(float(row.used)), duration(float(row.limit))),
}


def budget_text(row: BudgetRow) -> str:
    """One limit: `tokens 1.2k of 400k (3%)`."""
    amounts = _AMOUNTS.get(row.what)
    used, limit = amounts(row) if amounts is not None else (count(int(row.used)), count(int(row.limit)))
    name = {"usd": "cost", "wall_s": "time"}.get(row.what, row.what)
    share = f" ({row.used / row.limit * 100:.0f}%)" if row.limit else ""
    return f"{name} {used} of {limit}{share}"
