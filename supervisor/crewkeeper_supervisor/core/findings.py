"""Findings: what the core concludes, with the evidence; and incidents: findings as people follow them.

A finding names facts of the journal only. What is done about it is policy, not a property of the finding.
"""

from typing import Final, Literal

from msgspec import Struct, field

from crewkeeper_supervisor.core.crew import Action

FindingKind = Literal[
    "deadlock",
    "orphan",
    "crash",
    "restart_intensity",
    "malformed",
    "forgery",
    "intrusion",
    "survivor",
    "flood",
    "unknown_tool",
    "bad_arguments",
    "policy_denied",
    "budget_soft",
    "budget_spent",
    "loop",
    "drift",
    "outcome",
    "misuse",
    "stall",
    "livelock",
    "starvation",
    "retry_storm",
    "fan_out",
    "depth",
]


TAIL_MAX: Final = 500
"""How many of the tasks that hang on its core a finding names, with their edges: the first by name."""
SEVERE: Final = ("deadlock", "flood", "intrusion", "forgery", "survivor", "budget_spent", "restart_intensity")
"""What people are told of as an error; everything else is a warning."""


class Edge(Struct, frozen=True, kw_only=True):
    """One member's wait: who waits, for whom, for what, since when."""

    task: str
    """The waiting task, `agent/task`."""
    agent: str
    waits_for: tuple[str, ...]
    """Tasks that block it, `agent/task`; empty where it waits for what cannot exist."""
    agents: tuple[str, ...]
    """The agents of those tasks; a person is `human:<who>`, a tool `tool:<name>`."""
    kind: Literal["call", "queued_call", "message", "resource", "human", "tool", "timer"]
    message: str
    """Id of the call, ticket, or awaited message."""
    epoch: int
    since_s: float
    """Journal time at which the wait began."""
    text: str
    """One sentence: `planner waits for reviewer to answer 'approve' (call c1, started)`."""


class Victim(Struct, frozen=True, kw_only=True):
    """The one wait that is failed, and why that one."""

    task: str
    agent: str
    epoch: int
    why: str
    """In words, for people."""
    policy: str = ""
    """The crew file's way to choose."""
    price: int = 0
    """What failing it was reckoned to cost: tokens, and time as tokens, weighted by priority and history."""
    candidates: int = 1
    """How many waits could have been failed."""
    spared: tuple[str, ...] = ()
    """Tasks among them that were to be chosen last, because they had given way before or are the oldest."""


class Finding(Struct, frozen=True, kw_only=True):
    """One conclusion."""

    id: str
    """`F<journal sequence>-<index>`."""
    kind: FindingKind
    at_s: float
    seq: int
    """Journal sequence of the event at which it was concluded."""
    summary: str
    """One sentence for people."""
    agents: tuple[str, ...]
    core: tuple[tuple[str, ...], ...] = ()
    """Deadlock: the groups of tasks to blame, each closed in itself."""
    tail: tuple[str, ...] = ()
    """Tasks that hang on the core without being part of it; the first `TAIL_MAX`, and `summary` counts the others."""
    edges: tuple[Edge, ...] = ()
    victim: Victim | None = None
    timed: bool = False
    """A timer would have ended it in the end."""
    suspected: bool = False
    """Not confirmed: somebody has not answered yet."""
    evidence: dict[str, str] = field(default_factory=dict)


IncidentState = Literal["open", "acting", "resolved"]


class Step(Struct, frozen=True, kw_only=True):
    """Something that happened to an incident."""

    at_s: float
    seq: int
    text: str


class Incident(Struct, kw_only=True):
    """A finding over time: what was done, whether it cleared."""

    finding: Finding
    state: IncidentState
    actions: tuple[Action, ...]
    shadow: bool
    steps: list[Step] = field(default_factory=list)
    count: int = 1
    """How often the same finding came again while this was open (malformed messages, …)."""
    closed: int = 1
    """Deadlock: how often its ring has closed lately, this time included."""
    told: bool = False
    """Whether people were to be told of it; then they are also told when it is over."""
    resolved_at_s: float | None = None
    rung: int = 0
    """How many rungs of its ladder were taken."""
    rung_at_s: float = 0.0
    """When the last one was, journal time."""
    let_go: bool = False
    """A person has let go on whom it held: it holds nobody again."""

    @property
    def id(self) -> str:
        """The finding's id."""
        return self.finding.id
