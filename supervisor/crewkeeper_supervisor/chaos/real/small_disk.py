"""Small disk: a file system of a few megabytes for the server's store, which the runner can fill up and free again.

It is a tmpfs in a namespace of its own, which takes no root where the system lets users have namespaces. A process
keeps the namespace, so that the store outlives the server; when that process ends, nothing is left anywhere.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import anyio

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release

SIZE_BYTES: Final = 48 * 1024 * 1024
MOUNT_S: Final = 10.0
POLL_S: Final = 0.02
END_S: Final = 10.0
_SPACE: Final = ("unshare", "--user", "--map-root-user", "--mount")


class SmallDisk:
    """One file system.

    Args:
        directory: Where its files are seen by processes that are started with `inside`; made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Its path, for processes inside."""
        return self._directory

    @property
    def pid(self) -> int:
        """The process that keeps it; 0 unless it is mounted."""
        return self._keeper.pid if self._keeper is not None else 0

    async def mount(self) -> None:
        """Make it, unless it is there.

        Raises:
            TimeoutError: It could not be mounted.
        """
        if self._keeper is not None:
            return
        self._directory.mkdir(mode=0o700, parents=True)
        script = 'mount -t tmpfs -o "size=$2,mode=0700" tmpfs "$1" && touch "$1/mounted" && exec sleep infinity'
        self._keeper = popen_guarded([*_SPACE, "sh", "-c", script, "sh", str(self._directory), str(SIZE_BYTES)])
        with anyio.fail_after(MOUNT_S):
            while not (self._seen / "mounted").exists():  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(POLL_S)

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs a program where the disk is seen."""
        return ["nsenter", "--target", str(self.pid), "--user", "--preserve-credentials", "--mount", "--", *command]

    def fill(self) -> None:
        """Take all the space that is left."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        at, piece = 0, SIZE_BYTES
        try:
            while piece >= 4096:
                try:
                    os.posix_fallocate(descriptor, at, piece)
                    at += piece
                except OSError:
                    piece //= 2
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """End it; its files are gone."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            kill_group(keeper.pid, signal.SIGKILL)
            keeper.wait(END_S)
            release(keeper.pid)

    @property
    def _seen(self) -> Path:
        """Its directory, seen from outside."""
        return Path(f"/proc/{self.pid}/root{self._directory}")

    @property
    def _ballast(self) -> Path:
        return self._seen / "ballast"


@cache
def missing() -> str:
    """What this machine lacks for small disks, in words; empty if nothing."""
    for program in ("unshare", "nsenter", "mount"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    trial = subprocess.run(
        [*_SPACE, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tempfile.gettempdir()],
        capture_output=True,
        text=True,
        timeout=MOUNT_S,
        check=False,
    )
    return f"no file system may be mounted in a namespace: {trial.stderr.strip()[:200]}" if trial.returncode else ""
