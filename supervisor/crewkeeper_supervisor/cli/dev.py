"""`supervisor dev`: run crews while they are written: started again whenever their files change."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.failure import INTERRUPTED, USAGE, Failure, unwrap
from crewkeeper_supervisor.cli.output import is_live, say, stdout

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.crew import Crew
    from crewkeeper_supervisor.shell.ground import Ground
    from crewkeeper_supervisor.shell.nats_link import Link

DEFAULT: Final = Path("crew.yaml")
SHOWN: Final = 3


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[CREW...]")
@click.option("--plain/--live", "plain", default=None, help="Lines of events, or a live view; default: by terminal.")
@click.option(
    "--also",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="A file, or a folder with Python code, whose changes count too (repeatable).",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep what is recorded there; default: a temporary folder, gone at the end.",
)
def dev(files: tuple[Path, ...], plain: bool | None, also: tuple[Path, ...], state: Path | None) -> int:
    """Run crews while you write them: started again when their files change.

    CREW is crew.yaml where none is given. Starts what `supervisor up` starts, on one server that stays; what is
    recorded is gone at the end, unless --state keeps it. Changes of the crew files count, of Python code in their
    folders, and of files that their commands name; the agents are then stopped in order. With a mistake in a crew file
    nothing runs until it is mended.

    Exit status: 130 interrupted, as it always ends so.
    """
    chosen = files or (DEFAULT,)
    if not files and not DEFAULT.is_file():
        raise Failure("there is no crew.yaml here, and no crew file is named", code=USAGE, remedy="supervisor init")
    live = is_live(stdout()) if plain is None else not plain
    if state is not None:
        return anyio.run(_dev, chosen, also, live, state)
    with tempfile.TemporaryDirectory(prefix="crewkeeper-dev-", ignore_cleanup_errors=True) as folder:
        return anyio.run(_dev, chosen, also, live, Path(folder) / ".crewkeeper")


async def _dev(files: tuple[Path, ...], also: tuple[Path, ...], live: bool, state: Path) -> int:
    from crewkeeper_bus.errors import BusError
    from crewkeeper_supervisor.cli.up import load
    from crewkeeper_supervisor.shell import file_changes
    from crewkeeper_supervisor.shell.errors import ShellError
    from crewkeeper_supervisor.shell.ground import open_ground
    from crewkeeper_supervisor.shell.nats_link import connect

    crews: list[Crew] = []
    is_first = True
    os.environ.pop("CREWKEEPER_NATS_URL", None)  # this is about a server of its own
    async with open_ground(state, None) as ground, connect(ground.place, name="supervisor dev") as link:
        while True:
            paths = file_changes.files_of(crews, files, also)
            before = file_changes.look(paths)
            try:
                crews = load(files)
                paths = file_changes.files_of(crews, files, also)
                before = file_changes.look(paths) | before  # also what was changed while it was read
                if await _cycle(ground, link, crews, _Watched(paths, before), live=live, is_first=is_first):
                    return INTERRUPTED
                is_first = False
            except (Failure, ShellError, BusError, ExceptionGroup) as error:
                first = unwrap(error)
                if not isinstance(first, Failure | ShellError | BusError):
                    raise
                say(f"error: {first}")
            why = await _Watched(paths, before).wait()
            if not why:
                return INTERRUPTED
            say(f"{why}: starting again")


class _Watched:
    """Files, as they were when what runs was started."""

    def __init__(self, paths: list[Path], before: "dict[Path, tuple[int, int]]") -> None:
        self._paths = paths
        self._before = before

    async def changed(self) -> str:
        """Wait for a change; returns what to call it."""
        from crewkeeper_supervisor.shell.file_changes import changed

        found = [path.name for path in await changed(self._paths, self._before)]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"{', '.join(found[:SHOWN])}{more} changed"

    async def wait(self) -> str:
        """Wait for a change while nothing runs; returns what to call it, empty if a signal came first."""
        from crewkeeper_supervisor.shell.file_changes import look
        from crewkeeper_supervisor.shell.signals import heed_signals

        why = ""
        async with anyio.create_task_group() as tasks:

            def stop(_name: str) -> None:
                tasks.cancel_scope.cancel()

            await tasks.start(heed_signals, stop, lambda: None, say)
            if look(self._paths) == self._before:
                say("waiting for a change; Ctrl-C ends")
            why = await self.changed()
            tasks.cancel_scope.cancel()
        return why


async def _cycle(
    ground: "Ground", link: "Link", crews: "list[Crew]", watched: _Watched, *, live: bool, is_first: bool
) -> bool:
    """Run the crews until they are done or their files change; returns whether a signal ended them."""
    from crewkeeper_supervisor.cli.up import introduce, name_runs, run_shown, summary
    from crewkeeper_supervisor.shell import approval_hosting
    from crewkeeper_supervisor.shell.host import Host

    host = Host(ground, link, tell=say)
    async with approval_hosting.serving(crews, ground, os.environ, say):
        runs = await host.declare(crews)
        if is_first:
            introduce(ground, runs)
        else:
            name_runs(runs)
        async with anyio.create_task_group() as tasks:

            async def restart() -> None:
                why = await watched.changed()
                say(f"{why}: stopping what runs")
                host.stop(why)

            tasks.start_soon(restart)
            results = await run_shown(host, ground, live)
            tasks.cancel_scope.cancel()
    for result in results:
        say(summary(result, None))
    return host.interrupted
