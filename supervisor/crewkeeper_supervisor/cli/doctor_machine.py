"""Doctor's checks of this machine: the state directory, what is secret in it, room on its disk, open files.

What is looked at here decides whether a server and a controller that start here can work, and whom they trust.
"""

import os
import resource
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crewkeeper_supervisor.cli.doctor_check import Check

FILES_WARN: Final = 1024
"""Open files: one for each connection, a few for each stream; a server with a crew or two needs some hundreds."""
FILES_FAIL: Final = 256
ROOM_WARN_BYTES: Final = 2 * 1024**3
ROOM_FAIL_BYTES: Final = 256 * 1024**2
"""With less than this an embedded server may take no more entries within minutes."""
LOOKED_AT_MAX: Final = 5000
"""Files of a state directory that are looked at."""
_SECRET_FOLDERS: Final = ("keys", "credentials")
_SECRET_FILES: Final = ("server.json", "nats-server.conf", "_tools.json")
_NOT_LOOKED_INTO: Final = ("store", "logs")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def machine_checks(state: Path) -> list[Check]:
    """All of them; those of a state directory only where there is one.

    Args:
        state: The state directory.
    """
    checks = [open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
    if not state.is_dir():
        return checks
    return [*checks, directory(state), private_files(state), room(state, shutil.disk_usage(state).free)]


def open_files(soft: int) -> Check:
    """Whether enough files may be open at a time, for what is started from this shell.

    Args:
        soft: The limit; negative: none.
    """
    if soft < 0 or soft >= FILES_WARN:
        text = "no limit" if soft < 0 else f"{soft:,} may be open at a time"
        return Check(name="open files", grade="ok", text=text)
    return Check(
        name="open files",
        grade="fail" if soft < FILES_FAIL else "warn",
        text=f"only {soft:,} may be open at a time, {FILES_WARN:,} are wanted: each agent, stream and log takes some",
        fix="ulimit -n $(ulimit -Hn)  # in the shell that starts it; LimitNOFILE= in a unit",
    )


def directory(state: Path) -> Check:
    """Whether the state directory is ours, can be written, and cannot be by others."""
    found, quoted = state.stat(), shlex.quote(str(state))
    if found.st_uid != os.geteuid():
        text = f"{state} belongs to another user (id {found.st_uid}): keys and journals in it are theirs"
        fix = f"sudo chown -R $(id -u) {quoted}  # or run as that user"
        return Check(name="state", grade="fail", text=text, fix=fix)
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        text = f"{state} cannot be written: nothing can be started there"
        return Check(name="state", grade="fail", text=text, fix=f"chmod u+rwx {quoted}")
    if found.st_mode & _OTHERS_WRITE:
        text = f"{state} can be written by others: they can put other keys and pins there"
        return Check(name="state", grade="fail", text=text, fix=f"chmod 700 {quoted}")
    if found.st_mode & _OTHERS:
        text = f"{state} can be looked into by others"
        return Check(name="state", grade="warn", text=text, fix=f"chmod 700 {quoted}")
    return Check(name="state", grade="ok", text=f"{state}, for its owner alone")


def private_files(state: Path) -> Check:
    """Whether files with keys, tokens and secrets of tools can be read by their owner alone."""
    from crewkeeper_supervisor.views.wording import counted

    modes = {str(path.relative_to(state)): mode for path in _secret_files(state) if (mode := _mode(path)) is not None}
    loose = [name for name, mode in modes.items() if mode & _OTHERS]
    if not loose:
        text = f"{counted(len(modes), 'file')} with keys and tokens, for their owner alone"
        return Check(name="secrets", grade="ok", text=text)
    more = f" and {len(loose) - 3} more" if len(loose) > 3 else ""
    return Check(
        name="secrets",
        # Behind a directory that nobody else enters it harms nobody yet.
        grade="fail" if state.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) else "warn",
        text=f"others may read {', '.join(sorted(loose)[:3])}{more}",
        fix=f"chmod -R go-rwx {shlex.quote(str(state))}",
    )


def _secret_files(state: Path) -> Iterator[Path]:
    """Files that hold secrets, of the first few thousand of a state directory; what belongs to others is left out."""
    left = LOOKED_AT_MAX
    for folder, folders, files in os.walk(state, onerror=None):
        folders[:] = [name for name in folders if name not in _NOT_LOOKED_INTO]
        for name in files:
            left -= 1
            if left < 0:
                return
            if name in _SECRET_FILES or Path(folder).name in _SECRET_FOLDERS:
                yield Path(folder) / name


def _mode(path: Path) -> int | None:
    """Who may do what with a file; None if it is none, or gone by now."""
    try:
        found = path.lstat().st_mode
    except OSError:
        return None
    return stat.S_IMODE(found) if stat.S_ISREG(found) else None


def room(state: Path, free_bytes: int) -> Check:
    """Whether there is room on the disk of the state directory, where an embedded server stores and logs are written.

    Args:
        state: The state directory.
        free_bytes: What is free there.
    """
    said = f"{free_bytes / 1024**3:.1f} GiB free for {state}"
    if free_bytes >= ROOM_WARN_BYTES:
        return Check(name="disk", grade="ok", text=said)
    return Check(
        name="disk",
        grade="fail" if free_bytes < ROOM_FAIL_BYTES else "warn",
        text=f"only {said}: a server that cannot store takes no entry and no decision",
        fix=f"du -xh {shlex.quote(str(state))} | sort -h | tail  # shows what to move or remove",
    )
