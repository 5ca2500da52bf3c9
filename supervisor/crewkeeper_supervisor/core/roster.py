"""Roster: what is known of each agent of the crew apart from its waits.

The wait graph holds tasks and calls; here stand status, incarnation, process, spending and the gap check of an
agent's own stream.
"""

from typing import Literal

from msgspec import Struct

from crewkeeper_supervisor.core.confinement import NEVER, Ending, Flood, Hold
from crewkeeper_supervisor.core.crew import Agent
from crewkeeper_supervisor.core.nodes import AgentNode, Task
from crewkeeper_supervisor.core.quotas import Quota, Upkeep

AgentStatus = Literal["expected", "starting", "up", "paused", "stopping", "gone", "crashed", "gave_up"]
"""`expected`: declared, nothing heard. `starting`: its process runs. `up`: joined. `gone`: left in order.
`crashed`: ended out of order, perhaps to be restarted. `gave_up`: restarted too often."""

_REMEMBERED_INCARNATIONS = 8


class Usage(Struct, kw_only=True):
    """What was spent, as reported by the agent, and what was counted on the bus."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_microusd: int = 0
    messages: int = 0
    calls: int = 0

    def add(self, input_tokens: int, output_tokens: int, cost_microusd: int) -> None:
        """Add one report."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost_microusd += cost_microusd


class Recovery(Struct, frozen=True, kw_only=True):
    """How an agent came back from a crash; journal times."""

    incident: str
    """Of that crash."""
    at_s: float
    due_s: float = NEVER
    """When a loop of crashes is over, if it stays up until then; never: it is none, or it has crashed again."""


class AgentView(Usage, kw_only=True):
    """One instance of an agent; what it spent stands in itself, which spares every message one look elsewhere."""

    # What every message looks at stands first and together, so that it takes few lines of the processor's cache.
    node: AgentNode
    status: AgentStatus = "expected"
    inc: str = ""
    last_seq: int = 0
    last_seen_s: float = 0.0
    name: str
    role: str
    spec: Agent
    old_incs: tuple[str, ...] = ()
    pid: int = 0
    restarts: int = 0
    began: bool = False
    """Whether this incarnation was told to begin."""
    told_to_stop: bool = False
    """Whether its process was told to end: however it then ends is no crash."""
    cut_short: bool = False
    """Whether its main activity was running when it was told to end."""
    runs: bool = False
    """Whether its host has reported the start of a process, and not yet its end."""
    ending: Ending | None = None
    """How it is being ended, or was; nothing of it counts any more once it is shut out."""
    recovery: Recovery | None = None
    """How it last came back from a crash."""
    hold: Hold | None = None
    flood: Flood | None = None
    quotas: dict[str, Quota] | None = None
    """What it may still open, by kind."""
    upkeep: Upkeep | None = None
    """What may still be taken over of its own state."""
    throttled: int = 0
    """Its entries that were counted and not read."""
    parent: str = ""
    """The agent that let it in."""
    task: str = ""
    """The parent's task that it lives and dies with."""
    expires_at_s: float = NEVER
    """When its credentials end, journal time."""
    progress: str = ""
    times_victim: int = 0

    @property
    def usage(self) -> Usage:
        """What it spent."""
        return self

    @property
    def external(self) -> bool:
        """Whether it was started elsewhere."""
        return self.spec.external

    @property
    def concurrency(self) -> int:
        """Its slots."""
        return self.node.concurrency

    @property
    def tasks(self) -> dict[str, Task]:
        """What it is doing, by task id."""
        return self.node.tasks

    @property
    def queued(self) -> int:
        """Calls addressed to it that have not been started."""
        return sum(1 for call in self.node.inbound.values() if call.state == "open")

    @property
    def present(self) -> bool:
        """Whether it can answer now."""
        return self.status in ("up", "paused", "stopping")

    def is_news(self, inc: str, seq: int) -> bool:
        """Whether a joining message or heartbeat brings the agent (back): a new incarnation, or one taken for gone.

        Only an agent that was started elsewhere is taken for gone by its silence alone.
        """
        if inc == self.inc:
            return self.external and self.status == "crashed" and seq > self.last_seq
        return inc not in self.old_incs

    def admit(self, inc: str, seq: int) -> Literal["next", "gap", "old", "stranger"]:
        """Place a message in the agent's own stream.

        `next`: the expected one. `gap`: some were lost before it. `old`: a repetition, or of a past incarnation.
        `stranger`: of an incarnation that never joined.
        """
        if inc != self.inc:
            return "old" if inc in self.old_incs else "stranger"
        if seq <= self.last_seq:
            return "old"
        verdict: Literal["next", "gap"] = "next" if seq == self.last_seq + 1 else "gap"
        self.last_seq = seq
        return verdict

    def incarnate(self, inc: str, seq: int) -> None:
        """A new incarnation has joined."""
        if self.inc and self.inc != inc:
            self.old_incs = (*self.old_incs, self.inc)[-_REMEMBERED_INCARNATIONS:]
        self.inc, self.last_seq = inc, seq
        self.began = False
