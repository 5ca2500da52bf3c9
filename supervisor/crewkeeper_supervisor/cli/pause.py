"""`supervisor pause` and `supervisor resume`: whole crews, and all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import Deed, tell
from crewkeeper_supervisor.cli.failure import FAILED, NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.cli.asking import Result
    from crewkeeper_supervisor.shell.nats_link import Link


class Results(Struct, frozen=True, kw_only=True):
    """What came of a request for whole crews."""

    action: str
    ok: bool
    runs: tuple[str, ...]
    agents: tuple[Any, ...]
    """A `Result` for each agent."""
    schema_version: int = 1


def _define(action: str, help_: str) -> click.Command:
    @click.command(name=action, help=help_)
    @click.argument("runs", nargs=-1, metavar="[RUN]...")
    @click.option("--all", "every", is_flag=True, help="Every run that is active.")
    @click.option("--why", default="", metavar="TEXT", help="Reason, for the journal and the agents.")
    @click.option(
        "--grace", type=click.FloatRange(0, 3600), metavar="SECONDS", help="Time to obey by themselves; 0: at once."
    )
    @click.option("--timeout", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Time to wait for the effect.")
    @yes_option
    @dry_run_option
    @output_option()
    @place_options
    def command(
        runs: tuple[str, ...],
        every: bool,
        why: str,
        grace: float | None,
        timeout: float | None,
        yes: bool,
        dry_run: bool,
        output: str,
        state: Path | None,
        nats: str | None,
    ) -> int:
        if every and runs:
            raise click.UsageError("give runs or --all, not both")
        asked = {"action": action, "why": why[:500], "grace_s": grace}
        limit_s = timeout if timeout is not None else 15.0 + (grace or 0.0)
        return anyio.run(_act, asked, runs, every, limit_s, yes, dry_run, output, state, nats)

    return command


pause = _define("pause", "Pause all agents of a run, and say truthfully what came of it.")
resume = _define("resume", "Let all agents of a run go on, and say truthfully what came of it.")


async def _act(
    asked: dict[str, Any],
    names: tuple[str, ...],
    every: bool,
    limit_s: float,
    yes: bool,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    from crewkeeper_supervisor.cli.agent import result_lines
    from crewkeeper_supervisor.cli.runs import choose_active
    from crewkeeper_supervisor.shell.registry import Registry

    action = str(asked["action"])
    async with opened(state, nats) as link:
        try:
            chosen, _ = choose_active(await Registry(link).ls(), names, every=every)
        except Failure as failure:
            if failure.code == NOT_FOUND and names:
                failure.remedy += f"; for one agent: supervisor agent {action} NAME"
            raise
        if not chosen:
            say(f"nothing to {action}: no run is active")
            return 0
        if dry_run:
            named = ", ".join(info.run for info in chosen)
            text = (f"would ask to {action} {named}",)
            return tell(Deed(action=action, name=named, ok=True, text=text, dry_run=True), output)
        if action == "pause":
            confirm(f"pause {', '.join(info.run for info in chosen)}?", yes)
        results: dict[str, list[Result]] = {info.run: [] for info in chosen}
        say(f"asking to {action} {', '.join(results)}; waiting up to {limit_s:g} s for the effect")
        async with anyio.create_task_group() as tasks:
            for info in chosen:
                tasks.start_soon(_act_on, link, info.run, asked, limit_s, results)
    every_one = tuple(result for of_run in results.values() for result in of_run)
    ok = all(result.ok for result in every_one)
    told = Results(action=action, ok=ok, runs=tuple(results), agents=every_one)
    emit_document(told, output, lambda: [f"{r.run} {line}" for r in every_one for line in result_lines(r)[:1]])
    return 0 if ok else FAILED


async def _act_on(
    link: "Link", run: str, asked: dict[str, Any], limit_s: float, results: "dict[str, list[Result]]"
) -> None:
    from crewkeeper_supervisor.cli.agent import told
    from crewkeeper_supervisor.cli.asking import ask_and_see

    story = await told(link, run)
    present = [view.name for view in story.fold.supervisor.agents.values() if view.present and view.ending is None]
    if present:
        results[run] = await ask_and_see(link, story, asked, present, limit_s, of_all=True)
