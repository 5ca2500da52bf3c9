"""Repetition: the same ring closed again and again, by which agents and for what; how long to back off then.

A ring is the same if the same agents wait for the same agents, verbs, resources or messages; ids of calls and tasks
differ every time.
"""

import hashlib
from collections import deque
from typing import Final

from crewkeeper_supervisor.core.crew import Repeat
from crewkeeper_supervisor.core.findings import Edge
from crewkeeper_supervisor.core.wait_graph import WaitGraph

RINGS_MAX: Final = 256
"""Rings that are remembered; the one that has not closed for longest is forgotten first."""
RETRY_AFTER_S: Final = 1.0
"""How long a victim should wait before it asks again, the first time."""
RETRY_AFTER_MAX_S: Final = 30.0

Signature = tuple[tuple[str, str, str], ...]
"""Who waits, for whom, for what: each once, sorted."""


class Repetitions:
    """When each ring of a run has closed lately."""

    def __init__(self) -> None:
        self._rings: dict[Signature, deque[float]] = {}

    def closed(self, ring: Signature, now_s: float, rule: Repeat) -> int:
        """Note that a ring has closed; returns how often it has within the rule's time, this time included."""
        times = self._rings.pop(ring, None) or deque(maxlen=1000)
        while times and times[0] < now_s - rule.within_s:
            times.popleft()
        times.append(now_s)
        self._rings[ring] = times
        if len(self._rings) > RINGS_MAX:
            del self._rings[next(iter(self._rings))]
        return len(times)


def signature(edges: list[Edge], graph: WaitGraph) -> Signature:
    """What makes a ring the same as another, from the edges among its members."""
    return tuple(sorted({(edge.agent, ",".join(sorted(edge.agents)), _matter(edge, graph)) for edge in edges}))


def design_fault(edges: list[Edge], count: int, rule: Repeat) -> str:
    """What people are told of a ring that closes again and again."""
    calls = [edge for edge in edges if edge.kind in ("call", "queued_call")]
    may_call = list(dict.fromkeys(f"{edge.agent} → {to}" for edge in calls for to in edge.agents))
    others = list(dict.fromkeys(edge.message for edge in edges if edge.kind == "resource"))
    text = f"closed {count} times within {rule.within_s:g} s: a fault of design"
    if may_call:
        text += f"; it takes the may_call edges {', '.join(may_call[:10])}"
    if others:
        text += f"; it takes {', '.join(others[:10])} being taken in different orders"
    return text


def retry_after_s(count: int, command: str) -> float:
    """How long a victim should wait before it asks again.

    Args:
        count: How often its ring has closed lately.
        command: Id of the command that tells it, which spreads victims of the same ring by up to a half.
    """
    if count <= 1:
        return RETRY_AFTER_S
    chance = int.from_bytes(hashlib.sha256(command.encode()).digest()[:4]) / 2**32
    return round(min(RETRY_AFTER_MAX_S, RETRY_AFTER_S * 2.0 ** min(count - 1, 10) * (1 + chance / 2)), 3)


def _matter(edge: Edge, graph: WaitGraph) -> str:
    call = graph.calls.get(edge.message) if edge.kind in ("call", "queued_call") else None
    return f"call {call.verb}" if call is not None else f"{edge.kind} {edge.message}"
