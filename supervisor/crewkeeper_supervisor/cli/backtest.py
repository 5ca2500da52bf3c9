"""`supervisor backtest`: what other rules would have decided upon a recorded run."""

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.failure import FAILED, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.progress import counted
from crewkeeper_supervisor.cli.recordings import recorded

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.backtest import Backtested

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("target", required=False, metavar="[RUN|FILE]")
@click.option("--crew", type=_FILE, metavar="FILE", help="A crew file: its budgets, rules and responses are tried.")
@click.option("--policy", type=_FILE, metavar="FILE", help="A policy file: its rules are tried, all else stays.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything would have been decided otherwise.")
@output_option()
@place_options
def backtest(
    target: str | None,
    crew: Path | None,
    policy: Path | None,
    exit_code: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Say what other rules would have decided upon a recorded run.

    The journal is what agents did under the old rules: up to the first difference the answer is exact. Nothing is
    carried out, and no hook is asked.
    """
    if (crew is None) == (policy is None):
        raise Failure("give either --crew FILE or --policy FILE", code=USAGE)
    found = anyio.run(_backtest, target, crew, policy, state, nats)
    from crewkeeper_supervisor.views.backtest import page

    emit_document(found, output, lambda: page(found))
    return FAILED if exit_code and not found.is_same else 0


async def _backtest(
    target: str | None, crew: Path | None, policy: Path | None, state: Path | None, nats: str | None
) -> "Backtested":
    from crewkeeper_supervisor.shell import crewfile
    from crewkeeper_supervisor.shell.policy_file import read_policy
    from crewkeeper_supervisor.views.backtest import Backtest

    loaded = None if crew is None else crewfile.load(crew)
    rules = None if policy is None else read_policy(policy)
    async with recorded(target, state, nats) as source:
        trying = Backtest(
            source.run,
            crew=loaded,
            rules=None if rules is None else rules.rules,
            default="allow" if rules is None else rules.default,
        )
        async for batch in counted(source.batches(), f"reading {source.where}"):
            for entry in batch:
                trying.take(entry)
        return trying.finish()
