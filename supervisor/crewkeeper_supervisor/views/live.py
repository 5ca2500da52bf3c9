"""The live view: agents, who waits for whom and since when, budget and incidents of running crews, as they change.

On a terminal it repaints; anywhere else it prints the story, one line an entry. It follows the journal like everybody
and needs no controller.
"""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import IO, Final

import anyio
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from crewkeeper_supervisor.views.incident import ring_text
from crewkeeper_supervisor.views.printer import WEIGHT_STYLES, StoryPrinter
from crewkeeper_supervisor.views.snapshot import RunView, snapshot
from crewkeeper_supervisor.views.story import Line, Story
from crewkeeper_supervisor.views.tables import (
    agents_table,
    budget_text,
    incident_counts,
    new_console,
    rich_table,
    runs_table,
    styled,
)
from crewkeeper_supervisor.views.wording import ago, count, dollars, duration, safe

REPAINT_EVERY_S: Final = 0.25
STORY_LINES: Final = 10
AGENTS_SHOWN: Final = 25
APPROVALS_SHOWN: Final = 5
WAITS_SHOWN: Final = 12
INCIDENTS_SHOWN: Final = 5
RUNS_SHOWN_WHOLE: Final = 2
"""With more runs than this, each is one line of a table."""


async def watch(
    place: Place, runs: Sequence[str], *, live: bool, out: IO[str], color: bool = True, show_all: bool = False
) -> None:
    """Show these runs until every one of them is over; may be cancelled at any time.

    Args:
        place: The server and its credentials.
        runs: Run ids; each must have a journal.
        live: Repaint a view of the state; otherwise print the story.
        out: Where to write; only this function writes there meanwhile.
        color: Whether styles are allowed.
        show_all: Also tell heartbeats, ticks, probes and the like.

    Raises:
        ConnectionLost: The server cannot be reached at the start.
    """
    stories = {run: Story(run) for run in runs}
    recent: deque[Line] = deque(maxlen=STORY_LINES)
    printer = StoryPrinter(out, color=color, name_runs=len(runs) > 1, show_all=show_all)

    def tell(line: Line) -> None:
        if not live:
            printer.write(line)
        elif line.weight != "detail" or show_all:
            recent.append(line)

    async with connect(place, name="supervisor view") as link, anyio.create_task_group() as group:
        if live:
            group.start_soon(partial(_paint, stories, recent, out, color=color))
        for story in stories.values():
            group.start_soon(_follow, link, story, tell)


async def _follow(link: Link, story: Story, tell: Callable[[Line], None]) -> None:
    async with journal.follow(link, story.fold.run) as entries:
        while not story.fold.ended:
            for entry in await entries.batch():
                _, lines = story.feed(entry)
                for line in lines:
                    tell(line)


async def _paint(stories: dict[str, Story], recent: deque[Line], out: IO[str], *, color: bool) -> None:
    console = new_console(out, color=color)
    with Live(console=console, auto_refresh=False, transient=False) as display:
        while True:
            over = all(story.fold.ended for story in stories.values())
            now = datetime.now(UTC)
            views = [snapshot(story.fold, now.timestamp()) for story in stories.values()]
            display.update(render(views, list(recent), now), refresh=True)
            if over:
                return
            await anyio.sleep(REPAINT_EVERY_S)


def render(views: Sequence[RunView], recent: Sequence[Line], now: datetime) -> RenderableType:
    """One picture of the runs: whole where they are few, a table where they are many."""
    parts: list[RenderableType] = []
    if len(views) <= RUNS_SHOWN_WHOLE:
        for view in views:
            parts.extend(_whole(view, now))
    else:
        parts.append(rich_table(runs_table(views, now)))
        for view in views:
            parts.extend(_incidents(view, now))
    if recent:
        parts.append(Text())
        named = len(views) > 1
        for line in recent:
            text = f"{line} [{safe(line.run)}]" if named else str(line)
            parts.append(_one_line(text, WEIGHT_STYLES[line.weight]))
    return Group(*parts)


def _one_line(text: str, style: str) -> Text:
    """A line that is cut, not wrapped: the picture must not jump about."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _whole(view: RunView, now: datetime) -> list[RenderableType]:
    head = Text.assemble((safe(view.crew) or safe(view.run), "bold"), f" {safe(view.run)}  ", styled(view.state))
    if view.began_at is not None:
        until = view.last_at if view.ended and view.last_at is not None else now
        head.append(f"  {duration((until - view.began_at).total_seconds())}")
    head.append(f"  incidents {incident_counts(view.incidents)}")
    usage = view.usage
    spent = "  ".join(budget_text(row) for row in view.budget) or (
        f"no budget; used {dollars(usage.cost_usd)}, {count(usage.input_tokens + usage.output_tokens)} tokens, "
        f"{count(usage.messages)} messages"
    )
    # Where not all fit, whoever is in trouble or waits comes first.
    agents = view.agents
    if len(agents) > AGENTS_SHOWN:
        agents = tuple(sorted(agents, key=lambda row: (row.status == "up", row.waiting_since is None)))[:AGENTS_SHOWN]
    parts: list[RenderableType] = [head, Text(spent, style="dim"), rich_table(agents_table(agents, now, narrow=True))]
    if len(agents) < len(view.agents):
        parts.append(Text(f"  … and {len(view.agents) - len(agents)} more agents", style="dim"))
    for edge in view.waits[:WAITS_SHOWN]:
        style = "bold red" if edge.deadlocked else ""
        parts.append(_one_line(f"  {safe(edge.text)}, for {duration((now - edge.since).total_seconds())}", style))
    if len(view.waits) > WAITS_SHOWN:
        parts.append(Text(f"  … and {len(view.waits) - WAITS_SHOWN} more waits", style="dim"))
    for question in view.questions:
        asked = f"  {safe(question.agent)} asks {safe(question.who)}: {safe(question.text)}"
        parts.append(_one_line(asked, "yellow"))
        parts.append(_one_line(f"    answer with: supervisor questions answer {safe(question.id)} TEXT", "dim"))
    return parts + _approvals(view, now) + _incidents(view, now)


def _approvals(view: RunView, now: datetime) -> list[RenderableType]:
    """Calls that a person has to decide on, those with the least time left first."""
    pending = sorted((row for row in view.approvals if row.state == "pending"), key=lambda row: row.expires_at)
    parts: list[RenderableType] = []
    for row in pending[:APPROVALS_SHOWN]:
        left = duration((row.expires_at - now).total_seconds())
        asked = f"  {safe(row.agent)} wants to call {safe(row.tool)!r}: {safe(row.who)} has {left} to decide"
        parts.append(_one_line(asked, "yellow"))
        parts.append(_one_line(f"    look with: supervisor approvals show {safe(view.run)} {safe(row.id)}", "dim"))
    if len(pending) > APPROVALS_SHOWN:
        parts.append(Text(f"  … and {len(pending) - APPROVALS_SHOWN} more approvals", style="dim"))
    return parts


def _incidents(view: RunView, now: datetime) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for row in view.incidents[-INCIDENTS_SHOWN:]:
        what = ring_text(row) if row.kind == "deadlock" else safe(row.summary, 120)
        text = Text.assemble(styled(row.state), f"  {row.kind} {row.id}: {what} ({ago(row.at, now)})")
        text.no_wrap, text.overflow = True, "ellipsis"
        if row.steps:
            text.append(f"; {safe(row.steps[-1].text, 120)}", style="dim")
        parts.append(text)
    return parts
