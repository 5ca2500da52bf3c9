"""Limits: how deep, how far fanned out and how long, as it stands now; who exceeds one is not here."""

from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.core.state import RunState


def limit_of(state: RunState, who: str, dimension: str) -> float | None:
    """How deep, how far fanned out, or how many seconds long, as it stands now; None: there is no limit.

    Args:
        state: The run.
        who: An agent; empty: the crew.
        dimension: `depth`, `fan_out` or `wall_s`.
    """
    changed = state.gate.changed.get(who, {})
    if dimension in changed:
        return changed[dimension]
    declared: Budget | None = None
    if who:
        declared = state.agents[who].spec.budget if who in state.agents else None
    elif state.crew is not None:
        declared = state.crew.budget
    found: float | None = getattr(declared, dimension, None)
    return found
