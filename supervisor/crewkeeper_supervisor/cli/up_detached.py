"""`supervisor up --detach`: the same in the background, in a session of its own; it returns once its runs are declared.

What the process in the background says until then is shown here, so that whatever keeps it from starting is read
where it was started; from then on it writes into a log. What it says goes through a file: its own children inherit
that, and whoever reads this command's output must not wait for them.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from crewkeeper_supervisor.cli.failure import FAILED
from crewkeeper_supervisor.cli.output import say, write

LOG: Final = "up.log"


def detach(files: Sequence[Path], options: Iterable[str], state: Path | None, nats: str | None) -> int:
    """Start `supervisor up` with these options in the background, and write the ids of its runs.

    Args:
        files: Crew files.
        options: Options that anybody may see.
        state: State directory.
        nats: Address of a server, which may hold a secret: it is handed over in the environment.

    Returns:
        The exit status: 0 it runs, else what the process in the background ended with.
    """
    from crewkeeper_supervisor.shell.place import state_dir

    directory = state_dir(state)
    reading, writing = os.pipe()
    words = ["up", *map(str, files), "--plain", "--state", str(directory), "--report-fd", str(writing), *options]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **({"CREWKEEPER_NATS_URL": nats} if nats else {})},
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            with os.fdopen(reading) as told:
                runs = told.read().split()  # it ends when the runs are declared, or the process is gone
        except KeyboardInterrupt:  # nobody has been told of it yet: it must not go on unseen
            process.terminate()
            raise
        said.seek(0)
        text = said.read().decode("utf-8", "backslashreplace").rstrip()
    if text:
        say(text)
    if not runs:
        return max(process.wait(), FAILED)
    process.returncode = 0  # left to itself: it is not waited for, and that is no mistake to be warned of
    for run in runs:
        write(run)
    say(f"it goes on in the background, process {process.pid}; its log: {directory / LOG}")
    return 0


def report(descriptor: int, runs: Iterable[str], state: Path) -> None:
    """Tell whoever started this in the background which runs there are, and write into a log from now on.

    Args:
        descriptor: Where to tell it; it is closed.
        runs: Their ids.
        state: The state directory, which is there by now.

    Raises:
        OSError: The log cannot be written.
    """
    log = os.open(state / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
    with os.fdopen(descriptor, "w") as out:
        out.writelines(f"{run}\n" for run in runs)
