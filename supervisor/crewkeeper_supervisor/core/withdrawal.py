"""Withdrawal: calls that are given up, and whose callees must hear of it from the supervisor if not from their callers.

A ring that was broken re-forms if the call that closed it stays in a queue, and work for an agent that is gone keeps a
slot from the living. A client takes back the calls of a failed wait by itself, in its next messages; one that does not
is helped after `OVERDUE_S`, one that dies is helped at once. What a callee says of such a call later counts as work of
its own: it occupies a slot, and nobody waits for it.
"""

from typing import Final

from crewkeeper_bus.messages import OnAll, OnCall, OnSome
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.nodes import AgentNode, Call, Task
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.victim import ends_wait, task_of

OVERDUE_S: Final = 1.0
"""How long the owner of a failed wait may take to give up its calls."""
REMEMBERED_MAX: Final = 10_000
"""Calls given up that are remembered, oldest forgotten first."""
BROKEN_MAX: Final = 256
"""Waits told to fail that may be open at once; all of them are looked at after every event."""


def told_to_fail(state: RunState, task: Task) -> None:
    """A wait is being failed: its calls are to be given up once it is over."""
    if task.wait is None:
        return
    broken = state.withdrawals.broken
    broken[task.key, task.wait.epoch] = tuple(_calls(task.wait.condition))
    state.stirred = True
    if len(broken) > BROKEN_MAX:
        del broken[next(iter(broken))]


def enforce(state: RunState) -> None:
    """Give up what its caller should have given up by now. To be called after every event."""
    broken, overdue_s = state.withdrawals.broken, state.withdrawals.overdue_s
    for key, epoch in [each for each in broken if ends_wait(task_of(state.graph, each[0]), each[1])]:
        for made in broken.pop((key, epoch)):
            if made in state.graph.calls:
                overdue_s[made] = state.now_s + OVERDUE_S
    for id_ in [id_ for id_, due_s in overdue_s.items() if due_s <= state.now_s]:
        call = state.graph.calls.get(id_)
        if call is not None:
            give_up(state, call, f"the supervisor failed {call.caller}'s wait for it")
            state.graph.call_closed(id_)
        overdue_s.pop(id_, None)
    if overdue_s:
        state.due_s["withdrawal"] = min(overdue_s.values())
    else:
        state.due_s.pop("withdrawal", None)


def give_up(state: RunState, call: Call, why: str) -> None:
    """Tell whoever has a call, or may have it, that its caller does not want it any more."""
    if call.caller == "" or call.state not in ("open", "started"):
        return
    nodes = state.graph.live_instances(call.to) if call.handler is None else [call.handler.agent]
    for node in [node for node in nodes if node.alive]:
        state.cancel(node.name, call.id, call.caller, why)
    fence(state, call.id, call.caller)


def fence(state: RunState, call: str, caller: str = "") -> None:
    """Remember that a call was given up; with `caller`, whoever still starts it is told once more."""
    withdrawals = state.withdrawals
    withdrawals.fenced[call] = caller
    withdrawals.overdue_s.pop(call, None)
    if len(withdrawals.fenced) > REMEMBERED_MAX:
        del withdrawals.fenced[next(iter(withdrawals.fenced))]


def asked_anew(state: RunState, call: str) -> None:
    """A request bears the id of one that was given up: what it meant before is over."""
    state.withdrawals.fenced.pop(call, None)


def started_late(state: RunState, node: AgentNode, call: str, task: str) -> bool:
    """A handler begins on a call that was given up: it occupies its slot and works for nobody. False: on another."""
    fenced = state.withdrawals.fenced
    caller = fenced.get(call)
    if caller is None or call in state.graph.calls:
        return False
    state.graph.task_began(node, task, state.now_s, slot=True).answers = call
    if caller:
        fenced[call] = ""
        state.cancel(node.name, call, caller, f"{caller} has given it up")
    return True


def _calls(condition: AnyCondition) -> list[str]:
    match condition:
        case OnCall():
            return [condition.call]
        case OnAll() | OnSome():
            return [call for part in condition.of for call in _calls(part)]
        case _:
            return []
