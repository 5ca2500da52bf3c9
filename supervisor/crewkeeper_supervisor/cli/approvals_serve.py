"""`supervisor approvals serve` and `token`: the server behind approval links, and the key for other systems."""

from pathlib import Path

import anyio
import click

from crewkeeper_supervisor.cli.failure import FAILED, Failure
from crewkeeper_supervisor.cli.output import say, write
from crewkeeper_supervisor.cli.place_options import place_options


@click.command()
@click.option(
    "--listen", default="127.0.0.1:8790", show_default=True, metavar="HOST:PORT", help="Where; port 0: a free one."
)
@click.option("--url", default="", metavar="URL", help="Address that people use, where it is another: a proxy's.")
@place_options
def serve(listen: str, url: str, state: Path | None, nats: str | None) -> None:
    """Serve the forms behind links to approve and to act, and what other systems decide and acknowledge.

    `supervisor up` starts one by itself for a crew file with `approvals.listen`. It ends on SIGINT and SIGTERM.
    """
    from crewkeeper_supervisor.shell import approval_server
    from crewkeeper_supervisor.shell.place import Place

    place = Place.find(state, nats)

    def ready(address: str, alone: bool) -> None:
        say(f"approvals {address}")
        if not alone:
            say("warning: other machines can reach this without TLS, and links are as good as passwords: use a proxy")

    try:
        anyio.run(approval_server.serve, place, listen, url, ready)
    except OSError as error:
        raise Failure(f"cannot listen on {listen}: {error.strerror or error}", code=FAILED) from None


@click.command()
@place_options
def token(state: Path | None, nats: str | None) -> None:
    """Print the bearer token with which other systems decide and acknowledge over HTTP. Keep it secret."""
    from crewkeeper_supervisor.shell.approval_links import approval_keys
    from crewkeeper_supervisor.shell.place import state_dir

    write(approval_keys(state_dir(state)).callback)
