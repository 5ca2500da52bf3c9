"""Lookout: what is told of a run's waits and of its growth: stalls, starvation, livelocks, too many and too deep calls.

Who waits for what is the wait graph's, and whether somebody gets on is `patience`'s; deadlocks are `detection`'s.
"""

import zlib
from typing import Any, Final

from crewkeeper_supervisor.core.confinement import NEVER
from crewkeeper_supervisor.core.crew import Repeat
from crewkeeper_supervisor.core.findings import Edge, FindingKind
from crewkeeper_supervisor.core.nodes import Call
from crewkeeper_supervisor.core.patience import IDLE_S, LOOK_S, Patience
from crewkeeper_supervisor.core.repetition import Repetitions
from crewkeeper_supervisor.core.roster import AgentView
from crewkeeper_supervisor.core.standing import Conditions
from crewkeeper_supervisor.core.starvation import Starvation, Starving
from crewkeeper_supervisor.core.state import RunState
from crewkeeper_supervisor.core.victim import root_of

AGAIN_S: Final = 5.0
"""How often a condition that lasts is told to go on."""
UNMET_MAX: Final = 1000
HASTE: Final = 2
"""A ring that opens before it is certain must have closed so many times as often as one that was."""
_REFUSED: Final = "refused "
"""Begins the key of what a budget refuses: it shows by being refused again, not by what is open."""
LINKS_MAX: Final = 64
NAMED: Final = 8
"""Agents of a chain that a sentence names."""


class Lookout:
    """What the waits of one run show over time.

    Args:
        state: The run, its crew known.
        standing: Where conditions are told.
    """

    def __init__(self, state: RunState, standing: Conditions) -> None:
        crew = state.crew
        assert crew is not None  # see above
        self._state = state
        self._standing = standing
        self._fan_out = crew.watch.fan_out
        self.patience = Patience(state)
        self._rings = Repetitions()
        """Rings that opened because somebody gave up, by their agents."""
        self._unmet: dict[str, None] = {}
        self.starvation = Starvation()
        state.due_s["watch"] = self.patience.next_s()

    # --- as it happens ---

    def gave_up(self, agent: str, resource: str) -> None:
        """An agent no longer asks for a resource that it was not given."""
        starving = self.starvation.gave_up(agent, resource)
        if starving is not None:
            self._starves(starving)

    def granted(self, agent: str, resource: str) -> None:
        """Somebody has a resource. To be told only while somebody has given up on one."""
        if key := self.starvation.served(agent, resource):
            self._standing.cleared("starvation", key, f"{agent} has {resource!r} now")

    def ring_again(self, ring: str, count: int, agents: list[str], edges: list[Edge]) -> None:
        """The same ring of waits has closed so often that those in it only make way for each other."""
        key = f"{zlib.crc32(ring.encode()):08x}"
        text = f"{', '.join(agents[:10])} form the same ring of waits again and again, {count} times by now"
        again = f"it has closed {count} times"
        self._standing.tell("livelock", key, text, tuple(agents), {"times": str(count)}, again=again, edges=edges)

    def ended_unmet(self, task: str) -> None:
        """A wait has ended without what it was for. To be told only while a ring of waits is suspected."""
        self._unmet[task] = None
        if len(self._unmet) > UNMET_MAX:
            del self._unmet[next(iter(self._unmet))]

    def ring_opened(self, tasks: list[str]) -> None:
        """A suspected ring has opened before it was certain: by somebody who gave up, or because it was none."""
        gave_up = [task for task in tasks if self._unmet.pop(task, "") is None]
        if not gave_up:
            return
        agents = sorted({task.partition("/")[0] for task in tasks})
        rule = self._state.crew.responses.deadlock.repeat if self._state.crew is not None else Repeat()
        count = self._rings.closed((("", ",".join(agents), ""),), self._state.now_s, rule)
        if count >= HASTE * rule.times:
            self.ring_again(",".join(agents), count, agents, [])

    def spread(self, view: AgentView, call: Call) -> None:
        """An agent has very many calls open; this task of it may have too many."""
        asked = call.task.asked
        count = len(asked) if isinstance(asked, dict) else 1
        if count >= self._fan_out:
            self._explodes(call.task.key, view.name, count)

    def deep(self, view: AgentView, call: Call, depth: int) -> None:
        """A chain of calls has become very long."""
        above = _above(call)
        path = " → ".join([*reversed(above[:NAMED]), call.to])
        self._standing.tell(
            "depth",
            root_of(call.task).key,
            f"a chain of calls is {depth} deep and grows: … {path}",
            (view.name, call.to, *above[:NAMED]),
            {"depth": str(depth), "call": call.id},
            again=f"{view.name} calls {call.to}: {depth} deep",
        )

    def refused(self, kind: FindingKind, view: AgentView, call: Call, why: str) -> None:
        """A budget of depth or fan-out has refused a call; its caller and its callee hear of it from the gate.

        Too many calls are their caller's alone: nobody else must be held for them.
        """
        text = f"{view.name} may not call {call.to}: {why}"
        evidence = {"call": call.id, "refused": "true"}
        above = [call.task.call.caller] if call.task.call is not None else []
        agents = (view.name,) if kind == "fan_out" else (view.name, call.to, *above)
        key = f"{_REFUSED}{view.name} {root_of(call.task).key}"
        self._standing.tell(kind, key, text, agents, evidence, again=text)

    # --- by the clock ---

    def look(self) -> None:
        """What only the clock shows. To be called when the watch's time has come."""
        state, standing = self._state, self._standing
        if state.phase != "running":  # nobody has begun, or everybody is told to end
            # Soon while the crew starts: it may begin at any moment, with limits far below a minute.
            state.due_s["watch"] = state.now_s + (LOOK_S if state.phase == "starting" else IDLE_S)
            return
        self.patience.look()
        if self.patience.is_time_to_judge or standing.of_kind("stall"):
            self._look_for_stalls()
        starving, fed = self.starvation.look(state.graph)
        for each in starving:
            self._starves(each)
        for key in fed:
            standing.cleared("starvation", key, "it has been served")
        self._look_for_explosions()
        standing.expire()
        next_s = self.patience.next_s()
        if standing.of_kind("stall", "starvation", "fan_out"):
            next_s = min(next_s, state.now_s + AGAIN_S)
        state.due_s["watch"] = next_s

    def _look_for_stalls(self) -> None:
        state = self._state
        stalls = {stall.agent: stall for stall in self.patience.judge()}
        for agent, stall in stalls.items():
            for_s = state.now_s - stall.since_s
            doing = "runs"
            if stall.waits_for:
                doing = f"waits for {', '.join(stall.waits_for[:10])}, who does nothing for it"
            elif stall.call_since_s is not None:
                doing = f"waits for a call that is open for {state.now_s - stall.call_since_s:.0f} s"
            text = f"{agent} is alive, {doing}, and has made no progress for {for_s:.0f} s"
            evidence = {"since_s": f"{stall.since_s:.3f}", "for_s": f"{for_s:.0f}"}
            again = f"no progress for {for_s:.0f} s"
            self._standing.tell("stall", agent, text, (agent, *stall.waits_for), evidence, again=again)
        for one in self._standing.of_kind("stall"):
            if one.key not in stalls:
                view = state.agents.get(one.key)
                there = view is not None and view.present
                self._standing.over(one, f"{one.key} {'gets on' if there else 'is not there any more'}")

    def _look_for_explosions(self) -> None:
        exploding = {root.key: (root, count) for root, count in self.patience.explosions(self._fan_out)}
        for key, (root, count) in exploding.items():
            self._explodes(key, root.agent.name, count)
        for one in self._standing.of_kind("fan_out"):
            if one.key not in exploding and not one.key.startswith(_REFUSED):
                self._standing.over(one, "its calls have become fewer")

    def _explodes(self, key: str, agent: str, count: int) -> None:
        text = f"{count} calls are open at once below one task of {agent}"
        evidence = {"calls": str(count), "task": key}
        self._standing.tell("fan_out", key, text, (agent,), evidence, again=f"{count} calls are open")
        self._look_soon()

    def _starves(self, one: Starving) -> None:
        by = ", ".join(one.by[-5:])
        text = f"{one.agent} waits for {one.what} while others are served first, {one.times} times by now: {by}"
        again = f"passed {one.times} times by now, last by {by}"
        self._standing.tell("starvation", one.key, text, (one.agent, *one.by), {"times": str(one.times)}, again=again)

    def _look_soon(self) -> None:
        due_s = self._state.due_s
        due_s["watch"] = min(due_s.get("watch", NEVER), self._state.now_s + AGAIN_S)

    def facts(self) -> list[Any]:
        """What is remembered, for the state's digest."""
        return [self.patience.facts(), self.starvation.facts(), list(self._unmet)]


def _above(call: Call) -> list[str]:
    """Who makes a call, and on whose behalf: the nearest first."""
    above: list[str] = []
    link: Call | None = call
    while link is not None and len(above) < LINKS_MAX:
        above.append(link.task.agent.name)
        link = link.task.call
    return above
