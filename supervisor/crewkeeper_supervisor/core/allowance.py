"""Allowance: what is limited and not reserved — messages, depth, fan-out, time — and who hears of budgets that run low.

Messages are delivered before they are counted, so a limit of theirs ends further calls; it takes back none.
"""

from typing import Final

from crewkeeper_bus.messages import Fault
from crewkeeper_bus.tool_messages import BudgetChanged
from crewkeeper_supervisor.core import budget, fleet
from crewkeeper_supervisor.core.budget import FLEET, Account, Amounts, Path, amount
from crewkeeper_supervisor.core.crew import Budget
from crewkeeper_supervisor.core.lifecycle import report
from crewkeeper_supervisor.core.nodes import Call, Task
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
    said = f"{whose(account.name)} has no more of its {limit}{beyond}"
    report(state, "budget_spent", said, _members(state, agent, account), key=f"{account.name} {dimension}")


def whose(account: str) -> str:
    """Whose account it is, for people."""
    return "the crew" if account == "crew" else account.partition(":")[2]


def _members(state: RunState, agent: str, account: Account) -> list[str]:
    return [agent] if agent in state.agents else []


# --- calls between agents ---


def too_much(state: RunState, view: AgentView, call: Call) -> str:
    """Why a call between agents exceeds a budget; empty: it does not."""
    crew = state.crew
    if crew is None:
        return ""
    mine = view.spec.budget
    if crew.budget.depth is not None or (mine is not None and mine.depth is not None):
        limit = min(each.depth for each in (crew.budget, mine) if each is not None and each.depth is not None)
        depth = len(lineage(state, call.task)) + 1
        if depth > limit:
            return f"the chain of calls would be {depth} deep; the budget allows {limit}"
    if crew.budget.fan_out is not None or (mine is not None and mine.fan_out is not None):
        limit = min(each.fan_out for each in (crew.budget, mine) if each is not None and each.fan_out is not None)
        count = sum(1 for each in call.task.calls.values() if each.state in ("open", "started"))
        if count > limit:
            return f"its task would have {count} calls open at once; the budget allows {limit}"
    if over := overdue(state, view):
        return over
    for account in path_of(state, view) if state.gate.counts_messages else ():
        if account.over.get("messages"):
            return f"{whose(account.name)} has sent all {account.limit['messages']} messages of its budget"
    return ""


def refuse(state: RunState, view: AgentView, call: Call, why: str) -> None:
    """A call between agents is one too many: its caller hears why, its callee that nobody wants it."""
    report(state, "budget_spent", f"{view.name}: {why}", [view.name], key=f"agent:{view.name} calls")
    give_up(state, call, why)
    state.graph.call_lost(call.id)
    state.answer(view.name, call.id, error=Fault(code="budget_spent", text=f"{why}; answer with what you have"))


# --- time ---


def overdue(state: RunState, view: AgentView) -> str:
    """Whether the time of the crew or of this agent is over; empty: it is not."""
    crew = state.crew.budget if state.crew is not None else Budget()
    for name, limits in (("the crew", crew), (view.name, view.spec.budget)):
        if limits is not None and limits.wall_s is not None and state.now_s - state.gate.began_s >= limits.wall_s:
            return f"the time of {name} is over: {limits.wall_s:g} s from the beginning of the run"
    return ""


def set_clock(state: RunState) -> None:
    """Ask for the clock when somebody's time is over."""
    ends = [state.gate.began_s + limits.wall_s for _, limits in _timed(state) if limits.wall_s is not None]
    ends = [end for end in ends if end > state.now_s]
    state.due_s.pop("wall", None)
    if ends:
        state.due_s["wall"] = min(ends)


def watch_clock(state: RunState) -> None:
    """Somebody's time may be over."""
    for name, limits in _timed(state):
        if limits.wall_s is not None and state.now_s - state.gate.began_s >= limits.wall_s:
            agents = [name] if name in state.agents else list(state.agents)[:50]
            said = f"{name or 'the crew'} has used up its {limits.wall_s:g} s"
            key = f"{name or 'crew'} wall"
            if not any(each.finding.evidence.get("key") == key for each in state.incidents.values()):
                report(state, "budget_spent", said, agents, key=key)
    set_clock(state)


def _timed(state: RunState) -> list[tuple[str, Budget]]:
    found = [("", state.crew.budget)] if state.crew is not None else []
    found += [(view.name, view.spec.budget) for view in state.agents.values() if view.spec.budget is not None]
    return [(name, limits) for name, limits in found if limits.wall_s is not None]


# --- people ---


def changed(state: RunState, message: BudgetChanged) -> None:
    """A person has changed a limit."""
    view = state.agents.get(message.agent)
    if state.crew is None or (message.agent and view is None):
        return
    if message.dimension not in budget.SPENT:
        return  # depth, fan-out and time are part of the declaration
    account = state.gate.accounts.crew
    if view is not None:
        account = state.gate.accounts.agent(view.name, view.spec.budget)
    limit = message.limit
    if message.add:
        limit = account.limit.get(message.dimension, 0) + message.add
    if message.dimension == "messages" and "messages" not in account.settled:
        account.settled["messages"] = (state.usage if view is None else view.usage).messages
    account.set_limit(message.dimension, limit)
    account.handed_back = False
    if message.dimension == "messages":
        state.gate.counts_messages = state.gate.limits_calls = True
    state.gate.eased = True
    key = f"{account.name} {message.dimension}"
    for incident in state.incidents.values():
        about = incident.finding.kind in ("budget_soft", "budget_spent") and incident.finding.evidence.get("key") == key
        if about and incident.state != "resolved" and account.spent_percent(message.dimension) < account.warn_percent:
            incident.state, incident.resolved_at_s = "resolved", state.now_s
