"""Output of commands: `-o table|wide|json|jsonl|yaml|name`, data on stdout, everything else on stderr.

Every command that shows something takes all six. A list is a table, `wide` with more columns; one thing is a page of
text under both names. `json` is one document, `jsonl` one line for each item, `name` what other commands take.
"""

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


class Format(click.Choice[str]):
    """One of the formats; `text` is another word for `table`, where what is shown is no table."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The format, as commands compare it."""
        return super().convert("table" if value == "text" else value, param, ctx)


def output_option(
    *more: str, default: str | None = "table", help_: str = "Output format."
) -> Callable[[_Command], _Command]:
    """Add `-o FORMAT`; the command gets it as `output`.

    Args:
        more: Formats beside `FORMATS`.
        default: What it is where nobody asks; None: the command decides.
        help_: Its line of help.
    """
    own = [each for each in dict.fromkeys(more) if each not in FORMATS and each != "text"]
    return click.option(
        "-o",
        "--output",
        type=Format((*FORMATS, *own)),
        default="table" if default == "text" else default,
        show_default=default is not None,
        help=help_,
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


def room() -> int | None:
    """How many columns the terminal has that data goes to; None if it goes elsewhere."""
    out = stdout()
    if not out.isatty():
        return None
    from crewkeeper_supervisor.views.tables import new_console

    return new_console(out).width


def say(text: str) -> None:
    """Tell the user something that is not data; not after --quiet."""
    if not os.environ.get("CREWKEEPER_QUIET"):
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


class Rows:
    """Writes items of data one by one: at once, except where the format is one document.

    Args:
        output: `json`, `jsonl`, `yaml` or `name`.
        name: The name of an item; without, what `names_of` finds.
    """

    def __init__(self, output: str, name: Callable[[Any], str] | None = None) -> None:
        self._output = output
        self._name = name
        self._kept: list[Any] = []

    def put(self, row: Any) -> None:
        """Take the next item."""
        match self._output:
            case "jsonl":
                write_json_line(row)
            case "name":
                for name in names_of(row) if self._name is None else (self._name(row),):
                    write(safe_name(name))
            case _:
                self._kept.append(row)

    def end(self) -> None:
        """Write what is one document."""
        if self._output in ("json", "yaml"):
            from crewkeeper_supervisor.views.snapshot import Listing

            (write_json if self._output == "json" else write_yaml)(Listing(items=self._kept))


def safe_name(name: str) -> str:
    """A name as one line without blanks around it, harmless to a terminal."""
    from crewkeeper_supervisor.views.wording import safe

    return safe(name, None)


_NAMING: Final = ("name", "id", "token", "file", "path", "agent", "request", "run", "crew", "endpoint", "crewkeeper")


def names_of(value: Any) -> list[str]:
    """What other commands know a thing by: its own name, else the names of the things in it.

    Raises:
        Failure: Nothing in it has a name.
    """
    found = _names(msgspec.to_builtins(value))
    if not found:
        from crewkeeper_supervisor.cli.failure import USAGE, Failure

        raise Failure("what is shown has no name", code=USAGE, remedy="-o json")
    return found


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [name for each in value for name in _names(each)]
    if not isinstance(value, dict):
        return []
    for key in _NAMING:
        if isinstance(value.get(key), str) and value[key]:
            return [value[key]]
    inner = [each for each in value.values() if isinstance(each, list | tuple)]
    return next((names for each in inner if (names := _names([one for one in each if isinstance(one, dict)]))), [])


def emit_rows(
    rows: Sequence[Any],
    output: str,
    *,
    table: "Callable[[bool], Table]",
    name: Callable[[Any], str] | None = None,
) -> None:
    """Write a list in the format asked for.

    Args:
        rows: The items.
        output: One of `FORMATS`.
        table: Makes the table, wide or not.
        name: The name of an item; without, what `names_of` finds.
    """
    if output in ("table", "wide"):
        emit_table(table(output == "wide"))
        return
    written = Rows(output, name)
    for row in rows:
        written.put(row)
    written.end()


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
        case "name":
            for name in names_of(value):
                write(safe_name(name))
        case _:
            for line in text():
                write(line)


def emit_document(
    value: Any,
    output: str,
    text: Callable[[], Sequence[str]],
    *,
    table: "Callable[[bool], Table] | None" = None,
    name: str | None = None,
) -> None:
    """Write one thing: as data, or for people.

    Args:
        value: The thing.
        output: One of `FORMATS`.
        text: Makes the lines for people.
        table: Makes a table for people instead, wide or not.
        name: Its name; without, what `names_of` finds.
    """
    match output:
        case "json":
            write_json(value)
        case "jsonl":
            write_json_line(value)
        case "yaml":
            write_yaml(value)
        case "name":
            for each in names_of(value) if name is None else [name]:
                write(safe_name(each))
        case _ if table is not None:
            emit_table(table(output == "wide"))
        case _:
            for line in text():
                write(line)
