"""Messages: one frozen struct for everything that crosses the bus, and which subject kind carries it.

Payloads are JSON objects, so that an agent can be written in any language. `docs/protocol.md` is the
specification; a test keeps the two equal. Durations are seconds, relative to when the message is stored: no
message carries the sender's clock. Unknown keys are ignored, so a newer peer can add some.
"""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

# Whoever speaks the protocol finds all of it here.
from crewkeeper_bus.conditions import Condition as Condition
from crewkeeper_bus.conditions import OnAll as OnAll
from crewkeeper_bus.conditions import OnCall as OnCall
from crewkeeper_bus.conditions import OnHuman as OnHuman
from crewkeeper_bus.conditions import OnMessage as OnMessage
from crewkeeper_bus.conditions import OnResource as OnResource
from crewkeeper_bus.conditions import OnSome as OnSome
from crewkeeper_bus.conditions import OnTimer as OnTimer
from crewkeeper_bus.conditions import OnTool as OnTool
from crewkeeper_bus.facts import AccessSet as AccessSet
from crewkeeper_bus.facts import Delegated as Delegated
from crewkeeper_bus.facts import HostLeaving as HostLeaving
from crewkeeper_bus.facts import HostLost as HostLost
from crewkeeper_bus.facts import HostSeen as HostSeen
from crewkeeper_bus.facts import HostsSeen as HostsSeen
from crewkeeper_bus.facts import Op as Op
from crewkeeper_bus.facts import OperatorAsked as OperatorAsked
from crewkeeper_bus.facts import Outcome as Outcome
from crewkeeper_bus.facts import OwnerChanged as OwnerChanged
from crewkeeper_bus.facts import ProcessExited as ProcessExited
from crewkeeper_bus.facts import ProcessStarted as ProcessStarted
from crewkeeper_bus.facts import RestartsExhausted as RestartsExhausted
from crewkeeper_bus.facts import Revoked as Revoked
from crewkeeper_bus.facts import RunDeclared as RunDeclared
from crewkeeper_bus.facts import RunEnded as RunEnded
from crewkeeper_bus.facts import StartRefused as StartRefused
from crewkeeper_bus.facts import Tick as Tick
from crewkeeper_bus.facts import Violation as Violation
from crewkeeper_bus.field_types import Count as Count
from crewkeeper_bus.field_types import Name as Name
from crewkeeper_bus.field_types import NameOrNone as NameOrNone
from crewkeeper_bus.field_types import Names as Names
from crewkeeper_bus.field_types import Seconds as Seconds
from crewkeeper_bus.field_types import Text as Text
from crewkeeper_bus.message_base import Control as Control
from crewkeeper_bus.message_base import Fault as Fault
from crewkeeper_bus.message_base import Sent as Sent
from crewkeeper_bus.message_base import Traced as Traced
from crewkeeper_bus.subjects import Kind
from crewkeeper_bus.tool_messages import GateOp, ModelCtl, ToolAsk, ToolHostCtl

# --- agent to agent ---


class Request(Traced, frozen=True, kw_only=True, omit_defaults=True):
    """A call. The subject's id is the call id; the answer comes on `rep.<callee>.<caller>.<call id>`."""

    task: Name
    """The caller's task that makes the call."""
    verb: Name = "ask"
    """Which of the callee's handlers."""
    chain: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Ids of the calls this one descends from, outermost first."""
    deadline_s: Seconds | None = None
    body: Raw


class Reply(Sent, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a call: `body`, or `error`. The handling task ends with it, unless `early`."""

    error: Fault | None = None
    early: bool = False
    """The handler goes on working; its end is a `TaskEnded`."""
    body: Raw | UnsetType = UNSET


class SupervisorReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer on `rep._.<caller>.<call id>`: the supervisor's error for a call, or a person's answer."""

    id: str
    """Command id; the same command is obeyed once."""
    error: Fault | None = None
    body: Raw | UnsetType = UNSET
    final: bool = True
    """False: the call goes on, and another answer to it follows."""
    inc: str = ""
    """The incarnation it is for, where that matters: what is granted to one is nothing to the next."""


class SupervisorCancel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The call of the subject's id is given up in the stead of `caller`, who is gone or did not say so itself."""

    id: str
    caller: Name
    why: Text = ""


class Message(Traced, frozen=True, kw_only=True, omit_defaults=True):
    """A one-way message."""

    task: Name
    body: Raw


class Cancel(Sent, frozen=True, kw_only=True, omit_defaults=True):
    """The caller gives up the call of the subject's id; a callee drops it from its queue or cancels its handler."""

    why: Text = ""


class CallProgress(Sent, frozen=True, kw_only=True, omit_defaults=True):
    """Progress of the call of the subject's id, callee to caller."""

    text: Text = ""


# --- agent to supervisor: notes ---


class Joined(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="joined"):
    """First note of an incarnation: who it is and how it serves."""

    role: Name
    """Its name, where it is not one of several instances."""
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """How many tasks it works on at once: its slots."""
    reentrant: Annotated[str, Meta(pattern="^(none|chain|full)$")] = "none"
    """Which calls start without a free slot: none; those that descend from a call of its own; all."""
    mailbox: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    """How many calls may wait to be started before new ones are refused."""
    heartbeat_s: Seconds = 2.0
    pid: Count = 0
    client: Text = ""
    """Which program speaks, for people."""


class TaskBegan(Traced, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="task"):
    """An activity that no call started begins; it holds a slot unless `slot` is false."""

    task: Name
    """An id that its agent makes up."""
    name: Text = ""
    """`main` for the main activity: the crew's work is done when every main activity has ended and nothing is open."""
    slot: bool = True


class TaskEnded(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="end"):
    """A task is over: an activity, or a handler whose answer went out early."""

    task: Name
    result: Raw | UnsetType = UNSET
    """Main activity: what it came to. The last one of a crew is its final answer."""


class CallStarted(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="start"):
    """A handler begins: from now on `task` works on `call` and holds a slot."""

    call: Name
    caller: Name
    task: Name


class WaitBegan(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="wait"):
    """A task begins to wait."""

    task: Name
    epoch: Annotated[int, Meta(ge=1, le=2**53)]
    """1, 2, 3, … per incarnation: names this wait."""
    condition: Condition
    deadline_s: Seconds | None = None


class WaitEnded(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="wake"):
    """The wait is over, whatever ended it."""

    task: Name
    epoch: Annotated[int, Meta(ge=1, le=2**53)]
    outcome: Annotated[str, Meta(pattern="^(met|timeout|broken|cancelled|gone|killed|failed)$")] = "met"
    """`broken` by a `Break`, `gone`: who was asked is, `killed` by a `Stop`, `failed`: the answer was an error."""


class Taken(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="taken"):
    """A task has taken a one-way message out of the mailbox."""

    sender: Name
    message: Name
    task: Name


class Acquire(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="acquire"):
    """A task asks for a lock or for units of a semaphore; the supervisor grants in journal order."""

    task: Name
    resource: Name
    ticket: Name
    mode: Annotated[str, Meta(pattern="^[xs]$")] = "x"
    """`x`: alone; `s`: together with others that ask for `s`."""
    units: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    capacity: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Units there are in all: 1 for a lock. The first request of a resource fixes it; one that reckons with fewer, or
    needs more, is refused."""


class Release(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="release"):
    """A task gives back what the ticket brought, or no longer asks for it."""

    task: Name
    resource: Name
    ticket: Name


class AskHuman(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="ask_human"):
    """A question to a person; the answer comes on `rep._.<agent>.<question>`."""

    task: Name
    question: Name
    who: Name
    text: Text


class Usage(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="usage"):
    """What the task spent, as the agent says."""

    task: Name
    model: Text = ""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_microusd: Count = 0


class Progress(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="progress"):
    """The task got somewhere."""

    task: Name
    text: Text = ""


class Standing(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="standing"):
    """Where the agent stands after a pause or resume took effect: `paused` at a checkpoint, or `running`."""

    state: Annotated[str, Meta(pattern="^(paused|running)$")]


class Delegate(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="delegate"):
    """A task asks to let in a helper of its own; the answer comes on `rep._.<agent>.<id of this note's subject>`.

    The helper logs in as `<run>.<agent>` with the password `<token>-<secret>`; the secret itself stays with the asker.
    """

    task: Name
    """The helper lives and dies with it."""
    agent: Name
    """The helper's name, new in the crew."""
    peers: Names = ()
    """Whom it may send to: agents or roles, none that the asker may not send to itself."""
    tools: Names = ()
    """None that the asker may not use itself."""
    limit_s: Seconds
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """SHA-256 of the secret, in hexadecimal."""
    token: Name
    """The token's id."""


class NudgeTaken(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="nudge_taken"):
    """What a nudge says has been handed to the model: it is not told again."""

    nudge: Name


class Left(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="left"):
    """The incarnation goes: its last note."""

    why: Text = ""
    done: bool = True
    """Whether the work was finished, as opposed to failed or told to stop."""


Note = (
    Joined
    | TaskBegan
    | TaskEnded
    | CallStarted
    | WaitBegan
    | WaitEnded
    | Taken
    | Acquire
    | Release
    | AskHuman
    | Usage
    | Progress
    | Standing
    | Delegate
    | NudgeTaken
    | Left
)


# --- agent to supervisor: heartbeat ---


class OpenWait(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One wait that is open now."""

    epoch: Annotated[int, Meta(ge=1, le=2**53)]
    condition: Condition
    """What it is still for: parts that are met or no longer can be may be left out."""
    for_s: Seconds = 0.0
    """How long it has been open."""
    deadline_s: Seconds | None = None
    """Seconds left."""


class TaskState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task that is alive now."""

    task: Name
    call: NameOrNone = ""
    """The call it handles, until that is answered."""
    caller: NameOrNone = ""
    slot: bool = True
    wait: OpenWait | None = None


class OpenCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call the agent made and has no answer for."""

    call: Name
    to: Name
    task: Name


class Held(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One grant the agent holds."""

    resource: Name
    ticket: Name
    task: Name


class Heartbeat(Sent, frozen=True, kw_only=True, omit_defaults=True):
    """The agent's whole state as the client knows it: heals lost notes, and answers a probe."""

    nonce: NameOrNone = ""
    """The probe this answers; empty in a periodic heartbeat."""
    role: Name
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 1
    reentrant: Annotated[str, Meta(pattern="^(none|chain|full)$")] = "none"
    mailbox: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    heartbeat_s: Seconds = 2.0
    state: Annotated[str, Meta(pattern="^(paused|running)$")] = "running"
    tasks: Annotated[tuple[TaskState, ...], Meta(max_length=20_000)] = ()
    queued: Annotated[tuple[Name, ...], Meta(max_length=100_000)] = ()
    """Calls received and not started, oldest first."""
    calls: Annotated[tuple[OpenCall, ...], Meta(max_length=100_000)] = ()
    unread: Annotated[tuple[tuple[Name, Name], ...], Meta(max_length=100_000)] = ()
    """One-way messages received and not taken: (sender, message id)."""
    held: Annotated[tuple[Held, ...], Meta(max_length=20_000)] = ()


# --- supervisor to agent or host: control ---


class Begin(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="begin"):
    """The crew is complete: activities may start."""

    peers: Names = ()
    replicas: dict[Name, Count] = field(default_factory=dict)
    """Roles with several instances, and how many: `<role>-1` to `<role>-<n>`. Nobody else answers calls to a role."""
    may_call: Names | None = None
    """Agents and roles that it may call and tell something; the server takes nothing for others. Null: anybody."""
    may_tell: Names = ()
    """Those that it may tell something besides."""


class Break(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="break"):
    """Fail this one wait; ignored if the wait is over. Calls it waited for are cancelled."""

    task: Name
    epoch: Annotated[int, Meta(ge=1, le=2**53)]
    code: Annotated[str, Meta(pattern="^(would_deadlock|peer_gone|repeated)$")] = "would_deadlock"
    """Which error the wait fails with: `WouldDeadlock`, `PeerGone` or `Repeated`."""
    finding: str
    why: Text
    path: tuple[Text, ...] = ()
    retry_after_s: Seconds = 0.0


class Probe(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="probe"):
    """Answer at once with a heartbeat that carries this nonce."""

    nonce: Name


class Pause(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="pause"):
    """Hold at the next checkpoint; nothing queued is lost."""

    why: Text = ""


class Resume(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="resume"):
    """Go on."""


class Stop(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="stop"):
    """End: fail every wait with `Killed`, then leave. The host follows with signals after the grace."""

    why: Text = ""
    grace_s: Seconds = 5.0


class Granted(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="granted"):
    """The ticket is served: the task holds the resource."""

    resource: Name
    ticket: Name
    revision: Count
    """Journal sequence of the grant: a fencing token for whatever the resource guards."""


class Nudge(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="nudge"):
    """Let the agent's model read this, once: what it should do otherwise. It may come again until it was taken."""

    nudge: Name
    """Known again by this id, whichever command it came with."""
    finding: str
    text: Text


Ctl = Begin | Break | Probe | Pause | Resume | Stop | Granted | Nudge


class StartProcess(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="start_process"):
    """To one host: start and keep the process of this agent. The id of the order names the place that it gets."""

    agent: Name
    host: Name
    inc: Name
    """The incarnation of the host that is meant; no other obeys."""
    why: Text = ""


class StopProcess(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="stop_process"):
    """To the host: end the process of this agent, SIGTERM then SIGKILL after the grace, and do not restart it."""

    agent: Name
    grace_s: Seconds = 5.0
    place: NameOrNone = ""
    """Only the process that was started by this `StartProcess`."""


class StopRun(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="stop_run"):
    """To every host: stop every process of the run, last started first, and end the run in this state."""

    why: Text = ""
    state: Annotated[str, Meta(pattern="^(done|failed|stopped)$")] = "stopped"


HostCtl = StartProcess | StopProcess | StopRun


AGENT_MESSAGES: Final[dict[Kind, Any]] = {
    Kind.REQ: Request,
    Kind.REP: Reply,
    Kind.MSG: Message,
    Kind.PROG: CallProgress,
    Kind.CANCEL: Cancel,
    Kind.HB: Heartbeat,
    Kind.NOTE: Note,
    Kind.TOOL: ToolAsk,
}
"""What an agent may send, by the kind in its subject."""

SUPERVISOR_MESSAGES: Final[dict[Kind, Any]] = {
    Kind.REP: SupervisorReply,
    Kind.CANCEL: SupervisorCancel,
    Kind.CTL: Ctl | HostCtl | ToolHostCtl | ModelCtl,
    Kind.OP: Op | GateOp,
}
"""What only the supervisor side sends: see `subjects.SIDE`."""
