"""Audit export: a run written to a recording, with what its crew wants out of sight taken out and told."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from crewkeeper_bus.redaction import CLASSES, Redactor, TooDeep
from crewkeeper_supervisor.core.crew import Redact
from crewkeeper_supervisor.shell.audit_keys import AuditKey
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.recording import FORMAT, End, Header, Writer
from crewkeeper_supervisor.shell.source import OfRun, Source

STRICTEST: Final = Redact(kinds=CLASSES)
"""Taken where nobody can say any more what the crew wanted out: where the journal is gone, or cannot be read."""
KEY_TAKEN_OUT: Final = "the key of placeholders' hashes was taken out of the crew, too"


class _Declared(msgspec.Struct):
    crew: dict[str, object] = msgspec.field(default_factory=dict)


async def export(source: Source, path: Path, *, key: AuditKey | None, whole: bool, replace: bool) -> tuple[Header, End]:
    """Write a run to a file that only its owner can read; the file appears when it is complete.

    Args:
        source: The run.
        path: The file.
        key: Signs it.
        whole: Take nothing out.
        replace: Whether an existing file may be replaced.

    Raises:
        FileExistsError: It exists.
        OSError: It cannot be written.
    """
    _check_free(path, replace)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            done = await _write(source, stream.write, key, whole=whole)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    return done


async def _write(
    source: Source, write: Callable[[bytes], Any], key: AuditKey | None, *, whole: bool
) -> tuple[Header, End]:
    batches = source.batches()
    first: list[Entry] = []
    with contextlib.suppress(RunNotFound):  # the journal may be gone by right, and the ledger is kept longer
        first = await anext(batches, [])
    redact = _redact(first[0]) if first else STRICTEST
    kinds = () if whole or "views" not in redact.places else redact.kinds
    header = Header(
        crewkeeper="audit",
        format=FORMAT,
        run=source.run,
        crew=_crew(first[0]) if first else "",
        exported_at=datetime.fromtimestamp(int(time.time()), UTC).isoformat(),
        key="" if key is None else key.public,
        redacted=tuple(kinds),
        note=KEY_TAKEN_OUT if kinds and first else "",
    )
    writer = Writer(write, header, None if key is None else key.sign)
    cleaner = _Cleaner(Redactor(bytes.fromhex(redact.key), kinds)) if kinds else None
    for token in source.heads:
        writer.head(token)
    for record in source.settled() if isinstance(source, OfRun) else source.records:
        writer.record(record, None if cleaner is None else cleaner.command(record.command))
    for entry in first:
        writer.entry(entry, None if cleaner is None else cleaner.payload(entry))
    async for batch in batches:
        for entry in batch:
            writer.entry(entry, None if cleaner is None else cleaner.payload(entry))
    return header, writer.close()


def _check_free(path: Path, replace: bool) -> None:
    if path.exists() and not replace:
        raise FileExistsError(17, "it exists already; choose another name, or replace it with --force", str(path))


class _Cleaner:
    """Takes out of records and entries what a redactor finds; None where it finds nothing."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def command(self, command: object) -> object | None:
        made, found = self._redactor.value(command)
        return made if found else None

    def payload(self, entry: Entry) -> bytes | None:
        payload = entry.payload
        keyless = _without_key(payload) if entry.seq == 1 else None
        try:
            made, found = self._redactor.json(payload if keyless is None else keyless)
        except (ValueError, TooDeep):
            # Not JSON: every byte is a character, so that it can be put back byte by byte.
            text, found = self._redactor.text(payload.decode("latin-1"))
            made = text.encode("latin-1", "replace")
        return made if found or keyless is not None else None


def _without_key(payload: bytes) -> bytes | None:
    try:
        declared = msgspec.json.decode(payload)
        if not declared["crew"]["redact"]["key"]:
            return None
        declared["crew"]["redact"]["key"] = ""
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    return msgspec.json.encode(declared)


def _redact(entry: Entry) -> Redact:
    """What the crew of the first entry wants out."""
    try:
        crew = msgspec.json.decode(entry.payload, type=_Declared).crew
        return msgspec.convert(crew.get("redact", {}), Redact)
    except msgspec.MsgspecError:
        return STRICTEST


def _crew(entry: Entry) -> str:
    try:
        return str(msgspec.json.decode(entry.payload, type=_Declared).crew.get("name", ""))
    except msgspec.MsgspecError:
        return ""
