"""Repeats: what agents were told is told once more when they ask again, as often as is reasonable; nothing is decided.

Whatever decides is in the ledger when it is told for the first time, so a repeat is no record. Neither is the word that
a call, a question or the answer to it was lost on the way, which only its caller needs, and may ask again for. An agent
that asks without end costs the journal no more than `REPEATS` allows; whoever truly waits asks again, and is told then.
"""

from typing import Any, Final

from msgspec import Raw

from crewkeeper_bus.messages import Fault
from crewkeeper_supervisor.core.crew import Rate
from crewkeeper_supervisor.core.rates import Bucket
from crewkeeper_supervisor.core.state import RunState

REPEATS: Final = Rate(messages_per_s=20, bytes_per_s=1024 * 1024, burst=200)
"""How much one agent is told again: 200 answers or 10 MiB at once, enough for one that has lost its connection."""


def tell(
    state: RunState,
    agent: str,
    call: str,
    *,
    error: Fault | None = None,
    body: Raw | None = None,
    final: bool = True,
    inc: str = "",
) -> bool:
    """Tell an agent again what it was told of a call. False: it asks too often, and is told when it asks later."""
    known = state.gate.repeats
    bucket = known.get(agent)
    if bucket is None:
        bucket = known[agent] = Bucket(REPEATS, state.now_s)
    size_bytes = (0 if body is None else len(bytes(body))) + (0 if error is None else len(error.text))
    if not bucket.take(REPEATS, state.now_s, size_bytes):
        return False
    state.answer(agent, call, error=error, body=body, final=final, inc=inc, durable=False)
    return True


def say(state: RunState, agent: str, call: str, *, again: bool, **told: Any) -> None:
    """Tell an agent what goes for both: the first time as `RunState.answer` does, and later as `tell` does."""
    if again:
        tell(state, agent, call, **told)
    else:
        state.answer(agent, call, **told)
