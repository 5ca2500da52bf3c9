"""Patience: what the clock alone shows of a run: who has stalled, who is passed over, what grows without end.

What is asked of the graph here is asked every few seconds at most, and costs its size then; nothing is kept up to date
for it at every event. Findings are `watch`'s.
"""

from itertools import islice
from typing import Any, Final

from crewkeeper_bus.messages import OnAll, OnCall, OnHuman, OnMessage, OnResource, OnSome, OnTimer, OnTool
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.confinement import NEVER
from crewkeeper_supervisor.core.nodes import Task
from crewkeeper_supervisor.core.reduction import blockers_of
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.stall import Condition, Stall, next_look_s, stalled
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.victim import root_of

LOOK_S: Final = 5.0
"""How often a run is looked at while anybody stands in a queue."""
IDLE_S: Final = 60.0
"""How often while nobody stands in a queue."""
JUDGED_OFTEN: Final = 20
"""Times that stalls are looked for within the limit at most."""
CALLS_MIN: Final = 100
"""Open calls from which they are looked at often."""
CALLS_MAX: Final = 20_000
"""Calls that are counted in one look."""


class Patience:
    """When each agent last got on, and what follows."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self.moved: dict[str, float] = {}
        """When an agent last got on, journal time."""
        self.steps: dict[str, int] = {}
        """Steps with words that an agent has done."""
        limits = [limit_s for view in state.agents.values() if (limit_s := self.limit_s(view))]
        self._judge_s = state.now_s + min(limits) / 2 if limits else NEVER
        self._seen: dict[str, tuple[int, float, int]] = {}
        """What an agent looked like at the last look: steps, the newest of its tasks and waits, calls and messages."""

    def judge(self) -> list[Stall]:
        """Who has stalled, by the limit of each agent; of those who wait for each other only who is to blame.

        Sets when to judge next.
        """
        state = self._state
        conditions = {view.name: self._condition(view) for view in state.agents.values()}
        limits: dict[float, dict[str, None]] = {}
        for view in state.agents.values():
            if limit_s := self.limit_s(view):
                limits.setdefault(limit_s, {})[view.name] = None
        self._judge_s = NEVER
        found = []
        for limit_s, names in limits.items():
            found += [stall for stall in stalled(conditions, state.now_s, limit_s) if stall.agent in names]
            wanted_s, least_s = state.now_s + limit_s / 2, state.now_s + limit_s / JUDGED_OFTEN
            soonest_s = next_look_s({name: conditions[name] for name in names}, state.now_s, limit_s)
            next_s = wanted_s if soonest_s is None else min(wanted_s, soonest_s)
            self._judge_s = min(self._judge_s, max(least_s, next_s))
        blamed = {stall.agent for stall in found}
        return [stall for stall in found if blamed.isdisjoint(stall.waits_for)] or found[:1]

    @property
    def is_time_to_judge(self) -> bool:
        """Whether somebody may have stalled by now."""
        return self._state.now_s >= self._judge_s

    def next_s(self) -> float:
        """When to look again, journal time."""
        graph = self._state.graph
        pressing = len(graph.calls) >= CALLS_MIN
        pressing = pressing or any(len(each.queue) > each.capacity for each in graph.resources.values())
        pressing = pressing or any(len(node.inbound) > 1 for node in graph.agents.values())
        return min(self._judge_s, self._state.now_s + LOOK_S if pressing else self._state.now_s + IDLE_S)

    def limit_s(self, view: AgentView) -> float:
        """How long this agent may go without progress; 0: it is not judged."""
        crew = self._state.crew
        if view.spec.stall_s is not None:
            return view.spec.stall_s
        return crew.watch.stall_s if crew is not None else 0.0

    def explosions(self, limit: int) -> list[tuple[Task, int]]:
        """Roots below which too many calls are open at once, with how many."""
        graph = self._state.graph
        if len(graph.calls) < limit:
            return []
        counts: dict[str, tuple[Task, int]] = {}
        for call in islice(graph.calls.values(), CALLS_MAX):
            if call.state in ("open", "started"):
                root = root_of(call.task)
                counts[root.key] = (root, counts.get(root.key, (root, 0))[1] + 1)
        return [(root, count) for root, count in counts.values() if count >= limit]

    def begins(self, agent: str) -> None:
        """A new incarnation begins, or who was held goes on: from here its time counts."""
        self.moved[agent] = self._state.now_s

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [self.moved, self.steps, self._seen, self._judge_s]

    # --- one agent ---

    def look(self) -> None:
        """Who does things without words gets on, as nobody can tell that it does not; who is held is not to blame."""
        for view in self._state.agents.values():
            newest = max((_newest_s(task) for task in view.tasks.values()), default=0.0)
            now = (self.steps.get(view.name, 0), newest, view.calls + view.messages)
            before = self._seen.get(view.name)
            self._seen[view.name] = now
            if self._is_held(view) or (before is not None and now[0] == before[0] and now != before):
                self.moved[view.name] = self._state.now_s

    def _condition(self, view: AgentView) -> Condition:
        state = self._state
        working = runs = excused = False
        waits_for: list[str] = []
        since_s: float | None = None
        began_s = 0.0
        for task in view.tasks.values():
            began_s = max(began_s, task.began_s)
            if task.wait is None:
                working |= task.slot
                runs |= task.slot
                continue
            if type(task.wait.condition) is OnTool:
                working = True
                since_s = task.wait.since_s if since_s is None else min(since_s, task.wait.since_s)
            is_excused, is_idle, agents = self._support(task.wait.condition, task)
            excused |= is_excused or is_idle
            working |= not is_idle
            waits_for += agents
        own = state.gate.open_of.get(view.name, 0) > 0
        return Condition(
            progress_at_s=max(self.moved.get(view.name, 0.0), began_s),
            working=working and view.present,
            alive=view.present or view.status == "starting",
            paused=self._is_held(view),
            waits_for=() if runs else tuple(dict.fromkeys(waits_for)),
            # What goes through the gate has a limit there, or waits for a person; who runs beside a wait does not wait.
            excused=own or (excused and not runs),
            call_since_s=None if own else since_s,
        )

    def _support(self, condition: AnyCondition, task: Task) -> tuple[bool, bool, list[str]]:
        """Whether a wait is excused, whether it is only for anything that may come, and the agents it is for."""
        graph = self._state.graph
        match condition:
            case OnHuman() | OnTimer():
                return True, False, []
            case OnTool():
                return False, False, []
            case OnCall(call=id_):
                call = graph.calls.get(id_)
                if call is None or call.state in ("answered", "lost"):
                    return False, False, []
                return False, False, self._instances(call.callee.name if call.callee is not None else call.to)
            case OnMessage(senders=senders):
                return False, not senders, [name for sender in senders for name in self._instances(sender)]
            case OnResource(resource=name, ticket=id_):
                resource = graph.resources.get(name)
                ticket = resource.queue.get(id_) if resource is not None else None
                if ticket is None or ticket.granted:
                    return False, False, []
                ahead, holders = blockers_of(ticket)
                return False, False, [other.task.agent.name for other in (*holders, *ahead[:1])]
            case OnAll(of=parts) | OnSome(of=parts):
                of = [self._support(part, task) for part in parts]
                excused = any(one[0] for one in of)
                idle = any(one[1] for one in of) if isinstance(condition, OnSome) else all(one[1] for one in of)
                return excused, idle, [name for one in of for name in one[2]]
            case _:
                return True, False, []

    def _instances(self, name: str) -> list[str]:
        if name in self._state.agents:
            return [name]
        return [node.name for node in self._state.graph.roles.get(name, {}).values()]

    def _is_held(self, view: AgentView) -> bool:
        return view.status == "paused" or view.hold is not None or view.name in self._state.gate.holds


def _newest_s(task: Task) -> float:
    return max(task.began_s, task.wait.since_s if task.wait is not None else 0.0)
