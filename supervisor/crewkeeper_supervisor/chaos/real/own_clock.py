"""Own clock: the wall clock of one Python process, moved by the runner while the monotonic clock runs on.

The runner puts a copy of this file on the path of the processes as `sitecustomize.py`, which every interpreter imports
before anything else; it must therefore import nothing but the standard library. `time.time` and its relatives and
`datetime.now` and its relatives are shifted, so is whoever imported them by name. Not shifted are the server, times of
files, and whatever reads the clock in C.

Why not a preloaded C library: it needs a compiler or a package of the system, and the one there is makes
`time.sleep` of Python fail where it leaves the monotonic clock alone.
"""

import ctypes
import datetime
import gc
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "CHAOS_CLOCKS"
"""Variable with the folder of the clocks; unset: nothing is moved."""
NAME: Final = "CHAOS_PROCESS"
"""Variable with the name of a process that is no agent."""
_FORM: Final = struct.Struct("=dQ")


class OwnClock:
    """The clock of one process, as a file that it shares with the runner.

    Args:
        file: Where; made if missing.
    """

    def __init__(self, file: Path) -> None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _FORM.size)
            self._shared = mmap.mmap(descriptor, _FORM.size)
        finally:
            os.close(descriptor)
        self._shifts: list[float] = []

    @property
    def ahead_s(self) -> float:
        """How far it is ahead; negative: behind."""
        return float(_FORM.unpack_from(self._shared)[0])

    @property
    def readings(self) -> int:
        """How often it was read while it was wrong."""
        return int(_FORM.unpack_from(self._shared)[1])

    def move(self, ahead_s: float) -> None:
        """Set it wrong by so much."""
        _FORM.pack_into(self._shared, 0, ahead_s, self.readings)

    def shift(self, by_s: float) -> Callable[[], None]:
        """Move it by so much from where it is; returns what takes that back, harmless when repeated."""
        self._shifts.append(by_s)
        self.move(sum(self._shifts))
        over: list[bool] = []

        def end() -> None:
            if not over:
                over.append(True)
                self._shifts.remove(by_s)
                self.move(sum(self._shifts))

        return end

    def read(self) -> float:
        """How far it is ahead, counted as a reading if that is not nothing."""
        ahead_s, readings = _FORM.unpack_from(self._shared)
        if ahead_s:
            _FORM.pack_into(self._shared, 0, ahead_s, readings + 1)
        return float(ahead_s)


def install(clock: OwnClock) -> None:
    """Let this process read the wall clock through `clock` from now on."""
    _move_time(clock)
    _move_dates(clock)


def _move_time(clock: OwnClock) -> None:
    right, right_ns, right_clock = time.time, time.time_ns, time.clock_gettime

    def moved(function: Callable[..., Any], at: int) -> Callable[..., Any]:
        """A function that takes the current time where argument number `at` is not given."""

        def call(*arguments: Any) -> Any:
            if len(arguments) > at and (at or arguments[0] is not None):
                return function(*arguments)
            seconds = right() + clock.read()
            return function(*arguments[:at], time.localtime(seconds) if at else seconds)

        return call

    def clock_gettime(which: int) -> float:
        return right_clock(which) + (clock.read() if which == time.CLOCK_REALTIME else 0.0)

    given = {name: moved(getattr(time, name), 0) for name in ("localtime", "gmtime", "ctime")}
    given["strftime"] = moved(time.strftime, 1)
    given["time"] = lambda: right() + clock.read()
    given["time_ns"] = lambda: right_ns() + int(clock.read() * 1e9)
    given["clock_gettime"] = clock_gettime
    for name, function in given.items():
        setattr(time, name, function)


def _move_dates(clock: OwnClock) -> None:
    """Replace the methods in place: a subclass would be another type to everybody who looks for `datetime`."""
    right = datetime.datetime.now

    def now(_: type, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return right(tz) + datetime.timedelta(seconds=clock.read())

    def utcnow(_: type) -> datetime.datetime:
        return now(_, datetime.UTC).replace(tzinfo=None)

    def today(_: type) -> datetime.datetime:
        return now(_)

    def this_day(_: type) -> datetime.date:
        return now(_).date()

    methods: dict[type, dict[str, Callable[..., Any]]] = {
        datetime.datetime: {"now": now, "utcnow": utcnow, "today": today},
        datetime.date: {"today": this_day},
    }
    for kind, replaced in methods.items():
        (inside,) = (each for each in gc.get_referents(kind.__dict__) if isinstance(each, dict))
        inside.update({name: classmethod(method) for name, method in replaced.items()})
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def _begin() -> None:
    folder, name = os.environ.get(FOLDER), os.environ.get("CREWKEEPER_AGENT") or os.environ.get(NAME)
    if folder and name:
        install(OwnClock(Path(folder) / f"{name}.clock"))


if __name__ == "sitecustomize":
    _begin()
