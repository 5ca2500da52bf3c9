"""Commands: what the core asks the shell to do, in the imperative.

A command's id is derived from the journal (`<sequence>-<index>`), so whoever folds the same log decides the same
commands under the same ids, and nobody obeys one twice. Every command leaves a trace in the journal (its message, or
an `AccessSet`, `Delegated`, `ShareLeased` or `Outcome` that names it), which is how the core learns that it was
carried out.
"""

from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

from crewkeeper_bus.messages import Ctl, Fault, HostCtl
from crewkeeper_bus.tool_messages import ModelCtl, ToolHostCtl
from crewkeeper_supervisor.core.booking import Booking
from crewkeeper_supervisor.core.budget import Amounts
from crewkeeper_supervisor.core.gate_rules import Asked


class TellAgent(Struct, frozen=True, kw_only=True):
    """Publish a control message to an agent on `ctl._.<agent>.<id>`."""

    id: str
    agent: str
    message: Ctl
    durable: bool = False
    """Whether the decision must be in the ledger before it is carried out."""


class AnswerCall(Struct, frozen=True, kw_only=True):
    """Answer an agent's call or question in the supervisor's name, on `rep._.<agent>.<call>`."""

    id: str
    agent: str
    call: str
    error: Fault | None = None
    body: Raw | None = None
    final: bool = True
    """False: the call goes on, and another answer to it follows."""
    booking: Booking | None = None
    inc: str = ""
    """The only incarnation of the agent that it is for; empty: whichever there is."""
    durable: bool = True
    """False: it repeats what is in the ledger already."""


class TellService(Struct, frozen=True, kw_only=True):
    """Publish a control message to the tool host or the model proxy on `ctl._.<to>.<id>`."""

    id: str
    to: Literal["_tools", "_model"]
    message: ToolHostCtl | ModelCtl
    booking: Booking | None = None
    durable: bool = True


class AskApproval(Struct, frozen=True, kw_only=True):
    """Let a person decide on one call; the shell states it as `ApprovalAsked`."""

    id: str
    approval: str
    agent: str
    call: str
    tool: str
    args: Raw
    digest: str
    policy: str
    rule: str
    because: str
    who: str
    cost_microusd: int
    expires_s: float
    """Seconds from the decision to ask."""
    durable: bool = True


class AskHook(Struct, frozen=True, kw_only=True):
    """Ask a Python hook about one call; the shell states its answer as `HookAnswered`."""

    id: str
    agent: str
    call: str
    hook: str
    deadline_s: float
    asked: Asked
    durable: bool = False


class OrderShare(Struct, frozen=True, kw_only=True):
    """Give back and ask for a share of what all crews may spend; the shell states the answer as `ShareLeased`."""

    id: str
    n: int
    """1, 2, 3, … in this run; one at a time is under way."""
    kept: Amounts
    """What the run has spent and holds: all that it keeps until it is given more."""
    over: Amounts = field(default_factory=dict)
    """Spent beyond its share."""
    need: Amounts = field(default_factory=dict)
    """What the first call that waits takes."""
    want: Amounts = field(default_factory=dict)
    """What all calls that wait take."""
    revision: int = 0
    """The limits that the core knows."""
    closes: bool = False
    """The run is over, and this is what it has spent."""
    durable: bool = True


class CancelCall(Struct, frozen=True, kw_only=True):
    """Give up a call in its caller's stead, on `cancel._.<agent>.<call>`; `agent` is the callee."""

    id: str
    agent: str
    call: str
    caller: str
    why: str
    durable: bool = True


class AskHost(Struct, frozen=True, kw_only=True):
    """Publish a request to the run's host on `ctl._._host.<id>`."""

    id: str
    message: HostCtl
    durable: bool = True


class Escalate(Struct, frozen=True, kw_only=True):
    """Tell people: one signed webhook to every receiver of the crew file; the shell reports an `Outcome`."""

    id: str
    incident: str
    kind: str
    """`opened`, `unresolved` (nobody is left whose wait may be failed) or `resolved`."""
    body: dict[str, Any]
    """Plain data: what a human needs to know (see `findings.describe`)."""
    durable: bool = True


class SetAccess(Struct, frozen=True, kw_only=True):
    """Make the server let an agent in, hold it, or shut it out for good; the shell reports an `AccessSet`."""

    id: str
    agent: str
    state: Literal["running", "paused", "killed", "revoked"]
    """`revoked`: only what one process of it logs in with is made void, and its connections are closed."""
    why: str
    place: str | UnsetType = UNSET
    """Which process, for `revoked`: the id of the order by which it was started. Unset otherwise: it is not in ledgers
    that are older than it."""
    peer: str = ""
    """Only what it and this agent say to each other."""
    keep: bool = True
    """Whether what it says while it is paused is to be kept, where that can be done."""
    durable: bool = True


class Admit(Struct, frozen=True, kw_only=True):
    """Let in a helper that an agent asked for; the shell reports `Delegated`, or an `Outcome` that it failed."""

    id: str
    agent: str
    parent: str
    task: str
    role: str
    peers: tuple[str, ...]
    tools: tuple[str, ...]
    expires_s: float
    """Journal time, seconds since the epoch."""
    token: str
    digest: str
    """SHA-256 of the secret, in hexadecimal."""
    durable: bool = True


class EndRun(Struct, frozen=True, kw_only=True):
    """State that a run is over whose agents were spread over hosts; the trace is `RunEnded`."""

    id: str
    state: Literal["done", "failed", "stopped"]
    why: str
    durable: bool = True


Command = (
    TellAgent
    | AnswerCall
    | CancelCall
    | AskHost
    | Escalate
    | SetAccess
    | Admit
    | TellService
    | AskApproval
    | AskHook
    | OrderShare
    | EndRun
)
