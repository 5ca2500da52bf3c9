"""Stage: one scenario played in the simulated world with one seed, from its beginning to what is left to judge."""

from typing import Final

import msgspec

from crewkeeper_supervisor.chaos.bus import RUN, Envelope
from crewkeeper_supervisor.chaos.chance import Stream
from crewkeeper_supervisor.chaos.clock import START_S
from crewkeeper_supervisor.chaos.faults.holds import Holds
from crewkeeper_supervisor.chaos.faults.kind import Strike
from crewkeeper_supervisor.chaos.faults.registry import KINDS
from crewkeeper_supervisor.chaos.garbage import uncollected
from crewkeeper_supervisor.chaos.invariants import Invariants
from crewkeeper_supervisor.chaos.plan.scenario import Action, Fault, Scenario
from crewkeeper_supervisor.chaos.sim.world import ScriptedWorld
from crewkeeper_supervisor.chaos.trial.events import Sighting
from crewkeeper_supervisor.chaos.trial.metrics import metrics_of
from crewkeeper_supervisor.chaos.trial.operator import OVER, CannotAct, Operator
from crewkeeper_supervisor.chaos.trial.played import Played, shifted, since
from crewkeeper_supervisor.chaos.trial.sightings import Sightings
from crewkeeper_supervisor.chaos.trial.steady import unsteady
from crewkeeper_supervisor.chaos.trial.timeline import Timeline
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck, judge
from crewkeeper_supervisor.chaos.truth import Truth
from crewkeeper_supervisor.chaos.world import Member
from crewkeeper_supervisor.core.events import Event

LOOK_S: Final = 1.0
"""Virtual time between two looks for missed deadlocks."""
QUIET_S: Final = 2.0
"""How long a run is watched after its end."""
TRUTH_EVERY_S: Final = 0.004
"""Virtual time between two looks at what is stuck."""


class _Injected:
    def __init__(self, struck: Struck, strike: Strike) -> None:
        self.struck = struck
        self.strike = strike


class SimStage:
    """One run.

    Args:
        scenario: With agents.
        seed: Its seed.
        kept: Names of the faults that may strike; None: all.
    """

    def __init__(self, scenario: Scenario, seed: int, kept: frozenset[str] | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self._kept = kept
        self._chance = Stream(seed, "targets")
        self.holds = Holds()
        self.world = ScriptedWorld(scenario, seed, kept)
        self.sightings = Sightings(RUN)
        self.timeline = Timeline(scenario)
        self.invariants = Invariants(self.world)
        self._seen: list[Sighting] = []
        self._injected: list[_Injected] = []
        self._planned: list[str] = []
        self._left_out: list[int] = []
        self._due = 0
        self._was_steady = False
        self._unsteady: list[str] = []
        self._stuck: frozenset[str] = frozenset()
        self._moment: tuple[int, ...] = ()
        self._looked_s = 0.0
        self._letters = self._violations = 0
        self._operator = Operator({name: member.spec.name for name, member in self.world.members.items()})
        self._unasked: list[Action] = []
        """What people will do once somebody asks for it."""
        world = self.world
        world.bus.read = self._read
        world.owner.on_decided = self.invariants.decided
        world.owner.on_handled = self._handled
        world.owner.on_folded = self.invariants.folded
        world.on_start = self._started
        world.bus.on_stored.insert(0, self.invariants.stored)
        world.bus.on_stored.append(self._stored)

    def run(self) -> Played:
        """Play it."""
        world = self.world
        with uncollected():
            world.begin()
            world.clock.after(LOOK_S, self._look)
            self._until_over()
            self._heal_all()
            self._end()
        return self._played()

    # --- the run ---

    def _until_over(self) -> None:
        world, limit_s = self.world, START_S + self.scenario.timeout_s
        quiet_s = 0.0
        while world.clock.now_s < limit_s and world.clock.step():
            self._watch()
            phase = self.sightings.core.state
            over = phase in OVER and not world.post.waiting and not self._due
            quiet_s = (quiet_s or world.clock.now_s) if over else 0.0
            if quiet_s and world.clock.now_s > quiet_s + QUIET_S:
                return

    def _watch(self) -> None:
        """Look at what no listener tells: what is stuck in truth, and what the receiver got."""
        world = self.world
        if world.clock.now_s - self._looked_s >= TRUTH_EVERY_S:
            self._looked_s = world.clock.now_s
            self._look_at_truth()
        if len(world.post.letters) > self._letters or len(self.invariants.violations) > self._violations:
            self._take_news()

    def _take_news(self) -> None:
        for letter in self.world.post.letters[self._letters :]:
            self._letters += 1
            fields = {"kind": letter.kind, "type": letter.type, "signed": letter.signed, "again": letter.again}
            self._saw(Sighting(at_s=letter.at_s, event="webhook", fields=fields))
        for violation in self.invariants.violations[self._violations :]:
            self._violations += 1
            at_s = START_S + violation.at_s
            fields = {"invariant": violation.invariant, "text": violation.text}
            self._saw(Sighting(at_s=at_s, event="violation", fields=fields))
            if violation.invariant == "no false report":
                self._saw(Sighting(at_s=at_s, event="false_deadlock", fields={"agents": [], "id": violation.text[:40]}))
            if violation.invariant == "none missed":
                self._saw(Sighting(at_s=at_s, event="missed_deadlock", fields={"agents": []}))

    def _look_at_truth(self) -> None:
        moment = self.world.moment()
        if moment == self._moment:
            return
        self._moment = moment
        if not any(task.wait for actor in self.world.actors() for task in actor.tasks.values()):
            stuck: set[str] = set()
        else:
            stuck = Truth(self.world).stuck()
        agents = frozenset(key.partition("/")[0] for key in stuck)
        if agents - self._stuck:
            self._saw(Sighting(at_s=self.world.clock.now_s, event="truth.deadlock", fields={"agents": sorted(agents)}))
        elif self._stuck and not agents:
            self._saw(Sighting(at_s=self.world.clock.now_s, event="truth.freed"))
        self._stuck = agents

    def _look(self) -> None:
        self.world.note_troubles()
        self.invariants.look_for_missed()
        self.world.clock.after(LOOK_S, self._look)

    def _handled(self) -> None:
        self.invariants.clock(self.world.owner.core)
        self.invariants.reports(self.world.owner.core)

    def _started(self, member: Member) -> None:
        assert member.actor is not None
        member.actor.on_break = self.invariants.obeyed
        member.actor.on_grant = self.invariants.granted

    def _read(self, seq: int, at_s: float, subject: str, payload: bytes) -> Event:
        return self.world.owner.core.read(seq, at_s, subject, payload)

    def _stored(self, event: Event, _envelope: Envelope) -> None:
        asked = self._operator.saw(event)
        self.sightings.core = self.world.owner.core  # one fold for both: a second one only costs time
        for sighting in self.sightings.folded(event, self.world.owner.last):
            self._saw(sighting)
        waiting, self._unasked = (self._unasked, []) if asked else ([], self._unasked)
        for action in waiting:
            self._act(action)

    def _saw(self, sighting: Sighting) -> None:
        self._seen.append(sighting)
        for due_s, planned in self.timeline.saw(sighting):
            self._due += 1
            self.world.clock.at(due_s, self._do, planned)

    # --- what is planned ---

    def _do(self, planned: Fault | Action) -> None:
        self._due -= 1
        if isinstance(planned, Action):
            self._act(planned)
            return
        name = f"plan:{planned.name}:{self._planned.count(f'plan:{planned.name}')}"
        if self._kept is not None and name not in self._kept:
            self._left_out.append(planned.index)
            return
        self._planned.append(name)
        if not self._was_steady:
            self._was_steady = True
            self._unsteady += [f"before the first fault: {each}" for each in self._not_steady()]
        for target in self.targets(planned):
            self._inject(planned, target)

    def _inject(self, fault: Fault, target: str) -> None:
        sim = KINDS[fault.do].sim
        assert sim is not None, "a scenario with this fault has no mode sim"
        now_s = self.world.clock.now_s
        struck = Struck(index=fault.index, do=fault.do, target=target, at_s=now_s)
        injected = _Injected(struck, sim(self, fault, target))
        self._injected.append(injected)
        self._saw(Sighting(at_s=now_s, event="fault", fields={"fault": fault.index, "do": fault.do, "target": target}))
        self._due += 1
        self.world.clock.after(fault.for_s, self._heal, injected, True)

    def _heal(self, injected: _Injected, planned: bool) -> None:
        self._due -= planned
        struck = injected.struck
        if struck.end_s is None:  # what happens after its end is not its doing
            struck.fired = injected.strike.fired()
        injected.strike.heal()
        if struck.end_s is None:
            struck.end_s = self.world.clock.now_s
            fields = {"fault": struck.index, "do": struck.do, "target": struck.target}
            self._saw(Sighting(at_s=struck.end_s, event="fault.end", fields=fields))

    def _heal_all(self) -> None:
        for injected in self._injected:
            self._heal(injected, planned=False)

    def targets(self, fault: Fault) -> list[str]:
        """The names that a fault's target stands for."""
        what, _, who = fault.target.partition(":")
        names: list[str] = []
        match what:
            case "agent":
                names = [
                    name for name, member in self.world.members.items() if who in ("any", "all", member.spec.name, name)
                ]
            case "tool":
                names = [tool.name for tool in self.scenario.tools if who in ("any", "all", tool.name)]
            case _:
                return [who or what]
        if who == "any" and names:
            return [names[int(self._chance.fraction(f"fault {fault.index}") * len(names))]]
        return names

    def _act(self, action: Action) -> None:
        try:
            facts = self._operator.facts(action, self.sightings.core)
        except CannotAct as error:
            if error.later:
                self._unasked.append(action)
            return
        for fact in facts:
            self.world.owner.state_fact(fact)
        fields = {"action": action.index, "do": action.do, "agent": action.agent}
        self._saw(Sighting(at_s=self.world.clock.now_s, event="action", fields=fields))

    # --- the end ---

    def _not_steady(self) -> list[str]:
        return unsteady(self.scenario.steady, self.sightings.core, owned=self.world.owner.present)

    def _end(self) -> None:
        world = self.world
        if world.owner.present:
            self.invariants.folded(world.owner.core, world.owner.rebuilt())
        self._watch()
        if not self._injected:
            self._was_steady = True
        self._unsteady += [f"at the end: {each}" for each in self._not_steady()]

    def _played(self) -> Played:
        zero_s = self.sightings.began_s if self.sightings.began_s is not None else START_S
        observed = Observed(
            seen=[msgspec.structs.replace(each, at_s=round(each.at_s - zero_s, 6)) for each in self._seen],
            anchors={name: round(at_s - zero_s, 6) for name, at_s in self.timeline.anchors.items()},
            struck=[since(injected.struck, zero_s) for injected in self._injected],
            metrics=metrics_of(
                self.sightings, self._seen, {letter.id: letter.kind for letter in self.world.post.letters}
            ),
            unsteady=self._unsteady,
            unhealed=[],
            left_out=self._left_out,
            undone=self._operator.undone,
            spans=[shifted(span, zero_s) for span in self.sightings.spans()],
            end_s=round(self.world.clock.now_s - zero_s, 6),
        )
        return Played(
            scenario=self.scenario.id,
            mode="sim",
            seed=self.seed,
            verdict=judge(self.scenario, observed),
            observed=observed,
            faults=(*self._planned, *self.world.faults.struck),
            digest=self.sightings.core.digest(),
            entries=len(self.world.bus.journal),
            took_s=round(self.world.clock.now_s - START_S, 3),
            journal=self.world.bus.journal,
        )


def play(scenario: Scenario, seed: int, kept: frozenset[str] | None = None) -> Played:
    """Play a scenario once in simulation."""
    return SimStage(scenario, seed, kept).run()
