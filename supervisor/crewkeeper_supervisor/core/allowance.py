"""Allowance: what is limited and not reserved — messages, depth, fan-out, time — and who hears of budgets that run low.

Messages are delivered before they are counted, so a limit of theirs ends further calls; it takes back none.
"""

from typing import Final, Literal

from msgspec import Struct

from crewkeeper_bus.messages import Fault
from crewkeeper_bus.tool_messages import BudgetChanged
from crewkeeper_supervisor.core import budget, fleet
from crewkeeper_supervisor.core.budget import FLEET, Account, Amounts, Path, amount
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.limits import limit_of
from crewkeeper_supervisor.core.nodes import Call, Task
from crewkeeper_supervisor.core.response import resolve
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.withdrawal import give_up

LINEAGE_MAX: Final = 64
"""Calls above a task that are looked at."""


def path_of(state: RunState, view: AgentView, task: str = "") -> Path:
    """The accounts that a spending of this task stands in."""
    return state.gate.accounts.path(view.name, view.spec.budget, task, view.spec.task_budget)


def lineage(state: RunState, task: Task | None) -> tuple[str, ...]:
    """Roles of the agents above a task, outermost first: who made the call that it handles, and so on."""
    roles: list[str] = []
    while task is not None and task.call is not None and len(roles) < LINEAGE_MAX:
        task = task.call.task
        roles.append(task.agent.role)
    return tuple(reversed(roles))


def noted(state: RunState, view: AgentView, task: str, spent: Amounts) -> None:
    """An agent says what it spent beside the gate: charged, and in the ledger with its next decision."""
    spent = {dimension: value for dimension, value in spent.items() if value}
    path = path_of(state, view, task)
    budget.charge(path, spent)
    notes = state.gate.noted.setdefault(view.name, {})
    for dimension, value in spent.items():
        notes[dimension] = notes.get(dimension, 0) + value
    watch(state, view.name, path)
    fleet.order(state)


def counted(state: RunState, view: AgentView) -> None:
    """A message was sent. To be asked only where messages are limited."""
    path = path_of(state, view)
    budget.charge(path, {"messages": 1})
    watch(state, view.name, path)


def watch(state: RunState, agent: str, path: Path) -> None:
    """Tell of accounts whose limits are nearly or wholly spent, once for each limit; of the fleet's, `fleet` tells."""
    path = tuple(account for account in path if account.name != FLEET)
    for account in path:
        for dimension, limit in account.limit.items():
            percent = account.spent_percent(dimension)
            if percent < account.warn_percent or account.warned.get(dimension) == limit:
                continue
            account.warned[dimension] = limit
            said = f"{whose(account.name)} has spent or reserved {percent} % of its {amount(dimension, limit)}"
            report(state, "budget_soft", said, _members(state, agent, account), key=f"{account.name} {dimension}")
    for account in path:
        for dimension in account.over:
            if account.over[dimension]:
                spent(state, agent, account, dimension)


def spent(state: RunState, agent: str, account: Account, dimension: str) -> None:
    """A limit was reached: policy says what that means."""
    over = account.over.get(dimension, 0)
    beyond = f", {amount(dimension, over)} beyond it" if over else ""
    limit = amount(dimension, account.limit.get(dimension, 0))
    room = account.room(dimension) or 0
    said = f"{whose(account.name)} has no more of its {limit}{beyond}"
    if room > 0:
        said = f"{whose(account.name)} has {amount(dimension, room)} left of its {limit}: too little for what was asked"
    report(state, "budget_spent", said, _members(state, agent, account), key=f"{account.name} {dimension}")


def whose(account: str) -> str:
    """Whose account it is, for people."""
    return "the crew" if account == "crew" else account.partition(":")[2]


def _members(state: RunState, agent: str, account: Account) -> list[str]:
    return [agent] if agent in state.agents else []


# --- calls between agents ---


def _strictest(state: RunState, agent: str, dimension: str) -> float | None:
    limits = [limit_of(state, who, dimension) for who in ("", agent)]
    return min((limit for limit in limits if limit is not None), default=None)


class Excess(Struct, frozen=True):
    """Why a call between agents is one too many."""

    kind: Literal["depth", "fan_out", "budget_spent"]
    text: str

    @property
    def code(self) -> str:
        """What its caller is told, as the code of an error."""
        return {"depth": "too_deep", "fan_out": "too_many_calls"}.get(self.kind, self.kind)


def too_much(state: RunState, view: AgentView, call: Call) -> Excess | None:
    """Why a call between agents exceeds a budget; None: it does not."""
    if (limit := _strictest(state, view.name, "depth")) is not None:
        depth = len(lineage(state, call.task)) + 1
        if depth > limit:
            return Excess("depth", f"the chain of calls would be {depth} deep; the budget allows {limit:g}")
    if (limit := _strictest(state, view.name, "fan_out")) is not None:
        count = sum(1 for each in call.task.calls.values() if each.state in ("open", "started"))
        if count > limit:
            return Excess("fan_out", f"its task would have {count} calls open at once; the budget allows {limit:g}")
    if over := overdue(state, view):
        return Excess("budget_spent", over)
    for account in path_of(state, view) if state.gate.counts_messages else ():
        if account.over.get("messages"):
            limit = account.limit["messages"]
            return Excess("budget_spent", f"{whose(account.name)} has sent all {limit} messages of its budget")
    return None


def refuse(state: RunState, view: AgentView, call: Call, excess: Excess) -> None:
    """A call between agents is one too many: its caller hears why, and its callee that nobody wants it.

    Where the shape of the crew's calls is to blame, whoever stands above the caller belongs to the finding, too.
    """
    why = excess.text
    if excess.kind == "budget_spent" or state.watch is None:
        report(state, "budget_spent", f"{view.name}: {why}", [view.name], key=f"agent:{view.name} calls")
    else:
        state.watch.lookout.refused(excess.kind, view, call, why)
    give_up(state, call, why)
    state.graph.call_lost(call.id)
    state.answer(view.name, call.id, error=Fault(code=excess.code, text=f"{why}; answer with what you have"))


# --- time ---


def overdue(state: RunState, view: AgentView) -> str:
    """Whether the time of the crew or of this agent is over; empty: it is not."""
    for who in ("", view.name):
        limit_s = limit_of(state, who, "wall_s")
        if limit_s is not None and state.now_s - state.gate.began_s >= limit_s:
            return f"the time of {who or 'the crew'} is over: {limit_s:g} s from the beginning of the run"
    return ""


def set_clock(state: RunState) -> None:
    """Ask for the clock when somebody's time is over."""
    ends = [state.gate.began_s + limit_s for _, limit_s in _timed(state)]
    ends = [end for end in ends if end > state.now_s]
    state.due_s.pop("wall", None)
    if ends:
        state.due_s["wall"] = min(ends)


def watch_clock(state: RunState) -> None:
    """Somebody's time may be over."""
    for who, limit_s in _timed(state):
        if state.now_s - state.gate.began_s >= limit_s:
            agents = [who] if who else list(state.agents)[:50]
            said = f"{who or 'the crew'} has used up its {limit_s:g} s"
            key = f"{who or 'crew'} wall"
            open_ = (each for each in state.incidents.values() if each.state != "resolved")
            if not any(each.finding.evidence.get("key") == key for each in open_):
                report(state, "budget_spent", said, agents, key=key)
    set_clock(state)


def _timed(state: RunState) -> list[tuple[str, float]]:
    limits = [(who, limit_of(state, who, "wall_s")) for who in ("", *state.agents)]
    return [(who, limit_s) for who, limit_s in limits if limit_s is not None]


# --- people ---


def changed(state: RunState, message: BudgetChanged) -> None:
    """A person has changed a limit."""
    view = state.agents.get(message.agent)
    if state.crew is None or (message.agent and view is None):
        return
    if message.dimension not in budget.SPENT:
        _changed_shape(state, message)
        return
    account = state.gate.accounts.crew
    if view is not None:
        account = state.gate.accounts.agent(view.name, view.spec.budget)
    limit = message.limit
    if message.add:
        if message.dimension not in account.limit:
            return  # more of what is not limited is not a limit
        limit = account.limit[message.dimension] + message.add
    if message.dimension == "messages" and "messages" not in account.settled:
        account.settled["messages"] = (state.usage if view is None else view.usage).messages
    account.set_limit(message.dimension, limit)
    account.handed_back = False
    if message.dimension == "messages":
        state.gate.counts_messages = state.gate.limits_calls = True
    state.gate.eased = True
    if account.spent_percent(message.dimension) < account.warn_percent:
        _eased(state, f"{account.name} {message.dimension}", message)


def _changed_shape(state: RunState, message: BudgetChanged) -> None:
    """How deep, how far, how long: nothing of these is spent or held."""
    before = limit_of(state, message.agent, message.dimension)
    limit: float | None = message.limit
    if message.add:
        if before is None:
            return
        limit = before + message.add
    state.gate.changed.setdefault(message.agent, {})[message.dimension] = limit
    state.gate.limits_calls = True
    if message.dimension == "wall_s":
        _eased(state, f"{message.agent or 'crew'} wall", message)
        watch_clock(state)
    else:
        for name in [message.agent] if message.agent else state.agents:
            _eased(state, f"agent:{name} calls", message)


def _eased(state: RunState, key: str, message: BudgetChanged) -> None:
    """What was found of this limit is over, by whoever has changed it."""
    because = f": {message.why}" if message.why else ""
    whose = f"{message.by or 'somebody'} changed the limit{because}"
    for incident in state.incidents.values():
        about = incident.finding.kind in ("budget_soft", "budget_spent") and incident.finding.evidence.get("key") == key
        if about and incident.state != "resolved":
            resolve(state, incident, f"there is room again: {whose}")
