"""`supervisor redact`: secrets and personal data out of what comes in on stdin, for logs and reports."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from crewkeeper_bus.redaction import CLASSES, KINDS, Found, Redactor, TooDeep
from crewkeeper_supervisor.cli.failure import FAILED, INVALID, USAGE, Failure
from crewkeeper_supervisor.cli.output import say

MAX_BYTES: Final = 64 * 1024 * 1024
_KEY_MAX_BYTES: Final = 4096
_KEY_MIN_BYTES: Final = 16


@click.command()
@click.option(
    "--kinds", default=",".join(CLASSES), show_default=True, metavar="LIST", help="Classes and kinds, by commas."
)
@click.option("--key-file", type=click.Path(path_type=Path), help="Key of the hashes; without, one for this run.")
@click.option("--no-hash", is_flag=True, help="Placeholders without a hash.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(("text", "json", "jsonl")),
    default="text",
    show_default=True,
    help="What comes in. In JSON the names of fields count, too.",
)
@click.option("--report", is_flag=True, help="List on stderr what was replaced, as JSON lines.")
@click.option(
    "--check", "only_check", is_flag=True, help="Print nothing; exit with 1 if there is something to replace."
)
@click.option("--list", "list_kinds", is_flag=True, help="List the kinds and stop.")
def redact(
    kinds: str, key_file: Path | None, no_hash: bool, shape: str, report: bool, only_check: bool, list_kinds: bool
) -> None:
    """Replace secrets and personal data between stdin and stdout.

    Exit status: 0 done, 1 with --check something was found, 2 usage, 3 the input is not what --format says.
    """
    if list_kinds:
        for kind, class_ in KINDS.items():
            click.echo(f"{class_:<9} {kind}")
        return
    key = b"" if no_hash else _key(key_file)
    try:
        redactor = Redactor(key, tuple(part.strip() for part in kinds.split(",") if part.strip()))
    except ValueError as error:
        raise Failure(str(error), code=USAGE, remedy="supervisor redact --list") from None
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Failure(f"the input is larger than {MAX_BYTES // 1024 // 1024} MiB", code=INVALID, remedy="split it")
    cleaned, found = _clean(redactor, data, shape)
    if report:
        for each in found:
            click.echo(msgspec.json.encode(each), err=True)
    if only_check:
        if found:
            say(_counted(found))
            raise click.exceptions.Exit(FAILED)
        return
    sys.stdout.buffer.write(cleaned)
    sys.stdout.buffer.flush()


def _clean(redactor: Redactor, data: bytes, shape: str) -> tuple[bytes, list[Found]]:
    if shape == "text":
        # Bytes that are no UTF-8 pass through as they are.
        text, found = redactor.text(data.decode("utf-8", "surrogateescape"))
        return text.encode("utf-8", "surrogateescape"), found
    if shape == "json":
        value, found = _clean_json(redactor, data, "")
        return value + b"\n", found
    lines: list[bytes] = []
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            value, more = _clean_json(redactor, line, f"line {number}: ")
            lines.append(value)
            found += more
        else:
            lines.append(line)
    return b"".join(line + b"\n" for line in lines), found


def _clean_json(redactor: Redactor, data: bytes, where: str) -> tuple[bytes, list[Found]]:
    try:
        value: Any = msgspec.json.decode(data)
        cleaned, found = redactor.value(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TooDeep) as error:
        raise Failure(f"{where}{error}", code=INVALID, remedy="supervisor redact --format text") from None
    return msgspec.json.encode(cleaned), found


def _key(file: Path | None) -> bytes:
    """The key in the file, or a new one that nobody will have again."""
    if file is None:
        return os.urandom(32)
    with file.open("rb") as stream:
        key = stream.read(_KEY_MAX_BYTES).strip()
    if len(key) < _KEY_MIN_BYTES:
        raise Failure(
            f"the key in {file} has {len(key)} bytes; the least is {_KEY_MIN_BYTES}",
            code=USAGE,
            remedy="head -c 32 /dev/urandom | base64 > FILE",
        )
    return key


def _counted(found: list[Found]) -> str:
    counts = Counter(each.kind for each in found)
    return ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
