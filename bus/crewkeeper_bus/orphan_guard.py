"""Orphan guard: child processes that cannot outlive the process that started them, however that one ends.

Theory of operation. One watcher process per starting process reads a pipe whose only other end is here. The kernel
closes that end when this process ends by any means, SIGKILL included; the watcher then kills every process group it
was told of, and goes. A child is born waiting: a two-line shell reads one line and only then becomes the program, with
the same pid. The line is sent once the watcher has confirmed the child's group, so there is no moment at which a child
runs unguarded; if this process dies before, the child reads end-of-file and ends.

Why not PR_SET_PDEATHSIG: it exists on Linux only, is tied to the thread that forked, needs code between fork and exec,
and reaches one process instead of a group. The pipe does the same on Linux and macOS.

Limits: a descendant that makes a session of its own escapes, and so does everything if the watcher is killed and this
process dies before it starts another child. A process forked from here without exec keeps the pipe open.

The file also is the watcher's program; it imports nothing of the package, so that the watcher starts fast.
"""

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anyio.abc import Process

CONFIRM_S: Final = 30.0
"""How long the watcher may take to start and to confirm."""
_BORN_WAITING: Final = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh")
_BORN_LISTENING: Final = ("/bin/sh", "-c", 'read -r _ && exec "$@"', "sh")
"""As above, but the program keeps the pipe that the first line came through: the shell reads nothing beyond it."""


class GuardError(OSError):
    """The watcher does not start or does not answer."""


class _Watcher:
    """This process's side of the watcher; made anew if the watcher is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0

    def add(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            if self._process is None or self._owner_pid != os.getpid() or self._process.poll() is not None:
                self._start()
                return
            try:
                self._tell(f"+{group}\n")
            except OSError:
                self._start()

    def remove(self, group: int) -> None:
        with self._lock:
            self._groups.discard(group)
            if self._process is not None and self._owner_pid == os.getpid():
                with contextlib.suppress(OSError):  # gone: the next one starts without the group
                    self._tell(f"-{group}\n")

    def leave(self) -> None:
        """Let the watcher end, as it does by itself a moment later: nothing of it is left to be complained of."""
        if self._owner_pid != os.getpid():  # a fork may have inherited the lock, taken for ever
            return
        with self._lock:
            process = self._process
            if process is None:
                return
            self._discard()
            if process.returncode is None:
                process.returncode = 0  # it is not waited for: it ends after what is left of its groups

    def _start(self) -> None:
        if self._owner_pid != os.getpid():  # a fork inherited the state, but not the children
            self._groups = {group for group in self._groups if self._owner_pid == 0}
        self._owner_pid = os.getpid()
        self._discard()
        self._process = subprocess.Popen(
            (sys.executable, "-I", "-S", __file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )
        for group in sorted(self._groups):
            self._tell(f"+{group}\n")

    def _discard(self) -> None:
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.poll()
        self._process = None

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode())
        ready, _, _ = select.select([self._process.stdout], [], [], CONFIRM_S)
        if not ready or not self._process.stdout.read(1):
            raise GuardError(f"the watcher of child processes did not confirm within {CONFIRM_S} s: start again")


_WATCHER: Final = _Watcher()
atexit.register(_WATCHER.leave)


def popen_guarded(args: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program in a session and process group of its own that ends when this process does.

    Args:
        args: Program and arguments; found on PATH as the shell does.
        **options: As `subprocess.Popen`, but for `stdin` (always /dev/null) and `start_new_session`.

    Returns:
        The process; its pid is the program's and the group's. Call `release` when its group has ended.

    Raises:
        OSError: It cannot be started. A program that does not exist exits with status 127 instead.
    """
    with _gate() as (gate, opener):
        process = subprocess.Popen((*_BORN_WAITING, *args), **options, stdin=gate, start_new_session=True)
        try:
            _admit(process.pid, opener)
        except OSError:
            process.wait()
            raise
    return process


async def open_guarded(args: Sequence[str], **options: Any) -> "Process":
    """As `popen_guarded`, for the event loop: an `anyio.abc.Process` to wait for.

    Args:
        args: Program and arguments.
        **options: As `anyio.open_process`, but for `stdin` and `start_new_session`.

    Raises:
        OSError: It cannot be started.
    """
    import anyio

    with _gate() as (gate, opener):
        process = await anyio.open_process((*_BORN_WAITING, *args), **options, stdin=gate, start_new_session=True)
        _admit(process.pid, opener)
    return process


async def open_guarded_talking(args: Sequence[str], **options: Any) -> "Process":
    """As `open_guarded`, with a pipe to the program's stdin, for programs that are talked to.

    Args:
        args: Program and arguments.
        **options: As `anyio.open_process`, but for `stdin` and `start_new_session`.

    Raises:
        OSError: It cannot be started.
    """
    import anyio

    process = await anyio.open_process(
        (*_BORN_LISTENING, *args), **options, stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    try:
        _WATCHER.add(process.pid)
        await process.stdin.send(b"\n")
    except (OSError, anyio.BrokenResourceError) as error:
        kill_group(process.pid, signal.SIGKILL)
        release(process.pid)
        raise OSError(f"{args[0]} ended before it began") from error
    return process


@contextlib.contextmanager
def _gate() -> Iterator[tuple[int, int]]:
    """A pipe that a child waits at: its end for the child, the end to open it with."""
    gate, opener = os.pipe()
    try:
        yield gate, opener
    finally:
        os.close(gate)
        os.close(opener)


def _admit(group: int, opener: int) -> None:
    """Have the group guarded, then let it begin."""
    try:
        _WATCHER.add(group)
        os.write(opener, b"\n")
    except OSError:
        kill_group(group, signal.SIGKILL)
        release(group)
        raise


def kill_group(group: int, signal_number: int) -> bool:
    """Send a signal to every process of a group; whether there was one to receive it."""
    try:
        os.killpg(group, signal_number)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM when only zombies are left
        return False
    return True


def release(group: int) -> None:
    """Guard this group no longer: it has ended, and its number may come to mean another."""
    _WATCHER.remove(group)


def _watch() -> None:
    """The watcher's program: keep the list of groups until the pipe ends, then kill them all."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        change, group = line[:1], int(line[1:])
        if change == b"+":
            groups.add(group)
        else:
            groups.discard(group)
        os.write(1, b".")
    for _ in range(3):  # again, for what was forked while the first signals were sent
        for group in groups:
            kill_group(group, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    _watch()
