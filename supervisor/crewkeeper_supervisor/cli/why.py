"""`supervisor why` and `supervisor timeline`: what led to something, and the story of a run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.failure import NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import Rows, emit_document, output_option, stdout, write
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.progress import counted
from crewkeeper_supervisor.cli.recordings import is_file, recorded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crewkeeper_supervisor.shell.journal import Entry
    from crewkeeper_supervisor.shell.source import Source
    from crewkeeper_supervisor.views.timeline import Event
    from crewkeeper_supervisor.views.why import Why

_ID: Final = re.compile(r"[FA]?\d+-\d+\Z", re.IGNORECASE)


@click.command()
@click.argument("target", nargs=-1, metavar="[RUN|FILE] [ID|AGENT]")
@click.option("--run", metavar="RUN|FILE", help="The run, where it is not named before the id.")
@output_option()
@place_options
def why(target: tuple[str, ...], run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Explain a finding, a grant or refusal, a kill or pause, a call, an agent, or how a run ended.

    ID is of a finding (F12-0), a command (12-0), an approval (A12-0) or a call; `supervisor timeline` and
    `supervisor replay --step` show them. Told are the rule and the version of the policy, what was decided upon, the
    budgets and waits at that moment, and what followed. A FILE needs no server.
    """
    if len(target) > 2:
        raise Failure("give one id or agent, and at most one run before it", code=USAGE)
    answer = anyio.run(_why, target, run, state, nats)
    from crewkeeper_supervisor.views.why_page import page

    emit_document(answer, output, lambda: page(answer))


async def _why(target: tuple[str, ...], run: str | None, state: Path | None, nats: str | None) -> "Why":
    named, wanted = (run, target[-1] if target else "") if len(target) < 2 else target
    if len(target) == 1 and run is None and not _ID.match(wanted):
        try:
            async with recorded(wanted, state, nats) as source:
                return await _answer(source, "")
        except Failure as error:
            if error.code != NOT_FOUND or Path(wanted).suffix:
                raise
    async with recorded(named, state, nats) as source:
        return await _answer(source, wanted)


@click.command()
@click.argument("target", required=False, metavar="[RUN|FILE]")
@click.option("--all", "show_all", is_flag=True, help="Also what agents say to each other, entry by entry.")
@click.option("-w", "--watch", is_flag=True, help="Go on as things happen, until the run is over.")
@output_option()
@place_options
def timeline(
    target: str | None, show_all: bool, watch: bool, output: str, state: Path | None, nats: str | None
) -> None:
    """Tell the story of a run: what turned it, with what agents said in between counted.

    RUN is a run id, the beginning of one, or a crew's name; a FILE that `supervisor audit export` wrote needs no
    server. `supervisor why` explains what the ids in it are about.
    """
    if watch and output in ("json", "yaml"):
        raise Failure(f"-w has no end, and {output} is one document", code=USAGE, remedy="-o jsonl")
    anyio.run(_timeline, target, show_all, watch, output, state, nats)


async def _timeline(
    target: str | None, show_all: bool, watch: bool, output: str, state: Path | None, nats: str | None
) -> None:
    from crewkeeper_supervisor.cli.runs import find_run
    from crewkeeper_supervisor.shell import journal

    if watch and not is_file(target, state):
        async with opened(state, nats) as link:
            run = (await find_run(link, target)).run
            telling = _Telling(run, show_all, output)
            async with journal.follow(link, run) as entries:
                while not telling.told.ended:
                    telling.take(await entries.batch())
            telling.end()
        return
    async with recorded(target, state, nats) as source:
        telling = _Telling(source.run, show_all, output)
        async for batch in source.batches():
            telling.take(batch)
        telling.end()


class _Telling:
    """A story that is shown as it is told."""

    def __init__(self, run: str, show_all: bool, output: str) -> None:
        from crewkeeper_supervisor.views.timeline import Timeline

        self.told = Timeline(run, show_all=show_all)
        self._rows = None if output in ("table", "wide") else Rows(output, lambda event: str(event.seq))

    def take(self, batch: "Iterable[Entry]") -> None:
        """Take in the next entries, and show what there is to tell of them."""
        for entry in batch:
            self._show(self.told.take(entry))
        stdout().flush()

    def end(self) -> None:
        """Show what is left, and how it all stands."""
        self._show(self.told.finish())
        if self._rows is None:
            write(self.told.summary())
        else:
            self._rows.end()

    def _show(self, events: "list[Event]") -> None:
        for event in events:
            if self._rows is not None:
                self._rows.put(event)
            else:
                write(event.line())


async def _answer(source: "Source", wanted: str) -> "Why":
    from crewkeeper_supervisor.cli.runs import near
    from crewkeeper_supervisor.views.why import Inquiry

    target = wanted.upper() if _ID.match(wanted) else wanted
    inquiry = Inquiry(source.run, target, source.records)
    async for batch in counted(source.batches(), f"reading {source.where}"):
        for entry in batch:
            inquiry.take(entry)
    found = inquiry.answer()
    if found is None:
        hint = near(target, [*inquiry.known_agents, *inquiry.examples])
        raise Failure(
            f"there is no finding, decision, call or agent {wanted[:60]!r} in {source.where}{hint}",
            code=NOT_FOUND,
            remedy=f"supervisor timeline {source.where.removeprefix('run ')}",
        )
    return found
