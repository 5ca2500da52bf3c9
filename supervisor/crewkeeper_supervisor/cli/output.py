"""Output of commands: `-o table|wide|json|jsonl|yaml|name`, data on stdout, everything else on stderr."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.tables import Table

FORMATS: Final = ("table", "wide", "json", "jsonl", "yaml", "name")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(*formats: str, default: str = "table") -> Callable[[_Command], _Command]:
    """Add `-o FORMAT` with these formats; the command gets it as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats or FORMATS),
        default=default,
        show_default=True,
        help="Output format.",
    )


def stdout() -> IO[str]:
    """Where data goes now, so that a redirected stream is honoured."""
    return sys.stdout


def use_color() -> bool:
    """Whether styles are wanted: not with NO_COLOR, --no-color or a dumb terminal."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_live(out: IO[str]) -> bool:
    """Whether a repainting view can be shown there."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Tell the user something that is not data."""
    click.echo(text, err=True)


def write(text: str) -> None:
    """Write one line of data."""
    stdout().write(text + "\n")


def write_json(value: Any) -> None:
    """Write a document as indented JSON; unprintable characters are escaped."""
    from crewkeeper_supervisor.views.redaction import clean_json
    from crewkeeper_supervisor.views.wording import safe_json

    write(safe_json(msgspec.json.format(clean_json(msgspec.json.encode(value)), indent=2)))


def write_json_line(value: Any) -> None:
    """Write a document as one line of JSON, at once."""
    from crewkeeper_supervisor.views.redaction import clean_json
    from crewkeeper_supervisor.views.wording import safe_json

    write(safe_json(clean_json(msgspec.json.encode(value))))
    stdout().flush()


def write_yaml(value: Any) -> None:
    """Write a document as YAML, ASCII only."""
    import yaml

    from crewkeeper_supervisor.views.redaction import clean_json

    # Through JSON, so that times and money read the same in both.
    write(yaml.safe_dump(msgspec.json.decode(clean_json(msgspec.json.encode(value))), sort_keys=False).rstrip())


def emit_rows(
    rows: Sequence[msgspec.Struct], output: str, *, table: "Callable[[bool], Table]", name: Callable[[Any], str]
) -> None:
    """Write a list in the format asked for.

    Args:
        rows: The items.
        output: One of `FORMATS`.
        table: Makes the table, wide or not.
        name: The name of an item.
    """
    match output:
        case "json" | "yaml":
            from crewkeeper_supervisor.views.snapshot import Listing

            (write_json if output == "json" else write_yaml)(Listing(items=list(rows)))
        case "jsonl":
            for row in rows:
                write_json_line(row)
        case "name":
            for row in rows:
                write(name(row))
        case _:
            emit_table(table(output == "wide"))


def emit_table(table: "Table") -> None:
    """Write a table; an empty one is a word on stderr."""
    from crewkeeper_supervisor.views.tables import write_table

    if not table.rows:
        say(table.empty)
        return
    write_table(table, stdout(), color=use_color())


def emit_secret(value: Any, output: str, text: Callable[[], Sequence[str]]) -> None:
    """As `emit_document`, for a secret that was asked for and is shown this once: nothing is redacted."""
    data = msgspec.json.encode(value)
    match output:
        case "json":
            write(msgspec.json.format(data, indent=2).decode())
        case "jsonl":
            write(data.decode())
        case "yaml":
            import yaml

            write(yaml.safe_dump(msgspec.json.decode(data), sort_keys=False).rstrip())
        case _:
            for line in text():
                write(line)


def emit_document(value: Any, output: str, text: Callable[[], Sequence[str]]) -> None:
    """Write one thing: as data, or as lines of text."""
    match output:
        case "json":
            write_json(value)
        case "jsonl":
            write_json_line(value)
        case "yaml":
            write_yaml(value)
        case _:
            for line in text():
                write(line)
