"""Gate state: what is remembered of calls, tools and approvals; how calls are decided is in `gate`.

Memory is bounded: so many calls open for an agent, and so many answers kept of it. An id that was forgotten is a new
call, so whoever repeats calls does so soon.
"""

import heapq
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct, field

from crewkeeper_bus.messages import Fault
from crewkeeper_bus.tool_messages import HookAnswered
from crewkeeper_supervisor.core.budget import Accounts, Amounts, Path
from crewkeeper_supervisor.core.crew import Budget, Crew
from crewkeeper_supervisor.core.gate_rules import Decided, GateRules, MakeGateRules, RulesMemory
from crewkeeper_supervisor.core.rates import Bucket
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import CallRate, Tool

OPEN_MAX: Final = 1000
"""Calls of one agent that may be open."""
ANSWERS_MAX: Final = 1000
"""Calls of one agent whose ends are remembered."""
ANSWERS_MAX_BYTES: Final = 4 * 1024 * 1024
"""Answers of one agent that are kept; of older calls only the end is."""
APPROVALS_MAX: Final = 1000
"""Approvals that are remembered once they are decided."""
BROKEN_POINTS: Final = 20
"""A tool is not called any more for a while when its calls in a row have failed so badly."""
HARD_POINTS: Final = 4
"""What a call counts that was cut or lost; one that failed counts 1."""
REST_S: Final = 30.0
"""How long it is not called then; after that one call tries it."""

Stage = Literal["new", "held", "starting", "hook", "approval", "queued", "leasing", "asking", "running"]
"""What a call waits for: `held` for its agent to be let go on, `starting` for its tool to tell what it has, `hook` and
`approval` for an answer, `queued` for others to end, `leasing` for a share of the fleet's budget, `asking` for a higher
limit, `running` for its result."""

ApprovalState = Literal["pending", "approved", "denied", "expired", "cancelled"]


class GateCall(Struct, kw_only=True):
    """One call that is not over."""

    agent: str
    id: str
    inc: str
    """The incarnation that asked; empty for a proxy."""
    task: str
    kind: Literal["tool", "model", "resource", "prompt"]
    via: Literal["agent", "proxy"]
    name: str
    """The tool or the model."""
    digest: str
    """Of what was asked: the same id with another digest is refused."""
    args: dict[str, Any] = field(default_factory=dict)
    args_bytes: int = 0
    inside: bool = False
    """The agent carries it out by itself."""
    wants_inside: bool = False
    """It has asked to."""
    unsent: Fault | None = None
    """Why no message could carry its arguments."""
    input_tokens: int = 0
    output_tokens: int = 0
    opened_s: float = 0.0
    until_s: float | None = None
    """When its caller gives up, journal time."""
    stage: Stage = "new"
    step: int = 0
    """The step of the gate that comes next."""
    due_s: float = 0.0
    """When its stage is over, journal time."""
    declared: str = ""
    tool: Tool | None = None
    hooks: dict[str, HookAnswered] = field(default_factory=dict)
    decided: Decided | None = None
    approval: str = ""
    approved_by: str = ""
    has_slot: bool = False
    host: str = ""
    path: Path = ()
    held: Amounts = field(default_factory=dict)
    limit_s: float = 0.0
    last: bool = False
    """Granted out of what is kept for handing back."""
    given_up: bool = False
    opened_seq: int = 0
    """Journal sequence of what asked for it."""
    content: str = ""
    """Model: digest of the request; empty if nobody said."""
    beside: bool = False
    """Model: the same request was open when it was asked for."""
    made_tokens: int = 0
    """Model: tokens of the answer."""
    nudges: tuple[str, ...] = ()
    """Ids of nudges that its grant carries to the model."""
    trace: str = ""
    """The context it was made in, for whoever runs it."""

    @property
    def key(self) -> tuple[str, str]:
        """Agent and id."""
        return self.agent, self.id

    def misfit(self) -> Fault | None:
        """What is wrong with how it was asked, whatever its arguments are."""
        if self.unsent is not None:
            code = "too_large" if self.unsent.code == "too_large" else "bad_arguments"
            return Fault(code=code, text=f"{self.unsent.text[:500]}; nothing was executed")
        if self.wants_inside and self.tool is not None and not self.inside:
            text = f"{self.name!r} runs at the tool host: an agent calls it, and asks no grant to run it by itself"
            return Fault(code="bad_arguments", text=f"{text}; nothing was executed")
        if self.inside and not self.wants_inside:
            text = f"{self.name!r} runs in the agent itself: ask a grant for it (grant_tool), run it, and settle it"
            return Fault(code="bad_arguments", text=f"{text}; nothing was executed")
        return None

    @property
    def is_own(self) -> bool:
        """Whether who asked carries it out and settles it."""
        return self.inside or self.kind != "tool"


class Ended(Struct, frozen=True, kw_only=True):
    """How a call ended."""

    digest: str
    error: Fault | None = None
    body: Raw | None = None
    forgotten: bool = False
    """Its answer is no longer kept."""


class Approval(Struct, kw_only=True):
    """One request to a person."""

    id: str
    agent: str
    call: str
    tool: str
    digest: str
    policy: str
    rule: str
    because: str
    args: Raw
    cost_microusd: int
    who: str
    asked_at_s: float
    expires_at_s: float
    state: ApprovalState = "pending"
    by: str = ""
    reason: str = ""
    decided_at_s: float | None = None
    told: bool = False
    """Whether people were told of it; then they are also told when it is over."""


class ToolUse(Struct, kw_only=True):
    """How much one declared tool is used, and how it does."""

    running: int = 0
    queue: list[tuple[str, str]] = field(default_factory=list)
    """Calls that wait for others to end."""
    calls_left: float = -1.0
    """What its rate still allows; negative: not counted yet."""
    counted_s: float = 0.0
    points: int = 0
    rests_until_s: float = 0.0

    def admits(self, rate: CallRate | None, now_s: float) -> bool:
        """Whether its rate allows a call now; it counts as made then."""
        if rate is None:
            return True
        if self.calls_left < 0:
            self.calls_left = float(rate.calls)
        else:
            gained = max(0.0, now_s - self.counted_s) * rate.calls / rate.per_s
            self.calls_left = min(float(rate.calls), self.calls_left + gained)
        self.counted_s = now_s
        if self.calls_left < 1.0 - 1e-9:
            return False
        self.calls_left = max(0.0, self.calls_left - 1.0)
        return True

    def ended(self, code: str, now_s: float) -> None:
        """A call ended so; empty: well."""
        if not code:
            self.points, self.rests_until_s = 0, 0.0
            return
        self.points += 1 if code == "tool_failed" else HARD_POINTS
        if self.points >= BROKEN_POINTS:
            self.rests_until_s = now_s + REST_S
            self.points = BROKEN_POINTS - 1  # whatever fails when it is tried again closes it at once


class FleetShare(Struct, kw_only=True):
    """What a run knows of the limits that all crews share; how it is used is in `fleet`."""

    limits: Amounts = field(default_factory=dict)
    revision: int = 0
    left: Amounts = field(default_factory=dict)
    """What nobody had a share in when that was last told."""
    n: int = 0
    """Number of the last order."""
    pending: str = ""
    """The order that is under way, as a command; empty: none is."""
    waiting: dict[tuple[str, str], Amounts] = field(default_factory=dict)
    """Calls that wait for a larger share, with what they take."""
    need: Amounts = field(default_factory=dict)
    """What the last order could not do without."""
    refused: Amounts = field(default_factory=dict)
    """The dimension that was lacking, with what was refused of it."""
    rests_until_s: float = 0.0
    refusals: int = 0
    """How many orders in a row were refused."""
    told_over: Amounts = field(default_factory=dict)
    """Spent beyond the share, as the fleet's account knows it."""
    round: int = 0
    swept: int = 0
    """The last round for which an order gives back what is not needed."""
    is_stale: bool = False
    """Whether the fleet's account does not know yet of which limits we know, or what we have spent of a new one."""
    is_over: bool = False
    closed: bool = False

    def facts(self) -> list[Any]:
        """Everything that a digest of the state must show; nothing where nothing is shared."""
        if not self.revision:
            return []
        return [msgspec.structs.replace(self, waiting={}), [[*key, amounts] for key, amounts in self.waiting.items()]]

    def is_refused(self, amounts: Amounts, now_s: float) -> bool:
        """Whether so much was refused a moment ago."""
        return now_s < self.rests_until_s and any(amounts.get(name, 0) >= least for name, least in self.refused.items())


class CallHold(Struct, frozen=True, kw_only=True):
    """Why the new calls of an agent wait."""

    incident: str
    until_s: float
    """When it is over at the latest, journal time."""
    why: str


class GateState:
    """What is known of the gate of one run."""

    def __init__(self, make: MakeGateRules | None = None) -> None:
        self._make = make
        self._crew: Crew | None = None
        self.rules: GateRules | None = None
        self.closed = "this supervisor runs without a gate"
        """Why every call is refused; empty: none is for that."""
        self.accounts = Accounts(Budget())
        self.fleet = FleetShare()
        self.open: dict[tuple[str, str], GateCall] = {}
        self.open_of: dict[str, int] = {}
        self.ended: dict[str, dict[str, Ended]] = {}
        self.kept_bytes: dict[str, int] = {}
        self.lost: dict[str, dict[str, None]] = {}
        """Calls of each agent that it was told were lost. By themselves: of those there is no record, and they must
        not crowd out what was told of calls that were granted."""
        self.narrowed: dict[str, tuple[str, ...]] = {}
        """Agents that have been left fewer tools than the crew file lets them use, with those."""
        self.uses: dict[str, ToolUse] = {}
        self.host = ""
        """The tool host's incarnation; empty: none is there."""
        self.given_up = ""
        """Why no tool host is coming any more; empty: one is there, or may come."""
        self.approvals: dict[str, Approval] = {}
        self.noted: dict[str, Amounts] = {}
        """Charged without a reservation, and not in the ledger yet."""
        self.began_s = 0.0
        self.freed: dict[str, None] = {}
        """Declared tools of which a call has ended while others wait."""
        self.asking: dict[tuple[str, str], None] = {}
        """Calls held until there is more to spend."""
        self.eased = False
        """Whether there may be more to spend than when they were held."""
        self.shut: dict[str, None] = {}
        """Agents that are being ended, and whose calls are still open."""
        self.holds: dict[str, dict[str, CallHold]] = {}
        """Agents whose new calls wait, by the incidents that hold them."""
        self.released: dict[str, None] = {}
        """Agents whose waiting calls are to be looked at again: let go on, or to be failed."""
        self.breaks: dict[str, CallHold] = {}
        """Agents whose open calls, or the next one, are to be failed, until when that counts."""
        self.proxied: dict[str, None] = {}
        """Agents that have called models through the proxy."""
        self.repeats: dict[str, Bucket] = {}
        """What each agent may still be told again."""
        self.counts_messages = False
        """Whether anybody has a limit of messages."""
        self.changed: dict[str, dict[str, float | None]] = {}
        """Limits of depth, fan-out and time that people have changed, by agent; those of the crew under no name."""
        self.limits_calls = False
        """Whether any limit bears on calls between agents."""
        self.judges_messages = False
        """Whether a rule can be about messages between agents."""
        self.in_force: tuple[Rule, ...] = ()
        self.default = "allow"
        self.applied: dict[tuple[str, str], int] = {}
        """How often a rule did something, or in shadow would have done: by rule and effect."""
        self.due: list[tuple[float, str, str]] = []
        """When stages are over: a heap of times with calls, some of them over before."""

    def declare(self, crew: Crew, now_s: float) -> None:
        """The crew is known."""
        self._crew = crew
        self.judge(crew.rules, crew.policy_default)
        self.accounts = Accounts(crew.budget)
        self.began_s = now_s
        budgets = [each for each in (crew.budget, *(agent.budget for agent in crew.agents)) if each is not None]
        self.counts_messages = any(each.messages is not None for each in budgets)
        self.limits_calls = self.counts_messages or any(
            limit is not None for each in budgets for limit in (each.depth, each.fan_out, each.wall_s)
        )

    def judge(self, rules: Iterable[Rule], default: str) -> None:
        """These are the rules now; counting begins anew."""
        self.in_force, self.default = tuple(rules), default
        messages = any(rule.tools is None and rule.hop in (None, "agent") for rule in self.in_force)
        self.judges_messages = messages or default != "allow"
        self.applied.clear()

    def count(self, decided: Decided) -> None:
        """A call was decided on."""
        did = [(decided.rule or "default", decided.effect), *((rule, "warn") for rule in decided.warned)]
        did += [(rule, "redact") for rule, _ in decided.redactions]
        did += [(rule, f"would {effect}") for rule, _, effect in (each.rpartition(":") for each in decided.shadow)]
        for key in did:
            self.applied[key] = self.applied.get(key, 0) + 1

    def prepared(self) -> GateRules | None:
        """The rules, made when they are first needed; None: the gate is closed."""
        if self.rules is None and self._make is not None and self._crew is not None and self.closed:
            try:
                self.rules = self._make(self._crew)
                self.closed = ""
            except ValueError as error:
                self._make, self.closed = None, f"its rules cannot be used: {str(error)[:500]}"
        return self.rules

    def resume(self, make: MakeGateRules | None, memory: RulesMemory | None) -> None:
        """Go on from a snapshot, which leaves out how rules are made and the rules themselves.

        Args:
            make: Makes the rules of a crew.
            memory: What they knew; None: there were none yet.

        Raises:
            ValueError: They cannot be made again.
        """
        self._make, self.rules = make, None
        if memory is not None:
            if make is None or self._crew is None:
                raise ValueError("there are no rules to go on with")
            self.rules = make(self._crew)
            self.rules.remember(memory)

    @property
    def makes_rules(self) -> bool:
        """Whether rules can be made, or were."""
        return self._make is not None

    def tools_left(self, agent: str, named: tuple[str, ...]) -> tuple[str, ...]:
        """Those that an agent is left, of tools that the crew file or an admission names."""
        left = self.narrowed.get(agent)
        if left is None:
            return named
        whole = [tool for tool in named if tool in left or tool.partition(".")[0] in left]
        return (*whole, *(tool for tool in left if tool not in whole and tool.partition(".")[0] in named))

    def use(self, declared: str) -> ToolUse:
        """How much a declared tool is used."""
        known = self.uses.get(declared)
        if known is None:
            known = self.uses[declared] = ToolUse()
        return known

    def opened(self, call: GateCall) -> None:
        """A call is under way."""
        self.open[call.key] = call
        self.open_of[call.agent] = self.open_of.get(call.agent, 0) + 1

    def over(self, call: GateCall, ended: Ended) -> None:
        """A call is over; its end is remembered, for when its caller asks again: of so many calls, and so much."""
        if self.open.pop(call.key, None) is not None:
            self.open_of[call.agent] -= 1
        answers = self.ended.setdefault(call.agent, {})
        answers[call.id] = ended
        kept = self.kept_bytes.get(call.agent, 0) + _size(ended)
        while len(answers) > ANSWERS_MAX:
            kept -= _size(answers.pop(next(iter(answers))))
        if kept > ANSWERS_MAX_BYTES:
            for id_, each in answers.items():
                if kept <= ANSWERS_MAX_BYTES:
                    break
                if _size(each):
                    kept -= _size(each)
                    answers[id_] = Ended(digest=each.digest, forgotten=True)
        self.kept_bytes[call.agent] = kept

    def told_as_lost(self, agent: str, call: str) -> None:
        """An agent was told that a call never came; it may come yet."""
        lost = self.lost.setdefault(agent, {})
        lost[call] = None
        if len(lost) > ANSWERS_MAX:
            del lost[next(iter(lost))]

    def wait(self, call: GateCall, stage: Stage, until_s: float) -> None:
        """A call waits, no longer than until then; but for a person, no longer than its caller does."""
        call.stage = stage
        call.due_s = until_s
        if call.until_s is not None and stage not in ("running", "approval"):
            call.due_s = min(until_s, call.until_s)
        heapq.heappush(self.due, (call.due_s, *call.key))

    def take_due(self, now_s: float) -> list[GateCall]:
        """Calls whose stage is over."""
        found = []
        while self.due and self.due[0][0] <= now_s:
            due_s, agent, id_ = heapq.heappop(self.due)
            call = self.open.get((agent, id_))
            if call is not None and call.due_s == due_s:
                found.append(call)
        return found

    def next_due_s(self) -> float | None:
        """When a stage is over next."""
        while self.due:
            due_s, agent, id_ = self.due[0]
            call = self.open.get((agent, id_))
            if call is not None and call.due_s == due_s:
                return due_s
            heapq.heappop(self.due)
        return None

    def facts(self) -> list[Any]:
        """Everything that a digest of the state must show."""
        accounts = [self.accounts.crew, *self.accounts.agents.values(), *self.accounts.tasks.values()]
        if self.accounts.fleet is not None:
            accounts.append(self.accounts.fleet)
        return [
            self.closed,
            self.rules.version if self.rules is not None else "",
            [[a.name, a.limit, a.settled, a.held, a.over, a.handed_back] for a in accounts],
            [[*key, c.digest, c.stage, c.step, c.due_s, c.held, c.approval] for key, c in self.open.items()],
            [[agent, [[id_, each.digest] for id_, each in ended.items()]] for agent, ended in self.ended.items()],
            [[name, u.running, u.queue, u.calls_left, u.points, u.rests_until_s] for name, u in self.uses.items()],
            [self.host, self.given_up],
            [[a.id, a.state, a.by, a.digest] for a in self.approvals.values()],
            self.noted,
            self.changed,
            *self.fleet.facts(),
            [[*key, count] for key, count in self.applied.items()],
            [[agent, [[h.incident, h.until_s] for h in holds.values()]] for agent, holds in self.holds.items()],
            [[agent, each.incident, each.until_s] for agent, each in self.breaks.items()],
            list(self.proxied),
            *([agent, list(lost)] for agent, lost in self.lost.items()),
            *(["narrowed", agent, left] for agent, left in self.narrowed.items()),
        ]


def _size(ended: Ended) -> int:
    return len(bytes(ended.body)) if ended.body is not None else 0
