"""The order of a wait case: one causal order of its events, whichever order they arrived in.

Theory of operation. Every event belongs to the stream of one agent, and only the order within a stream is known. What
follows is found from one merge of the streams in which every cause comes before its effect: a call before its start
and its reply, a send before its receipt, a call before the wait that names it. Any such merge will do, for events of
different agents that are not tied like this commute. What is read elsewhere, what happens *at* an event, is in
`wait_case`.

Events of the monitor keep their place in the stream of the agent they are about. The end of an agent that does not come
back is the last thing in its stream, wherever it arrived.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

Event = Mapping[str, Any]

MONITOR: Final = ("crash", "exit", "restart", "config")
"""Events that somebody else tells of an agent."""


class Openings:
    """Where the calls, tasks and messages of a case come from, wherever in the file that stands.

    Attributes:
        calls: The `call` event of each call, by its position.
        starts: The `start` event of each call that was started.
        tasks: Position of the event that opens each task.
        sends: Position of the `send` of each message.
        agent_of: The agent of each task.
    """

    def __init__(self, agents: Mapping[str, Event], events: Sequence[Event]) -> None:
        self._events = events
        self._of_role: dict[str, list[str]] = {}
        for name, spec in agents.items():
            self._of_role.setdefault(spec.get("role", name), []).append(name)
        for name in agents:
            self._of_role.setdefault(name, [name])
        self.calls: dict[str, int] = {}
        self.starts: dict[str, int] = {}
        self.tasks: dict[str, int] = {}
        self.sends: dict[str, int] = {}
        self.agent_of: dict[str, str] = {}
        tables = {"call": ("call", self.calls), "start": ("call", self.starts), "send": ("msg", self.sends)}
        for position, event in enumerate(events):
            if event["e"] in tables:
                key, table = tables[event["e"]]
                table.setdefault(event[key], position)
            if event["e"] in ("task", "start"):
                self.tasks.setdefault(event["task"], position)
        for position, event in enumerate(events):
            if event["e"] in ("task", "start") and self.tasks[event["task"]] == position:
                self.agent_of[event["task"]] = self.stream(event)

    def stream(self, event: Event) -> str:
        """The agent in whose stream an event stands; empty if nothing in the file tells."""
        kind = event["e"]
        if kind == "task" or kind in MONITOR:
            return str(event["agent"])
        if kind in ("start", "reply"):
            return self.callee(event)
        if kind == "cancel":
            place = self.calls.get(event["call"])
            return "" if place is None else self.agent_of.get(self._events[place]["task"], "")
        return self.agent_of.get(event["task"], "")

    def callee(self, event: Event) -> str:
        """The instance that starts or answers a call; empty if nothing in the file tells."""
        place = self.starts.get(event["call"])
        told = event.get("agent") or (self._events[place].get("agent") if place is not None else None)
        if told:
            return str(told)
        place = self.calls.get(event["call"])
        if place is None:
            return ""
        to = str(self._events[place]["to"])
        fitting = self.instances(to)
        return fitting[0] if len(fitting) == 1 else ""

    def instances(self, name: str) -> list[str]:
        """The agents that a name means: those of this role, else the agent so called."""
        return self._of_role.get(name, [])

    def causes(self, event: Event) -> Iterator[int]:
        """Positions of the events that must have happened before this one, whatever the streams say."""
        kind = event["e"]
        names: list[tuple[dict[str, int], str]] = []
        if kind in ("start", "reply", "cancel"):
            names.append((self.calls, event["call"]))
        if kind == "recv":
            names.append((self.sends, event["msg"]))
        if kind == "wait":
            names += [(self.calls, call) for call in calls_in(event["for"])]
        if kind == "reply":
            names.append((self.starts, event["call"]))
        elif kind not in ("task", "start", "cancel") and "task" in event:
            names.append((self.tasks, event["task"]))
        for table, name in names:
            if name in table:
                yield table[name]


def calls_in(condition: Event) -> Iterator[str]:
    """The calls that a condition names, at any depth."""
    if "call" in condition:
        yield condition["call"]
    for key in ("all", "any", "of"):
        for part in condition.get(key, ()):
            yield from calls_in(part)


def causal_order(openings: Openings, events: Sequence[Event]) -> list[int]:
    """Positions of all events in an order in which every cause comes before its effect."""
    before = _stream_order(openings, events)
    order: list[int] = []
    entered: set[int] = set()
    for first in range(len(events)):
        stack = [(first, False)]
        while stack:
            position, ready = stack.pop()
            if ready:
                order.append(position)
            elif position not in entered:  # a cause that needs its own effect is left where it stands
                entered.add(position)
                stack.append((position, True))
                causes = [*before.get(position, ()), *openings.causes(events[position])]
                stack += [(cause, False) for cause in reversed(causes) if cause not in entered]
    return order


def _stream_order(openings: Openings, events: Sequence[Event]) -> dict[int, list[int]]:
    """For each event the one before it in its stream."""
    streams: dict[str, list[int]] = {}
    for position, event in enumerate(events):
        streams.setdefault(openings.stream(event), []).append(position)
    before: dict[int, list[int]] = {}
    for stream in streams.values():
        back = max((n for n, position in enumerate(stream) if events[position]["e"] == "restart"), default=-1)
        rest = stream[back + 1 :]
        rest.sort(key=lambda position: events[position]["e"] in ("crash", "exit"))
        ordered = stream[: back + 1] + rest
        for earlier, later in pairwise(ordered):
            before[later] = [earlier]
    return before
