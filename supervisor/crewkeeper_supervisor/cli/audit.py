"""`supervisor audit`: prove that what is recorded of a run is what was written; take it elsewhere."""

import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
from msgspec import Struct

from crewkeeper_supervisor.cli.failure import FAILED, INVALID, NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say, write
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.progress import Progress
from crewkeeper_supervisor.cli.recordings import recorded

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.audit import Report
    from crewkeeper_supervisor.shell.audit_keys import AuditKey

KEY_CHARS = 56
SHOWN_MAX = 20


class Exported(Struct, frozen=True, kw_only=True):
    """What an export has written."""

    file: str
    run: str
    records: int
    entries: int
    """Of the journal."""
    redacted: tuple[str, ...]
    """Kinds of what was taken out."""
    redacted_records: int
    redacted_entries: int
    key: str
    """Public name of the key that signed the file; empty: none did."""
    schema_version: int = 1


@click.group()
def audit() -> None:
    """Verify, export and import what is recorded of runs."""


@audit.command()
@click.argument("target", required=False, metavar="[RUN|FILE]")
@click.option("--key", "trusted", multiple=True, metavar="NAME", help="Public name of a supervisor's key to trust.")
@click.option("--head", "kept", metavar="TOKEN|FILE", help="A head that was kept elsewhere.")
@click.option("--ledger-only", is_flag=True, help="Leave the journal out, which can be long.")
@click.option("--proven", is_flag=True, help="Fail also unless a key known here vouches for every record.")
@output_option("text", "json", "yaml", default="text")
@place_options
def verify(
    target: str | None,
    trusted: tuple[str, ...],
    kept: str | None,
    ledger_only: bool,
    proven: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Check that nobody has changed what is recorded of a run.

    RUN is looked up on the server, or in the store where none runs; a FILE that `supervisor audit export` wrote needs
    neither. Names the first wrong record and whether it was edited, deleted, swapped, inserted, or the end cut off.

    Whoever writes a ledger anew without the key, and takes its heads away, leaves one that fits together and that
    nothing vouches for: that is said, and an error with --proven.

    Exit status: 0 nothing is wrong, 1 something is, 3 the file cannot be read, 5 no such run.
    """
    for name in trusted:
        if len(name) != KEY_CHARS or not name.startswith("N"):
            raise Failure(f"{name[:60]!r} is no name of a key: it has {KEY_CHARS} characters, N first", code=USAGE)
    report = anyio.run(_verify, target, trusted, kept, not ledger_only, state, nats)
    emit_document(report, output, lambda: _report_lines(report))
    unproven = proven and report.proof != "whole"
    if unproven:
        say(f"not proven: a key known here vouches for {report.proven} of {report.records + report.removed} records")
    return FAILED if report.problems or unproven else 0


async def _verify(
    target: str | None, trusted: tuple[str, ...], kept: str | None, journal: bool, state: Path | None, nats: str | None
) -> "Report":
    from crewkeeper_supervisor.shell.audit import examine
    from crewkeeper_supervisor.shell.heads import HeadError

    async with recorded(target, state, nats) as source:
        try:
            with Progress(f"reading {source.where}") as progress:
                source.passed = progress.add
                return await examine(source, key=_key(state), trusted=trusted, kept=_token(kept), with_journal=journal)
        except HeadError as error:
            raise Failure(str(error), code=INVALID) from error


def _key(state: Path | None) -> "AuditKey | None":
    from crewkeeper_supervisor.shell import audit_keys
    from crewkeeper_supervisor.shell.place import state_dir

    return audit_keys.load(state_dir(state))


def _token(kept: str | None) -> str:
    if not kept:
        return ""
    file = Path(kept) if len(kept) < 256 else None
    if file is not None and file.is_file():
        return file.read_text("ascii", "replace")[:8192].strip()
    return kept


def _report_lines(report: "Report") -> list[str]:
    from crewkeeper_supervisor.views.wording import safe

    verdict = "NOT AS IT WAS WRITTEN" if report.problems else "nothing is wrong"
    lines = [f"{safe(report.where)}: {verdict}"]
    lines += [f"  {safe(str(problem), None)}" for problem in report.problems[:SHOWN_MAX]]
    if len(report.problems) > SHOWN_MAX:
        lines.append(f"  … and {len(report.problems) - SHOWN_MAX} more")
    redacted = f", {report.redacted_records} of them redacted" if report.redacted_records else ""
    gone = f" after {report.removed} that are gone by retention" if report.removed else ""
    vouched = _proven(report.proven, report.records + report.removed)
    lines.append(f"records   {report.records}{gone}{redacted}; {vouched}")
    if report.booked:
        sums = "no limit" if not any(each.kind == "overspent" for each in report.problems) else "a limit or more"
        lines.append(f"budgets   {report.booked} granted calls add up, and go beyond {sums}")
    if report.entries:
        redacted = f", {report.redacted_entries} of them redacted" if report.redacted_entries else ""
        lines.append(f"journal   {report.entries} entries{redacted}; {_proven(report.sealed_seq, report.entries)}")
    lines.append(f"heads     {report.heads}{', the last one of the end of the run' if report.final else ''}")
    lines.append(f"last      {report.last}")
    lines += [f"key       {safe(name)}" for name in report.keys]
    lines += [f"note: {safe(text, None)}" for text in report.remarks]
    return lines


def _proven(up_to: int, count: int) -> str:
    if not up_to:
        return "no key known here vouches for them"
    return "all are vouched for" if up_to >= count else f"vouched for up to number {up_to}"


@audit.command()
@click.argument("run", required=False)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it; without, RUN.audit.gz in this folder.",
)
@click.option("--whole", is_flag=True, help="Take nothing out: also what the crew wants redacted.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@output_option("text", "json", "yaml", default="text")
@place_options
def export(
    run: str | None, file: Path | None, whole: bool, force: bool, output: str, state: Path | None, nats: str | None
) -> None:
    """Write everything that is recorded of a run to one compressed file.

    Ledger, signed heads and journal, signed as a whole. What the crew file redacts in views is taken out, and the file
    says of what; digests of what stood there are left, so that the rest can still be verified.
    """
    anyio.run(_export, run, file, whole, force, output, state, nats)


async def _export(
    run: str | None, file: Path | None, whole: bool, force: bool, output: str, state: Path | None, nats: str | None
) -> None:
    from crewkeeper_supervisor.shell import audit_export
    from crewkeeper_supervisor.shell.recording import SUFFIX

    async with recorded(run, state, nats) as source:
        path = file or Path(f"{source.run}{SUFFIX}")
        with Progress(f"reading {source.where}") as progress:
            source.passed = progress.add
            header, end = await audit_export.export(source, path, key=_key(state), whole=whole, replace=force)
    taken = f"{end.redacted_records} records and {end.redacted_entries} entries"
    redacted = f"; {', '.join(header.redacted)} taken out of {taken}" if header.redacted else "; nothing taken out"
    say(f"wrote {path}: {end.records} records, {end.entries} journal entries{redacted}")
    if not header.key:
        say("it is not signed: this state directory has no audit key")
    done = Exported(
        file=str(path),
        run=header.run,
        records=end.records,
        entries=end.entries,
        redacted=header.redacted,
        redacted_records=end.redacted_records,
        redacted_entries=end.redacted_entries,
        key=header.key,
    )
    emit_document(done, output, lambda: [str(path)], name=str(path))


@audit.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", "trusted", multiple=True, metavar="NAME", help="Public name of a supervisor's key to trust.")
@click.option("--force", is_flag=True, help="Replace what was imported of the same run before.")
@place_options
def import_(file: Path, trusted: tuple[str, ...], force: bool, state: Path | None, nats: str | None) -> None:
    """Take a recording in, so that its run can be named like any other.

    It is verified first, and is not taken in if anything is wrong with it. It never gets onto a server.
    """
    if not file.is_file():
        raise Failure(f"there is no file {str(file)[:200]!r}", code=NOT_FOUND)
    report = anyio.run(_verify, str(file), trusted, None, True, state, nats)
    if report.first is not None:
        raise Failure(f"{file}: {report.first}", code=FAILED, remedy=f"supervisor audit verify {file}")
    _take_in(file, report.run, state, force=force)
    for text in report.remarks:
        say(f"note: {text}")
    say(f"imported run {report.run}: {report.records} records, {report.entries} journal entries")
    write(report.run)


def _take_in(file: Path, run: str, state: Path | None, *, force: bool) -> None:
    from crewkeeper_supervisor.shell import source
    from crewkeeper_supervisor.shell.place import state_dir

    place = source.imported(state_dir(state), run)
    if place.exists() and not force:
        raise Failure(f"run {run} was imported before", code=USAGE, remedy="--force replaces it")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    shutil.copyfile(file, draft)
    draft.chmod(0o600)
    draft.replace(place)


@audit.command()
@click.argument("target", required=False, metavar="[RUN|FILE]")
@output_option("text", "json", "yaml", default="text")
@place_options
def head(target: str | None, output: str, state: Path | None, nats: str | None) -> None:
    """Print the newest signed head of a run: keep it elsewhere, and nothing before it can be changed unnoticed.

    `supervisor audit verify --head` takes it. In a run that goes on, a new head comes about every half minute.
    """
    anyio.run(_head, target, output, state, nats)


async def _head(target: str | None, output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.shell import heads

    async with recorded(target, state, nats) as source:
        if not source.heads:
            raise Failure(
                f"{source.where} has no signed head yet: the first comes half a minute after the start",
                code=NOT_FOUND,
                remedy="export the run instead: the file is signed",
            )
        newest = heads.read_token(source.heads[-1])
    emit_document(newest, output, lambda: [newest.token])
