"""`supervisor import`: traces of other tools, turned into recorded runs that `supervisor analyze trace` reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from crewkeeper_supervisor.cli.failure import INVALID, Failure
from crewkeeper_supervisor.cli.output import say, write_json_line

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.genai_spans import Span

FILE_MAX_BYTES: Final = 512 * 1024 * 1024


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--trace", "wanted", metavar="ID", help="Only the trace with this id.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each trace to a file ID.jsonl in this folder; needed if there are several.",
)
def import_(file: Path, wanted: str | None, folder: Path | None) -> None:
    """Turn OpenTelemetry traces of agents into recorded runs.

    FILE holds spans as JSON that follow the semantic conventions for generative AI: OTLP/JSON, spans as an SDK's
    console exporter prints them, a list of either, or one of these per line. Prints the run's events, one per line.

    Exit status: 0 done, 3 the file cannot be read or holds no such spans.
    """
    from crewkeeper_supervisor.core.genai_spans import events_of
    from crewkeeper_supervisor.views.wording import safe

    runs = events_of(_spans(file))
    if wanted is not None:
        runs = {trace: events for trace, events in runs.items() if trace == wanted}
    if not runs:
        raise Failure(
            f"{file}: holds no {'such trace' if wanted else 'spans of generative AI'}",
            code=INVALID,
            remedy="spans need gen_ai.operation.name: invoke_agent, execute_tool, chat, …",
        )
    if folder is not None:
        _write(runs, folder)
        return
    if len(runs) > 1:
        shown = ", ".join(list(runs)[:5])
        raise Failure(
            f"{file}: holds {len(runs)} traces: {safe(shown)}{', …' * (len(runs) > 5)}",
            code=INVALID,
            remedy="choose one with --trace ID, or write all with --folder FOLDER",
        )
    for events in runs.values():
        for event in events:
            write_json_line(event)


def _spans(file: Path) -> "list[Span]":
    from crewkeeper_supervisor.core.genai_spans import spans_of
    from crewkeeper_supervisor.views.wording import safe

    try:
        if file.stat().st_size > FILE_MAX_BYTES:
            raise Failure(f"{file}: is larger than {FILE_MAX_BYTES >> 20} MiB", code=INVALID, remedy="split it")
        content = file.read_bytes()
    except OSError as error:
        raise Failure(f"{file}: cannot be read: {error.strerror or error}", code=INVALID) from error
    try:
        return spans_of(_documents(content))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Failure(f"{file}: is not JSON: {error}", code=INVALID, remedy="correct it at that place") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Failure(safe(f"{file}: holds no spans: {error}"), code=INVALID, remedy="docs/traces.md") from error


def _documents(content: bytes) -> Any:
    """One document, or a list of those in the lines."""
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [msgspec.json.decode(line) for line in lines]


def _write(runs: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for trace, events in runs.items():
            name = "".join(character for character in trace if character.isalnum())[:64] or "trace"
            path = folder / f"{name}.jsonl"
            path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
            say(f"wrote {path}: {len(events)} events")
    except OSError as error:
        raise Failure(f"{folder}: cannot be written: {error.strerror or error}", code=INVALID) from error
