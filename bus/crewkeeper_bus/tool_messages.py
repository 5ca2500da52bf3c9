"""Tool messages: what agents ask the gate, what the gate asks of tool hosts, model proxies, hooks and people.

A call has an id that its caller chooses: the same id is the same call, answered alike and charged once. What it may
cost is reserved before it is granted, and stays reserved until it is settled or its time is over.
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from crewkeeper_bus.field_types import NAMES_MAX, Count, Name, Seconds, Text, ToolName, TraceContext
from crewkeeper_bus.message_base import Control, Fault, Sent, Traced

ToolNames = Annotated[tuple[Text, ...], Meta(max_length=128)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{0,64}\Z")]
Dimension = Annotated[
    str,
    Meta(
        pattern="^(microusd|input_tokens|output_tokens|cached_tokens|tokens|model_calls|tool_calls|messages|depth"
        r"|fan_out|wall_s)\Z"
    ),
]
"""What can be limited."""
Amounts = Annotated[dict[Dimension, Annotated[int, Meta(ge=0)]], Meta(max_length=16)]
"""By dimension. Sums have no limit of their own, as counts have: none may be too large to be told."""

Reachable = Annotated[str, Meta(pattern=r"^(tool|resource|prompt)\Z")]
"""What an agent may ask the gate for, besides models. Resources and prompts are those of MCP servers."""


# --- agent to gate, on `tool` ---


class ToolCall(Traced, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="call"):
    """An agent wants a tool to run; the subject's id is the call id. The answer comes on `rep._.<agent>.<call id>`."""

    task: Name
    tool: Text
    """As its caller names it; what does not exist is answered with what does."""
    args: Raw
    """A JSON object."""
    inside: bool = False
    """The agent runs it itself once it is granted, and then sends `Settled`."""
    what: Reachable = "tool"
    """A resource is read and a prompt is fetched by the agent itself: the policy decides, and nothing is charged."""
    deadline_s: Seconds | None = None
    unsent: Fault | None = None
    """Why no message can carry the arguments: the call is refused so, and recorded."""


class ModelCall(Traced, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="model"):
    """An agent is about to call a model by itself; it goes on when it has the grant, and then sends `Settled`."""

    task: Name
    model: Text
    provider: Text = ""
    input_tokens: Count
    """An upper bound of what goes in."""
    max_output_tokens: Count
    """The most that may come out."""
    digest: Digest = ""
    """Digest of the request: equal for equal requests."""


class Settled(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="settled"):
    """What became of the granted call of the subject's id that the agent carried out itself."""

    ok: bool
    error: Text = ""
    cost_microusd: Count | None = None
    """Null: by the price known to the gate."""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_tokens: Count = 0
    """Part of `input_tokens`."""
    result: Raw | UnsetType = UNSET
    digest: Digest = ""


class CallGivenUp(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="give_up"):
    """The caller no longer waits for the call of the subject's id. What it may have cost stays charged."""

    why: Text = ""


class Proposed(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="proposed"):
    """Tools that a model wants to call, as it named them, before any is called."""

    task: Name
    tools: ToolNames
    unsafe: Text = ""
    """Why the agent's own side lets nobody call them, as where a server has changed what it says of them."""


class Survey(Sent, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="survey"):
    """Which of these could be called at all? The answer on `rep._.<agent>.<id>` has the places of those that could not.

    So what a model may never call need not be shown to it. Nothing is decided, booked or charged.
    """

    task: Name
    names: ToolNames
    what: Reachable = "tool"


ToolAsk = ToolCall | ModelCall | Settled | CallGivenUp | Proposed | Survey


# --- gate to tool host and model proxy, on `ctl` ---


class RunTool(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="run_tool"):
    """To the tool host: run this once, and say `ToolRan`. An id that was obeyed is not run again."""

    call: Name
    agent: Name
    tool: Text
    args: Raw
    """After redaction."""
    limit_s: Seconds
    """When to cut it."""
    host: Name = "-"
    """The tool host's incarnation that is to run it; no other does."""
    trace: TraceContext = ""
    """As the call had it: whose part running it is."""


class CutTool(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="cut_tool"):
    """To the tool host: end this call if it is still running; nobody waits for it."""

    call: Name
    agent: Name
    why: Text = ""


class SpendGranted(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="spend_granted"):
    """To the model proxy: forward the call, and say `Spent`."""

    call: Name
    agent: Name
    max_output_tokens: Count = 0
    limit_s: Seconds = 0.0
    """When the reservation is charged if nothing was said."""
    last: bool = False
    """The budget is spent: this one call is granted for an answer to hand back."""
    redact: ToolNames = ()
    """What policy wants out of the request before it is sent: classes and kinds of findings, `args.` and paths."""
    nudges: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    """What the model is to read at the end of this request, each text once."""


class SpendRefused(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="spend_refused"):
    """To the model proxy: do not forward the call."""

    call: Name
    agent: Name
    fault: Fault


class Withhold(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="withhold"):
    """To the model proxy: keep the call waiting; a grant or a refusal follows."""

    call: Name
    agent: Name
    why: Text = ""


class SpendBooked(Control, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="spend_booked"):
    """To the model proxy: what the call has cost is in the books, or was given back."""

    call: Name
    agent: Name


ToolHostCtl = RunTool | CutTool
ModelCtl = SpendGranted | SpendRefused | Withhold | SpendBooked


# --- facts, on `op` ---


class ToolTold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a source says of one of its tools."""

    declared: Text
    """The key of the crew file it comes from."""
    description: Text = ""
    schema: dict[str, Any] | None = None
    """JSON Schema of the arguments."""


class ToolsReady(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="tools_ready"):
    """From the tool host: tools by the name they are called by. Says again all of a declared tool that it names.

    Calls that another host incarnation has been asked to run are lost.
    """

    host: Name
    """The tool host's incarnation."""
    tools: Annotated[dict[Text, ToolTold], Meta(max_length=5000)] = {}
    failed: Annotated[dict[Text, Text], Meta(max_length=500)] = {}
    """Declared tools that cannot be had, with the reason."""


class ToolsGone(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="tools_gone"):
    """The tool host of this incarnation has ended, with everything it was running."""

    host: Name
    why: Text = ""


class ToolRan(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="tool_ran"):
    """From the tool host: how a call ended."""

    call: Name
    agent: Name
    ok: bool
    code: Annotated[str, Meta(pattern=r"^(|tool_failed|tool_timeout|tool_lost|too_large)\Z")] = ""
    """What went wrong; empty with `ok`."""
    error: Text = ""
    result: Raw | UnsetType = UNSET
    took_ms: Count = 0
    cost_microusd: Count | None = None
    """Null: the declared price."""
    input_tokens: Count = 0
    output_tokens: Count = 0


class SpendAsked(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="spend_asked"):
    """From the model proxy: an agent wants to call a model."""

    agent: Name
    task: Name
    call: Name
    model: Text
    provider: Text = ""
    input_tokens: Count
    max_output_tokens: Count
    digest: Digest = ""
    trace: TraceContext = ""
    """W3C `traceparent` of the agent's HTTP request; what is none is ignored."""


class Spent(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="spent"):
    """From the model proxy: what the provider reported; with neither tokens nor `ok`, nothing was forwarded."""

    call: Name
    agent: Name
    ok: bool
    forwarded: bool = True
    """False: the request never left, so nothing is charged."""
    model: Text = ""
    """As the response names it."""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    """Part of `cache_write_tokens`: kept for an hour, which is dearer."""
    estimated: bool = False
    """Nobody has said what was used: all that was held is charged."""
    error: Text = ""
    digest: Digest = ""


class ApprovalAsked(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="approval_asked"):
    """A person is asked to decide on exactly one call."""

    command: str
    approval: Name
    agent: Name
    call: Name
    tool: Text
    args: Raw
    """As they would be run: after redaction."""
    digest: Digest
    """Of the exact action: run, agent, call, tool, arguments, policy version."""
    policy: Digest
    """Version of the policy that asks."""
    rule: Text = ""
    because: Text = ""
    who: Text = ""
    """Who may decide; empty: any operator."""
    cost_microusd: Count = 0
    expires_s: Seconds
    """Seconds from now until it is refused as expired."""


class ApprovalDecided(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="approval"):
    """A person has decided."""

    approval: Name
    decision: Annotated[str, Meta(pattern=r"^(approve|deny|cancel)\Z")]
    digest: Digest
    """What was looked at; another than the one asked about decides nothing."""
    by: Text
    reason: Text = ""
    via: Text = ""
    """`cli`, `link`, `callback`."""


class PolicyChanged(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="policy"):
    """Other rules from here on; calls already decided stay decided, approvals asked under other rules are cancelled."""

    rules: Annotated[tuple[dict[str, Any], ...], Meta(max_length=500)]
    default: Annotated[str, Meta(pattern=r"^(allow|deny)\Z")] = "allow"
    version: Digest
    by: Text = ""


class ToolsNarrowed(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="tools_narrowed"):
    """A person leaves an agent fewer of its tools, with all of its credentials, from here on."""

    agent: Name
    tools: Annotated[tuple[ToolName, ...], Meta(max_length=NAMES_MAX)]
    """As the crew file gives it, or functions of those; what it does not let the agent use stays out of reach."""
    by: Text = ""


class BudgetChanged(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="budget"):
    """A person has changed a limit: to `limit`, or by `add` more. Nothing that is spent is undone."""

    agent: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,32}\Z")] = ""
    """Empty: the crew's."""
    dimension: Dimension
    limit: Count | None = None
    """Null together with `add` 0: no limit any more."""
    add: Count = 0
    by: Text = ""
    why: Text = ""


class FleetTold(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="fleet"):
    """From the controller: what all crews of this server may spend together, and whether others lack what is idle."""

    limits: Amounts = {}
    """Dimensions without one are not limited."""
    revision: Count = 0
    """Of the limits; what has none newer than those known changes no limit."""
    round: Count = 0
    """Asks for everything that is neither spent nor held, once for each number."""
    by: Text = ""
    """Who changed the limits."""


class ShareLeased(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="share"):
    """From the controller: the run's share of what all crews may spend together, in answer to its order."""

    command: str
    n: Count
    """Number of the order."""
    leased: Amounts = {}
    """The most that the run may have spent and held from here on."""
    over: Amounts = {}
    """Spent beyond that."""
    lacking: Text = ""
    """The dimension of which there is not enough, although no run keeps more than it needs; empty: it was given."""
    limits: Amounts = {}
    left: Amounts = {}
    """What nobody has a share in."""
    crossed: Annotated[tuple[Dimension, ...], Meta(max_length=16)] = ()
    """Dimensions that are nearly spent now and were not before."""
    closed: bool = False
    """The run has ended, and what it has spent is in the books."""


class HookAnswered(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="hook"):
    """What a Python hook says of one call."""

    command: str
    agent: Name
    call: Name
    hook: Text
    answer: Annotated[str, Meta(pattern=r"^(yes|no|failed)\Z")]
    because: Text = ""
    """The hook's reason, or why it failed."""


GateOp = (
    ToolsReady
    | ToolsGone
    | ToolRan
    | SpendAsked
    | Spent
    | ApprovalAsked
    | ApprovalDecided
    | PolicyChanged
    | ToolsNarrowed
    | BudgetChanged
    | HookAnswered
    | FleetTold
    | ShareLeased
)
