"""Fail points: named places between a decision and its effect where a process dies if its environment asks for it.

`CREWKEEPER_FAIL_POINT=NAME[:N][,NAME[:N]…]` arms points: at the N-th passage of one (the first unless given) the
process kills itself with SIGKILL, so nothing of it is cleaned up, flushed or given back. `CREWKEEPER_FAIL_LOG=FILE`
names a file to which the point is appended before that; a point which that file names already is not armed again, so
that a process which is started anew with the same environment lives, and whoever tests knows what has struck. They are
listed, with what they are good for, in `docs/failover.md`.
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.shell.logbook import logger

VARIABLE: Final = "CREWKEEPER_FAIL_POINT"
LOG_VARIABLE: Final = "CREWKEEPER_FAIL_LOG"
PASSAGES_MAX: Final = 1_000_000

Point = Literal[
    "lease-taken",
    "folded",
    "fenced",
    "decided",
    "recorded",
    "effect-due",
    "effects-sent",
    "escalation-stored",
    "webhook-sent",
    "delivery-recorded",
    "delivery-reported",
    "access-stored",
    "access-done",
    "share-booked",
    "head-due",
    "run-over",
    "lease-released",
]

MEANING: Final[dict[Point, str]] = {
    "lease-taken": "the lease of a run is taken, its journal not folded yet",
    "folded": "the journal is folded up to the owner's own entry, earlier owners not fenced off yet",
    "fenced": "the ledger has this owner's first record, nothing that was left pending is carried out yet",
    "decided": "the core has decided, the ledger has no record of it yet",
    "recorded": "the ledger has acknowledged decisions, none of their effects is carried out yet",
    "effect-due": "an effect is next, and those of the same turn before it have perhaps not left yet",
    "effects-sent": "the effects of a turn have left, their traces are not folded yet",
    "escalation-stored": "the outbox has an escalation, nobody has tried to deliver it yet",
    "webhook-sent": "a receiver has taken a webhook, no store says so yet",
    "delivery-recorded": "a delivery is recorded, the run's journal has not been told yet",
    "delivery-reported": "a delivery is reported to the journal, the outbox has not let it go yet",
    "access-stored": "an agent is recorded as paused, killed or free to go on, no server enforces it yet",
    "access-done": "the servers enforce an order about an agent, its run's journal has not been told yet",
    "share-booked": "the account of the fleet has a run's order, the run's journal has not been told yet",
    "head-due": "a signed head is due, and not published yet",
    "run-over": "a run is over, the registry does not say so yet",
    "lease-released": "the lease of a run is given up in order, others of this process are not yet",
}
"""What has happened and what has not when a process dies at a point."""

_left: dict[Point, int] = {}
"""Armed points: passages until the process dies there."""
_log: list[Path] = []


def arm(environ: Mapping[str, str] | None = None) -> None:
    """Arm what the environment asks for, instead of what was armed before; call it once when a process starts.

    Raises:
        ConfigError: A point is unknown, or a number of passages is none.
    """
    given = os.environ if environ is None else environ
    _left.clear()
    _log[:] = [Path(given[LOG_VARIABLE])] if given.get(LOG_VARIABLE) else []
    struck = {line.partition(" ")[0] for each in _log if each.exists() for line in each.read_text().splitlines()}
    for word in filter(None, given.get(VARIABLE, "").split(",")):
        name, _, times = word.strip().partition(":")
        point = _point(name)
        if times and not (times.isascii() and times.isdecimal() and 1 <= int(times[:8]) <= PASSAGES_MAX):
            raise ConfigError(f"{VARIABLE}: {word[:60]!r}: passages are counted from 1 to {PASSAGES_MAX:,}")
        if point not in struck:
            _left[point] = int(times or 1)
    for armed, count in _left.items():
        logger().warning("fail_point.armed", point=armed, passages=count)


def passed(point: Point) -> None:
    """The process passes a point: it dies here if that was asked for. Costs one test of an empty dict otherwise."""
    if _left and point in _left:
        _left[point] -= 1
        if _left[point] == 0:
            _die(point)


def _die(point: Point) -> None:
    logger().error("fail_point.reached", point=point, cause=MEANING[point])
    for each in _log:
        with each.open("a") as file:
            file.write(f"{point} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _point(name: str) -> Point:
    known: tuple[Point, ...] = get_args(Point)
    for point in known:
        if point == name:
            return point
    raise ConfigError(f"{VARIABLE}: there is no point {name[:60]!r}; there are {', '.join(known)}")
