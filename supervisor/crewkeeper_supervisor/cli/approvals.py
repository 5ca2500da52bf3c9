"""`supervisor approvals`: calls that wait for a person, and the person's decisions."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import click

from crewkeeper_supervisor.cli.approvals_serve import serve, token
from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import Deed, tell, timeout_option
from crewkeeper_supervisor.cli.failure import FAILED, NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.gate_state import Approval
    from crewkeeper_supervisor.shell.approval_desk import Desk
    from crewkeeper_supervisor.shell.nats_link import Link

REASON_MAX_CHARS = 500

_TARGET = click.argument("target", nargs=-1, required=True, metavar="[RUN] APPROVAL")


@click.group()
def approvals() -> None:
    """List, show, approve and deny calls that wait for a person."""


approvals.add_command(serve)
approvals.add_command(token)


@approvals.command()
@click.argument("run", required=False)
@click.option("--all", "show_all", is_flag=True, help="Also those that are decided, expired or cancelled.")
@watch_option
@output_option()
@place_options
def ls(run: str | None, show_all: bool, output: str, state: Path | None, nats: str | None) -> None:
    """List calls that wait for a person, of a run or of all active runs."""
    anyio.run(_ls, run, show_all, output, state, nats)


async def _ls(run: str | None, show_all: bool, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import folded, named_or_active
    from crewkeeper_supervisor.views.approvals import approval_rows, approvals_table

    now = datetime.now(UTC)
    async with opened(state, nats, stored=show_all) as link:
        chosen = await named_or_active(link, run)
        rows = [row for info in chosen for row in approval_rows(await folded(link, info.run), now.timestamp())]
    rows = rows if show_all else [row for row in rows if row.state == "pending"]
    emit_rows(rows, output, table=lambda wide: approvals_table(rows, now, wide=wide), name=lambda row: str(row.name))


@approvals.command()
@_TARGET
@watch_option
@output_option()
@place_options
def show(target: tuple[str, ...], output: str, state: Path | None, nats: str | None) -> None:
    """Show one approval: the exact action, by which rule it is asked, who asks, until when, who waits for it.

    Secrets in arguments are replaced. APPROVAL may be the beginning of an id, or `RUN.APPROVAL`.
    """
    anyio.run(_show, target, output, state, nats)


async def _show(target: tuple[str, ...], output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.views.approvals import approval_page, page_lines

    now = datetime.now(UTC)
    async with opened(state, nats, stored=True) as link:
        desk, found = await _find(link, target)
    page = approval_page(desk.core, desk.run, found, now.timestamp())
    emit_document(page, output, lambda: page_lines(page, now))


class _Wish(NamedTuple):
    decision: str
    reason: str
    timeout_s: float


def _deciding(decision: str, help_: str) -> None:
    """Define one command that decides and waits for its effect."""

    @approvals.command(name=decision, help=help_)
    @_TARGET
    @click.option("--reason", default="", metavar="TEXT", help="Why, for the journal and the agent.")
    @timeout_option()
    @yes_option
    @dry_run_option
    @output_option()
    @place_options
    @click.pass_context
    def command(
        ctx: click.Context,
        target: tuple[str, ...],
        reason: str,
        timeout: float,
        yes: bool,
        dry_run: bool,
        output: str,
        state: Path | None,
        nats: str | None,
    ) -> None:
        if len(reason) > REASON_MAX_CHARS:
            said = f"the reason has {len(reason)} characters; the limit is {REASON_MAX_CHARS}"
            raise Failure(said, code=USAGE)
        ctx.exit(anyio.run(_decide, target, _Wish(decision, reason, timeout), yes, dry_run, output, state, nats))


_AFTER = (
    "\n\nWhat is decided is the action as `show` prints it, once. The first decision counts. Exit status: 0 it is "
    "decided and passed on, 1 it is not: somebody was faster, it came too late, or nobody acts on it."
)
_deciding("approve", "Let a call happen that waits for a person, and say truthfully what came of it." + _AFTER)
_deciding("deny", "Refuse a call that waits for a person, and say truthfully what came of it." + _AFTER)


async def _decide(
    target: tuple[str, ...],
    wish: _Wish,
    yes: bool,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    from crewkeeper_supervisor.cli.asking import operator
    from crewkeeper_supervisor.shell.approval_desk import refused
    from crewkeeper_supervisor.views.approvals import approval_page, decided, decided_lines, page_lines
    from crewkeeper_supervisor.views.wording import safe

    now = datetime.now(UTC)
    async with opened(state, nats) as link:
        desk, found = await _find(link, target)
        if (over := refused(found, now.timestamp())) is not None:
            raise Failure(f"{found.id} of {desk.run}: {safe(over)}")
        if dry_run or not yes:
            for line in page_lines(approval_page(desk.core, desk.run, found, now.timestamp()), now):
                say(line)
        if dry_run:
            text = (f"would {wish.decision} {found.id}",)
            deed = Deed(action=wish.decision, name=found.id, run=desk.run, ok=True, text=text, dry_run=True)
            return tell(deed, output)
        confirm(f"{wish.decision} {safe(found.agent)}'s call of {safe(found.tool)!r}?", yes)
        taken = await desk.decide(
            found, wish.decision, by=operator(), via="cli", reason=wish.reason, limit_s=wish.timeout_s
        )
        page = approval_page(desk.core, desk.run, found, datetime.now(UTC).timestamp())
    result = decided(page, wish.decision, taken)
    emit_document(result, output, lambda: decided_lines(result))
    return 0 if result.ok else FAILED


async def _find(link: "Link", target: tuple[str, ...]) -> "tuple[Desk, Approval]":
    from crewkeeper_supervisor.cli.runs import find_run
    from crewkeeper_supervisor.shell.approval_desk import Desk

    if len(target) > 2:
        raise Failure("give one approval, and at most one run before it", code=USAGE)
    run, _, name = target[-1].rpartition(".")
    desk = Desk(link, (await find_run(link, target[0] if len(target) == 2 else run or None)).run)
    await desk.catch_up()
    exact = desk.approvals.get(name)
    fitting = [exact] if exact else [each for id_, each in desk.approvals.items() if id_.startswith(name)]
    if len(fitting) != 1 or not name:
        problem = "is no approval" if not fitting else f"fits {len(fitting)} approvals"
        code = USAGE if fitting else NOT_FOUND
        raise Failure(
            f"{name[:60]!r} {problem} of {desk.run}", code=code, remedy=f"supervisor approvals ls --all {desk.run}"
        )
    return desk, fitting[0]
