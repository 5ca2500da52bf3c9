"""`supervisor check`: how crews are, in one line for a monitoring system or in lines for people."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.events import Span
from crewkeeper_supervisor.cli.failure import FAILED
from crewkeeper_supervisor.cli.output import emit_document, output_option, write
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.views.fold import Fold

WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
"""By exit code, as the plugins of Nagios have it."""
_BROKEN: Final = ("crashed", "gave_up")


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    level: int
    """1 warning, 2 critical."""
    run: str
    text: str
    fix: str
    """A command to begin with."""


class Checked(Struct, frozen=True, kw_only=True):
    """The result."""

    level: int
    """0 ok, 1 warning, 2 critical, 3 unknown."""
    word: str
    text: str
    problems: tuple[Problem, ...]
    numbers: dict[str, int]
    schema_version: int = 1


class Limits(NamedTuple):
    """What is put up with."""

    deadlock_s: float
    waiting_s: float


@click.command()
@click.argument("run", required=False)
@click.option(
    "--deadlock",
    type=Span(),
    default="60s",
    show_default=True,
    metavar="SPAN",
    help="A deadlock is critical after so long.",
)
@click.option(
    "--waiting",
    type=Span(),
    default="15m",
    show_default=True,
    metavar="SPAN",
    help="A person who is waited for is worth a warning after so long.",
)
@click.option("--timeout", type=Span(), default="10s", show_default=True, metavar="SPAN", help="For all of it.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(("text", "nagios")),
    default="text",
    show_default=True,
    help="nagios: one line with performance data, and its exit codes.",
)
@watch_option
@output_option()
@place_options
def check(
    run: str | None,
    deadlock: float,
    waiting: float,
    timeout: float,
    shape: str,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Check how crews are: one run, or all that are active.

    Critical are a run that nobody owns, a deadlock that lasts, an agent that was given up or cannot be ended. Worth a
    warning are other open incidents, people who are waited for, and webhooks given up.

    Exit status: 0 nothing is critical, 1 something is, or it cannot be told; with --format nagios 0 ok, 1 warning,
    2 critical, 3 unknown.
    """
    checked = _checked(run, Limits(deadlock, waiting), timeout, state, nats)
    if shape == "nagios":
        write(_line(checked))
        return checked.level
    emit_document(checked, output, lambda: _lines(checked), name=checked.word)
    return FAILED if checked.level > 1 else 0


def _checked(run: str | None, limits: Limits, timeout_s: float, state: Path | None, nats: str | None) -> Checked:
    from crewkeeper_bus.errors import BusError
    from crewkeeper_supervisor.cli.failure import Failure, unwrap
    from crewkeeper_supervisor.shell.errors import ShellError

    try:
        return anyio.run(_look, run, limits, timeout_s, state, nats)
    except* (ShellError, BusError, OSError, Failure, TimeoutError) as group:
        error = unwrap(group)
        text = str(error) or f"no answer within {timeout_s:g} s"
    return Checked(level=3, word=WORDS[3], text=text, problems=(), numbers={})


async def _look(run: str | None, limits: Limits, timeout_s: float, state: Path | None, nats: str | None) -> Checked:
    from crewkeeper_supervisor.cli.runs import folded, named_or_active
    from crewkeeper_supervisor.views.wording import counted

    problems: list[Problem] = []
    numbers = dict.fromkeys(
        ("runs", "agents", "incidents_open", "deadlocks_open", "people_waited_for", "webhooks_dead"), 0
    )
    with anyio.fail_after(timeout_s):
        async with opened(state, nats) as link:
            chosen = await named_or_active(link, run)
            for info in chosen:
                fold = await folded(link, info.run)
                problems += _judged(fold, limits, time.time(), numbers)
                if not fold.ended:
                    problems += await _owned(link, info.run)
            problems += await _webhooks(link, {info.run for info in chosen}, numbers)
    numbers["runs"] = len(chosen)
    level = max((each.level for each in problems), default=0)
    worst = [each.text for each in problems if each.level == level]
    text = "; ".join(worst[:3]) or f"{counted(numbers['runs'], 'run')}, {counted(numbers['agents'], 'agent')}"
    more = f"; {len(problems) - len(worst[:3])} more" if len(problems) > len(worst[:3]) else ""
    ordered = tuple(sorted(problems, key=lambda each: -each.level))
    return Checked(level=level, word=WORDS[level], text=text + more, problems=ordered, numbers=numbers)


async def _owned(link: "Link", run: str) -> list[Problem]:
    from crewkeeper_supervisor.shell.lease import holder_of

    holder = await holder_of(link, run)
    if holder is not None and not holder.is_dead:
        return []
    return [Problem(level=2, run=run, text=f"{run}: no controller owns it", fix="supervisor serve")]


def _judged(fold: "Fold", limits: Limits, now_s: float, numbers: dict[str, int]) -> Iterator[Problem]:
    from crewkeeper_supervisor.views.wording import counted

    run, core = fold.run, fold.supervisor

    def problem(level: int, text: str, fix: str) -> Problem:
        return Problem(level=level, run=run, text=f"{run}: {text}", fix=f"supervisor {fix}")

    numbers["agents"] += len(core.agents)
    for agent in core.agents.values():
        if agent.status in _BROKEN:
            word = agent.status.replace("_", " ")
            yield problem(
                2 if agent.status == "gave_up" else 1, f"{agent.name} {word}", f"agent logs {run} {agent.name}"
            )
        if agent.ending is not None and agent.ending.outcome in ("still_talking", "unknown"):
            yield problem(2, f"{agent.name} is not known to be ended", f"agent describe {run} {agent.name}")
    for incident in core.incidents.values():
        if incident.state == "resolved":
            continue
        numbers["incidents_open"] += 1
        is_deadlock = incident.finding.kind == "deadlock"
        numbers["deadlocks_open"] += is_deadlock
        lasts = is_deadlock and now_s - incident.finding.at_s >= limits.deadlock_s
        kind = incident.finding.kind.replace("_", " ")
        yield problem(2 if lasts else 1, f"{kind} {incident.id} is open", f"incidents show {run} {incident.id}")
    asked = [(each.asked_at_s, "questions ls") for each in core.questions.values()]
    asked += [(each.asked_at_s, "approvals ls") for each in core.gate.approvals.values() if each.state == "pending"]
    numbers["people_waited_for"] += len(asked)
    late = [(at_s, command) for at_s, command in asked if now_s - at_s >= limits.waiting_s]
    if late and not fold.ended:
        waits = "waits" if len(late) == 1 else "wait"
        yield problem(1, f"{counted(len(late), 'question')} {waits} for a person", f"{min(late)[1]} {run}")


async def _webhooks(link: "Link", runs: set[str], numbers: dict[str, int]) -> list[Problem]:
    from crewkeeper_supervisor.shell.deliveries import Deliveries
    from crewkeeper_supervisor.views.wording import counted

    records = Deliveries(link)
    await records.open()
    # Of these runs alone: what became of all messages of a month may be half a gigabyte.
    dead = [each for run in sorted(runs) for each in await records.ls(run) if each.state == "dead"]
    numbers["webhooks_dead"] = len(dead)
    if not dead:
        return []
    text = f"{counted(len(dead), 'webhook')} given up"
    return [Problem(level=1, run=dead[0].entry.run, text=text, fix="supervisor hooks deliveries --failed")]


def _line(checked: Checked) -> str:
    """One line: what follows the bar is performance data."""
    from crewkeeper_supervisor.views.wording import safe

    told = safe(checked.text.replace("|", "/"), 500)
    numbers = " ".join(f"{name}={value}" for name, value in checked.numbers.items())
    return f"CREWKEEPER {checked.word} - {told}" + (f" | {numbers}" if numbers else "")


def _lines(checked: Checked) -> list[str]:
    from crewkeeper_supervisor.views.wording import safe

    lines = [f"{checked.word.lower()}: {safe(checked.text)}"]
    for each in checked.problems:
        lines += [f"  {WORDS[each.level].lower()}: {safe(each.text)}", f"    fix: {safe(each.fix)}"]
    return lines
