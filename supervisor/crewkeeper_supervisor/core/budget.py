"""Budget: how much of each dimension may be spent, is held back for what is under way, and was spent.

Theory of operation. Accounts form a tree: the fleet, its crews, their agents, their tasks. What may be spent is
reserved in all accounts of a path, or in none; it stays held until it is settled, given back, or its time is over, when
it is charged in full. One spending is charged once, to the task that spent it, and stands in the accounts above because
it stands below. All amounts are whole numbers: micro-USD, tokens, calls.

`settled + held` never exceeds a limit. What was really spent can: a call may cost more than was reserved for it, and
words cannot be taken back. What does not fit under the limit stands apart in `over`, leaves no room for anything more,
and moves to `settled` when there is room: when something that was held is given back, or the limit is raised.
"""

from typing import Final

from msgspec import Struct, field

from crewkeeper_supervisor.core.crew import Budget

Amounts = dict[str, int]
"""By dimension."""

SPENT: Final = (
    "microusd",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "tokens",
    "model_calls",
    "tool_calls",
    "messages",
)
"""Dimensions that add up."""
TASKS_MAX: Final = 1000
"""Accounts of tasks that are kept; those of the same agent with nothing held are forgotten first."""
FLEET: Final = "fleet"
"""Name of the account of all crews of a server, of which a run has a share."""


class Account(Struct, kw_only=True):
    """One node of the tree."""

    name: str
    """`fleet`, `crew`, `agent:<name>` or `task:<agent>/<task>`."""
    limit: Amounts = field(default_factory=dict)
    settled: Amounts = field(default_factory=dict)
    held: Amounts = field(default_factory=dict)
    over: Amounts = field(default_factory=dict)
    """Spent beyond the limit."""
    warn_percent: int = 80
    hand_back_percent: int = 0
    handed_back: bool = False
    """Whether the last call has been granted (agents)."""
    warned: Amounts = field(default_factory=dict)
    """Dimensions of which people were warned, with the limit at that time."""

    def room(self, dimension: str, *, hand_back: bool = False) -> int | None:
        """How much more may be reserved; None: any amount. With `hand_back`, of what is kept for that as well."""
        limit = self.limit.get(dimension)
        if limit is None:
            return None
        if not hand_back and self.hand_back_percent:
            limit -= limit * self.hand_back_percent // 100
        spent = self.settled.get(dimension, 0) + self.held.get(dimension, 0) + self.over.get(dimension, 0)
        return limit - spent

    def hold(self, amounts: Amounts) -> None:
        """Hold so much; the caller has looked whether there is room."""
        for dimension, amount in amounts.items():
            self.held[dimension] = self.held.get(dimension, 0) + amount

    def free(self, amounts: Amounts) -> None:
        """No longer hold so much."""
        for dimension, amount in amounts.items():
            self.held[dimension] = self.held.get(dimension, 0) - amount

    def charge(self, amounts: Amounts) -> None:
        """So much was spent: what does not fit under the limit stands in `over`."""
        for dimension, amount in amounts.items():
            fits = self._fitting(dimension, amount)
            self.settled[dimension] = self.settled.get(dimension, 0) + fits
            if fits < amount:
                self.over[dimension] = self.over.get(dimension, 0) + amount - fits

    def absorb(self) -> None:
        """There may be room now for what was spent beyond the limit."""
        beyond, self.over = self.over, {}
        self.charge(beyond)

    def set_limit(self, dimension: str, limit: int | None) -> int | None:
        """Change a limit; returns what it is now: never less than what is spent and held."""
        if limit is None:
            self.limit.pop(dimension, None)
        else:
            limit = max(limit, self.settled.get(dimension, 0) + self.held.get(dimension, 0))
            self.limit[dimension] = limit
        self.absorb()
        return limit

    def spent_percent(self, dimension: str) -> int:
        """How much of a limit is spent or held, in percent, rounded down; 0 without one."""
        limit = self.limit.get(dimension)
        if limit is None:
            return 0
        spent = self.settled.get(dimension, 0) + self.held.get(dimension, 0) + self.over.get(dimension, 0)
        return 100 if limit == 0 else 100 * spent // limit

    def _fitting(self, dimension: str, amount: int) -> int:
        limit = self.limit.get(dimension)
        if limit is None:
            return amount
        return max(0, min(amount, limit - self.settled.get(dimension, 0) - self.held.get(dimension, 0)))


class Shortage(Struct, frozen=True, kw_only=True):
    """Why so much cannot be reserved."""

    account: str
    dimension: str
    limit: int
    spent: int
    """Settled, and beyond the limit."""
    held: int
    asked: int

    def text(self) -> str:
        """As a sentence for a model or a person."""
        whose = "the crew" if self.account == "crew" else self.account.partition(":")[2]
        left = max(0, self.limit - self.spent - self.held)
        held = f", {amount(self.dimension, self.held)} held for calls under way" if self.held else ""
        return (
            f"the budget of {whose} does not allow it: {amount(self.dimension, self.asked)} asked, "
            f"{amount(self.dimension, left)} left of {amount(self.dimension, self.limit)}{held}"
        )


Path = tuple[Account, ...]
"""Accounts from the task, or the agent, up to the crew and its share of the fleet's."""


class Accounts:
    """The tree of one run.

    Args:
        budget: The crew's limits.
    """

    def __init__(self, budget: Budget) -> None:
        self.crew = account("crew", budget)
        self.fleet: Account | None = None
        """The run's share of what all crews may spend: its limits are what was leased. None: there is no such limit."""
        self.agents: dict[str, Account] = {}
        self.tasks: dict[str, Account] = {}

    def agent(self, name: str, budget: Budget | None) -> Account:
        """The account of an agent, opened when it is first needed."""
        known = self.agents.get(name)
        if known is None:
            known = self.agents[name] = account(f"agent:{name}", budget)
        return known

    def path(self, agent: str, budget: Budget | None, task: str, task_budget: Budget | None) -> Path:
        """The accounts that a spending of this task stands in."""
        above: Path = (self.agent(agent, budget), self.crew)
        if self.fleet is not None:
            above += (self.fleet,)
        if task_budget is None or not task:
            return above
        key = f"{agent}/{task}"
        known = self.tasks.get(key)
        if known is None:
            self._forget_tasks(agent)
            known = self.tasks[key] = account(f"task:{key}", task_budget)
        return (known, *above)

    def _forget_tasks(self, agent: str) -> None:
        """Make room for one more; who names tasks without end has its own forgotten, and no one else's."""
        if len(self.tasks) < TASKS_MAX:
            return
        idle = [key for key, each in self.tasks.items() if not any(each.held.values())]
        own = next((key for key in idle if key.startswith(f"{agent}/")), None)
        del self.tasks[own or next(iter(idle), "") or next(iter(self.tasks))]


def account(name: str, budget: Budget | None) -> Account:
    """A new account with the limits of a budget."""
    if budget is None:
        return Account(name=name)
    limits = {dimension: getattr(budget, dimension) for dimension in SPENT}
    return Account(
        name=name,
        limit={dimension: limit for dimension, limit in limits.items() if limit is not None},
        warn_percent=budget.warn_percent,
        hand_back_percent=budget.hand_back_percent,
    )


def shortage(path: Path, amounts: Amounts, *, hand_back: bool = False) -> Shortage | None:
    """The first account, from below, that has no room for so much; None: all have."""
    for each in path:
        for dimension, asked in amounts.items():
            room = each.room(dimension, hand_back=hand_back) if asked else None
            if room is not None and asked > room:
                spent = each.settled.get(dimension, 0) + each.over.get(dimension, 0)
                return Shortage(
                    account=each.name,
                    dimension=dimension,
                    limit=each.limit[dimension],
                    spent=spent,
                    held=each.held.get(dimension, 0),
                    asked=asked,
                )
    return None


def reserve(path: Path, amounts: Amounts, *, hand_back: bool = False) -> Shortage | None:
    """Hold so much in every account of the path, or in none."""
    lacking = shortage(path, amounts, hand_back=hand_back)
    if lacking is None:
        for each in path:
            each.hold(amounts)
    return lacking


def settle(path: Path, held: Amounts, spent: Amounts) -> None:
    """What was held is free again, and so much was spent."""
    for each in path:
        each.free(held)
        each.charge(spent)
        if each.over:
            each.absorb()


def charge(path: Path, spent: Amounts) -> None:
    """So much was spent that nothing was reserved for."""
    for each in path:
        each.charge(spent)


def amount(dimension: str, value: int) -> str:
    """An amount for people: `$1.50`, `400 tokens`."""
    if dimension == "microusd":
        text = f"{value // 1_000_000}.{value % 1_000_000:06d}"
        return f"${text[:-4]}{text[-4:].rstrip('0')}"
    return f"{value} {dimension.replace('_', ' ')}"
