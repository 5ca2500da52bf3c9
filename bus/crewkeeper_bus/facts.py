"""Facts: what the supervisor's side states on `op`; what agents say and what they are told is in `messages`.

They are what the core folds besides the words of agents: who started and ended, what people asked for, how an effect
went, what the server saw and refused.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

from crewkeeper_bus.field_types import Count, Name, NameOrNone, Names, Seconds, Text

_Label = Annotated[str, Meta(max_length=64)]


class RunDeclared(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="run_declared"):
    """First message of every run: the crew as it was loaded, so that the journal explains itself."""

    crew: dict[str, Any]
    host: Text = ""
    spread: bool = False
    """Its agents are given to hosts one by one, as the run's supervisor decides; else `host` has them all."""


class Tick(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="tick"):
    """Time has passed: the only clock the core sees besides the journal's own stamps."""


class OwnerChanged(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="owner"):
    """A supervisor has taken the run's lease."""

    term: Count
    owner: Text


class ProcessStarted(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="process_started"):
    """The host started an agent's process."""

    agent: Name
    pid: Count
    restarts: Count = 0
    place: NameOrNone = ""
    """Id of the `StartProcess` that it was started by, where the agents are spread over hosts."""


class ProcessExited(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="process_exited"):
    """An agent's process ended."""

    agent: Name
    pid: Count
    code: int = 0
    """Exit status; negative: the signal."""
    restart: bool = False
    """Whether the host starts it again."""
    why: Text = ""
    place: NameOrNone = ""
    """As in `ProcessStarted`."""


class RestartsExhausted(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="restarts_exhausted"):
    """More than `intensity` restarts within `period_s`: the host gives up on the agent."""

    agent: Name
    intensity: Count
    period_s: Seconds
    place: NameOrNone = ""
    """As in `ProcessStarted`."""


class HostSeen(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One host that takes agents, as it has registered itself."""

    host: Name
    inc: Name
    """Its incarnation: a random token made anew whenever it is started."""
    labels: dict[Name, _Label] = {}
    slots: Annotated[int, Meta(ge=1, le=100_000)]
    """How many agents it takes at a time."""
    taken: Count = 0
    """How many of them other runs have."""


class HostsSeen(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="hosts_seen"):
    """The hosts that are registered now."""

    hosts: Annotated[tuple[HostSeen, ...], Meta(max_length=1000)] = ()


class HostLeaving(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="host_leaving"):
    """A host is about to end, and ends its agents in order first; `HostLost` follows."""

    host: Name
    inc: Name


class HostLost(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="host_lost"):
    """An incarnation of a host is gone: it has said so, or its registration has expired and it does not answer."""

    host: Name
    inc: Name
    why: Text = ""


class StartRefused(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="start_refused"):
    """A host does not take an agent that it was to start: its slots are taken, or it is about to end."""

    agent: Name
    place: Name
    """Id of the `StartProcess`."""
    why: Text = ""


class OperatorAsked(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="operator"):
    """A person asks for something."""

    action: Annotated[str, Meta(pattern="^(pause|resume|kill|stop_run|answer|goal|acknowledge|resolve)$")]
    agent: NameOrNone = ""
    """Empty: the whole crew."""
    peer: NameOrNone = ""
    """To pause or resume only what the two say to each other."""
    question: NameOrNone = ""
    answer: Text = ""
    """To a question; or the new goal, which takes the place of the objective."""
    grace_s: Seconds | None = None
    incident: NameOrNone = ""
    """What it is about: an incident, an approval, or by the id of its command a digest."""
    by: Text = ""
    why: Text = ""


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="outcome"):
    """How an effect went that leaves no other trace in the journal (a webhook, a request to the host)."""

    command: str
    ok: bool
    detail: Text = ""


class RunEnded(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="run_ended"):
    """No host has a process of the run left."""

    state: Annotated[str, Meta(pattern="^(done|failed|stopped)$")]
    why: Text = ""
    command: NameOrNone = ""
    """Id of the command that ends it, where the agents are spread over hosts."""


class AccessSet(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="access"):
    """What came of making the server let an agent in, hold it or shut it out."""

    command: str
    """Id of the command that this was done for."""
    agent: Name
    peer: NameOrNone = ""
    """The agent it is held apart from; empty: it is held towards everybody."""
    state: Annotated[str, Meta(pattern="^(running|paused|killed|revoked)$")]
    """`revoked`: what one process of it logged in with is void; another process may be let in."""
    ok: bool
    """For `killed` and `revoked`: no connection of the agent was left when the servers were last asked."""
    enforced: bool = True
    """False: nobody here has power over the server, so trying again is of no use."""
    connections: Count = 0
    """How many of its connections were closed."""
    took_ms: Count = 0
    detail: Text = ""


class Violation(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="violation"):
    """Something that the server saw and refused, or that was noticed when somebody logged in."""

    agent: NameOrNone = ""
    """Whose credentials were used; empty where that is not known."""
    what: Annotated[str, Meta(pattern="^(denied|login_refused|second_connection|revoked_login|not_joined|flood)$")]
    count: Annotated[int, Meta(ge=1, le=2**53)] = 1
    """How often, since it was last stated."""
    detail: Text = ""


class Delegated(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="delegated"):
    """An agent that another one asked for may come in: with part of what its parent may do, and no longer than it."""

    command: str
    agent: Name
    parent: Name
    task: Name
    """The parent's task that it lives and dies with."""
    role: Name
    peers: Names = ()
    """Whom it may send to."""
    tools: Names = ()
    expires_s: Seconds
    """Seconds from now until its credentials end."""


class Revoked(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="revoked"):
    """Credentials of an agent were withdrawn by a person."""

    agent: Name
    why: Text = ""


Op = (
    RunDeclared
    | Tick
    | OwnerChanged
    | ProcessStarted
    | ProcessExited
    | RestartsExhausted
    | HostsSeen
    | HostLeaving
    | HostLost
    | StartRefused
    | OperatorAsked
    | Outcome
    | RunEnded
    | AccessSet
    | Violation
    | Delegated
    | Revoked
)
