"""`supervisor replay`: decide a run again from its journal, and look at any moment of it."""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from crewkeeper_supervisor.cli.events import Span
from crewkeeper_supervisor.cli.failure import FAILED, NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say, stdout, write, write_json_line
from crewkeeper_supervisor.cli.place_options import place_options
from crewkeeper_supervisor.cli.progress import counted
from crewkeeper_supervisor.cli.recordings import recorded

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.journal import Entry
    from crewkeeper_supervisor.shell.snapshots import Kept
    from crewkeeper_supervisor.shell.source import Source
    from crewkeeper_supervisor.views.moment import Moment
    from crewkeeper_supervisor.views.replay import Replayed

SHOWN_MAX = 10
FIELDS_MAX = 8


class Place(click.ParamType[Any]):
    """A place in a journal: a sequence `120`, a time `2026-11-22T18:00:00Z`, or a span after the start `+12s`."""

    name = "place"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int (sequence), an aware datetime, or a float (seconds after the start)."""
        if not isinstance(value, str):
            return value
        if value.isdecimal():
            return int(value)
        if value.startswith("+"):
            return Span().convert(value[1:], param, ctx)
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value[:40]!r} is no place: write 120, +12s or 2026-11-22T18:00:00Z", param, ctx)
        return at.astimezone()


@click.command()
@click.argument("target", required=False, metavar="[RUN|FILE]")
@click.option("--until", type=Place(), metavar="SEQ|TIME", help="Show crew, waits, budgets and findings as of then.")
@click.option("--step", is_flag=True, help="Go through it entry by entry; return goes on, q ends it.")
@click.option("--from-snapshot", is_flag=True, help="Begin with the run's newest snapshot, not with its first entry.")
@click.option("--diff", nargs=2, type=Place(), metavar="A B", help="Show what changed between two places.")
@output_option()
@place_options
def replay(
    target: str | None,
    until: Any,
    step: bool,
    diff: tuple[Any, Any] | None,
    from_snapshot: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    """Decide a run again from its journal, and fail if that differs from its ledger.

    Without options every decision is made again and compared, and so is the core's state where a head was signed by
    the same version of the program. A place is a sequence (120), a span after the start (+12s), or a time.

    With --from-snapshot, what came before the run's newest snapshot is taken from that: it is as fast as a takeover,
    and says nothing of those entries. It goes with --until for places behind the snapshot.

    Exit status: 0 all the same, 1 something differs, 3 the file cannot be read, 5 no such run.
    """
    if sum((until is not None, step, diff is not None)) > 1:
        raise Failure("choose one of --until, --step and --diff", code=USAGE)
    if from_snapshot and (step or diff is not None):
        raise Failure("--from-snapshot goes alone or with --until", code=USAGE)
    return anyio.run(_replay, target, until, step, diff, from_snapshot, output, state, nats)


async def _replay(
    target: str | None,
    until: Any,
    step: bool,
    diff: Any,
    from_snapshot: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> int:
    async with recorded(target, state, nats) as source:
        begin = await _snapshot(source) if from_snapshot else None
        if step:
            await _step(source, output)
        elif until is not None:
            from crewkeeper_supervisor.views.moment import page

            (moment,) = await _moments(source, until, begin=begin)
            emit_document(moment, output, lambda: page(moment))
        elif diff is not None:
            from crewkeeper_supervisor.views.moment import change_lines, changes

            before, after = await _moments(source, *diff)
            emit_document(changes(before, after), output, lambda: change_lines(before, after))
        else:
            return await _compare(source, output, begin)
    return 0


async def _snapshot(source: "Source") -> "tuple[Kept, bytes]":
    from crewkeeper_supervisor.core.snapshot import SnapshotError
    from crewkeeper_supervisor.shell.source import OfRun

    if not isinstance(source, OfRun):
        raise Failure("a file has no snapshots; leave out --from-snapshot", code=USAGE)
    try:
        return await source.snapshot()
    except SnapshotError as error:
        raise Failure(
            f"no snapshot of {source.run} can be used: {error}; leave out --from-snapshot", code=NOT_FOUND
        ) from None


# --- comparing ---


async def _compare(source: "Source", output: str, begin: "tuple[Kept, bytes] | None") -> int:
    from crewkeeper_supervisor.core.snapshot import SnapshotError
    from crewkeeper_supervisor.shell.source import OfFile, OfRun
    from crewkeeper_supervisor.views.replay import Replay

    records = source.decided() if isinstance(source, OfRun) else source.records
    replaying = Replay(source.run, records, source.heads, redacted=source.redacted, altered=source.altered)
    if isinstance(source, OfFile):
        source.reader.chains = False  # states and decisions are compared; which line was edited is asked of an audit
    if isinstance(source, OfRun):
        if begin is not None:
            replaying.begin(begin[1], begin[0].state)
            source.begin_behind(begin[0].seq)
        else:
            with contextlib.suppress(SnapshotError):  # it is only held against the fold
                kept, _ = await source.snapshot()
                replaying.hold_against(kept.seq, kept.code, kept.state)
    async for batch in counted(source.batches(), f"reading {source.where}"):
        replaying.take(batch)
    found = replaying.finish()
    emit_document(found, output, lambda: _compared_lines(found))
    damage = getattr(getattr(source, "reader", None), "problems", ())
    if damage:
        say(f"the file is not as it was exported ({damage[0]}): supervisor audit verify {source.where}")
    return FAILED if found.differences or damage else 0


def _compared_lines(found: "Replayed") -> list[str]:
    from crewkeeper_supervisor.views.wording import safe

    count = len(found.differences) + found.more
    verdict = f"{count} difference{'s' if count > 1 else ''}" if count else "every decision is the same"
    lines = [
        f"run {safe(found.run)}: {verdict}",
        f"  {found.entries} journal entries, {found.decisions} decisions, {found.recorded} in the ledger",
    ]
    if found.begun_behind:
        lines.append(f"  it began behind the snapshot of entry {found.begun_behind}")
    if found.undone:
        lines.append(f"  {found.undone} were decided last, and neither recorded nor carried out")
    if found.states:
        lines.append(f"  the core's state was held against {found.states} signed")
    if found.states_skipped:
        why = "of another version of the program, or of entries that are redacted here"
        lines.append(f"  {found.states_skipped} signed states were not compared: {why}")
    lines.append(f"  state at the end: {found.digest}")
    for difference in found.differences[:SHOWN_MAX]:
        lines += ["", *_difference_lines(difference)]
    if count > SHOWN_MAX:
        lines.append(f"… and {count - SHOWN_MAX} more")
    return lines


def _difference_lines(difference: Any) -> list[str]:
    import msgspec

    from crewkeeper_supervisor.views.replay import changed_fields
    from crewkeeper_supervisor.views.wording import safe

    def shown(value: Any) -> str:
        return "nothing" if value is None else safe(msgspec.json.encode(value).decode(), 160)

    what = f"{difference.kind}: command {safe(difference.id)}" if difference.id else difference.kind
    place = f", record {difference.n}" if difference.n else ""
    lines = [f"{what} (entry {difference.seq}{place})"]
    if difference.kind == "decided otherwise":
        for path, recorded, replayed in changed_fields(difference.recorded, difference.replayed)[:FIELDS_MAX]:
            lines += [f"  {safe(path)}", f"    recorded  {shown(recorded)}", f"    replayed  {shown(replayed)}"]
    else:
        lines += [f"  recorded  {shown(difference.recorded)}", f"  replayed  {shown(difference.replayed)}"]
    if difference.after_redaction:
        lines.append("  what stood before it in the journal was redacted in this copy; that may be why")
    return lines


# --- moments ---


async def _moments(source: "Source", *places: Any, begin: "tuple[Kept, bytes] | None" = None) -> "list[Moment]":
    """The moments of these places, in the order in which they are named."""
    from crewkeeper_supervisor.shell.source import OfRun
    from crewkeeper_supervisor.views.fold import Fold
    from crewkeeper_supervisor.views.moment import moment_of

    fold = Fold(source.run)
    if begin is not None and isinstance(source, OfRun):
        kept, data = begin
        fold.begin(data, kept.state)
        if any(_is_before(place, fold) for place in places):
            raise Failure(
                f"the snapshot is of entry {kept.seq}, which is later; leave out --from-snapshot", code=NOT_FOUND
            )
        source.begin_behind(kept.seq)
    left = dict(enumerate(places))
    found: dict[int, Moment] = {}
    async for entry in _entries(source):
        for number in [number for number, place in left.items() if _is_behind(entry, place, fold)]:
            found[number] = moment_of(fold)
            del left[number]
        if not left:
            break
        fold.feed(entry)
    for number, place in left.items():
        if isinstance(place, int) and place > fold.supervisor.seq:
            raise Failure(f"the journal ends with entry {fold.supervisor.seq}, before {place}", code=NOT_FOUND)
        found[number] = moment_of(fold)
    return [found[number] for number in range(len(places))]


async def _entries(source: "Source") -> "AsyncIterator[Entry]":
    async for batch in source.batches():
        for entry in batch:
            yield entry


def _is_before(place: Any, fold: Any) -> bool:
    """Whether a place comes before what is folded."""
    if isinstance(place, int):
        return bool(place < fold.supervisor.seq)
    at_s = fold.began_at_s + place if isinstance(place, float) else place.timestamp()
    return bool(at_s < fold.last_at_s)


def _is_behind(entry: "Entry", place: Any, fold: Any) -> bool:
    """Whether an entry comes after a place."""
    if isinstance(place, int):
        return entry.seq > place
    if isinstance(place, float):
        return fold.began_at_s is not None and entry.at_s > fold.began_at_s + place
    return bool(entry.at_s > place.timestamp())


# --- step by step ---


async def _step(source: "Source", output: str) -> None:
    from crewkeeper_supervisor.views.stepping import Stepper

    stepper = Stepper(source.run)
    asking = sys.stdin.isatty() and stdout().isatty() and output in ("table", "wide")
    show: Callable[[Any], None] = _write_step if output in ("table", "wide") else write_json_line
    async for entry in _entries(source):
        taken = stepper.take(entry)
        show(taken)
        if asking:
            said = await anyio.to_thread.run_sync(sys.stdin.readline)
            if not said or said.strip().lower() in ("q", "quit"):
                return


def _write_step(taken: Any) -> None:
    for line in taken.lines():
        write(line)
