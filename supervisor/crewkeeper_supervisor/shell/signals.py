"""Signals: how a process that keeps agents is told to end: once to stop them in order, once more to kill them."""

import signal
from collections.abc import Callable
from typing import Final

import anyio
import anyio.abc

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def heed_signals(
    stop: Callable[[str], None],
    kill: Callable[[], None],
    tell: Callable[[str], None],
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    """Heed signals until cancelled.

    Args:
        stop: Called with the name of the first one.
        kill: Called at every further one.
        tell: Where lines for people go.
        task_status: Told once they are heeded.
    """
    stopped = False
    with anyio.open_signal_receiver(*ENDING) as received:
        task_status.started()
        async for number in received:
            name = signal.Signals(number).name
            if stopped:
                tell(f"{name} again: killing every agent")
                kill()
                continue
            stopped = True
            stop(name)
