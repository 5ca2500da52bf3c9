"""`supervisor drain`: have a controller hand over all its runs and end, and wait until it has."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.consent import dry_run_option
from crewkeeper_supervisor.cli.deed import timeout_option
from crewkeeper_supervisor.cli.failure import FAILED, NOT_FOUND, TIMED_OUT, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crewkeeper_supervisor.shell.members import Member
    from crewkeeper_supervisor.shell.nats_link import Link

LOOK_S: Final = 0.1
TAKEN_LIMIT_S: Final = 15.0
"""How long others may take over what was handed over: longer than a lease that was not given back lasts."""


@click.command()
@click.argument("name", required=False, metavar="[CONTROLLER]")
@click.option("--alone", is_flag=True, help="Also if no other controller is there to take its runs.")
@timeout_option(60.0, "How long to wait.")
@dry_run_option
@output_option("text", default="text")
@place_options
def drain(
    name: str | None,
    alone: bool,
    timeout: float,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Have a controller hand over its runs and end, as before an upgrade.

    It takes no more runs, finishes what it has recorded, and gives up its leases, so that others own its runs within
    moments. CONTROLLER is a name or id of `supervisor controllers`; it may be left out where there is only one. One
    that something keeps running, like the one of `supervisor up`, is started again and then has its share again.

    Exit status: 0 it owns nothing any more and others have its runs, 1 nobody has taken one of them, 5 no such
    controller, 124 not in time.
    """
    return anyio.run(_drain, name, alone, timeout, dry_run, output, state, nats)


async def _drain(
    name: str | None,
    alone: bool,
    timeout_s: float,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    from crewkeeper_supervisor.shell import members
    from crewkeeper_supervisor.views.draining import Drained, drained_lines
    from crewkeeper_supervisor.views.wording import counted

    async with opened(state, nats) as link:
        there = await members.ls(link)
        heard = members.heard_lately(there)
        chosen = _choose(there, heard, name)
        runs = [each.run for each in chosen.runs]
        lacking = [run for run in runs if not any(each.takes(run) for each in heard if each.id != chosen.id)]
        if lacking and not alone:
            raise Failure(
                f"no other controller takes {', '.join(lacking[:5])}: nothing would be decided until one does",
                remedy="start another `supervisor serve` first, or add --alone",
            )
        owners = dict.fromkeys(runs, "")
        if not dry_run:
            await members.ask_to_drain(link, chosen.id)
            say(f"{chosen.name}: asked to hand over {counted(chosen.count, 'run')}")
            with anyio.move_on_after(timeout_s) as waiting:
                await _wait_for_end(link, chosen.id)
            if waiting.cancelled_caught:
                raise Failure(
                    f"{chosen.name} still owns runs after {timeout_s:g} s", code=TIMED_OUT, remedy="its log tells why"
                )
            owners = await _owners(link, runs, 0.0 if alone else TAKEN_LIMIT_S)
    told = Drained(name=chosen.name, id=chosen.id, owners=owners, count=chosen.count, dry_run=dry_run)
    emit_document(told, output, lambda: drained_lines(told))
    return 0 if dry_run or alone or all(owners.values()) else FAILED


def _choose(there: "Sequence[Member]", heard: "Sequence[Member]", name: str | None) -> "Member":
    """The one that is meant; of several, one that was killed a moment ago is not."""
    from crewkeeper_supervisor.cli.runs import near

    names = [each.name for each in there]
    fitting = [each for each in there if name in (None, each.name, each.id)]
    fitting = [each for each in fitting if each in heard] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1:
        listed = ", ".join(f"{each.name} ({each.id})" for each in fitting[:10])
        raise Failure(f"{len(fitting)} controllers fit: {listed}", code=USAGE, remedy="name one, by its id if need be")
    if name is None:
        raise Failure("no controller serves here", code=NOT_FOUND, remedy="supervisor serve")
    raise Failure(f"no controller {name[:60]!r}{near(name, names)}", code=NOT_FOUND, remedy="supervisor controllers")


async def _wait_for_end(link: "Link", id_: str) -> None:
    """Return when the controller has said its last word: it does so when it owns nothing any more."""
    from crewkeeper_supervisor.shell import members
    from crewkeeper_supervisor.shell.errors import StoreUnavailable

    while True:
        try:
            if id_ not in [each.id for each in await members.ls(link)]:
                return
        except StoreUnavailable:
            if not link.is_connected:
                say("the server has gone with it")
                return
        await anyio.sleep(LOOK_S)


async def _owners(link: "Link", runs: "Sequence[str]", limit_s: float) -> dict[str, str]:
    """Who owns each run now, by name; empty where nobody has taken it within the limit."""
    from crewkeeper_supervisor.shell import lease

    owners: dict[str, str] = dict.fromkeys(runs, "")
    with anyio.move_on_after(limit_s):
        while lacking := [run for run, owner in owners.items() if not owner]:
            for run in lacking:
                holder = await lease.holder_of(link, run)
                owners[run] = "" if holder is None or holder.is_dead else holder.owner
            await anyio.sleep(LOOK_S)
    return owners
