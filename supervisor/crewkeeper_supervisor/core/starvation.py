"""Starvation: a wait that others are served before, again and again, at a lock, a semaphore or the queue of an agent.

Queues here are fair, so nobody is overtaken as long as everything is in order. What is found is therefore one of three:
a ticket that is passed by later ones; a call that stays in an agent's queue while later ones are started; and, most
often, an agent that asks with a limit, gives up, asks again at the end of the line, and is never served. The first two
are looked for now and then by the clock, the third is counted as it happens.
"""

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
    tries: int = 0
    told: bool = False


class Starvation:
    """Who is passed over, in one run."""

    def __init__(self) -> None:
        self._waits: dict[str, _Passed] = {}
        """By ticket or call, while it waits."""
        self.vain: dict[tuple[str, str], _Passed] = {}
        """By agent and resource: requests given up without having been served, since the last that was."""

    # --- as it happens ---

    def gave_up(self, agent: str, resource: str) -> Starving | None:
        """An agent no longer asks for what it was not given."""
        passed = self.vain.pop((agent, resource), None) or _Passed()
        self.vain[agent, resource] = passed
        if len(self.vain) > KEPT_MAX:
            del self.vain[next(iter(self.vain))]
        passed.tries += 1
        if min(passed.tries, len(passed.by)) < PASSED_MAX:
            return None
        again, passed.told = passed.told, True
        return Starving(
            key=f"{agent} {resource}",
            agent=agent,
            what=f"{resource!r} and gave up {passed.tries} times",
            times=len(passed.by),
            by=_latest(passed.by),
            again=again,
        )

    def served(self, agent: str, resource: str, ticket: str) -> str:
        """Somebody was given a resource; returns the key of the starvation that this ends, if any."""
        mine = self.vain.pop((agent, resource), None)
        for (_, other), passed in self.vain.items():
            if other == resource and len(passed.by) < KEPT_MAX:
                passed.by[ticket] = agent
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
        news = [id_ for id_ in by if id_ not in passed.by]
        passed.by.update(by)
        if news and len(passed.by) >= PASSED_MAX:
            again, passed.told = passed.told, True
            found.append(
                Starving(key=key, agent=agent, what=what, times=len(passed.by), by=_latest(passed.by), again=again)
            )

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [
            [[key, p.by, p.told] for key, p in self._waits.items()],
            [[*key, p.by, p.tries, p.told] for key, p in self.vain.items()],
        ]


def _unstarted(node: AgentNode) -> Iterator[Call]:
    """Its queue, the oldest call first."""
    return (call for call in node.inbound.values() if call.state == "open")


def _latest(by: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(list(by.values())[-20:]))
