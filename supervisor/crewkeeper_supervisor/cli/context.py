"""`supervisor context`: names for servers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.deed import Deed, tell
from crewkeeper_supervisor.cli.failure import INVALID, Failure
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, output_option
from crewkeeper_supervisor.cli.place_options import several
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.tables import Table


class ContextRow(Struct, frozen=True, kw_only=True):
    """One context, without its secrets."""

    name: str
    in_use: bool
    url: str
    user: str
    creds: str
    origin: str
    """`own`, or `nats`: of the command of that name."""
    problem: str = ""
    """Why it cannot be used."""


@click.group()
def context() -> None:
    """List, choose, add and remove contexts: names for servers."""


def _row(name: str) -> ContextRow:
    from crewkeeper_bus.credentials import redacted
    from crewkeeper_bus.errors import ConfigError
    from crewkeeper_supervisor.shell import contexts

    origin = "nats" if name.startswith(contexts.NATS_PREFIX) else "own"
    try:
        found = contexts.get(name)
    except ConfigError as error:
        return ContextRow(name=name, in_use=False, url="", user="", creds="", origin=origin, problem=str(error))
    is_used = contexts.in_use() == name
    return ContextRow(
        name=name, in_use=is_used, url=redacted(found.url), user=found.user, creds=found.creds, origin=origin
    )


@context.command()
@watch_option
@output_option()
def ls(output: str) -> None:
    """List contexts: our own, and as nats:NAME those of the nats command."""
    from crewkeeper_supervisor.shell import contexts

    rows = [_row(name) for name in contexts.ls()]
    emit_rows(rows, output, table=lambda wide: _table(rows, wide=wide))


def _table(rows: list[ContextRow], *, wide: bool) -> "Table":
    from crewkeeper_supervisor.views.tables import build_table
    from crewkeeper_supervisor.views.wording import safe

    heads = (("", False), ("NAME", False), ("SERVER", False), ("USER", False), ("CREDENTIALS", True), ("OF", False))
    cells = [
        (
            "*" if row.in_use else " ",
            safe(row.name),
            safe(row.url or row.problem),
            safe(row.user),
            safe(row.creds),
            row.origin,
        )
        for row in rows
    ]
    return build_table(heads, cells, wide=wide, empty="no contexts: supervisor context add NAME --nats URL")


@context.command()
@click.argument("name", required=False)
@watch_option
@output_option()
def show(name: str | None, output: str) -> None:
    """Show one context, or the one in use; never its secrets."""
    from crewkeeper_supervisor.shell import contexts
    from crewkeeper_supervisor.views.wording import safe

    name = name or contexts.in_use()
    if not name:
        raise Failure("no context is in use", remedy="supervisor context use NAME")
    contexts.get(name)
    row = _row(name)
    emit_document(
        row,
        output,
        lambda: [
            f"{safe(row.name)}{' (in use)' if row.in_use else ''}",
            f"  server       {safe(row.url)}",
            f"  user         {safe(row.user) or '-'}",
            f"  credentials  {safe(row.creds) or '-'}",
        ],
        name=row.name,
    )


@context.command()
@click.argument("name", required=False)
@click.option("--none", is_flag=True, help="Use none from now on.")
@dry_run_option
@output_option()
def use(name: str | None, none: bool, dry_run: bool, output: str) -> int:
    """Let a context count wherever nothing nearer names a server."""
    from crewkeeper_supervisor.shell import contexts

    if (name is None) != none:
        raise click.UsageError("give a context, or --none")
    if name is not None:
        contexts.get(name)
    if not dry_run:
        contexts.use(name or "")
    verb = "would use" if dry_run else "now uses"
    text = f"{verb} {name or 'none'} where no option, variable or state directory here or above names a server"
    return tell(Deed(action="context use", name=name or "none", ok=True, text=(text,), dry_run=dry_run), output)


@context.command()
@click.argument("name")
@click.option(
    "--nats",
    "url",
    required=True,
    multiple=True,
    callback=several,
    metavar="URL",
    help="The server, as nats://host:4222 or tls://host:4222; several of a cluster with commas, or said again.",
)
@click.option("--user", default="", metavar="USER", help="Whom to log in as.")
@click.option("--password-env", metavar="VARIABLE", help="Variable of the environment with the password, read now.")
@click.option(
    "--creds",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="A credentials file, as nsc writes it; read at each use.",
)
@click.option("--replace", is_flag=True, help="Also if there is one of this name.")
@click.option("--use", "use_it", is_flag=True, help="Use it from now on.")
@dry_run_option
@output_option()
def add(
    name: str,
    url: str,
    user: str,
    password_env: str | None,
    creds: Path | None,
    replace: bool,
    use_it: bool,
    dry_run: bool,
    output: str,
) -> int:
    """Add a context; nothing is connected to."""
    from crewkeeper_supervisor.shell import contexts
    from crewkeeper_supervisor.shell.place import Place

    if creds is not None and (user or password_env):
        raise click.UsageError("give --creds, or --user and --password-env, not both")
    if password_env is not None and password_env not in os.environ:
        raise Failure(f"{password_env} is not set", code=INVALID, remedy=f"export {password_env}=…")
    place = Place.of_url(url, Path())
    if place.password:
        raise Failure("others can read a password in a command line", code=INVALID, remedy="--password-env VARIABLE")
    password = os.environ.get(password_env, "") if password_env else ""
    path = "" if creds is None else str(creds.absolute())
    made = contexts.Context(name=name, url=place.url, user=user or place.user, password=password, creds=path)
    if path:
        made.credentials()
    if not dry_run:
        contexts.add(made, replace=replace)
        if use_it:
            contexts.use(name)
    text = f"{'would add' if dry_run else 'added'} {name}: {made.url}{', in use' if use_it else ''}"
    return tell(Deed(action="context add", name=name, ok=True, text=(text,), dry_run=dry_run), output)


@context.command()
@click.argument("name")
@yes_option
@dry_run_option
@output_option()
def rm(name: str, yes: bool, dry_run: bool, output: str) -> int:
    """Remove a context of ours; the server does not notice."""
    from crewkeeper_supervisor.shell import contexts

    contexts.get(name)
    if not dry_run:
        confirm(f"remove context {name}?", yes)
        contexts.remove(name)
    text = f"{'would remove' if dry_run else 'removed'} {name}"
    return tell(Deed(action="context rm", name=name, ok=True, text=(text,), dry_run=dry_run), output)
