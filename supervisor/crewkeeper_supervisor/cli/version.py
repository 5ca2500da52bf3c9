"""`supervisor version`: what is in use, for a report or a script."""

import importlib.metadata
import platform
import sys

import click
from msgspec import Struct

from crewkeeper_supervisor.cli.output import emit_document, output_option

PACKAGES = ("nats-py", "msgspec", "anyio", "structlog", "networkx", "click", "rich", "httpx2", "standardwebhooks")


class Versions(Struct, frozen=True, kw_only=True):
    """Versions in use; `-` where something is not installed."""

    crewkeeper: str
    python: str
    platform: str
    nats_server: str
    packages: dict[str, str]
    schema_version: int = 1


def version_of(package: str) -> str:
    """The version of an installed package; `-` where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def versions() -> Versions:
    """Look them up; runs `nats-server --version`."""
    from crewkeeper_bus.errors import ServerError
    from crewkeeper_bus.server import check_version, find_binary

    try:
        server = ".".join(str(part) for part in check_version(find_binary()))
    except ServerError:
        server = "-"
    return Versions(
        crewkeeper=version_of("crewkeeper"),
        python=platform.python_version(),
        platform=f"{sys.platform} {platform.machine()}",
        nats_server=server,
        packages={name: version_of(name) for name in PACKAGES},
    )


@click.command()
@output_option()
def version(output: str) -> None:
    """Print the versions in use."""
    found = versions()
    emit_document(
        found,
        output,
        lambda: [
            f"crewkeeper {found.crewkeeper}",
            f"nats-server {found.nats_server}, Python {found.python}, {found.platform}",
        ],
        name=f"crewkeeper-{found.crewkeeper}",
    )
