"""Coverage: how often the situations arose that make a simulation worth its time.

A sweep in which one of them never arose has tested less than it says, and fails.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.doing import Task
from crewkeeper_supervisor.chaos.world import World
from crewkeeper_supervisor.core.commands import AnswerCall, Command, TellAgent
from crewkeeper_supervisor.core.findings import Incident

SOMETIMES: Final = (
    "deadlock reported",
    "deadlock over a queued call",
    "deadlock over a lock",
    "deadlock over units of a semaphore",
    "deadlock over a message",
    "deadlock of several at once",
    "timed deadlock acted on",
    "tail seen",
    "suspicion refuted",
    "silent member asked again",
    "break obeyed",
    "break too late",
    "second victim",
    "ring re-formed",
    "orphan reported",
    "call failed with peer_gone",
    "note lost and healed",
    "message stored twice",
    "message delivered twice",
    "delivery lost",
    "agent restarted",
    "takeover",
    "takeover with a pending break",
    "waiting agent let in along a chain",
    "person answered",
)
"""Every situation that must arise in a sweep."""
_REFUTED_AFTER_S: Final = 4.0


class Coverage:
    """The counters of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.counts: Counter[str] = Counter()
        self._asked: dict[str, tuple[float, str]] = {}
        self._broken: set[str] = set()
        self._rings: Counter[tuple[str, ...]] = Counter()

    def opened(self, incident: Incident) -> None:
        """An incident is new."""
        finding = incident.finding
        if finding.kind == "orphan":
            self.counts["orphan reported"] += 1
        if finding.kind != "deadlock":
            return
        self.counts["deadlock reported"] += 1
        self.counts["tail seen"] += bool(finding.tail)
        self.counts["deadlock of several at once"] += len(finding.core[0]) > 2
        for edge in finding.edges:
            if edge.task in finding.core[0]:
                self._kind(edge.kind, edge.message)
        ring = (finding.core[0][0].partition("/")[0], *sorted(finding.agents))
        self._rings[ring] += 1
        self.counts["ring re-formed"] += self._rings[ring] > 1
        for agent in finding.agents:
            self._asked.pop(agent, None)

    def _kind(self, kind: str, name: str) -> None:
        if kind == "queued_call":
            self.counts["deadlock over a queued call"] += 1
        if kind == "resource":
            pool = "units of a semaphore" if name.startswith("p") else "a lock"
            self.counts[f"deadlock over {pool}"] += 1
        if kind == "message":
            self.counts["deadlock over a message"] += 1

    def decided(self, command: Command) -> None:
        """A command is decided."""
        if isinstance(command, AnswerCall) and command.error is not None:
            self.counts["call failed with peer_gone"] += 1
        if isinstance(command, AnswerCall) and command.error is None:
            self.counts["person answered"] += 1
        if not isinstance(command, TellAgent):
            return
        if isinstance(command.message, m.Probe):
            at_s = self._asked.get(command.agent, (0.0, ""))[0]
            now_s = self._world.clock.now_s
            self.counts["silent member asked again"] += 0.1 < now_s - at_s < _REFUTED_AFTER_S
            self._asked[command.agent] = (now_s, command.id)
        if isinstance(command.message, m.Break):
            finding = command.message.finding
            incident = self._world.owner.core.incidents.get(finding)
            self.counts["second victim"] += finding in self._broken
            self.counts["timed deadlock acted on"] += incident is not None and incident.finding.timed
            self._broken.add(finding)

    def look(self) -> None:
        """Once in a while: which suspicions came to nothing."""
        now_s = self._world.clock.now_s
        for agent, (at_s, _) in list(self._asked.items()):
            if now_s - at_s > _REFUTED_AFTER_S:
                del self._asked[agent]
                self.counts["suspicion refuted"] += 1

    def obeyed(self, _actor: Actor, _command: m.Break, task: Task | None) -> None:
        """A `Break` arrived."""
        self.counts["break too late" if task is None else "break obeyed"] += 1

    def taken_over(self, left: Iterable[Command]) -> None:
        """Another owner goes on with what was pending."""
        self.counts["takeover"] += 1
        pending = any(isinstance(each, TellAgent) and isinstance(each.message, m.Break) for each in left)
        self.counts["takeover with a pending break"] += pending

    def totals(self) -> dict[str, int]:
        """All counters of the run, with those kept elsewhere."""
        bus, world = self._world.bus.counts, self._world
        self.counts["note lost and healed"] = bus["publish_lost"]
        self.counts["message stored twice"] = bus["stored_twice"]
        self.counts["message delivered twice"] = bus["delivered_twice"]
        self.counts["delivery lost"] = bus["delivery_lost"] + bus["delivery_missed"]
        self.counts["agent restarted"] = world.counts["crashes"]
        entries = [x.actor.chain_entries for x in world.members.values() if x.actor is not None]
        self.counts["waiting agent let in along a chain"] = sum(entries)
        return {name: self.counts[name] for name in SOMETIMES}
