"""The wait graph of a run as sentences, dot, Mermaid or data; arrows run from a waiter to what it waits for."""

from collections.abc import Sequence
from datetime import datetime

import networkx
from msgspec import Struct

from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION, EdgeRow, RunView
from crewkeeper_supervisor.views.wording import duration, safe


class GraphNode(Struct, frozen=True, kw_only=True):
    """A task that waits or is waited for."""

    task: str
    agent: str
    in_ring: bool
    """Whether a ring of waits runs through it; a ring is a deadlock only if nothing else can free it."""
    deadlocked: bool
    """Whether the supervisor blames it for a deadlock that is not resolved."""


class WaitGraph(Struct, frozen=True, kw_only=True):
    """The graph as data."""

    run: str
    at: datetime | None
    nodes: tuple[GraphNode, ...]
    edges: tuple[EdgeRow, ...]
    rings: tuple[tuple[str, ...], ...]
    """Groups of tasks that wait for each other, sorted."""
    schema_version: int = SCHEMA_VERSION


def wait_graph(view: RunView) -> WaitGraph:
    """The graph of a run's open waits."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    agents: dict[str, str] = {}
    for edge in view.waits:
        agents[edge.task] = edge.agent
        graph.add_node(edge.task)
        for task in edge.waits_for:
            agents.setdefault(task, task.partition("/")[0])
            graph.add_edge(edge.task, task)
    groups = [
        tuple(sorted(group))
        for group in networkx.strongly_connected_components(graph)
        if len(group) > 1 or graph.has_edge(*(tuple(group) * 2))
    ]
    ringed = {task for group in groups for task in group}
    blamed = {edge.task for edge in view.waits if edge.deadlocked}
    return WaitGraph(
        run=view.run,
        at=view.last_at,
        nodes=tuple(
            GraphNode(task=task, agent=agent, in_ring=task in ringed, deadlocked=task in blamed)
            for task, agent in sorted(agents.items())
        ),
        edges=view.waits,
        rings=tuple(sorted(groups)),
    )


def sentences(graph: WaitGraph, now: datetime) -> list[str]:
    """Who waits for whom, one sentence a wait: rings first, then the rest, hostile text made safe."""
    if not graph.edges:
        return ["Nobody waits for anybody."]
    lines: list[str] = []
    told: set[tuple[str, int]] = set()
    for group in graph.rings:
        members = [edge for edge in graph.edges if edge.task in group]
        verdict = "DEADLOCK" if any(edge.deadlocked for edge in members) else "ring of waits"
        lines.append(f"{verdict}: {safe(', '.join(dict.fromkeys(edge.agent for edge in members)))}")
        for edge in members:
            told.add((edge.task, edge.epoch))
            lines.append(f"  {_sentence(edge, now)}")
    rest = [edge for edge in graph.edges if (edge.task, edge.epoch) not in told]
    if lines and rest:
        lines.append("other waits")
    indent = "  " if lines else ""
    lines.extend(f"{indent}{_sentence(edge, now)}" for edge in rest)
    return lines


def _sentence(edge: EdgeRow, now: datetime) -> str:
    mark = "✗ " if edge.deadlocked else ""
    return f"{mark}{safe(edge.text)}, for {duration((now - edge.since).total_seconds())}"


def _label(edge: EdgeRow) -> str:
    return safe(f"{edge.kind.replace('_', ' ')} {edge.message}".strip(), 60)


def dot(graph: WaitGraph) -> str:
    """The graph for Graphviz."""
    lines = [f"digraph {_quoted(graph.run)} {{", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for node in graph.nodes:
        red = ", color=red, fontcolor=red, penwidth=2" if node.deadlocked else ""
        red = red or (", color=orange" if node.in_ring else "")
        lines.append(f"  {_quoted(node.task)} [label={_quoted(node.task)}{red}];")
    rings = _ring_of(graph.rings)
    for edge in graph.edges:
        for target in edge.waits_for:
            in_ring = rings.get(edge.task) is not None and rings.get(edge.task) == rings.get(target)
            red = ", color=red, penwidth=2" if edge.deadlocked and in_ring else ", color=orange" if in_ring else ""
            lines.append(f"  {_quoted(edge.task)} -> {_quoted(target)} [label={_quoted(_label(edge))}{red}];")
    return "\n".join([*lines, "}"])


def _ring_of(rings: Sequence[tuple[str, ...]]) -> dict[str, int]:
    return {task: number for number, group in enumerate(rings) for task in group}


def _quoted(text: str) -> str:
    escaped = safe(text, 120).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def mermaid(graph: WaitGraph) -> str:
    """The graph for Mermaid."""
    numbers = {node.task: f"t{index}" for index, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    lines.extend(f'  {numbers[node.task]}["{_entities(node.task)}"]' for node in graph.nodes)
    lines.extend(
        f'  {numbers[edge.task]} -->|"{_entities(_label(edge))}"| {numbers[target]}'
        for edge in graph.edges
        for target in edge.waits_for
    )
    blamed = [numbers[node.task] for node in graph.nodes if node.deadlocked]
    ringed = [numbers[node.task] for node in graph.nodes if node.in_ring and not node.deadlocked]
    for name, members, style in (
        ("deadlock", blamed, "stroke:#c00,stroke-width:3px"),
        ("ring", ringed, "stroke:#d80,stroke-width:2px"),
    ):
        if members:
            lines.append(f"  classDef {name} {style}")
            lines.append(f"  class {','.join(members)} {name}")
    return "\n".join(lines)


def _entities(text: str) -> str:
    """Everything but letters, digits and a few harmless marks as a numeric entity of Mermaid."""
    return "".join(char if char.isalnum() or char in " /-_.…" else f"#{ord(char)};" for char in safe(text, 120))
