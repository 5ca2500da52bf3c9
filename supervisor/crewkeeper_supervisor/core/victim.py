"""Victim: which one wait of a deadlocked core is failed, and why that one.

Every core contains a wait with no started work behind it (a queued call, a lock, a message): waits on started handlers
point from a caller to a later task and cannot close a ring by themselves. Failing such a wait wastes least, so it is
preferred. Among those the crew file's policy decides; by default the least work is lost.

Nobody starves. The price of a task grows with the square of how often its agent, or the root of its chain of calls, was
chosen before. A root that was chosen twice is spared while others remain, and so is the oldest root of a core in which
anybody was chosen before: it is failed at most once while it is the oldest, so some root always comes to its end (the
reasoning of wait-die and wound-wait, Rosenkrantz et al. 1978).
"""

from collections.abc import Collection
from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.core.findings import Edge, Victim
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.wait_graph import WaitGraph

TOKENS_PER_SECOND: Final = 50
"""What a second of a task's life is worth beside tokens it reported: the order of a model's output speed."""
IMMUNE_AFTER: Final = 2
"""A root that was chosen this often is spared while others remain."""
ROOTS_MAX: Final = 1000
"""Roots whose history is remembered; those that are over are forgotten first."""

_UNSTARTED = ("queued_call", "resource", "message")


class _Candidate(Struct, frozen=True):
    """A wait that may be failed."""

    task: Task
    root: Task
    price: float
    priority: int
    started: int
    """How much started work stands behind it: 0 none, 1 behind a part of it, 2 behind all of it."""
    times: int
    """How often its agent or its root was chosen before."""
    root_times: int


def choose(
    core: tuple[str, ...], tasks: dict[str, Task], edges: list[Edge], state: RunState, excluded: Collection[str] = ()
) -> Victim | None:
    """Choose the wait to fail.

    Args:
        core: Keys of the core's tasks.
        tasks: The tasks by key.
        edges: All edges of the core's members.
        state: For policy, priorities and history.
        excluded: Members already failed in vain.

    Returns:
        The victim, or None if every member is excluded or may never be one.
    """
    unstarted = {edge.task for edge in edges if edge.kind in _UNSTARTED}
    started = {edge.task: 1 if edge.task in unstarted else 2 for edge in edges if edge.kind == "call"}
    candidates = []
    for key in core:
        task = tasks[key]
        view = state.agents.get(task.agent.name)
        if key not in excluded and task.wait is not None and (view is None or not view.spec.never_victim):
            candidates.append(_candidate(task, state, started=started.get(key, 0)))
    if not candidates:
        return None
    policy = state.crew.responses.deadlock.victim if state.crew is not None else "least_work"
    spared = _spared(candidates)
    order = sorted(candidates, key=lambda each: (spared.get(each.task.key, 0), each.started, *_rank(each, policy)))
    best = order[0]
    assert best.task.wait is not None  # candidates wait
    return Victim(
        task=best.task.key,
        agent=best.task.agent.name,
        epoch=best.task.wait.epoch,
        why=_reason(order, policy, edges, spared),
        policy=policy,
        price=round(best.price),
        candidates=len(candidates),
        spared=tuple(spared),
    )


def chosen(state: RunState, victim: Victim) -> None:
    """Remember that a wait is being failed: its agent and the root of its chain become dearer."""
    view = state.agents.get(victim.agent)
    if view is not None:
        view.times_victim += 1
    task = task_of(state.graph, victim.task)
    root = victim.task if task is None else root_of(task).key
    state.victims[root] = state.victims.pop(root, 0) + 1
    if len(state.victims) > ROOTS_MAX:
        over = next((key for key in state.victims if task_of(state.graph, key) is None), next(iter(state.victims)))
        del state.victims[over]


def root_of(task: Task) -> Task:
    """The activity at the beginning of the chain of calls that a task serves; itself, if it serves none."""
    seen = {task.key}
    while task.call is not None and task.call.task.key not in seen:
        task = task.call.task
        seen.add(task.key)
    return task


def ends_wait(task: Task | None, epoch: int) -> bool:
    """Whether a wait epoch of a task is over."""
    return task is None or task.wait is None or task.wait.epoch != epoch


def task_of(graph: WaitGraph, key: str) -> Task | None:
    """A living task by its key, `agent/task`."""
    agent, _, task = key.partition("/")
    node = graph.agents.get(agent)
    return node.tasks.get(task) if node is not None else None


def _candidate(task: Task, state: RunState, *, started: int) -> _Candidate:
    view, root = state.agents.get(task.agent.name), root_of(task)
    root_times = state.victims.get(root.key, 0)
    times = max(root_times, view.times_victim if view is not None else 0)
    priority = view.spec.priority if view is not None else 10
    again = view.spec.restart_cost if view is not None else 0
    # A second's worth at least, so that history counts for those who have done nothing yet, too.
    lost = task.tokens + again + TOKENS_PER_SECOND * max(1.0, state.now_s - task.began_s)
    return _Candidate(task, root, lost * priority * (1 + times) ** 2, priority, started, times, root_times)


def _rank(each: _Candidate, policy: str) -> tuple[float, float, float, str]:
    youngest = (-each.root.began_s, -each.task.began_s, each.task.key)
    match policy:
        case "youngest":
            return (0.0, *youngest)
        case "priority":
            return (float(each.priority), each.price, *youngest[1:])
        case _:
            return (each.price, *youngest)


def _spared(candidates: list[_Candidate]) -> dict[str, int]:
    """Tasks that are chosen only if nobody else can be, with how much they are spared: most of all the oldest."""
    spared = {each.task.key: 1 for each in candidates if each.root_times >= IMMUNE_AFTER}
    roots = {each.root.key: each.root.began_s for each in candidates}
    if any(each.times for each in candidates) and len(roots) > 1:
        oldest = min(roots, key=lambda key: (roots[key], key))
        spared |= {each.task.key: 2 for each in candidates if each.root.key == oldest}
    return spared


def _reason(order: list[_Candidate], policy: str, edges: list[Edge], spared: dict[str, int]) -> str:
    best = order[0]
    kinds = {edge.kind for edge in edges if edge.task == best.task.key}
    if best.started:
        cause = "started work stands behind every wait that may be failed"
        cause += ", and behind a part of this one only" if best.started == 1 else ""
    elif "queued_call" in kinds:
        cause = "its call is still queued, so failing it throws no started work away"
    else:
        cause = "what it waits for has not begun, so failing it throws no work away"
    how_much = spared.get(best.task.key, 0)
    rivals = [each for each in order[1:] if (spared.get(each.task.key, 0), each.started) == (how_much, best.started)]
    if rivals:
        cause += _preferred(best, rivals[0], policy)
    dearer = [each for each in order[1:] if spared.get(each.task.key, 0) > how_much]
    others = [name for name in dict.fromkeys(each.task.agent.name for each in dearer) if name != best.task.agent.name]
    if others:
        cause += f"; {', '.join(others[:5])} {'is' if len(others) == 1 else 'are'} spared, not to give way for ever"
    return cause


def _preferred(best: _Candidate, rival: _Candidate, policy: str) -> str:
    if policy == "priority" and best.priority < rival.priority:
        return ", and its priority is the lowest"
    if policy != "youngest" and best.price < rival.price:
        return ", and it has the least work to lose"
    if (best.root.began_s, best.task.began_s) > (rival.root.began_s, rival.task.began_s):
        return ", and it is the youngest"
    return ""
