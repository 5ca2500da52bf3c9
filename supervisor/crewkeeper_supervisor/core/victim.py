"""Victim: which one wait of a deadlocked core is failed, and why that one.

Every core contains a wait with no started work behind it (a queued call, a lock, a message): waits on started handlers
point from a caller to a later task and cannot close a ring by themselves. Failing such a wait wastes least, so it is
preferred; among those, the one whose task has the least sunk. Price and protection against being chosen again and
again follow the usual wait-die reasoning: a task's price grows with the square of how often its agent was chosen.
"""

from collections.abc import Collection

from crewkeeper_supervisor.core.findings import Edge, Victim
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.wait_graph import Task, WaitGraph

TOKENS_PER_SECOND = 50
"""What a second of a task's life is worth beside tokens it reported: the order of a model's output speed."""

_UNSTARTED = ("queued_call", "resource", "message")


def choose(
    core: tuple[str, ...],
    tasks: dict[str, Task],
    edges: list[Edge],
    agents: dict[str, AgentView],
    now_s: float,
    excluded: Collection[str] = (),
) -> Victim | None:
    """Choose the wait to fail.

    Args:
        core: Keys of the core's tasks.
        tasks: The tasks by key.
        edges: All edges of the core's members.
        agents: The roster, for priority and history.
        now_s: Journal time.
        excluded: Members already failed in vain.

    Returns:
        The victim, or None if every member is excluded or may never be one.
    """
    unstarted = {edge.task for edge in edges if edge.kind in _UNSTARTED}
    priced: list[tuple[bool, float, float, str]] = []
    for key in core:
        task = tasks[key]
        view = agents.get(task.agent.name)
        if key in excluded or task.wait is None or (view is not None and view.spec.never_victim):
            continue
        weight = view.spec.priority if view is not None else 10
        again = view.times_victim if view is not None else 0
        sunk = task.tokens + TOKENS_PER_SECOND * max(0.0, now_s - task.began_s)
        priced.append((key not in unstarted, sunk * weight * (1 + again) ** 2, -task.began_s, key))
    if not priced:
        return None
    started, price, _, key = min(priced)
    task = tasks[key]
    assert task.wait is not None  # priced tasks wait
    return Victim(
        task=key, agent=task.agent.name, epoch=task.wait.epoch, why=_reason(key, price, len(priced), edges, started)
    )


def _reason(key: str, price: float, candidates: int, edges: list[Edge], started: bool) -> str:
    kinds = {edge.kind for edge in edges if edge.task == key}
    if started:
        cause = "no member waits for something unstarted; it has least work to lose"
    elif "queued_call" in kinds:
        cause = "its call is still queued, so failing it throws no started work away"
    else:
        cause = "what it waits for has not begun, so failing it throws no work away"
    return f"{cause} (price {price:.0f}, {candidates} candidate{'s' if candidates != 1 else ''})"


def ends_wait(task: Task | None, epoch: int) -> bool:
    """Whether a wait epoch of a task is over."""
    return task is None or task.wait is None or task.wait.epoch != epoch


def task_of(graph: WaitGraph, key: str) -> Task | None:
    """A living task by its key, `agent/task`."""
    agent, _, task = key.partition("/")
    node = graph.agents.get(agent)
    return node.tasks.get(task) if node is not None else None
