"""Trace files: recorded runs read from disk line by line, with every error told by file and line."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from crewkeeper_supervisor.core.trace import TraceEvent
from crewkeeper_supervisor.core.trace_analysis import TraceHeader

LINE_MAX_BYTES: Final = 64 * 1024 * 1024
_SPANS: Final = ("resourceSpans", "resource_spans", "trace_id", "traceId", "context")
"""Keys of files that hold spans."""


class TraceFileError(ValueError):
    """A trace that cannot be read; the text names file, line and remedy."""


def read(path: Path) -> Iterator[TraceHeader | TraceEvent]:
    """The header of a trace, always first and empty if the file has none, then its events.

    Raises:
        TraceFileError: The file cannot be read, or a line is no event.
    """
    events = msgspec.json.Decoder(TraceEvent)
    header: TraceHeader | None = None
    try:
        with path.open("rb") as lines:
            number = 0
            while line := lines.readline(LINE_MAX_BYTES + 1):
                number += 1
                if len(line) > LINE_MAX_BYTES:
                    raise TraceFileError(f"{path}:{number}: is longer than {LINE_MAX_BYTES >> 20} MiB; split it")
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip():
                    continue
                if header is None:
                    header = _header(line, path, number)
                    if header is not None:
                        yield header
                        continue
                    header = TraceHeader()
                    yield header
                try:
                    event = events.decode(line)
                except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                    raise TraceFileError(f"{path}:{number}: is no event: {error}") from error
                yield event
        if header is None:
            raise TraceFileError(f"{path}: is empty; write one event per line")
    except OSError as error:
        raise TraceFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _header(line: bytes, path: Path, number: int) -> TraceHeader | None:
    """The header that the first line is, if it is one."""
    try:
        first = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise TraceFileError(f"{path}:{number}: is not JSON, one object per line: {error}") from error
    if isinstance(first, list) or (isinstance(first, dict) and not first.keys().isdisjoint(_SPANS)):
        raise TraceFileError(f"{path}:{number}: is no event; `supervisor import {path}` makes a trace of spans")
    if not isinstance(first, dict) or "run" not in first:
        return None
    try:
        return msgspec.convert(first["run"], TraceHeader)
    except msgspec.ValidationError as error:
        raise TraceFileError(f"{path}:{number}: run: {error}") from error
