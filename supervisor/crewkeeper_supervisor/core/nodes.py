"""Nodes: what the wait-for graph is made of — agents with their slots, tasks, calls, and waits.

They hold facts and links; keeping them true is `wait_graph`'s.
"""

from types import MappingProxyType
from typing import Final, Literal, cast

from crewkeeper_bus.messages import OnAll, OnCall, OnHuman, OnResource, OnSome, OnTimer, OnTool
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.tickets import Ticket

CallState = Literal["open", "started", "answered", "lost"]

_SEVERAL: Final = (OnAll, OnSome)
_PLAIN: Final = (OnCall, OnResource, OnHuman, OnTool, OnTimer)
"""As tuples, made once: `A | B` makes a new object wherever it is evaluated, and these are asked at every wait."""
_NEVER: Final = float("inf")
_NO_CALLS: Final = cast("dict[str, Call]", MappingProxyType({}))
"""What all tasks share that called nobody; most never do, and a dict of its own would be much of a task's memory."""
_NO_MESSAGES: Final = cast("dict[str, dict[str, float]]", MappingProxyType({}))
_NO_TICKETS: Final = cast("dict[str, Ticket]", MappingProxyType({}))


class Wait:
    """One open wait of one task. `deadline_s` is journal time, or None."""

    __slots__ = ("condition", "deadline_s", "epoch", "healed_s", "listens", "since_s")

    def __init__(self, condition: AnyCondition, epoch: int, since_s: float, deadline_s: float | None) -> None:
        self.condition = condition
        self.listens = type(condition) is not OnCall and not _is_plain(condition)
        self.epoch = epoch
        self.since_s = since_s
        self.deadline_s = deadline_s
        self.healed_s = since_s
        """When it last was helped on because what it waits for had been lost on the way."""


def _is_plain(condition: AnyCondition) -> bool:
    if isinstance(condition, _SEVERAL):
        return all(_is_plain(part) for part in condition.of)
    return isinstance(condition, _PLAIN)


class Task:
    """One thing an agent is doing."""

    __slots__ = (
        "agent",
        "answers",
        "began_s",
        "call",
        "calls",
        "holds",
        "id",
        "key",
        "name",
        "parent",
        "slot",
        "tokens",
        "wait",
    )

    def __init__(self, agent: "AgentNode", id_: str, *, slot: bool, began_s: float, call: "Call | None" = None) -> None:
        self.agent = agent
        self.id = id_
        self.key = f"{agent.name}/{id_}"
        self.slot = slot
        self.began_s = began_s
        self.call = call
        self.answers = ""
        """Id of the call it handles, also after the caller has given that up."""
        self.parent: Task | None = None
        """On whose behalf it works once `call` is answered or given up; only where lineage outlives a call."""
        self.name = ""
        self.tokens = 0
        self.wait: Wait | None = None
        self.calls = _NO_CALLS
        """What it asked for and has not done with; to be written by `adopt` and `disown` alone."""
        self.holds = _NO_TICKETS
        """Its requests for locks, granted or not; to be written by `hold` and `drop` alone."""

    def adopt(self, call: "Call") -> None:
        """It has made this call."""
        if self.calls is _NO_CALLS:
            self.calls = {}
        self.agent.calls_made += call.id not in self.calls
        self.calls[call.id] = call

    def disown(self, call: "Call") -> None:
        """It has done with this call."""
        if self.calls and self.calls.pop(call.id, None) is not None:
            self.agent.calls_made -= 1

    def hold(self, ticket: Ticket) -> None:
        """It asks for something, or has it."""
        if self.holds is _NO_TICKETS:
            self.holds = {}
        self.holds[ticket.id] = ticket

    def drop(self, ticket: Ticket) -> None:
        """It does not ask for it any more."""
        if self.holds:
            self.holds.pop(ticket.id, None)

    def __repr__(self) -> str:
        return f"<Task {self.key} {'waiting' if self.wait else 'running'}>"


class Call:
    """One request on its way, queued, or in work."""

    __slots__ = (
        "answered_s",
        "callee",
        "caller",
        "failed",
        "handler",
        "id",
        "missed",
        "opened_s",
        "state",
        "task",
        "timed",
        "to",
        "verb",
    )

    def __init__(self, id_: str, caller: str, task: Task, to: str, verb: str, opened_s: float) -> None:
        self.id = id_
        self.caller = caller
        self.task = task
        self.to = to
        """The agent or role asked; the instance once one reports it in its queue."""
        self.callee: AgentNode | None = None
        """The agent in whose `inbound` it stands; None: in that of a role."""
        self.verb = verb
        self.opened_s = opened_s
        self.answered_s = _NEVER
        """Journal time of its answer."""
        self.state: CallState = "open"
        self.handler: Task | None = None
        self.timed = False
        """The request carries a deadline of its own."""
        self.failed = False
        """It was answered, with an error: no use to whoever needs some of several answers."""
        self.missed: frozenset[str] = frozenset()
        """Instances of the role asked that have said that they do not have it."""


class AgentNode:
    """One instance of an agent: its slots, its tasks, and the calls addressed to it."""

    __slots__ = (
        "alive",
        "calls_made",
        "concurrency",
        "inbound",
        "mailbox",
        "name",
        "reentrant",
        "returning",
        "role",
        "slot_tasks",
        "tasks",
        "unread",
        "unsure",
    )

    def __init__(self, name: str, role: str) -> None:
        self.name = name
        self.role = role
        self.concurrency = 1
        self.reentrant = "none"
        self.alive = True
        self.returning = False
        """Dead, and about to be started again: what waits for it may still be served."""
        self.tasks: dict[str, Task] = {}
        self.slot_tasks = 0
        self.calls_made = 0
        """How many calls its tasks have made and not done with."""
        self.inbound: dict[str, Call] = {}
        """Calls addressed to it (or to its role and pinned to it) that are open or started."""
        self.mailbox: int | None = None
        """How many calls may wait to be started before senders wait for room; None: no limit is known."""
        self.unread = _NO_MESSAGES
        """One-way messages not taken yet: sender to {message id: journal time}."""
        self.unsure = False
        """A fact of its stream was lost: its tasks count as running until its next heartbeat."""

    def received(self, sender: str, message: str, at_s: float) -> None:
        """A one-way message is on its way, or in the mailbox."""
        if self.unread is _NO_MESSAGES:
            self.unread = {}
        self.unread.setdefault(sender, {})[message] = at_s

    @property
    def free_slots(self) -> int:
        """Slots no task holds; negative while callbacks run beyond the limit."""
        return self.concurrency - self.slot_tasks
