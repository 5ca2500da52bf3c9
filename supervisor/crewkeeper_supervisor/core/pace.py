"""Pace: what a run spends a minute, by what its budgets have settled and hold over the last minutes; no limit is here.

The total is noted before the first event that comes `STEP_S` or more after the last note. So between `STEP_S` after one
note and the next one nothing was spent, and the total at the beginning of the window is known exactly.
"""

from typing import Any, Final

from msgspec import Struct

from crewkeeper_supervisor.core.budget import amount
from crewkeeper_supervisor.core.state import RunState

WINDOW_S: Final = 300.0
"""Over how long spending is looked at, journal time; less if the run is younger."""
STEP_S: Final = 15.0
_LEAST_S: Final = 1.0
"""Over less nothing is said."""


class Cost(Struct, frozen=True, kw_only=True):
    """What a run costs."""

    spent_microusd: int
    """Since its beginning, held amounts left out."""
    held_microusd: int
    """Reserved for calls under way."""
    microusd_per_minute: int | None
    """Spent and held; of less than a minute all of it; None: the run is too young to say."""
    over_s: float
    """Over how long that is."""

    @property
    def text(self) -> str:
        """As people read it: `$0.42 a minute over the last 5 min; $3.10 spent so far, $0.20 held`."""
        if not (self.spent_microusd or self.held_microusd):
            return "nothing that is known of"
        held = f", {_rounded(self.held_microusd)} held for calls under way" if self.held_microusd else ""
        total = f"{_rounded(self.spent_microusd)} spent so far{held}"
        if self.microusd_per_minute is None:
            return total
        over = f"{self.over_s / 60:.0f} min" if self.over_s >= 90 else f"{self.over_s:.0f} s"
        if not self.microusd_per_minute:
            return f"nothing over the last {over}; {total}"
        a_minute = " a minute" if self.over_s >= 60 else ""
        return f"{_rounded(self.microusd_per_minute)}{a_minute} over the last {over}; {total}"


def _rounded(microusd: int) -> str:
    """An amount to the cent, or of less than that to the hundredth of a cent."""
    return amount("microusd", round(microusd, -4 if microusd >= 10_000 else -2))


def note(state: RunState) -> None:
    """Note what was spent before the event that is handled now. To be called when the note is due."""
    pace, now_s = state.ladder.pace, state.now_s
    pace.due_s = now_s + STEP_S
    pace.notes.append((now_s, _total(state)))
    while len(pace.notes) > 1 and pace.notes[1][0] < now_s - WINDOW_S:
        pace.notes.popleft()


def cost(state: RunState) -> Cost:
    """What the run costs now."""
    account = state.gate.accounts.crew
    begin_s = state.now_s - WINDOW_S
    rate, over_s, before_s = None, 0.0, None
    for at_s, total in state.ladder.pace.notes:
        if at_s < begin_s:
            before_s = at_s
            continue
        over_s = state.now_s - (at_s if before_s is None else min(at_s, max(begin_s, before_s + STEP_S)))
        if over_s >= _LEAST_S:
            rate = max(0, round((_total(state) - total) * 60 / max(60.0, over_s)))
        break
    return Cost(
        spent_microusd=account.settled.get("microusd", 0) + account.over.get("microusd", 0),
        held_microusd=account.held.get("microusd", 0),
        microusd_per_minute=rate,
        over_s=round(over_s, 3),
    )


def told(state: RunState) -> dict[str, Any]:
    """What the run costs, as plain data for people."""
    found = cost(state)
    return {
        "text": found.text,
        "microusd_per_minute": found.microusd_per_minute,
        "over_s": found.over_s,
        "spent_microusd": found.spent_microusd,
        "held_microusd": found.held_microusd,
    }


def _total(state: RunState) -> int:
    account = state.gate.accounts.crew
    return sum(part.get("microusd", 0) for part in (account.settled, account.held, account.over))
