"""Sharing: which controller should take a free run, and how many one hands over; numbers in, numbers out, no clock.

Theory of operation. A free run goes to whoever has the fewest: every controller that waits for it holds back a moment
for each one that should have it rather, by load, and among equals by a hash of the run and the controller, so that many
runs that come free at once spread by themselves. What is there already is moved by one at a time: the controller with
the most runs gives some of them up, as soon as somebody has two less. A move makes the most loaded less loaded and
never makes another one the most loaded by more than before, so moving comes to an end; no two hand over at once as long
as they see the same loads, and one that sees old ones costs a move too many, not an endless exchange.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

RANK_S: Final = 0.05
RANK_MAX_S: Final = 0.5


class Sharing(Struct, frozen=True, kw_only=True):
    """How runs are moved between controllers."""

    every_s: float = 1.0
    """Seconds between two looks at how many everybody has, and between two times that this is said."""
    moves_max: int = 4
    """Runs handed over at once."""
    tenure_s: float = 10.0
    """A run is owned at least so long before it is handed over."""
    patience_s: float = 3.0
    """How long a run that was handed over is left to others; then it is taken back."""
    entries_max: int = 200_000
    """A run with a longer journal is not moved for the sake of balance: folding it takes a successor too long."""


def surplus(me: str, loads: Mapping[str, int], most: int) -> int:
    """How many runs a controller should hand over now.

    Args:
        me: The controller.
        loads: Runs of each controller that takes any run, `me` among them.
        most: Upper bound of the answer.
    """
    if me not in loads or len(loads) < 2:
        return 0
    mine, least = loads[me], min(loads.values())
    if mine - least < 2 or max(loads, key=lambda each: (loads[each], each)) != me:
        return 0
    fair = -(-sum(loads.values()) // len(loads))
    return min(most, max(1, mine - fair))


def hold_back_s(run: str, me: str, loads: Mapping[str, int]) -> float:
    """Seconds for which a controller leaves a free run to those that should rather have it."""
    order = sorted(loads, key=lambda each: (loads[each], _draw(run, each)))
    return min(RANK_MAX_S, RANK_S * order.index(me)) if me in order else 0.0


def _draw(run: str, controller: str) -> bytes:
    """Highest random weight (Thaler and Ravishankar 1998): equals are ordered differently for each run."""
    return hashlib.sha256(f"{run} {controller}".encode()).digest()
