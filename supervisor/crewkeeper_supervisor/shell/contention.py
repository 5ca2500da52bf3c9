"""Contention: a compare-and-set that others may win, tried until it wins. What is stored is not known here."""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from crewkeeper_supervisor.shell.errors import StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import WrongLastSequence

CONTEND_LIMIT_S: Final = 10.0
"""For one change. Against a writer that never rests about every other try is lost, so that this is plenty."""
PAUSE_MIN_S: Final = 0.002
PAUSE_MAX_S: Final = 0.2

Made = TypeVar("Made")


async def contend(what: str, attempt: Callable[[], Awaitable[Made]], limit_s: float = CONTEND_LIMIT_S) -> Made:
    """Make a change that others may come between; returns what the attempt returns that nobody came between.

    Args:
        what: What is changed, for the error.
        attempt: Reads, decides and stores, from the start each time; it raises `WrongLastSequence` if it has lost.
        limit_s: How long others may keep winning, in seconds.

    Raises:
        StoreUnavailable: They won each time until then.
    """
    since_s, pause_s = anyio.current_time(), PAUSE_MIN_S
    while True:
        try:
            return await attempt()
        except WrongLastSequence as error:
            if anyio.current_time() - since_s > limit_s:
                raise StoreUnavailable(f"{what}: others kept changing it for {limit_s:g} s; try again") from error
        # Two writers whose tries take equally long could stay in step for ever, one always just behind the other.
        await anyio.sleep(random.uniform(0, pause_s))  # noqa: S311 - nothing secret
        pause_s = min(2 * pause_s, PAUSE_MAX_S)
