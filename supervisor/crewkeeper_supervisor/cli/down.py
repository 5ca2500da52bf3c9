"""`supervisor down`: ask the host of a run to stop it, and wait until it has."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import timeout_option
from crewkeeper_supervisor.cli.failure import TIMED_OUT
from crewkeeper_supervisor.cli.output import say, write
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_bus.messages import RunEnded
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.shell.registry import RunInfo

LOST_S: Final = 2.0
"""A server that cannot be reached for this long has ended with its host: the run was its last."""


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--all", "every", is_flag=True, help="Every run that has not ended.")
@yes_option
@dry_run_option
@click.option("--why", default="", metavar="TEXT", help="Reason, kept in the journal and told to the agents.")
@timeout_option(60.0, "How long to wait for the end.")
@place_options
def down(
    runs: tuple[str, ...],
    every: bool,
    yes: bool,
    dry_run: bool,
    why: str,
    timeout: float,
    state: Path | None,
    nats: str | None,
) -> int:
    """Stop a run: all its agents, in order.

    RUN is a run's id, the unique beginning of one, or a crew's name; it may be left out where only one run is active.

    Exit status: 0 they have ended, 5 no such run, 124 one has not ended in time.
    """
    if every and runs:
        raise click.UsageError("give runs or --all, not both")
    return anyio.run(_down, runs, every, yes, dry_run, why, timeout, state, nats)


async def _down(
    names: tuple[str, ...],
    every: bool,
    yes: bool,
    dry_run: bool,
    why: str,
    timeout_s: float,
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
            return 0
        listed = ", ".join(info.run for info in chosen)
        if dry_run:
            write(f"would stop {listed}")
            return 0
        confirm(f"stop {listed}?", yes)
        outcomes: dict[str, bool] = {}
        async with anyio.create_task_group() as tasks:
            for info in chosen:
                tasks.start_soon(_stop_one, link, info, why, timeout_s, outcomes)
    return 0 if all(outcomes.values()) else TIMED_OUT


async def _stop_one(link: "Link", info: "RunInfo", why: str, timeout_s: float, outcomes: dict[str, bool]) -> None:
    from crewkeeper_bus.messages import OperatorAsked
    from crewkeeper_supervisor.shell import journal

    after = await journal.last_seq(link, info.run)
    asked = OperatorAsked(action="stop_run", by=getpass.getuser()[:200], why=why[:2000])
    await journal.publish_op(link, info.run, asked)
    await link.flush()
    hosts = "its hosts" if info.spread else f"its host {info.host}"
    say(f"{info.run}: asked {hosts} to stop it")
    outcomes[info.run] = False
    with anyio.move_on_after(timeout_s):
        ended = await _end_of(link, info.run, after + 1)
        outcomes[info.run] = True
        write(
            f"{info.run} {ended.state}" + (f": {ended.why}" if ended.why else "")
            if ended is not None
            else f"{info.run} has ended, and its host with it"
        )
    if not outcomes[info.run]:
        say(f"{info.run} has not ended within {timeout_s:g} s: is a controller running, and {hosts}?")


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
