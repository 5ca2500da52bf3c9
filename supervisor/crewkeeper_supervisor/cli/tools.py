"""`supervisor tools`: what is pinned of the tools of MCP servers, what has changed since, and accepting it."""

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import Deed, tell
from crewkeeper_supervisor.cli.failure import FAILED, NOT_FOUND, Failure
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, output_option
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.mcp.pins import Pinned, Pins
    from crewkeeper_supervisor.views.tables import Table

_SHOWN_CHARS: Final = 2000
_state = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="State directory; default: $CREWKEEPER_STATE, else the nearest .crewkeeper/.",
)


class ToolRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tool of one server."""

    server: str
    tool: str
    state: str
    """`pinned`, `changed` or `new`."""
    digest: str
    """Of what may be used; empty where nothing may."""
    changed: str
    """Of what the server says instead."""
    since: str
    by: str
    description: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One place in which a definition differs."""

    server: str
    tool: str
    path: str
    before: Any
    now: Any


@click.group()
def tools() -> None:
    """List, compare and pin the tools of MCP servers."""


def _pins(state: Path | None) -> "Pins":
    from crewkeeper_supervisor.mcp.pins import Pins
    from crewkeeper_supervisor.shell.place import state_dir

    return Pins(state_dir(state))


# --- ls ---


@tools.command()
@click.argument("server", required=False)
@watch_option
@output_option()
@_state
def ls(server: str | None, output: str, state: Path | None) -> None:
    """List what is known of the tools of MCP servers, the changed ones first."""
    known = _pins(state).ls()
    _check_server(known, server)
    rows = [
        _row(name, tool, pinned)
        for name in sorted(known)
        if server in (None, name)
        for tool, pinned in sorted(known[name].items())
    ]
    rows.sort(key=lambda row: row.state == "pinned")
    emit_rows(rows, output, table=lambda wide: _table(rows, wide=wide), name=lambda row: f"{row.server} {row.tool}")


def _row(server: str, tool: str, pinned: "Pinned") -> ToolRow:
    newest = pinned.changed or pinned.pin
    assert newest is not None
    return ToolRow(
        server=server,
        tool=tool,
        state="pinned" if pinned.changed is None else "new" if pinned.pin is None else "changed",
        digest=pinned.pin.digest if pinned.pin is not None else "",
        changed=pinned.changed.digest if pinned.changed is not None else "",
        since=f"{datetime.fromtimestamp(newest.at_s, UTC):%Y-%m-%dT%H:%M:%SZ}",
        by=newest.by,
        description=str(newest.told.get("description", ""))[:_SHOWN_CHARS],
    )


def _table(rows: list[ToolRow], *, wide: bool) -> "Table":
    from crewkeeper_supervisor.views.tables import Table
    from crewkeeper_supervisor.views.wording import safe

    columns = ("SERVER", "TOOL", "STATE", "SINCE", "BY", *(("DIGEST", "CHANGED") if wide else ()))
    cells = []
    for row in rows:
        by = row.by or ("first seen" if row.state == "pinned" else "nobody")
        extra = (row.digest or "-", row.changed or "-") if wide else ()
        cells.append((safe(row.server), safe(row.tool), row.state, row.since, safe(by), *extra))
    return Table(columns=columns, rows=tuple(cells), empty="no tools are pinned here")


def _check_server(known: "dict[str, dict[str, Pinned]]", server: str | None) -> None:
    from crewkeeper_supervisor.cli.runs import near

    if server is not None and server not in known:
        raise Failure(
            f"nothing is known of a server {server[:60]!r}{near(server, list(known))}",
            code=NOT_FOUND,
            remedy="supervisor tools ls",
        )


# --- diff ---


@tools.command()
@click.argument("server", required=False)
@click.argument("tool", required=False)
@output_option()
@_state
def diff(server: str | None, tool: str | None, output: str, state: Path | None) -> None:
    """Show what servers say now of tools whose definition has changed, or that nobody has pinned.

    Exit status: 0 nothing has changed, 1 something has.
    """
    from crewkeeper_supervisor.mcp.definitions import differences

    known = _pins(state).ls()
    _check_server(known, server)
    found: list[Difference] = []
    for name in sorted(known):
        for each, pinned in sorted(known[name].items()):
            if server in (None, name) and tool in (None, each) and pinned.changed is not None:
                before: dict[str, Any] = {} if pinned.pin is None else pinned.pin.told
                found += [
                    Difference(server=name, tool=each, path=path, before=was, now=now)
                    for path, was, now in differences(before, pinned.changed.told)
                ]
    emit_document({"schema_version": 1, "items": found}, output, lambda: _diff_lines(found))
    if found:
        raise click.exceptions.Exit(FAILED)


def _diff_lines(found: list[Difference]) -> list[str]:
    from crewkeeper_supervisor.views.wording import safe

    lines: list[str] = []
    heading = ""
    for each in found:
        if heading != (heading := f"{each.server} {each.tool}"):
            lines.append(safe(heading))
        lines.append(f"  {safe(each.path)}")
        lines += [
            f"    {sign} {_value(value)}" for sign, value in (("-", each.before), ("+", each.now)) if value is not None
        ]
    return lines or ["nothing has changed"]


def _value(value: Any) -> str:
    # What a server says is shown as data: it cannot move the cursor, nor pass for text of ours.
    return json.dumps(value, sort_keys=True)[:_SHOWN_CHARS]


# --- pin ---


@tools.command()
@click.argument("server")
@click.argument("tool", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of the server's tools that wait for it.")
@dry_run_option
@output_option()
@_state
def pin(server: str, tool: tuple[str, ...], every: bool, dry_run: bool, output: str, state: Path | None) -> None:
    """Accept what a server says now of its tools; look at `supervisor tools diff` before."""
    pins = _pins(state)
    known = pins.ls()
    _check_server(known, server)
    waiting = [name for name, pinned in sorted(known[server].items()) if pinned.changed is not None]
    if not tool and not every:
        raise Failure(
            f"name the tools to pin, or --all; waiting: {', '.join(waiting) or 'none'}",
            code=2,
            remedy="supervisor tools diff",
        )
    wanted = waiting if every else list(tool)
    accepted = [name for name in wanted if name in waiting]
    if not dry_run:
        accepted = pins.accept(server, wanted, getpass.getuser())
    missing = [name for name in wanted if name not in accepted]
    verb = "would pin" if dry_run else "pinned"
    lines = [f"{verb} {name} of {server}" for name in accepted] or ["nothing waits to be pinned"] * (not missing)
    if lines:
        deed = Deed(action="tools pin", name=server, ok=not missing, text=tuple(lines), dry_run=dry_run)
        tell(deed, output)
    if missing:
        raise Failure(
            f"nothing waits to be pinned for {', '.join(missing)}", code=NOT_FOUND, remedy="supervisor tools ls"
        )


# --- forget ---


@tools.command()
@click.argument("server")
@yes_option
@dry_run_option
@output_option()
@_state
def forget(server: str, yes: bool, dry_run: bool, output: str, state: Path | None) -> None:
    """Forget all that is known of a server's tools: what it says next is pinned."""
    pins = _pins(state)
    _check_server(pins.ls(), server)
    if not dry_run:
        confirm(f"forget what is pinned of {server}? What it says next is trusted", yes)
        pins.forget(server)
    text = f"{'would forget' if dry_run else 'forgot'} {server}"
    tell(Deed(action="tools forget", name=server, ok=True, text=(text,), dry_run=dry_run), output)
