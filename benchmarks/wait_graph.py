"""`python -m benchmarks.wait_graph`: events a second and worst latency of one, by load and size of the fleet.

The production core takes typed events; beside it, in the same run and over the same events, run plain graph checks as
one would write them with networkx (agents as nodes, a wait on several as edges to all): a search for cycles at every
wait, a search for a path back at every wait, and a full reduction of the production graph every thousand events.
A rate marked `*` is of an engine that was stopped after its time.
"""

import argparse
import copy
import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import networkx as nx

from benchmarks.ground import load
from benchmarks.wait_loads import LOADS
from crewkeeper_bus import messages as m
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.reduction import Reduction
from crewkeeper_supervisor.core.supervisor import Supervisor

LIMIT_S = 4.0
"""How long one engine may take for one load."""

Handle = Callable[[Recorded], object]


class AgentGraph:
    """The naive graph: an edge from the waiting agent to each agent it waits for."""

    def __init__(self) -> None:
        self.web: nx.DiGraph[str] = nx.DiGraph()
        self._callee: dict[str, str] = {}
        self._edges: dict[tuple[str, str], list[str]] = {}
        self._holder: dict[str, str] = {}

    def handle(self, event: Recorded) -> bool:
        """Keep the graph; true if a wait has just begun."""
        message = event.message
        if isinstance(message, m.Request):
            self._callee[event.id] = event.to
        elif isinstance(message, m.Acquire):
            self._holder.setdefault(message.resource, event.sender)
        elif isinstance(message, m.WaitBegan):
            targets = list(self._targets(message.condition))
            self._edges[event.sender, message.task] = targets
            self.web.add_edges_from((event.sender, target) for target in targets)
            return bool(targets)
        elif isinstance(message, m.WaitEnded):
            for target in self._edges.pop((event.sender, message.task), []):
                if self.web.has_edge(event.sender, target):
                    self.web.remove_edge(event.sender, target)
        return False

    def _targets(self, condition: Any) -> list[str]:
        if isinstance(condition, m.OnCall):
            return [self._callee[condition.call]]
        if isinstance(condition, m.OnResource):
            return [self._holder[condition.resource]]
        return [target for part in getattr(condition, "of", ()) for target in self._targets(part)]


def scc_each_wait() -> Handle:
    """Strongly connected components of the whole graph at every wait."""
    graph = AgentGraph()

    def handle(event: Recorded) -> object:
        return graph.handle(event) and [c for c in nx.strongly_connected_components(graph.web) if len(c) > 1]

    return handle


def path_each_wait() -> Handle:
    """Whether a path leads back to the waiter, at every wait."""
    graph = AgentGraph()

    def handle(event: Recorded) -> object:
        if not graph.handle(event):
            return None
        return any(nx.has_path(graph.web, target, event.sender) for target in graph.web.successors(event.sender))

    return handle


def full_every_thousand() -> Handle:
    """The production graph, and a reduction of all that waits every thousand events."""
    core = Supervisor("load")

    def handle(event: Recorded) -> object:
        core.handle(event)
        if event.seq % 1000:
            return None
        graph = core._state.graph
        return Reduction(graph).of(graph.waiting.values())

    return handle


ENGINES: dict[str, Callable[[], Handle]] = {
    "core": lambda: Supervisor("load").handle,
    "full check per 1000": full_every_thousand,
    "networkx path each wait": path_each_wait,
    "networkx cycles each wait": scc_each_wait,
}


def measure(make: Callable[[], Handle], events: list[Recorded], setup: int) -> tuple[float, float, bool]:
    """Events a second of CPU, worst latency of one event in milliseconds, and whether it came to the end.

    They are taken in two passes: a clock around every event would cost the fast engines a good part of their rate.
    """
    first, whole = prepared(make, events[:setup]), True
    begun, done = time.process_time(), 0
    for done, event in enumerate(events[setup:], 1):
        first(event)
        if done % 256 == 0 and time.process_time() - begun > LIMIT_S:
            whole = False
            break
    rate = done / (time.process_time() - begun)
    del first
    second, worst, clock = prepared(make, events[:setup]), 0.0, time.perf_counter
    for event in events[setup : setup + done]:
        at = clock()
        second(event)
        worst = max(worst, clock() - at)
    return rate, 1e3 * worst, whole


def prepared(make: Callable[[], Handle], events: list[Recorded]) -> Handle:
    """An engine that has been told who is there."""
    handle = make()
    for event in events:
        handle(event)
    return handle


def memory(agents: int) -> float:
    """Kilobytes that one more waiting task costs: a chain of waits as long as the fleet, its second building."""
    events = LOADS["chain"](agents, 9 * agents)
    whole = 1 + agents + 5 * (agents - 1) + 2  # declared, joined, one chain built and unwound
    built = whole + 1 + 3 * (agents - 1)
    core = Supervisor("load")
    for event in events[:whole]:
        core.handle(event)
    tracemalloc.start()
    for event in events[whole:built]:
        core.handle(copy.deepcopy(event))  # what of an event is kept counts too
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / 1024 / len(core.waits())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", default="100,1000,10000,100000", help="sizes of the fleet")
    parser.add_argument("--events", type=int, default=200_000, help="events of each load, about")
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    chosen = parser.parse_args()
    print(load())
    gc.disable()
    print(f"{'load':12} {'agents':>7}  {'engine':26} {'events/s':>10}  {'worst ms':>8}  {'of core':>7}")
    for agents in map(int, chosen.agents.split(",")):
        for name in chosen.loads.split(","):
            events = LOADS[name](agents, chosen.events)
            base = 0.0
            for engine in chosen.engines.split(","):
                rate, worst, whole = measure(ENGINES[engine], events, agents + 1)
                base = base or rate
                mark = " " if whole else "*"
                print(
                    f"{name:12} {agents:7}  {engine:26} {rate:10,.0f}{mark} {worst:8.2f}  {rate / base:7.3f}",
                    flush=True,
                )
            gc.collect()
    print(f"\nstate of one more waiting task: {memory(5_000):.2f} kB")


if __name__ == "__main__":
    main()
