"""Upkeep: how much work an agent may make with accounts of its own state; what they say is `heartbeat` and `intake`.

What a message costs to take over does not follow from its bytes: one of 55 KB can name three thousand tasks and end as
many. So every agent has an allowance of items beside the one of `rates`. An honest one hardly uses it, for its state
is known already. Whoever has used it up is heard as alive, and no more, until some of it has come back; an account of
any size is taken over by who has any left, so that nobody's state is too large to be known.
"""

from typing import Final

from crewkeeper_bus.messages import Condition, Heartbeat, OnAll, OnMessage, OnSome
from crewkeeper_supervisor.core import flood
from crewkeeper_supervisor.core.nodes import AgentNode
from crewkeeper_supervisor.core.quotas import ITEMS_MAX, Upkeep
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.state import RunState

ITEMS_PER_S: Final = 20_000
"""An item takes about ten microseconds."""
_CHANGE: Final = 5
"""Items that a task counts which begins or ends."""


def size_of(condition: Condition) -> int:
    """Items of a condition: calls, senders and all else that it names."""
    count, rest = 0, [condition]
    while rest:
        each = rest.pop()
        count += 1
        if isinstance(each, OnAll | OnSome):
            rest.extend(each.of)
        elif isinstance(each, OnMessage):
            count += len(each.senders)
    return count


def size_of_account(node: AgentNode, account: Heartbeat) -> int:
    """Items of a heartbeat, with what would be changed by it."""
    known, told = node.tasks, {each.task for each in account.tasks}
    changes = sum(1 for task in told if task not in known) + sum(1 for task in known if task not in told)
    waits = sum(size_of(each.wait.condition) for each in account.tasks if each.wait is not None)
    lists = len(account.calls) + len(account.queued) + len(account.unread) + len(account.held)
    return len(account.tasks) + waits + lists // 4 + _CHANGE * changes


def admits(state: RunState, view: AgentView, items: int) -> bool:
    """Whether so much of an agent's is taken over now. What is not counts as sent beyond its rate."""
    upkeep = view.upkeep
    if upkeep is None:
        upkeep = view.upkeep = Upkeep(at_s=state.now_s)
    upkeep.left = min(ITEMS_MAX, upkeep.left + max(0.0, state.now_s - upkeep.at_s) * ITEMS_PER_S)
    upkeep.at_s = state.now_s
    if upkeep.left <= 0:
        view.throttled += 1
        flood.throttled(state, view, 0)
        return False
    upkeep.left -= items
    return True
