"""`supervisor demo`: the example crew from start to end: it deadlocks, is freed, a person is told, its work gets done.

Nothing here is staged: the crew is started as `supervisor up` starts it, and the webhook receiver is a process of its
own that knows only its address and secret. What is said about it stands in `demo_story`.
"""

import base64
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from crewkeeper_supervisor.cli.failure import FAILED, INTERRUPTED, USAGE, Failure

if TYPE_CHECKING:
    from anyio.abc import Process

    from crewkeeper_supervisor.cli.demo_story import Narrator
    from crewkeeper_supervisor.core.crew import Crew
    from crewkeeper_supervisor.shell.nats_link import Link

LIMIT_S: Final = 180.0
"""The demo takes a few seconds; past this something is wrong, and it is stopped."""
READY_LIMIT_S: Final = 60.0
POLL_S: Final = 0.05
LAST_WORDS_S: Final = 15.0
NOTICE_MAX_BYTES: Final = 128 * 1024


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="New or empty folder to work in; default: a new one for temporary files.",
)
@click.pass_context
def demo(ctx: click.Context, directory: Path | None) -> None:
    """Watch a small crew deadlock, be freed, and finish its work.

    Exits with 1 if the crew did not finish, no deadlock was found, or the webhook's signature was not right.
    """
    place = prepare(directory)
    # The demo brings its own server, whatever this shell is set up for.
    for name in ("CREWKEEPER_NATS_URL", "CREWKEEPER_STATE"):
        os.environ.pop(name, None)
    ctx.exit(anyio.run(_demo, place))


def example() -> Path:
    """The folder of the example crew: in an installed wheel, else in the repository.

    Raises:
        Failure: It is in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "examples" / "trip", package.parents[1] / "examples" / "trip"):
        if (folder / "crew.yaml").is_file():
            return folder
    raise Failure("the example crew is not part of this installation", remedy="pip install 'crewkeeper[supervisor]'")


def prepare(directory: Path | None) -> Path:
    """Copy the example crew into a folder of its own; returns it.

    Raises:
        Failure: The folder is not empty.
    """
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="crewkeeper-demo-"))
    elif directory.is_dir() and any(directory.iterdir()):
        raise Failure(f"{directory} is not empty", code=USAGE, remedy="name a new folder, or leave --dir out")
    ignored = shutil.ignore_patterns("out", "__pycache__", ".*")
    shutil.copytree(example(), directory, ignore=ignored, dirs_exist_ok=True)
    return directory.resolve()


async def _demo(place: Path) -> int:
    from crewkeeper_supervisor.cli.demo_story import Narrator
    from crewkeeper_supervisor.cli.output import stdout, use_color
    from crewkeeper_supervisor.shell.crewfile import read

    crew = read(place / "crew.yaml").crew
    narrator = Narrator(crew, place, stdout(), color=use_color())
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    async with _receiver(place, secret, narrator) as url:
        interrupted = await _run(crew, place, {"OPS_WEBHOOK": url, "OPS_WEBHOOK_SECRET": secret}, narrator)
        if interrupted:
            return INTERRUPTED
        with anyio.move_on_after(LAST_WORDS_S):
            # The receiver's print may reach us a moment after the sender had its answer.
            await narrator.noticed.wait()
    problems = narrator.end()
    for problem in problems:
        narrator.problem(problem)
    return FAILED if problems else 0


async def _run(crew: "Crew", place: Path, webhook: dict[str, str], narrator: "Narrator") -> bool:
    """Host the crew until its run is over; returns whether a signal ended it."""
    from crewkeeper_supervisor.cli.output import say
    from crewkeeper_supervisor.shell.ground import open_ground
    from crewkeeper_supervisor.shell.host import Host
    from crewkeeper_supervisor.shell.nats_link import connect

    state = place / ".crewkeeper"
    async with open_ground(state, None) as ground, connect(ground.place, name="supervisor demo") as link:
        host = Host(ground, link, tell=say, inherited=dict(os.environ) | webhook)
        run = (await host.declare([crew]))[0].run
        narrator.begin(run)
        async with anyio.create_task_group() as tasks:
            told = anyio.Event()

            async def tell() -> None:
                await _tell(link, run, narrator)
                told.set()

            async def limit() -> None:
                await anyio.sleep(LIMIT_S)
                host.stop(f"the demo did not end within {LIMIT_S:g} s")

            tasks.start_soon(tell)
            tasks.start_soon(limit)
            await host.serve()
            with anyio.move_on_after(LAST_WORDS_S):
                await told.wait()
            tasks.cancel_scope.cancel()
        return host.interrupted


async def _tell(link: "Link", run: str, narrator: "Narrator") -> None:
    from crewkeeper_supervisor.shell import journal

    async with journal.follow(link, run) as entries:
        while not narrator.story.fold.ended:
            for entry in await entries.batch():
                narrator.feed(entry)


@contextlib.asynccontextmanager
async def _receiver(place: Path, secret: str, narrator: "Narrator") -> AsyncIterator[str]:
    """Start the webhook receiver as a process; yields its address, and collects what it reports."""
    import subprocess

    from crewkeeper_bus.orphan_guard import open_guarded, release

    ready = place / ".receiver"
    process = await open_guarded(
        [sys.executable, "-m", "crewkeeper_supervisor.shell.receiver", "--json", "--ready-file", str(ready)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ) | {"OPS_WEBHOOK_SECRET": secret},
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_collect, process, narrator)
            yield await _address(process, ready)
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(LAST_WORDS_S):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await process.aclose()
        release(process.pid)
        ready.unlink(missing_ok=True)


async def _address(process: "Process", ready: Path) -> str:
    with anyio.move_on_after(READY_LIMIT_S):
        while process.returncode is None:
            if await anyio.Path(ready).is_file():
                return await anyio.Path(ready).read_text()
            await anyio.sleep(POLL_S)
    raise Failure(f"the webhook receiver did not start within {READY_LIMIT_S:g} s")


async def _collect(process: "Process", narrator: "Narrator") -> None:
    import msgspec
    from anyio.streams.buffered import BufferedByteReceiveStream

    from crewkeeper_supervisor.shell.receiver import Received

    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    with contextlib.suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
        while True:
            line = await lines.receive_until(b"\n", NOTICE_MAX_BYTES)
            narrator.notice(msgspec.json.decode(line, type=Received))
