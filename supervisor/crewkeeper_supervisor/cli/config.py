"""`supervisor config`: which settings are in force here, and where each comes from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from crewkeeper_supervisor.cli.output import emit_rows, output_option
from crewkeeper_supervisor.cli.place_options import place_options

if TYPE_CHECKING:
    from crewkeeper_supervisor.views.tables import Table


class Setting(Struct, frozen=True, kw_only=True):
    """One setting as it is in force; never a secret."""

    name: str
    value: str
    source: str
    """The option, variable or file that it comes from; `default` where nothing sets it."""
    overrides: tuple[str, ...] = ()
    """What would set it too, and is not listened to."""


@click.group()
def config() -> None:
    """Show which settings are in force here, and where each comes from."""


@config.command()
@click.option("--sources", is_flag=True, help="Also where each comes from, and what it goes before.")
@output_option()
@place_options
def view(sources: bool, output: str, state: Path | None, nats: str | None) -> None:
    """Show the settings in force here; nothing is connected to."""
    rows = settings(state, nats)
    emit_rows(rows, output, table=lambda wide: _table(rows, wide=wide or sources))


def _table(rows: list[Setting], *, wide: bool) -> "Table":
    from crewkeeper_supervisor.views.tables import build_table
    from crewkeeper_supervisor.views.wording import safe

    heads = (("SETTING", False), ("VALUE", False), ("SOURCE", True), ("GOES BEFORE", True))
    cells = [(row.name, safe(row.value), safe(row.source), safe(", ".join(row.overrides))) for row in rows]
    return build_table(heads, cells, wide=wide, empty="")


_PLAIN: Final[tuple[tuple[str, str, str, Callable[[str], str]], ...]] = (
    ("replicas", "CREWKEEPER_REPLICAS", "1", str),
    ("colors", "NO_COLOR", "as the terminal", lambda value: "none" if value else "as the terminal"),
    ("quiet", "CREWKEEPER_QUIET", "no", lambda value: "yes" if value else "no"),
    ("input", "CREWKEEPER_NO_INPUT", "as the terminal", lambda value: "never asked" if value else "as the terminal"),
    ("tracebacks", "CREWKEEPER_DEBUG", "no", lambda value: "yes" if value else "no"),
)
"""Settings that one variable sets: name, variable, default, how its value is told."""


def settings(state: Path | None, nats: str | None) -> list[Setting]:
    """Every setting, as commands that look at runs find it.

    Args:
        state: State directory, if given.
        nats: Server address, if given.
    """
    from crewkeeper_supervisor.shell import contexts

    found = [*_server(state, nats), _state(state)]
    for name, variable, default, told in _PLAIN:
        value = os.environ.get(variable, "")
        found.append(
            Setting(name=name, value=told(value) if value else default, source=variable if value else "default")
        )
    return [*found, Setting(name="contexts", value=str(contexts.folder()), source=_config_source())]


def _config_source() -> str:
    return "XDG_CONFIG_HOME" if os.environ.get("XDG_CONFIG_HOME") else "default"


def _state(state: Path | None) -> Setting:
    from crewkeeper_supervisor.shell.place import state_dir

    named = os.environ.get("CREWKEEPER_STATE", "")
    source = "--state" if state is not None else "CREWKEEPER_STATE" if named else "nearest .crewkeeper/"
    if source.startswith("nearest") and not state_dir(state).is_dir():
        source = "default"
    return Setting(
        name="state",
        value=str(state_dir(state)),
        source=source,
        overrides=("CREWKEEPER_STATE",) if state is not None and named else (),
    )


def _server(state: Path | None, nats: str | None) -> list[Setting]:
    from crewkeeper_bus.errors import BusError
    from crewkeeper_supervisor.shell import contexts
    from crewkeeper_supervisor.shell.errors import ShellError
    from crewkeeper_supervisor.shell.place import SERVER_FILE, Place, state_dir

    file = state_dir(state) / SERVER_FILE
    named_state = state is not None or bool(os.environ.get("CREWKEEPER_STATE")) or state_dir(state).is_dir()
    ways = [
        ("--nats", bool(nats)),
        (f"--context {contexts.chosen.get()}", bool(contexts.chosen.get())),
        ("CREWKEEPER_NATS_URL", bool(os.environ.get("CREWKEEPER_NATS_URL"))),
        (str(file), file.is_file()),
        (f"context {contexts.in_use()} (in use)", bool(contexts.in_use()) and not named_state),
    ]
    known = [way for way, is_there in ways if is_there]
    try:
        place = Place.find(state, nats)
    except (ShellError, BusError) as error:
        why = str(error).partition(";")[0]
        return [Setting(name="server", value=f"none: {why}", source=known[0] if known else "default")]
    source = known[0]
    others = tuple(way for way in known if way != source)
    login = place.user or ("a key" if place.seed else "nobody")
    return [
        Setting(name="server", value=place.url, source=source, overrides=others),
        Setting(name="login", value=login, source=source),
    ]
