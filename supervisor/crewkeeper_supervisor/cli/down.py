"""`supervisor down`: ask the host of a run to stop it, and wait until it has."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import timeout_option
from crewkeeper_supervisor.cli.failure import TIMED_OUT
from crewkeeper_supervisor.cli.output import Rows, output_option, say, write
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_bus.messages import RunEnded
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.shell.registry import RunInfo

LOST_S: Final = 2.0
"""A server that cannot be reached for this long has ended with its host: the run was its last."""


class Stopped(Struct, frozen=True, kw_only=True):
    """What came of stopping one run."""

    run: str
    ok: bool
    """Whether it has ended; with `dry_run`, whether it would be asked to."""
    state: str
    """`done`, `failed` or `stopped`; empty while it goes on, or where its server went with it."""
    text: str
    dry_run: bool = False
    schema_version: int = 1


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--all", "every", is_flag=True, help="Every run that has not ended.")
@yes_option
@dry_run_option
@click.option("--why", default="", metavar="TEXT", help="Reason, kept in the journal and told to the agents.")
@timeout_option(60.0, "How long to wait for the end.")
@output_option()
@place_options
def down(
    runs: tuple[str, ...],
    every: bool,
    yes: bool,
    dry_run: bool,
    why: str,
    timeout: float,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Stop a run: all its agents, in order.

    RUN is a run's id, the unique beginning of one, or a crew's name; it may be left out where only one run is active.

    Exit status: 0 they have ended, 5 no such run, 124 one has not ended in time.
    """
    if every and runs:
        raise click.UsageError("give runs or --all, not both")
    return anyio.run(_down, runs, every, yes, dry_run, why, timeout, output, state, nats)


async def _down(
    names: tuple[str, ...],
    every: bool,
    yes: bool,
    dry_run: bool,
    why: str,
    timeout_s: float,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    from crewkeeper_supervisor.cli.runs import choose_active
    from crewkeeper_supervisor.shell.registry import Registry

    async with opened(state, nats) as link:
        chosen, ended = choose_active(await Registry(link).ls(), names, every=every)
        for info in ended:
            say(f"{info.run} has ended already: {info.state}")
        if not chosen:
            say("nothing to stop: no run is active")
        told = _Told(output)
        if dry_run:
            for info in chosen:
                told.put(Stopped(run=info.run, ok=True, state="", text=f"would stop {info.run}", dry_run=True))
        elif chosen:
            confirm(f"stop {', '.join(info.run for info in chosen)}?", yes)
            async with anyio.create_task_group() as tasks:
                for info in chosen:
                    tasks.start_soon(_stop_one, link, info, why, timeout_s, told)
        told.end()
    return 0 if told.ok else TIMED_OUT


class _Told:
    """Tells what comes of each run, as soon as it is known."""

    def __init__(self, output: str) -> None:
        self.ok = True
        self._rows = None if output in ("table", "wide") else Rows(output)

    def put(self, stopped: Stopped) -> None:
        """Tell of one; what has not ended is no data for people, but a warning."""
        self.ok = self.ok and stopped.ok
        if self._rows is not None:
            self._rows.put(stopped)
        else:
            (write if stopped.ok else say)(stopped.text)

    def end(self) -> None:
        """Write what is one document."""
        if self._rows is not None:
            self._rows.end()


async def _stop_one(link: "Link", info: "RunInfo", why: str, timeout_s: float, told: _Told) -> None:
    from crewkeeper_bus.messages import OperatorAsked
    from crewkeeper_supervisor.cli.asking import operator
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.views.wording import safe

    after = await journal.last_seq(link, info.run)
    asked = OperatorAsked(action="stop_run", by=operator(), why=why[:2000])
    await journal.publish_op(link, info.run, asked)
    await link.flush()
    hosts = "its hosts" if info.spread else f"its host {info.host}"
    say(f"{info.run}: asked {hosts} to stop it")
    state = text = ""
    with anyio.move_on_after(timeout_s):
        ended = await _end_of(link, info.run, after + 1)
        state = ended.state if ended is not None else ""
        because = f": {safe(ended.why)}" if ended is not None and ended.why else ""
        text = f"{info.run} {state}{because}" if state else f"{info.run} has ended, and its host with it"
    late = f"{info.run} has not ended within {timeout_s:g} s: is a controller running, and {hosts}?"
    told.put(Stopped(run=info.run, ok=bool(text), state=state, text=text or late))


async def _end_of(link: "Link", run: str, start_seq: int) -> "RunEnded | None":
    """The run's end, as soon as its journal has it; None when the server itself went away meanwhile."""
    from crewkeeper_bus.messages import RunEnded
    from crewkeeper_supervisor.core.events import Recorded, read
    from crewkeeper_supervisor.shell import journal

    lost_s = 0.0
    async with journal.follow(link, run, start_seq) as entries:
        while lost_s < LOST_S:
            for entry in await entries.batch(timeout_s=0.5):
                event = read(entry.seq, entry.at_s, entry.subject, entry.payload)
                if isinstance(event, Recorded) and isinstance(event.message, RunEnded):
                    return event.message
            lost_s = 0.0 if link.is_connected else lost_s + 0.5
    return None
