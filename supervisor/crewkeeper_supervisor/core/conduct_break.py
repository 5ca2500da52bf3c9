"""Conduct break: the one open wait, or the next tool call, that is a repetition is failed with a typed error."""

from crewkeeper_bus.messages import Break, OnAll, OnCall, OnMessage, OnResource, OnSome
from crewkeeper_supervisor.core import gate_holds
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.findings import Finding
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.victim import task_of
from crewkeeper_supervisor.core.withdrawal import told_to_fail


def fail(state: RunState, finding: Finding) -> str:
    """Fail what a finding about conduct repeats; returns what was done, for people.

    That is the first of its waits that is still open; without such, the longest wait of its agents for each other, for
    a message or a lock; without such, tool calls of its first agent that wait at the gate, or else its next one.
    """
    task = _told(state, finding) or _longest(state, finding)
    if task is not None and task.wait is not None:
        agent, epoch = task.agent.name, task.wait.epoch
        state.tell(
            agent,
            Break,
            durable=True,
            task=task.id,
            epoch=epoch,
            code="repeated",
            finding=finding.id,
            why=finding.summary[:2000],
        )
        told_to_fail(state, task)
        return f"fail {agent}'s wait: it repeats what leads nowhere"
    for agent in finding.agents:
        if agent in state.agents and state.agents[agent].present:
            gate_holds.fail_calls(state, finding.id, agent, finding.summary)
            return f"fail {agent}'s next tool call: it repeats what leads nowhere"
    return "there is nothing open to fail"


def _told(state: RunState, finding: Finding) -> Task | None:
    for edge in finding.edges:
        task = task_of(state.graph, edge.task)
        if task is not None and task.wait is not None and task.wait.epoch == edge.epoch:
            return task
    return None


def _longest(state: RunState, finding: Finding) -> Task | None:
    waiting = [
        task
        for agent in finding.agents
        if (node := state.graph.agents.get(agent)) is not None
        for task in node.tasks.values()
        if task.wait is not None and _is_for_others(task.wait.condition)
    ]
    return min(waiting, key=lambda task: task.wait.since_s if task.wait is not None else 0.0, default=None)


def _is_for_others(condition: AnyCondition) -> bool:
    match condition:
        case OnCall() | OnMessage() | OnResource():
            return True
        case OnAll() | OnSome():
            return any(_is_for_others(part) for part in condition.of)
        case _:
            return False
