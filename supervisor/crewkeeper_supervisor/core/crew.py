"""The crew as declared: what a crew file says, checked and with every default filled in."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from crewkeeper_supervisor.core.model_proxy import ModelProxy
from crewkeeper_supervisor.core.outcome import Outcome
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import Price, Tool

AgentName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")]
PositiveSeconds = Annotated[float, Meta(gt=0, le=366 * 24 * 3600)]

RestartPolicy = Literal["permanent", "transient", "temporary"]
Action = Literal["observe", "warn", "nudge", "hold", "break", "pause", "kill", "stop", "escalate"]
"""What policy can do about a finding, mildest first. `nudge` tells the agents' models; `hold` keeps their new tool and
model calls waiting at the gate; `stop` ends the whole crew."""

VictimPolicy = Literal["least_work", "youngest", "priority"]
"""`least_work`: tokens, time and cost of restarting; `youngest`: the last begun root; `priority`: the lowest."""


class Restart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an agent's process is started again (Erlang/OTP terms).

    `permanent`: always. `transient`: unless it ended with status 0. `temporary`: never. More than `intensity`
    restarts within `period_s` seconds: give up on the agent.
    """

    policy: RestartPolicy = "transient"
    intensity: Annotated[int, Meta(ge=0, le=1000)] = 3
    period_s: PositiveSeconds = 60.0
    shutdown_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """Grace between SIGTERM and SIGKILL."""
    elsewhere: bool = False
    """Where agents are spread over hosts: whether it is started on another one when its host is gone."""


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of what may be spent; None is no limit."""

    microusd: Annotated[int, Meta(ge=0)] | None = None
    input_tokens: Annotated[int, Meta(ge=0)] | None = None
    output_tokens: Annotated[int, Meta(ge=0)] | None = None
    cached_tokens: Annotated[int, Meta(ge=0)] | None = None
    """Counted when a call is over: how many are cached is not known before."""
    tokens: Annotated[int, Meta(ge=0)] | None = None
    model_calls: Annotated[int, Meta(ge=0)] | None = None
    tool_calls: Annotated[int, Meta(ge=0)] | None = None
    messages: Annotated[int, Meta(ge=0)] | None = None
    depth: Annotated[int, Meta(ge=1)] | None = None
    fan_out: Annotated[int, Meta(ge=1)] | None = None
    wall_s: PositiveSeconds | None = None
    warn_percent: Annotated[int, Meta(ge=1, le=100)] = 80
    """Share of a limit from which on people are warned."""
    hand_back_percent: Annotated[int, Meta(ge=0, le=50)] = 0
    """Share of each limit that is kept for one last model call of each agent, to hand back what it has."""
    ask_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 0.0
    """How long a call that does not fit any more is held while people may raise the limit; 0: it is refused at once."""


class Agent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One declared role of the crew, run by `replicas` instances."""

    name: AgentName
    run: tuple[str, ...] = ()
    """Command line of its process; empty for an external agent."""
    external: bool = False
    """Started elsewhere."""
    replicas: Annotated[int, Meta(ge=1, le=1000)] = 1
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 1
    reentrant: Literal["none", "chain", "full"] = "none"
    mailbox: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    may_call: tuple[AgentName, ...] | None = None
    """Roles it may call; None: any."""
    may_tell: tuple[AgentName, ...] = ()
    """Roles it may send one-way messages to, besides those."""
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    """Working directory, absolute."""
    host: dict[str, str] = field(default_factory=dict)
    """Labels that a host must have to be given it, where agents are spread over hosts."""
    restart: Restart = field(default_factory=Restart)
    budget: Budget | None = None
    task_budget: Budget | None = None
    """Limits of each of its tasks."""
    tools: tuple[str, ...] = ()
    priority: Annotated[int, Meta(ge=0, le=100)] = 10
    """Weight of its work when a victim is chosen; higher is dearer."""
    never_victim: bool = False
    restart_cost: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """Tokens it takes this agent to get going again after a failed wait: part of what a victim loses."""
    stall_s: Annotated[float, Meta(ge=0, le=366 * 24 * 3600)] | None = None
    """How long it may go without progress; 0: it is not judged; None: as the crew's."""

    @property
    def instances(self) -> tuple[str, ...]:
        """Names of its instances on the bus: its own name, or name-1 … name-n with replicas."""
        if self.replicas == 1:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(1, self.replicas + 1))


class Repeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the same ring of waits has closed so often that people must know: a fault of design, not bad luck."""

    times: Annotated[int, Meta(ge=2, le=1000)] = 3
    within_s: PositiveSeconds = 600.0


class Response(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do about one kind of finding, in order."""

    do: tuple[Action, ...] = ("warn",)
    confirm_s: Annotated[float, Meta(ge=0, le=3600)] = 0.25
    """How long a suspicion must stand, all its members having affirmed it, before anything is done."""
    lasting_s: Annotated[float, Meta(ge=0, le=366 * 24 * 3600)] = 10.0
    """How long a deadlock that a timer would end must last before it is treated as one without."""
    shadow: bool = False
    """Report what would be done, and do not do it."""
    victim: VictimPolicy = "least_work"
    """Deadlocks: how the wait to fail is chosen among those with no started work behind them."""
    repeat: Repeat = field(default_factory=Repeat)
    """Deadlocks: when a ring that closes again and again is told to people."""
    climb_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 0.0
    """How long a rung of the ladder is given to help before the next one; 0: all of `do` is carried out at once."""
    cool_down_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 0.0
    """Within how long after it was over the same condition comes back at the rung it had reached."""
    hold_s: Annotated[float, Meta(gt=0, le=24 * 3600)] = 300.0
    """How long `hold` keeps new calls waiting at most."""


STOPPING: Final[tuple[Action, ...]] = ("warn", "nudge", "hold", "escalate", "pause")
"""A hold does not stop who repeats itself in messages alone: if that goes on after people were told, it is paused."""


def _ladder(*do: Action, climb_s: float) -> Response:
    return Response(do=do, climb_s=climb_s, cool_down_s=600.0)


class Responses(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The response to each kind of finding."""

    deadlock: Response = field(default_factory=lambda: Response(do=("break", "escalate")))
    orphan: Response = field(default_factory=lambda: Response(do=("break",)))
    crash: Response = field(default_factory=lambda: Response(do=("warn",)))
    restart_intensity: Response = field(default_factory=lambda: Response(do=("warn", "escalate")))
    malformed: Response = field(default_factory=lambda: Response(do=("warn",)))
    forgery: Response = field(default_factory=lambda: Response(do=("warn", "escalate")))
    intrusion: Response = field(default_factory=lambda: Response(do=("warn", "escalate")))
    survivor: Response = field(default_factory=lambda: Response(do=("warn", "escalate")))
    flood: Response = field(default_factory=lambda: Response(do=("pause", "kill", "escalate")))
    unknown_tool: Response = field(default_factory=lambda: Response(do=("warn",)))
    bad_arguments: Response = field(default_factory=lambda: Response(do=("warn",)))
    policy_denied: Response = field(default_factory=lambda: Response(do=("warn",)))
    budget_soft: Response = field(default_factory=lambda: Response(do=("warn",)))
    budget_spent: Response = field(default_factory=lambda: Response(do=("warn", "escalate")))
    outcome: Response = field(default_factory=lambda: Response(do=("warn", "escalate")))
    loop: Response = field(default_factory=lambda: _ladder(*STOPPING, climb_s=20.0))
    drift: Response = field(default_factory=lambda: _ladder("warn", "nudge", "escalate", climb_s=60.0))
    misuse: Response = field(default_factory=lambda: _ladder("warn", "nudge", "escalate", climb_s=30.0))
    stall: Response = field(default_factory=lambda: _ladder("warn", "nudge", "escalate", climb_s=60.0))
    livelock: Response = field(default_factory=lambda: _ladder("warn", "nudge", "break", "escalate", climb_s=20.0))
    starvation: Response = field(default_factory=lambda: _ladder("warn", "escalate", climb_s=60.0))
    retry_storm: Response = field(default_factory=lambda: _ladder(*STOPPING, climb_s=10.0))
    fan_out: Response = field(default_factory=lambda: _ladder("warn", "nudge", "hold", "escalate", climb_s=10.0))
    depth: Response = field(default_factory=lambda: _ladder("warn", "nudge", "escalate", climb_s=20.0))


class Watching(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From when on conduct is a finding. Nothing here refuses anything; `Budget` has the limits that do."""

    stall_s: Annotated[float, Meta(ge=0, le=366 * 24 * 3600)] = 600.0
    """How long an agent may go without progress that nothing excuses; 0: nobody is judged."""
    depth: Annotated[int, Meta(ge=2, le=64)] = 32
    """How long a chain of calls may grow."""
    fan_out: Annotated[int, Meta(ge=2, le=10_000)] = 500
    """How many calls one task, or all below one root, may have open at once."""


BURST_LEAST_BYTES: Final = 8.0 * 1024 * 1024
"""What anybody may send at once after a pause: one largest message."""


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one agent may send before its messages are counted and not read."""

    messages_per_s: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    bytes_per_s: Annotated[int, Meta(ge=1024, le=2**40)] = 8 * 1024 * 1024
    burst: Annotated[int, Meta(ge=1, le=10_000_000)] = 2000
    """Messages at once after a pause; bytes in the same proportion, and one largest message at least."""

    @property
    def burst_bytes(self) -> float:
        """Bytes at once after a pause."""
        return max(self.bytes_per_s * self.burst / self.messages_per_s, BURST_LEAST_BYTES)


class Retain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long what is recorded of a run is kept once it is over."""

    journal_s: Annotated[float, Meta(ge=0, le=100 * 366 * 24 * 3600)] = 0.0
    """The journal; 0: for ever."""
    ledger_s: Annotated[float, Meta(ge=0, le=100 * 366 * 24 * 3600)] = 0.0
    """The ledger, at least as long as the journal; 0: for ever."""


class Webhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One receiver of escalations. Values may name environment variables as `${NAME}`; they are read when used."""

    webhook: str
    secret: str = ""
    previous_secret: str = ""
    """The secret before this one, while receivers change over: requests are signed with both."""
    format: Literal["standard", "cloudevents", "slack", "pagerduty", "alertmanager"] = "standard"
    routing_key: str = ""
    """Of a service at PagerDuty, for that format alone."""
    after_s: float = 0.0
    """How long the others have to acknowledge before this one is told; 0: it is told at once."""
    allow_private: bool = False
    """Whether it may be at a private or loopback address, and then be called without encryption."""


class Redact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is replaced where secrets could be read, beside what rules of the policy take out of calls."""

    kinds: tuple[str, ...] = ("secrets",)
    """Classes and kinds of `bus.redaction`, and detectors of `bus.detectors`."""
    places: tuple[Literal["client", "arguments", "views", "webhooks"], ...] = ("client", "views", "webhooks")
    """`client`: before agents publish; `arguments`: also those of tools; `views`: what commands show; `webhooks`."""
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]*\Z")] = ""
    """Of the hashes in placeholders, made for each run."""


LinkedAct = Literal["approve", "deny", "acknowledge", "resume", "extend", "kill"]


class Crew(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A crew file, checked: everything the core needs to know before the first event."""

    name: AgentName
    objective: str = ""
    agents: tuple[Agent, ...] = ()
    budget: Budget = field(default_factory=Budget)
    responses: Responses = field(default_factory=Responses)
    escalate: tuple[Webhook, ...] = ()
    escalations_per_minute: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Findings that people are told of one by one; those beyond that are told together in a digest."""
    act_links: tuple[LinkedAct, ...] = ("approve", "deny", "acknowledge", "resume", "extend", "kill")
    """What messages to people carry links for, where links are served at all."""
    payload_bytes: Annotated[int, Meta(ge=1024, le=8 * 1024 * 1024)] = 256 * 1024
    rate: Rate = field(default_factory=Rate)
    """What each agent may send."""
    retain: Retain = field(default_factory=Retain)
    heartbeat_s: Annotated[float, Meta(ge=0.05, le=300)] = 2.0
    start_timeout_s: PositiveSeconds = 30.0
    """How long the crew waits for all its agents before it begins without the missing ones."""
    tools: dict[str, Tool] = field(default_factory=dict)
    """Declared tools by name."""
    rules: tuple[Rule, ...] = ()
    """Policy rules in their order."""
    policy_default: Literal["allow", "deny"] = "allow"
    """What becomes of a call that no rule decides on."""
    folder: str = ""
    """Where modules of hooks are looked for first, absolute."""
    redact: Redact = field(default_factory=Redact)
    approval_s: PositiveSeconds = 900.0
    """How long a person has to decide on a call before it is refused."""
    approval_who: Annotated[str, Meta(min_length=1, max_length=64)] = "operator"
    """Who is asked, as people call them."""
    approval_listen: str = ""
    """Where the host of the crew serves the forms behind approval links, `host:port`; empty: it does not."""
    approval_url: str = ""
    """Address under which people reach them; empty: `http://` and where they are served, if anywhere."""
    prices: dict[str, Price] = field(default_factory=dict)
    """Prices by model or pattern of models, before those of the bundled table."""
    model_proxy: ModelProxy | None = None
    """Where agents call models; None: as they like."""
    watch: Watching = field(default_factory=Watching)
    """When conduct is a finding."""
    outcome: Outcome | None = None
    """What the final answer of the crew must be like."""
    fleet: dict[str, int] = field(default_factory=dict)
    """What all crews of the server may spend together, as it stood when the run was declared; not of the crew file."""
    fleet_revision: Annotated[int, Meta(ge=0)] = 0
    """How often that had been changed by then."""
