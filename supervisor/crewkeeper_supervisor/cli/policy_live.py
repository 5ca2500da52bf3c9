"""`supervisor policy apply` and `policy show`: the rules that a running crew is held to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click
import msgspec

from crewkeeper_supervisor.cli.deed import Deed, How, deed_command
from crewkeeper_supervisor.cli.failure import Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.policy_file import PolicyFile


@click.command()
@click.argument("run")
@click.argument("file", type=click.Path(path_type=Path))
@deed_command
async def apply(run: str, file: Path, how: How) -> Deed:
    """Hold a running crew to the rules of a file from now on.

    What is decided stays decided; approvals that were asked under other rules are cancelled and asked anew. A file with
    errors, or with a test that fails, changes nothing.

    Exit status: 0 the rules are in force, 1 a test fails or the journal has not taken them, 3 the file is invalid.
    """
    from crewkeeper_supervisor.gate.trial import try_out
    from crewkeeper_supervisor.shell.policy_file import read_policy

    loaded = read_policy(file)
    with hooks_of(loaded) as hooks:
        failed = [
            each.name for each in (try_out(loaded.policy(hooks), trial) for trial in loaded.trials) if each.problems
        ]
    if failed:
        raise Failure(
            f"{file}: {len(failed)} tests fail: {', '.join(failed)[:200]}", remedy=f"supervisor policy test {file}"
        )
    return await _apply(run, loaded, how)


def hooks_of(loaded: "PolicyFile") -> Any:
    """Who runs the file's hooks; a process is started only when one is asked."""
    from crewkeeper_supervisor.shell.hooks import HookProcess

    return HookProcess(tuple(dict.fromkeys(rule.hook for rule in loaded.rules if rule.hook)), loaded.folder)


async def _apply(run: str, loaded: "PolicyFile", how: How) -> Deed:
    from crewkeeper_bus.tool_messages import PolicyChanged
    from crewkeeper_supervisor.cli.agent import told
    from crewkeeper_supervisor.cli.asking import observe, operator
    from crewkeeper_supervisor.core.events import Event, Recorded
    from crewkeeper_supervisor.shell import journal
    from crewkeeper_supervisor.shell.registry import ENDED

    version = loaded.policy().version
    async with opened(how.state, how.nats) as link:
        story = await told(link, run)
        core = story.fold.supervisor
        if core.state in ENDED:
            raise Failure(f"{core.run} is over ({core.state}): nothing more is decided", remedy="supervisor ps")
        rules = core.gate.prepared()
        before = rules.version if rules is not None else ""

        def deed(ok: bool, text: str) -> Deed:
            return Deed(action="policy apply", name=version, run=core.run, ok=ok, text=(text,), dry_run=how.dry_run)

        changed = "unchanged" if before == version else f"was {before}"
        if how.dry_run:
            return deed(True, f"{core.run}: would have {len(loaded.rules)} rules, version {version} ({changed})")
        message = PolicyChanged(
            rules=tuple(msgspec.to_builtins(rule) for rule in loaded.rules),
            default=loaded.default,
            version=version,
            by=operator(),
        )
        asked = await journal.publish_op(link, core.run, message)
        await link.flush()
        seen: list[str] = []

        def see(event: Event, _text: str) -> None:
            if isinstance(event, Recorded) and event.id == asked:
                seen.append(event.id)

        await observe(link, story, see, lambda: bool(seen), how.timeout_s)
    now = core.gate.rules.version if core.gate.rules is not None else ""
    if not seen or now != version:
        stays = f"the rules were not taken within {how.timeout_s:g} s; version {now or 'unknown'} stays in force"
        return deed(False, f"{core.run}: {stays}")
    return deed(True, f"{core.run}: {len(loaded.rules)} rules, version {version} ({changed})")


@click.command()
@click.argument("run", required=False)
@watch_option
@output_option()
@place_options
def show(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Show the rules in force, and what each has done since they are: in shadow, what it would have done."""
    anyio.run(_show, run, output, state, nats)


async def _show(run: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import find_run, folded
    from crewkeeper_supervisor.views.policy import page, policy_view

    async with opened(state, nats, stored=True) as link:
        info = await find_run(link, run)
        view = policy_view(await folded(link, info.run))
    emit_document(view, output, lambda: page(view))
