"""`supervisor wait`: until something is so, for scripts."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.events import Span
from crewkeeper_supervisor.cli.failure import FAILED, TIMED_OUT, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.views.fold import Fold

TICK_S: Final = 1.0


class Waited(Struct, frozen=True, kw_only=True):
    """What came of a wait."""

    run: str
    condition: str
    met: bool
    state: str
    """Of the run, when it was over."""
    text: str
    waited_s: float
    schema_version: int = 1


def _ready(fold: "Fold") -> str | None:
    agents = list(fold.supervisor.agents.values())
    if agents and all(agent.present for agent in agents):
        return f"all {len(agents)} agents are there"
    return None


def _done(fold: "Fold") -> str | None:
    return f"the run is over: {fold.supervisor.state}" if fold.ended else None


def _open(fold: "Fold", kind: str = "") -> list[str]:
    incidents = fold.supervisor.incidents.values()
    return [each.id for each in incidents if each.state != "resolved" and kind in ("", each.finding.kind)]


def _some(ids: list[str], what: str) -> str | None:
    return f"{what} {', '.join(ids[:5])}" if ids else None


def _approvals(fold: "Fold") -> list[str]:
    return [each.id for each in fold.supervisor.gate.approvals.values() if each.state == "pending"]


CONDITIONS: Final[dict[str, Callable[["Fold"], str | None]]] = {
    "ready": _ready,
    "done": _done,
    "deadlock": lambda fold: _some(_open(fold, "deadlock"), "deadlock"),
    "deadlock-free": lambda fold: None if _open(fold, "deadlock") else "no deadlock is open",
    "incident": lambda fold: _some(_open(fold), "incident"),
    "incident-free": lambda fold: None if _open(fold) else "no incident is open",
    "approval": lambda fold: _some(_approvals(fold), "approval"),
    "question": lambda fold: _some(list(fold.supervisor.questions), "question"),
}
"""By name: says what is so, or None."""


@click.command()
@click.argument("run", required=False)
@click.option(
    "--for",
    "condition",
    type=click.Choice(tuple(CONDITIONS)),
    default="done",
    show_default=True,
    help="What to wait for: ready is that all agents are there, done that the run is over.",
)
@click.option("--timeout", type=Span(), metavar="SPAN", help="At most so long: 90s, 10m, 2h; without, for ever.")
@output_option()
@place_options
def wait(
    run: str | None, condition: str, timeout: float | None, output: str, state: Path | None, nats: str | None
) -> int:
    """Wait until something is so.

    Exit status: 0 it is so, 1 it cannot be any more, or a run that was to be done has failed or was stopped, 5 no such
    run, 124 it was not so in time.
    """
    waited = anyio.run(_wait, run, condition, timeout, state, nats)
    emit_document(waited, output, lambda: [f"{waited.run}: {waited.text}"], name=waited.run)
    return 0 if waited.met and (condition != "done" or waited.state == "done") else FAILED


async def _wait(run: str | None, condition: str, limit_s: float | None, state: Path | None, nats: str | None) -> Waited:
    from crewkeeper_supervisor.cli.runs import find_run

    async with opened(state, nats) as link:
        info = await find_run(link, run)
        say(f"waiting for {condition} of {info.run}")
        with anyio.move_on_after(limit_s):
            return await _seen(link, info.run, condition)
    raise Failure(f"{info.run}: not {condition} within {limit_s:g} s", code=TIMED_OUT, remedy="supervisor agent ls")


async def _seen(link: "Link", run: str, condition: str) -> Waited:
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.views.fold import Fold

    fold, began_s = Fold(run), time.monotonic()

    def waited(text: str, *, met: bool) -> Waited:
        took_s, state = round(time.monotonic() - began_s, 3), str(fold.supervisor.state)
        return Waited(run=run, condition=condition, met=met, state=state, text=text, waited_s=took_s)

    async with journal.follow(link, run) as entries:
        while True:
            for entry in await entries.batch(timeout_s=TICK_S):
                fold.feed(entry)
            if not entries.caught_up:
                continue  # what was so in the past is not what is asked for
            if (text := CONDITIONS[condition](fold)) is not None:
                return waited(text, met=True)
            if fold.ended:
                return waited(f"the run is over ({fold.supervisor.state}), and was not {condition}", met=False)
