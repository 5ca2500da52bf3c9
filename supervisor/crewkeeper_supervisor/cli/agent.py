"""`supervisor agent`: the agents of a run."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import click

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import Deed, tell
from crewkeeper_supervisor.cli.failure import FAILED, NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.cli.asking import Result
    from crewkeeper_supervisor.core.roster import AgentView
    from crewkeeper_supervisor.shell.nats_link import Link
    from crewkeeper_supervisor.views.story import Story

_TARGET = click.argument("target", nargs=-1, required=True, metavar="[RUN] AGENT")


@click.group()
def agent() -> None:
    """List, describe, pause, resume and kill agents, read their logs."""


def split(target: tuple[str, ...]) -> tuple[str | None, str]:
    """Run, if named, and agent of `[RUN] AGENT`.

    Raises:
        Failure: More than two words.
    """
    if len(target) > 2:
        raise Failure("give one agent, and at most one run before it", code=USAGE)
    return (target[0] if len(target) == 2 else None), target[-1]


async def told(link: "Link", run: str | None) -> "Story":
    """The run's story up to now."""
    from crewkeeper_supervisor.cli.runs import find_run, read_into
    from crewkeeper_supervisor.views.story import Story

    return await read_into(link, (await find_run(link, run)).run, Story)


def find_agent(story: "Story", name: str) -> "AgentView":
    """An agent of the run by name.

    Raises:
        Failure: There is none (exit 5, with near names).
    """
    from crewkeeper_supervisor.cli.runs import near

    agents = story.fold.supervisor.agents
    if name not in agents:
        hint = near(name, list(agents))
        raise Failure(
            f"run {story.fold.run} has no agent {name[:60]!r}{hint}",
            code=NOT_FOUND,
            remedy=f"supervisor agent ls {story.fold.run}",
        )
    return agents[name]


@agent.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def ls(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """List the agents of a run."""
    anyio.run(_ls, run, output, state, nats)


async def _ls(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.views.snapshot import snapshot
    from crewkeeper_supervisor.views.tables import agents_table

    async with opened(state, nats, stored=True) as link:
        info = await find_run(link, run)
        view = snapshot(await folded(link, info.run))
    now = datetime.now(UTC)
    emit_rows(
        view.agents,
        output,
        table=lambda wide: agents_table(view.agents, now, wide=wide),
        name=lambda row: str(row.name),
    )


@agent.command()
@_TARGET
@watch_option
@output_option()
@place_options
def describe(target: tuple[str, ...], output: str, state: Path | None, nats: str | None) -> None:
    """Show one agent: what it does, whom it waits for, who waits for it."""
    anyio.run(_describe, *split(target), output, state, nats)


async def _describe(run: str | None, name: str, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.agent_log import log_path
    from crewkeeper_supervisor.shell.place import state_dir
    from crewkeeper_supervisor.views.agent_page import agent_page, page_lines

    async with opened(state, nats, stored=True) as link:
        story = await told(link, run)
    found = find_agent(story, name)
    page = agent_page(story.fold, found, str(log_path(state_dir(state), story.fold.run, name)))
    emit_document(page, output, lambda: page_lines(page, datetime.now(UTC)), name=name)


@agent.command()
@click.argument("target", nargs=-1, metavar="[RUN] AGENT")
@click.option(
    "--all", "every", is_flag=True, help="Of all agents, each line after its agent's name; AGENT is left out."
)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written, until interrupted.")
@click.option("-n", "--tail", type=click.IntRange(0, 1_000_000), metavar="LINES", help="Only the last lines.")
@click.option("--raw", is_flag=True, help="Bytes as they are: control characters of the agent reach your terminal.")
@place_options
def logs(
    target: tuple[str, ...],
    every: bool,
    follow: bool,
    tail: int | None,
    raw: bool,
    state: Path | None,
    nats: str | None,
) -> None:
    """Print what an agent wrote to its standard output and error.

    Logs are files on the machine of the run's host. Control characters are shown escaped.
    """
    from crewkeeper_supervisor.cli.agent_log import find_logs, print_logs

    if every and len(target) > 1:
        raise Failure("with --all give at most a run", code=USAGE)
    if not every and not target:
        raise Failure("name an agent, or say --all", code=USAGE, remedy="supervisor agent ls")
    run, name = (next(iter(target), None), None) if every else split(target)
    print_logs(anyio.run(find_logs, run, name, state, nats), follow, tail, raw, every=every)


def _acting(action: str) -> None:
    """Define one command that asks for an action and waits for its effect."""

    @agent.command(name=action, help=_HELP[action])
    @_TARGET
    @click.option("--why", default="", metavar="TEXT", help="Reason, for the journal and the agent.")
    @click.option(
        "--with",
        "peer",
        default="",
        metavar="PEER",
        hidden=action == "kill",
        help="Only what the two say to each other.",
    )
    @click.option(
        "--grace", type=click.FloatRange(0, 3600), metavar="SECONDS", help="Time to obey by itself; 0: at once."
    )
    @click.option("--timeout", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Time to wait for the effect.")
    @yes_option
    @dry_run_option
    @output_option()
    @place_options
    @click.pass_context
    def command(
        ctx: click.Context,
        target: tuple[str, ...],
        why: str,
        peer: str,
        grace: float | None,
        timeout: float | None,
        yes: bool,
        dry_run: bool,
        output: str,
        state: Path | None,
        nats: str | None,
    ) -> None:
        run, name = split(target)
        if peer and action == "kill":
            raise Failure("--with is for pause and resume", code=USAGE)
        wish = _Wish(action, name, peer, why, grace, timeout)
        ctx.exit(anyio.run(_act, wish, run, yes, dry_run, output, state, nats))


_HELP: Final = {
    "pause": "Pause an agent, and say truthfully what came of it.\n\nIt is asked; if it does not obey within two "
    "seconds, the server holds it.",
    "resume": "Let an agent go on, and say truthfully what came of it.",
    "kill": "End an agent, and say truthfully what came of it.\n\nIt is asked to stop; after the grace its process is "
    "killed and the server shuts it out. Exit status: 0 it is proven to have ended, 1 it is not.",
}

for _action in ("pause", "resume", "kill"):
    _acting(_action)


class _Wish(NamedTuple):
    action: str
    agent: str
    peer: str
    why: str
    grace_s: float | None
    timeout_s: float | None


async def _act(
    wish: _Wish, run: str | None, yes: bool, dry_run: bool, output: str, state: Path | None, nats: str | None
) -> int:
    from crewkeeper_supervisor.cli.asking import ask_and_see, ended_before

    async with opened(state, nats) as link:
        story = await told(link, run)
        found = find_agent(story, wish.agent)
        if wish.peer:
            find_agent(story, wish.peer)
        result = ended_before(story, wish.agent) if wish.action == "kill" else None
        if result is None:
            _possible(story, found, wish)
            described = _described(story, found) + (f", towards {wish.peer} only" if wish.peer else "")
            if dry_run:
                text, action = f"would ask to {wish.action} {described}", f"agent {wish.action}"
                asked_of = Deed(action=action, name=wish.agent, run=story.fold.run, ok=True, text=(text,), dry_run=True)
                return tell(asked_of, output)
            if wish.action != "resume":
                confirm(f"{wish.action} {described}?", yes)
            limit_s = wish.timeout_s if wish.timeout_s is not None else _limit_s(found, wish)
            say(f"asking to {wish.action} {wish.agent}; waiting up to {limit_s:g} s for the effect")
            asked = {"action": wish.action, "peer": wish.peer, "grace_s": wish.grace_s, "why": wish.why[:500]}
            (result,) = await ask_and_see(link, story, asked, [wish.agent], limit_s, of_all=False)
    emit_document(result, output, lambda: result_lines(result), name=wish.agent)
    return 0 if result.ok else FAILED


def _limit_s(found: "AgentView", wish: _Wish) -> float:
    if wish.action == "kill":
        return 30.0 + (found.spec.restart.shutdown_s if wish.grace_s is None else wish.grace_s)
    return 10.0 + (wish.grace_s or 0.0)


def _possible(story: "Story", found: "AgentView", wish: _Wish) -> None:
    if story.fold.ended:
        state = story.fold.supervisor.state
        raise Failure(f"run {story.fold.run} is over ({state}): there is nobody to {wish.action}")
    if wish.action != "kill" and found.ending is not None:
        raise Failure(
            f"{found.name} was ended ({found.ending.outcome.replace('_', ' ') or 'not proven yet'}): it stays so"
        )
    waits = wish.action == "resume" and found.hold is not None  # it can be held without being there
    if wish.action != "kill" and not wish.peer and not found.present and not waits:
        raise Failure(f"{found.name} is not there ({found.status}): there is nothing to {wish.action}")


def _described(story: "Story", found: "AgentView") -> str:
    waiters = sorted({edge.agent for edge in story.fold.supervisor.waits() if found.name in edge.agents})
    process = f"process {found.pid}, " if found.pid else ""
    waited = f"; waited for by {', '.join(waiters)}" if waiters else ""
    return f"{found.name} of {story.fold.run} ({process}{found.status}{waited})"


def result_lines(result: "Result") -> list[str]:
    """A result in lines of text."""
    who = f"{result.agent} and {result.peer}" if result.peer else result.agent
    lines = [f"{who}: {result.outcome.replace('_', ' ')}: {result.why}"]
    lines += [f"  {proof.at:%H:%M:%S}Z #{proof.seq} {proof.text}" for proof in result.evidence]
    return lines
