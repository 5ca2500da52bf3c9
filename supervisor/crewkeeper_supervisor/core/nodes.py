"""Nodes: what the wait-for graph is made of — agents with their slots, tasks, calls, and waits.

They hold facts and links; keeping them true is `wait_graph`'s.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, Literal, cast

from msgspec import Struct

from crewkeeper_bus.messages import OnAll, OnCall, OnHuman, OnResource, OnSome, OnTimer, OnTool
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.tickets import Ticket

CallState = Literal["open", "started", "answered", "lost"]

_SEVERAL: Final = (OnAll, OnSome)
_PLAIN: Final = (OnCall, OnResource, OnHuman, OnTool, OnTimer)
"""As tuples, made once: `A | B` makes a new object wherever it is evaluated, and these are asked at every wait."""
_NEVER: Final = float("inf")
NO_MESSAGES: Final = cast("dict[str, dict[str, float]]", MappingProxyType({}))
"""What all share that have none; most never have any, and a dict of its own would be much of the memory of each."""
NO_TICKETS: Final = cast("dict[str, Ticket]", MappingProxyType({}))


class Wait(Struct, eq=False, gc=False):
    """One open wait of one task. `deadline_s` is journal time, or None.

    It leads to nothing that leads back, so the collector need not know of it: to let go of an object that it knows
    touches two others, anywhere in memory, and waits come and go more often than anything else.
    """

    condition: AnyCondition
    epoch: int
    since_s: float
    deadline_s: float | None
    listens: bool
    """Whether it is for messages, or for anything else that is no call, lock, person or timer."""
    healed_s: float = 0.0
    """When it last was helped on because what it waits for had been lost on the way."""


def is_plain(condition: AnyCondition) -> bool:
    """Whether a wait is for nothing but calls, locks, people and timers, however nested."""
    if isinstance(condition, _SEVERAL):
        return all(is_plain(part) for part in condition.of)
    return isinstance(condition, _PLAIN)


class Task(Struct, eq=False):
    """One thing an agent is doing."""

    agent: "AgentNode"
    id: str
    key: str
    """`agent/id`, which names it in the whole crew."""
    slot: bool
    """Whether it holds one of its agent's slots."""
    began_s: float
    call: "Call | None" = None
    """The call that it handles."""
    wait: Wait | None = None
    asked: "Call | dict[str, Call] | None" = None
    """What it asked for and has not done with: most tasks ask for one thing at a time, and need no dict for that.
    To be read through `calls` or `open_calls`, and written through `adopt` and `disown`."""
    holds: dict[str, Ticket] = NO_TICKETS
    """Its requests for locks, granted or not; to be written by `hold` and `drop` alone."""
    answers: str = ""
    """Id of the call it handles, also after the caller has given that up."""
    tokens: int = 0
    name: str = ""
    parent: "Task | None" = None
    """On whose behalf it works once `call` is answered or given up; only where lineage outlives a call."""

    @property
    def calls(self) -> "dict[str, Call]":
        """What it asked for and has not done with, by id, oldest first; not to be written."""
        return {call.id: call for call in self.open_calls()}

    def open_calls(self) -> "Sequence[Call]":
        """What it asked for and has not done with, oldest first; stays as it is while that changes."""
        asked = self.asked
        if asked is None:
            return ()
        return tuple(asked.values()) if isinstance(asked, dict) else (asked,)

    def adopt(self, call: "Call") -> None:
        """It has made this call."""
        asked = self.asked
        if asked is None:
            self.asked = call
            self.agent.calls_made += 1
            return
        if not isinstance(asked, dict):
            asked = self.asked = {asked.id: asked}
        self.agent.calls_made += call.id not in asked
        asked[call.id] = call

    def disown(self, call: "Call") -> None:
        """It has done with this call."""
        asked = self.asked
        if isinstance(asked, dict):
            self.agent.calls_made -= asked.pop(call.id, None) is not None
            self.asked = asked or None
        elif asked is not None and asked.id == call.id:
            self.agent.calls_made -= 1
            self.asked = None

    def hold(self, ticket: Ticket) -> None:
        """It asks for something, or has it."""
        if self.holds is NO_TICKETS:
            self.holds = {}
        self.agent.tickets += ticket.id not in self.holds
        self.holds[ticket.id] = ticket

    def drop(self, ticket: Ticket) -> None:
        """It does not ask for it any more."""
        if self.holds and self.holds.pop(ticket.id, None) is not None:
            self.agent.tickets -= 1

    def __repr__(self) -> str:
        return f"<Task {self.key} {'waiting' if self.wait else 'running'}>"


class Call(Struct, eq=False):
    """One request on its way, queued, or in work."""

    id: str
    caller: str
    task: Task
    to: str
    """The agent or role asked; the instance once one reports it in its queue."""
    verb: str
    opened_s: float
    callee: "AgentNode | None" = None
    """The agent in whose `inbound` it stands; None: in that of a role."""
    answered_s: float = _NEVER
    """Journal time of its answer."""
    state: CallState = "open"
    handler: Task | None = None
    timed: bool = False
    """The request carries a deadline of its own."""
    failed: bool = False
    """It was answered, with an error: no use to whoever needs some of several answers."""
    missed: frozenset[str] = frozenset()
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
        "tickets",
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
        self.tickets = 0
        """How many requests for locks are theirs, or were of those that have ended."""
        self.inbound: dict[str, Call] = {}
        """Calls addressed to it (or to its role and pinned to it) that are open or started."""
        self.mailbox: int | None = None
        """How many calls may wait to be started before senders wait for room; None: no limit is known."""
        self.unread = NO_MESSAGES
        """One-way messages not taken yet: sender to {message id: journal time}."""
        self.unsure = False
        """A fact of its stream was lost: its tasks count as running until its next heartbeat."""

    def received(self, sender: str, message: str, at_s: float) -> None:
        """A one-way message is on its way, or in the mailbox."""
        if self.unread is NO_MESSAGES:
            self.unread = {}
        self.unread.setdefault(sender, {})[message] = at_s

    @property
    def free_slots(self) -> int:
        """Slots no task holds; negative while callbacks run beyond the limit."""
        return self.concurrency - self.slot_tasks
