"""Confinement: what is remembered of an agent that is being ended, held, or that sends too much.

Plain data on the roster; who writes it is `ending`, `holding`, `flood` and `enforcement`.
"""

from typing import Final, Literal

from msgspec import Struct, field

NEVER: Final = float("inf")

Ended = Literal["", "terminated", "still_talking", "unknown"]
"""What is known of an ending: nothing yet; it is over, and proven so; its words still come; it cannot be told."""


class Ending(Struct, kw_only=True):
    """An agent that is being ended, from the order to the proof. Times are journal time in seconds."""

    why: str
    asked_at_s: float
    asked_seq: int
    shut_due_s: float
    """When the server is told to shut it out: its time to stop by itself is over then."""
    grace_s: float
    incident: str = ""
    """Id of the incident it answers."""
    tries: int = 0
    """How often the server was told to shut it out."""
    retry_due_s: float = NEVER
    limit_s: float = NEVER
    """When not knowing is reported."""
    answered_seq: int = 0
    """Journal sequence at which the last try was reported; what is heard later was said in spite of it."""
    shut_seq: int = 0
    """Journal sequence at which the server was reported to have shut it out; 0: not."""
    shut_at_s: float = NEVER
    enforced: bool = True
    """False: nobody has power over the server."""
    detail: str = ""
    connections: int = 0
    """How many of its connections were closed."""
    took_ms: int = 0
    exited_seq: int = 0
    exited_at_s: float = 0.0
    left_seq: int = 0
    heard_seq: int = 0
    """Journal sequence of the last thing heard from it after it was shut out."""
    heard_at_s: float = 0.0
    heard: int = 0
    refused: int = 0
    """What the server has refused it since."""
    outcome: Ended = ""
    why_so: str = ""
    decided_seq: int = 0
    reported: str = ""
    """Id of the incident that says that it could not be ended."""


class Hold(Struct, kw_only=True):
    """An agent that is paused, or was asked to be. Times are journal time in seconds."""

    why: str
    due_s: float
    """When the server holds it, unless it has said by then that it stands paused."""
    grace_s: float
    said: bool = False
    """It says that it stands paused."""
    said_at_s: float = NEVER
    step: Literal["asked", "holding", "held", "freeing"] = "asked"
    """`asked`: the agent is asked. `holding`, `held`: the server was told, has done it. `freeing`: being let go."""
    keep: bool = True
    """Whether what it says meanwhile is kept."""
    tries: int = 0
    enforced: bool = True
    detail: str = ""


class CrewHold(Struct, kw_only=True):
    """A crew that is paused as a whole: it holds for those who join it later, too."""

    why: str
    grace_s: float | None = None
    freed: dict[str, None] = field(default_factory=dict)
    """Agents that were let go on by themselves since."""


class Flood(Struct, kw_only=True):
    """An agent that sends more than it may. Times are journal time in seconds."""

    since_s: float
    last_s: float
    entries: int = 0
    """Entries that were counted and not read."""
    size_bytes: int = 0
    incident: str = ""
    held_s: float = NEVER
    """When it was held for it."""
    pressure: int = 0
    """What it sent all the same once it was held."""
    cut: bool = False
