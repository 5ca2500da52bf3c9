"""`supervisor up`: run crews here, in the foreground, until they are done."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.consent import dry_run_option
from crewkeeper_supervisor.cli.failure import FAILED, INTERRUPTED, INVALID, USAGE, Failure
from crewkeeper_supervisor.cli.output import is_live, say, stdout, use_color, write
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.telemetry_options import telemetry_options, told_to_children

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.crew import Crew
    from crewkeeper_supervisor.shell.ground import Ground
    from crewkeeper_supervisor.shell.host import Host
    from crewkeeper_supervisor.shell.hosted_run import HostedRun, RunResult
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.views.fold import Fold

VIEW_LIMIT_S: Final = 5.0
"""How long the view may take, after the last run has ended, to show that."""
TOLD_LIMIT_S: Final = 10.0
"""How long reading the journal of a run for its summary may take; one of many hours is left unread."""
LOGS_NAMED: Final = 5
STATE_NAME: Final = ".crewkeeper"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CREW...")
@click.option("--name", default="", metavar="NAME", help="Name of this host in the journal; default: the machine's.")
@click.option("--plain/--live", "plain", default=None, help="Lines of events, or a live view; default: by terminal.")
@click.option(
    "--fleet-budget",
    metavar="WHAT=AMOUNT,…",
    default="",
    help="What all crews of this server may spend together, as usd=20,tool_calls=1k; counts on over restarts.",
)
@click.option("--no-controller", is_flag=True, help="Start none: a `supervisor serve` elsewhere supervises.")
@click.option("-d", "--detach", is_flag=True, help="Go on in the background, and write the ids of the runs.")
@click.option("--report-fd", type=int, hidden=True)
@dry_run_option
@telemetry_options
@place_options
def up(
    files: tuple[Path, ...],
    name: str,
    plain: bool | None,
    fleet_budget: str,
    no_controller: bool,
    detach: bool,
    report_fd: int | None,
    dry_run: bool,
    metrics: str,
    traces: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Run crews here, with a live view, until they are done.

    Starts a NATS server of its own (unless --nats names one), a controller and the agents, all of which end with this
    command, however it ends. Ctrl-C stops the agents in order, a second one kills them.

    With --detach it goes on in the background until its runs are done or `supervisor down` ends them, and writes what
    happens into up.log of the state directory. With --dry-run it says what it would start, declare and enforce, and
    what is missing for it.

    Exit status: 0 every run is done, 1 one failed or was stopped, 3 a crew file is invalid, 130 interrupted.
    """
    if detach and not dry_run:
        from crewkeeper_supervisor.cli.up_detached import detach as detached

        words = {"--name": name, "--fleet-budget": fleet_budget, "--metrics": metrics, "--traces": traces}
        options = [word for option, value in words.items() if value for word in (option, value)]
        return detached(files, options + ["--no-controller"] * no_controller, state, nats)
    limits = _limits(fleet_budget)
    told = told_to_children(metrics, traces)
    crews = load(files)
    if dry_run:
        from crewkeeper_supervisor.cli.up_plan import show

        anyio.run(partial(show, crews, state, nats, controller=not no_controller))
        return 0
    live = is_live(stdout()) if plain is None else not plain
    return anyio.run(_up, crews, name, live, limits, not no_controller, told, report_fd, state, nats)


def _limits(words: str) -> dict[str, int | None]:
    """Limits of all crews together, from the command line.

    Raises:
        Failure: They are none.
    """
    from crewkeeper_supervisor.cli.budget import parsed
    from crewkeeper_supervisor.cli.fleet_budget import check

    if not words:
        return {}
    run, limits = parsed(words.split(","), clear=True)
    if run is not None:
        raise Failure(f"--fleet-budget {run[:40]!r} is not WHAT=AMOUNT", code=USAGE, remedy="--fleet-budget usd=20")
    check(limits)
    return limits


def load(files: Sequence[Path], *, spread: bool = False) -> "list[Crew]":
    """The crews of these files; what is wrong or doubtful in any of them goes to stderr.

    Args:
        files: Crew files.
        spread: Their agents are spread over hosts; False: all run on this one.

    Raises:
        Failure: At least one file is refused.
    """
    from crewkeeper_supervisor.core.lint import SPREAD_ONLY
    from crewkeeper_supervisor.shell.crew_problems import CrewFileError, render
    from crewkeeper_supervisor.shell.crewfile import read

    crews: list[Crew] = []
    refused: list[str] = []
    for file in files:
        try:
            found = read(file)
        except CrewFileError as error:
            say(str(error))
            refused.append(str(file))
            continue
        doubts = [doubt for doubt in (*found.warnings, *found.lint()) if not (spread and doubt.code == SPREAD_ONLY)]
        warnings = [doubt for doubt in doubts if doubt.severity == "warning" or doubt.code == SPREAD_ONLY]
        if warnings:
            say(render(warnings))
        if len(warnings) < len(doubts):
            say(f"{file}: {len(doubts) - len(warnings)} more to note: supervisor crew check {file}")
        crews.append(found.crew)
    if refused:
        raise Failure(f"{', '.join(refused)}: refused; nothing was started", code=INVALID)
    return crews


async def _up(
    crews: "list[Crew]",
    name: str,
    live: bool,
    limits: dict[str, int | None],
    controller: bool,
    told: dict[str, str],
    report_fd: int | None,
    state: Path | None,
    nats: str | None,
) -> int:
    from crewkeeper_supervisor.cli.up_detached import report
    from crewkeeper_supervisor.shell import approval_hosting
    from crewkeeper_supervisor.shell.ground import open_ground
    from crewkeeper_supervisor.shell.host import Host
    from crewkeeper_supervisor.shell.nats_link import connect

    async with (
        open_ground(state, nats) as ground,
        connect(ground.place, name="supervisor host") as link,
        approval_hosting.serving(crews, ground, os.environ, say),
    ):
        if ground.server is None:
            await examine(link, ground)
        if limits:
            await _set_limits(link, limits)
        host = Host(ground, link, name=name, controller=controller, tell=say, inherited={**os.environ, **told})
        introduce(ground, await host.declare(crews))
        if report_fd is not None:
            report(report_fd, [run.run for run in host.runs], ground.place.state)
        results = await run_shown(host, ground, live)
        for result in results:
            fold = await _told(link, result.run)
            write(summary(result, fold))
            if fold is not None and result.state == "failed":
                _show_logs(fold, ground)
    if host.interrupted:
        return INTERRUPTED
    return 0 if all(result.state == "done" for result in results) else FAILED


async def examine(link: "Link", ground: "Ground") -> None:
    """Say what of an existing server's settings is not safe: its controllers refuse some of it, but in their own logs.

    Raises:
        Failure: A controller would refuse to serve there.
    """
    from crewkeeper_supervisor.shell import safety
    from crewkeeper_supervisor.shell.errors import StoreUnavailable

    system = ground.authority.system
    try:
        risks = await safety.examine(link, system if system.url else None)
    except StoreUnavailable as error:
        say(f"warn   {error}")
        return
    for risk in risks:
        if risk.grade == "fail":
            raise Failure(f"{ground.place.host} is not safe to run crews on: {risk.text}", remedy=risk.fix)
        say(f"warn   {risk.name}: {risk.text}; fix: {risk.fix}")


async def _set_limits(link: "Link", limits: dict[str, int | None]) -> None:
    """Set what all crews may spend together, before any of these is declared, and say how much of it is left."""
    from crewkeeper_supervisor.cli.asking import operator
    from crewkeeper_supervisor.cli.fleet_budget import said
    from crewkeeper_supervisor.core import fleet_account
    from crewkeeper_supervisor.shell.fleet import Fleet

    fleet = Fleet(link)
    await fleet.open()
    account = await fleet.change(lambda before: fleet_account.set_limits(before, limits, operator()))
    for dimension, limit in limits.items():
        say(f"fleet  {said(account, dimension, limit)}")
    if account.ended_count:
        say(f"fleet  {account.ended_count} earlier runs count; to forget them: supervisor budget set fleet … --anew")


def introduce(ground: "Ground", runs: "list[HostedRun]") -> None:
    """Say where crews run, which, and how to look at them."""
    from crewkeeper_supervisor.shell.launcher import secrets_of

    place = ground.place
    say(f"state  {place.state}")
    say(f"server {place.url}" + (" (embedded)" if ground.server is not None else ""))
    if not ground.authority.enforces:
        say(f"warning: {ground.authority.cannot_enforce} How to change that: docs/identity.md")
    unset = sorted({name for run in runs for name in secrets_of(run.crew) if name not in os.environ})
    if unset:
        it = "it" if len(unset) == 1 else "them"
        say(f"warning: {', '.join(unset)} not set, so nobody can be told by webhook; set {it} and start again")
    name_runs(runs)
    where = _where(ground)
    say(f"look   supervisor ps{where} | supervisor graph --watch{where} | supervisor agent logs NAME{where}")


def name_runs(runs: "list[HostedRun]") -> None:
    """Say which runs there are."""
    from crewkeeper_supervisor.views.wording import counted

    for run in runs:
        count = sum(agent.replicas for agent in run.crew.agents)
        say(f"run    {run.run}: crew {run.crew.name}, {counted(count, 'agent')}")


def _where(ground: "Ground") -> str:
    """The option that other commands need to find the same place; empty where they find it by themselves."""
    state = ground.place.state
    return "" if state in (folder / STATE_NAME for folder in (Path.cwd(), *Path.cwd().parents)) else f" --state {state}"


async def run_shown(host: "Host", ground: "Ground", live: bool) -> "list[RunResult]":
    """Serve the host's runs with a view beside; the view ends with them."""
    async with anyio.create_task_group() as tasks:
        seen = anyio.Event()

        async def view() -> None:
            await _view(ground, [run.run for run in host.runs], live, stdout())
            seen.set()

        tasks.start_soon(view)
        results = await host.serve()
        with anyio.move_on_after(VIEW_LIMIT_S):
            await seen.wait()
        tasks.cancel_scope.cancel()
    return results


async def _view(ground: "Ground", runs: Sequence[str], live: bool, out: IO[str]) -> None:
    """Show the runs; whatever goes wrong in showing them, they go on."""
    from crewkeeper_supervisor.views.live import watch

    try:
        await watch(ground.place, runs, live=live, out=out, color=use_color())
    except Exception as error:  # noqa: BLE001 - a view must never be the reason why a crew ends
        inner = error
        while isinstance(inner, ExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, BrokenPipeError):
            sys.stdout = sys.stderr  # the summary still has a reader there
            say("nobody reads the events any more; the crew goes on")
            return
        say(f"the view ended ({type(inner).__name__}: {str(inner)[:200]}); the crew goes on: supervisor events -f")


def summary(result: "RunResult", fold: "Fold | None") -> str:
    """How a run ended, in one line; `fold`: what its journal says, where that was read."""
    from crewkeeper_supervisor.views.wording import counted, duration

    found = "" if fold is None else f", {counted(len(fold.supervisor.incidents), 'incident')}"
    why = f": {result.why}" if result.why else ""
    return f"{result.run} {result.state} in {duration(result.duration_s)}{found}{why}"


def _show_logs(fold: "Fold", ground: "Ground") -> None:
    """Show what the agents that failed have said last: the reason of a crash stands in their logs alone."""
    from crewkeeper_supervisor.cli.agent_log import last_words, log_path

    failed = [name for name, agent in fold.supervisor.agents.items() if agent.status in ("crashed", "gave_up")]
    for name in failed[:LOGS_NAMED]:
        if words := last_words(log_path(ground.place.state, fold.run, name)):
            say(f"{name}: {words}")
        say(f"look   supervisor agent logs {fold.run} {name}{_where(ground)}")


async def _told(link: "Link", run: str) -> "Fold | None":
    """What the journal says of a run; None where that cannot be read in time."""
    from crewkeeper_bus.errors import ConnectionLost
    from crewkeeper_supervisor.cli.runs import folded
    from crewkeeper_supervisor.shell.errors import ShellError

    if not link.nc.is_connected:
        return None
    with anyio.move_on_after(TOLD_LIMIT_S):
        try:
            return await folded(link, run)
        except (ShellError, ConnectionLost):
            return None
    return None
