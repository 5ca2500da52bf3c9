"""`supervisor analyze`: what follows from something written down; no server, no run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from crewkeeper_supervisor.cli.failure import INVALID, Failure
from crewkeeper_supervisor.cli.output import emit_rows, output_option, say, stdout, write_json, write_json_line

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.case_problems import CaseProblem
    from crewkeeper_supervisor.core.meaning import Embed
    from crewkeeper_supervisor.core.trace_analysis import TraceFinding
    from crewkeeper_supervisor.views.tables import Table

FORMAT: Final = 1
"""Of wait cases, as `docs/wait-cases.md` has it."""
FILE_MAX_BYTES: Final = 256 * 1024 * 1024
PROBLEMS_MAX: Final = 200
"""More are counted, not told."""


@click.group()
def analyze() -> None:
    """Say what follows from situations written down, offline."""


@analyze.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@output_option(default=None, help_="Output format; a table on a terminal, else json: one line for each case.")
def waits(file: Path, output: str | None) -> None:
    """Say who is deadlocked in the wait cases of a file.

    FILE holds one case, a list of them, or an object with `format` and `cases`. Prints for each case, in this order,
    its verdict, the deadlocked tasks, those of them to blame, and who else waits for what help.

    Exit status: 0 all were judged, whatever the verdicts, 3 the file cannot be read or a case is wrong.
    """
    from crewkeeper_supervisor.core.case_problems import problems_of

    cases = _read(file)
    _refuse([problem for number, case in enumerate(cases) for problem in problems_of(case, f"#{number}")], file)
    results = (_judge(case) for case in cases)
    form = output or ("table" if stdout().isatty() else "json")
    if form in ("json", "jsonl"):  # both a line for each, so that thousands need not be kept
        for result in results:
            write_json_line(result)
        return
    judged = list(results)
    emit_rows(judged, form, table=lambda _: _table(judged))


@analyze.command()
@click.argument("files", type=click.Path(path_type=Path), metavar="FILE…", nargs=-1, required=True)
@output_option(default=None, help_="Output format; a table on a terminal, else jsonl: one line for each finding.")
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Judge drift by meaning too, with the static model in this directory; needs crewkeeper[embeddings].",
)
def trace(files: tuple[Path, ...], output: str | None, embeddings: Path | None) -> None:
    """Put the detectors over recorded runs: loops, drift, misuse of tools, deadlocks.

    Each FILE is one run, one JSON object per event and line. Prints what was found where; nothing for a healthy run.

    Exit status: 0 all were analysed, whatever was found, 3 a file cannot be read or a line is no event.
    """
    embed = _embed(embeddings) if embeddings is not None else None
    findings = (finding for file in files for finding in _analysed(file, embed))
    form = output or ("table" if stdout().isatty() else "jsonl")
    if form == "json":
        write_json(list(findings))
    elif form == "jsonl":
        for finding in findings:
            write_json_line(finding)
    else:
        found = list(findings)
        emit_rows(found, form, table=lambda _: _findings_table(found), name=lambda one: f"{one.trace} {one.kind}")


def _embed(directory: Path) -> "Embed":
    from crewkeeper_supervisor.shell import embeddings
    from crewkeeper_supervisor.views.wording import safe

    try:
        return embeddings.load(directory)
    except embeddings.EmbeddingsError as error:
        remedy = "leave out --embeddings: drift is judged by words then"
        raise Failure(safe(str(error)), code=INVALID, remedy=remedy) from error


def _analysed(file: Path, embed: "Embed | None") -> "Iterator[TraceFinding]":
    """What the detectors find in a run."""
    from crewkeeper_supervisor.core.trace_analysis import TraceAnalysis, TraceHeader
    from crewkeeper_supervisor.shell import trace_file
    from crewkeeper_supervisor.views.wording import safe

    analysis: TraceAnalysis | None = None
    try:
        for part in trace_file.read(file):
            if isinstance(part, TraceHeader):
                analysis = TraceAnalysis(file.name.removesuffix(".jsonl"), part, _schema_problems, embed)
            elif analysis is not None:
                yield from analysis.feed(part)
    except trace_file.TraceFileError as error:
        raise Failure(safe(str(error)), code=INVALID, remedy="docs/traces.md has the format") from error
    if analysis is not None:
        yield from analysis.finish()


def _schema_problems(schema: dict[str, Any], document: Any) -> list[str]:
    """What is wrong with an answer by its JSON Schema."""
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(schema, offline=True, pattern_options=jsonschema_rs.RegexOptions())
    except (ValueError, jsonschema_rs.ValidationError) as error:
        raise Failure(f"outcome.schema: is no JSON Schema: {error}", code=INVALID, remedy="correct it") from error
    return [f"is not as its schema says: {error.message}" for error in validator.iter_errors(document)]


def _findings_table(findings: "list[TraceFinding]") -> "Table":
    from crewkeeper_supervisor.views.tables import Table
    from crewkeeper_supervisor.views.wording import safe

    rows = tuple(
        tuple(safe(cell) for cell in (one.trace, one.kind, str(one.at), str(one.onset), " ".join(one.agents), one.why))
        for one in findings
    )
    return Table(columns=("TRACE", "KIND", "AT", "ONSET", "AGENTS", "WHY"), rows=rows, empty="nothing found")


def _read(file: Path) -> list[Any]:
    """The cases in a file, whatever they look like."""
    from crewkeeper_supervisor.views.wording import safe

    try:
        if file.stat().st_size > FILE_MAX_BYTES:
            raise Failure(f"{file}: is larger than {FILE_MAX_BYTES >> 20} MiB", code=INVALID, remedy="split it")
        content = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise Failure(f"{file}: cannot be read: {error.strerror or error}", code=INVALID) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Failure(f"{file}: is not JSON: {error}", code=INVALID, remedy="correct it at that place") from error
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise Failure(
            f"{file}: holds neither cases nor a case", code=INVALID, remedy='write {"format": 1, "cases": […]}'
        )
    if "cases" not in content:
        return [content]
    if content.get("format", FORMAT) != FORMAT:
        shown = safe(repr(content["format"])[:60])
        raise Failure(f"{file}: format: {shown}: is not known here", code=INVALID, remedy=f"write {FORMAT}")
    if not isinstance(content["cases"], list):
        raise Failure(f"{file}: cases: is no list", code=INVALID, remedy="write […]")
    return content["cases"]


def _refuse(problems: "list[CaseProblem]", file: Path) -> None:
    """Fail if there are problems, telling them all."""
    from crewkeeper_supervisor.views.wording import counted, safe

    if not problems:
        return
    for problem in problems[:PROBLEMS_MAX]:
        say(safe(f"{file}: {problem}"))
    if len(problems) > PROBLEMS_MAX:
        say(f"{file}: {len(problems) - PROBLEMS_MAX} more problems")
    raise Failure(f"{file}: refused, {counted(len(problems), 'problem')}", code=INVALID)


def _judge(case: dict[str, Any]) -> dict[str, Any]:
    from crewkeeper_supervisor.core.wait_case import WaitCase

    replay = WaitCase(case["agents"], case.get("resources", {}))
    for event in case["events"]:
        replay.apply(event)
    return {"id": case["id"], **replay.result()}


def _table(results: list[dict[str, Any]]) -> "Table":
    from crewkeeper_supervisor.views.tables import Table
    from crewkeeper_supervisor.views.wording import safe

    rows = []
    for result in results:
        cores = "; ".join(" ".join(core) for core in result["core"])
        stalled = [f"{task} ({why})" for task, why in result["stalled"].items()]
        others = [*(f"{task} (orphan)" for task in result["orphan"]), *stalled]
        cells = (result["id"], result["verdict"], " ".join(result["deadlocked"]), cores, " ".join(others))
        rows.append(tuple(safe(cell) for cell in cells))
    columns = ("CASE", "VERDICT", "DEADLOCKED", "CORES", "OTHERS")
    return Table(columns=columns, rows=tuple(rows), empty="no cases")
