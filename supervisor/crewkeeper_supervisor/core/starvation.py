"""Starvation: a wait that others are served before, again and again, at a lock, a semaphore or the queue of an agent.

Queues here are fair, so nobody is overtaken as long as everything is in order. What is found is therefore one of three:
a ticket that is passed by later ones; a call that stays in an agent's queue while later ones are started; and, most
often, an agent that asks with a limit, gives up, asks again at the end of the line, and is never served. The first two
are looked for now and then by the clock, the third is counted as it happens.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from msgspec import Struct, field

from crewkeeper_supervisor.core.nodes import AgentNode, Call
from crewkeeper_supervisor.core.tickets import Resource
from crewkeeper_supervisor.core.wait_graph import WaitGraph

PASSED_MAX: Final = 5
"""Times that others are served first before that is starvation."""
LOOKED_AT_MAX: Final = 1000
"""Resources, and agents with a queue, that one look takes in."""
KEPT_MAX: Final = 1000
"""Resources that somebody has given up on."""
AGENTS_MAX: Final = 50
"""Agents that have given up on one of them."""
PASSED_KEPT_MAX: Final = 100
"""Of those served first, who are remembered for one wait."""


class Starving(Struct, frozen=True, kw_only=True):
    """Somebody who is not served."""

    key: str
    agent: str
    what: str
    """What it waits for, in words."""
    times: int
    by: tuple[str, ...]
    """Who was served instead, the latest last."""
    again: bool
    """It was told before."""


class _Passed(Struct):
    """One wait, and who was served instead."""

    by: dict[str, str] = field(default_factory=dict)
    """Ids of the calls or tickets, with their agents."""
    told: bool = False


class _Tries(Struct):
    """Requests of one agent that it has given up."""

    since: int
    """Grants of the resource before the first of them."""
    count: int = 0
    told: bool = False


class _Sought(Struct):
    """A resource that somebody has given up on."""

    grants: int = 0
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    """Who was given it of late."""
    tries: dict[str, _Tries] = field(default_factory=dict)
    """By agent; until it is given the resource."""


class Starvation:
    """Who is passed over, in one run."""

    def __init__(self) -> None:
        self._waits: dict[str, _Passed] = {}
        """By ticket or call, while it waits."""
        self.vain: dict[str, _Sought] = {}
        """Resources that somebody has asked for in vain, and has not been given since."""

    # --- as it happens ---

    def gave_up(self, agent: str, resource: str) -> Starving | None:
        """An agent no longer asks for what it was not given."""
        sought = self.vain.get(resource)
        if sought is None:
            sought = self.vain[resource] = _Sought()
            if len(self.vain) > KEPT_MAX:
                del self.vain[next(iter(self.vain))]
        mine = sought.tries.get(agent)
        if mine is None:
            mine = sought.tries[agent] = _Tries(sought.grants)
            if len(sought.tries) > AGENTS_MAX:
                del sought.tries[next(iter(sought.tries))]
        mine.count += 1
        passed = sought.grants - mine.since
        if mine.count < PASSED_MAX or passed < PASSED_MAX:
            return None
        again, mine.told = mine.told, True
        return Starving(
            key=f"{agent} {resource}",
            agent=agent,
            what=f"{resource!r} and gave up {mine.count} times",
            times=passed,
            by=tuple(dict.fromkeys(sought.latest)),
            again=again,
        )

    def served(self, agent: str, resource: str) -> str:
        """Somebody was given a resource of `vain`; returns the key of the starvation that this ends, if any."""
        sought = self.vain[resource]
        mine = sought.tries.pop(agent, None)
        sought.grants += 1
        sought.latest.append(agent)
        if not sought.tries:
            del self.vain[resource]
        return f"{agent} {resource}" if mine is not None and mine.told else ""

    # --- by the clock ---

    def look(self, graph: WaitGraph) -> tuple[list[Starving], list[str]]:
        """Who has been passed over by now, and the keys of those who are no longer."""
        before, self._waits = self._waits, {}
        found: list[Starving] = []
        for resource in islice(graph.resources.values(), LOOKED_AT_MAX):
            if len(resource.queue) > resource.capacity:
                self._at_resource(resource, before, found)
        for node in islice(graph.agents.values(), LOOKED_AT_MAX):
            if len(node.inbound) > 1:
                self._at_agent(node, before, found)
        return found, [key for key, passed in before.items() if passed.told and key not in self._waits]

    def _at_resource(self, resource: Resource, before: dict[str, _Passed], found: list[Starving]) -> None:
        waiting: list[tuple[str, str]] = []
        for ticket in resource.queue.values():
            if not ticket.granted:
                waiting.append((ticket.id, ticket.task.agent.name))
                continue
            for id_, agent in waiting[:PASSED_MAX]:
                key = f"ticket {id_}"
                self._pass(key, agent, repr(resource.name), {ticket.id: ticket.task.agent.name}, before, found)

    def _at_agent(self, node: AgentNode, before: dict[str, _Passed], found: list[Starving]) -> None:
        first = next(_unstarted(node), None)
        if first is None:
            return
        later = {c.id: c.caller for c in node.inbound.values() if c.state == "started" and c.opened_s > first.opened_s}
        if later:
            self._pass(f"call {first.id}", first.caller, f"{node.name} to start on its call", later, before, found)

    def _pass(
        self, key: str, agent: str, what: str, by: dict[str, str], before: dict[str, _Passed], found: list[Starving]
    ) -> None:
        passed = self._waits.get(key) or before.get(key) or _Passed()
        self._waits[key] = passed
        news = [id_ for id_ in by if id_ not in passed.by] if len(passed.by) < PASSED_KEPT_MAX else []
        passed.by.update((id_, by[id_]) for id_ in news)
        if news and len(passed.by) >= PASSED_MAX:
            again, passed.told = passed.told, True
            found.append(
                Starving(key=key, agent=agent, what=what, times=len(passed.by), by=_latest(passed.by), again=again)
            )

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [
            [[key, p.by, p.told] for key, p in self._waits.items()],
            [[name, one.grants, list(one.latest), one.tries] for name, one in self.vain.items()],
        ]


def _unstarted(node: AgentNode) -> Iterator[Call]:
    """Its queue, the oldest call first."""
    return (call for call in node.inbound.values() if call.state == "open")


def _latest(by: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(list(by.values())[-20:]))
