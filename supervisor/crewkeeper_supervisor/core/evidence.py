"""Evidence: waits put into edges and sentences, as findings and people need them."""

from typing import Literal, cast

from crewkeeper_supervisor.core.anatomy import blockers
from crewkeeper_supervisor.core.findings import Edge
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.wait_graph import WaitGraph

EdgeKind = Literal["call", "queued_call", "message", "resource", "human", "tool", "timer"]


def edges_of(task: Task, graph: WaitGraph) -> list[Edge]:
    """The edges of one waiting task, one for each unsatisfied part of its condition."""
    wait = task.wait
    if wait is None:
        return []
    return [
        Edge(
            task=task.key,
            agent=task.agent.name,
            waits_for=tuple(other.key for other in tasks),
            agents=tuple(dict.fromkeys(_target(kind, name, tasks, graph))),
            kind=cast("EdgeKind", kind),
            message=name,
            epoch=wait.epoch,
            since_s=wait.since_s,
            text=_sentence(task, kind, name, tasks, graph),
        )
        for kind, name, tasks in blockers(task, graph)
    ]


def _target(kind: str, name: str, tasks: list[Task], graph: WaitGraph) -> list[str]:
    if kind in ("call", "queued_call"):
        call = graph.calls.get(name)
        return [call.to] if call is not None else []
    return [f"{kind}:{name}"] if kind in ("human", "tool") else [task.agent.name for task in tasks]


def _sentence(task: Task, kind: str, name: str, tasks: list[Task], graph: WaitGraph) -> str:
    who = task.agent.name
    call = graph.calls.get(name) if kind in ("call", "queued_call") else None
    if call is not None:
        asked = f"{who} waits for {call.to} to answer {call.verb or 'its call'!r}"
        if call.state == "lost":
            return f"{asked}, which {call.to} can no longer do"
        if kind == "call":
            return f"{asked}, which {call.to} is working on"
        nodes = graph.live_instances(call.to)
        if not nodes:
            return f"{asked}, but {call.to} is not there"
        slots = sum(node.concurrency for node in nodes)
        if sum(node.free_slots for node in nodes) > 0:
            return f"{asked}, which is about to start"
        return f"{asked}, which is queued: {'its only slot is' if slots == 1 else f'all {slots} slots are'} taken"
    if kind == "message":
        return f"{who} waits for a message from {name.replace(',', ' or ')}"
    if kind == "resource":
        holders = ", ".join(dict.fromkeys(t.agent.name for t in tasks)) or "nobody"
        return f"{who} waits for {name!r}, held or asked for before by {holders}"
    if kind == "human":
        return f"{who} waits for {name} (a person) to answer"
    if kind == "tool":
        return f"{who} waits for {name} to run"
    return f"{who} waits for a timer"


def ring(members: tuple[str, ...], edges: list[Edge], start: str) -> list[Edge]:
    """The edges of a core in waiting order, from `start` along one ring, then the rest.

    Args:
        members: Tasks of the core.
        edges: Their edges.
        start: The member to begin with.
    """
    inside = set(members)
    onward: dict[str, list[Edge]] = {}
    for edge in edges:
        if any(target in inside for target in edge.waits_for):
            onward.setdefault(edge.task, []).append(edge)
    path: list[Edge] = []
    here, seen = start, set[str]()
    while here in onward and here not in seen:
        seen.add(here)
        edge = onward[here][0]
        path.append(edge)
        targets = [target for target in edge.waits_for if target in inside]
        here = next((target for target in targets if target not in seen), start)
    return path + [edge for edge in edges if edge not in path]


def arrow(path: list[Edge]) -> str:
    """A ring in short: `planner → reviewer → planner`."""
    names = [edge.agent for place, edge in enumerate(path) if place == 0 or edge.agent != path[place - 1].agent]
    return " → ".join([*names, names[0]]) if names else ""
