"""Crews run for real by `supervisor up`, for the tests of this folder."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio

from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry, RunInfo
from support.bus import LIMIT_S, until


@asynccontextmanager
async def up(
    tmp_path: Path, crew: dict[str, Any] | None, *options: str
) -> AsyncIterator[tuple[Path, anyio.abc.Process]]:
    """`supervisor up` of this crew, or of the `crew.yaml` that is there; its process is stopped at the end.

    Yields:
        Its state directory, once the server is up, and its process.
    """
    state, file = tmp_path / "state", tmp_path / "crew.yaml"
    if crew is not None:
        file.write_text(json.dumps(crew))
    command = [
        sys.executable,
        "-m",
        "crewkeeper_supervisor.cli.main",
        "up",
        "--plain",
        "--state",
        str(state),
        *options,
        str(file),
    ]
    with (tmp_path / "up.log").open("wb") as log:
        process = await anyio.open_process(command, stdout=log, stderr=log, stdin=DEVNULL)
    try:
        await until(lambda: (state / "server.json").exists(), "the server is up")
        yield state, process
    finally:
        if process.returncode is None:
            process.terminate()
        with anyio.fail_after(LIMIT_S, shield=True):
            await process.wait()


async def the_run(link: Link) -> RunInfo:
    """The one run there is, as soon as it is registered."""
    registry = Registry(link)

    async def listed() -> list[RunInfo]:
        with contextlib.suppress(StoreUnavailable):  # the host is still creating the bucket
            await registry.open()
            return await registry.ls()
        return []

    [info] = await until(listed, "the run is declared")
    return info
