"""Garbage: a pause in its collection while a simulation runs; nothing else about memory lives here."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A while without collection: a run is short-lived and makes few cycles, and collecting halves its speed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
