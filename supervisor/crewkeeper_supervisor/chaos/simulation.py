"""Simulation: one seeded run from its beginning to its calm end, with what it found."""

from typing import Final

import msgspec
from msgspec import Struct

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.clock import START_S
from crewkeeper_supervisor.chaos.coverage import Coverage
from crewkeeper_supervisor.chaos.doing import Task
from crewkeeper_supervisor.chaos.garbage import uncollected
from crewkeeper_supervisor.chaos.invariants import Invariants, Violation
from crewkeeper_supervisor.chaos.options import Options, expanded
from crewkeeper_supervisor.chaos.world import Member, World
from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.events import Event

LOOK_S: Final = 1.0
"""Virtual time between two looks for missed deadlocks."""
CALM_S: Final = 12.0
"""How long a safety run goes on after its last fault, so that commands can leave their traces."""
PROGRESS_S: Final = 400.0
"""How long a liveness run may go on after its last fault."""
_CALM_SHARE: Final = 0.7
"""When a liveness run freezes its faults, as a share of its events."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What one run found."""

    seed: int
    options: Options
    """With every choice made that the mode leaves to the seed."""
    violations: tuple[Violation, ...]
    events: int
    """Journal entries."""
    virtual_s: float
    digest: str
    """Of the core's state at the end: equal runs have equal digests."""
    faults: tuple[str, ...]
    """Names of the faults that struck, in order."""
    counts: dict[str, int]


class Simulation:
    """One run.

    Args:
        seed: Its seed.
        options: How it is made; expanded here.
        kept: Names of the faults that may strike; None: all.
    """

    def __init__(self, seed: int, options: Options, kept: frozenset[str] | None = None) -> None:
        self.seed = seed
        self.options = expanded(options, seed)
        self.world = World(self.options, seed, kept)
        self.invariants = Invariants(self.world)
        self.coverage = Coverage(self.world)
        owner = self.world.owner
        owner.on_decided = self._decided
        owner.on_handled = self._handled
        owner.on_folded = self.invariants.folded
        owner.on_takeover = self.coverage.taken_over
        self.world.on_start = self._started
        self.world.bus.on_stored.insert(0, self.invariants.stored)

    @property
    def journal(self) -> list[Event]:
        """Every entry so far."""
        return self.world.bus.journal

    def run(self) -> Outcome:
        """Run to the end."""
        world = self.world
        with uncollected():
            world.begin()
            world.clock.after(LOOK_S, self._look)
            share = _CALM_SHARE if self.options.mode == "liveness" else 1.0
            self._until_events(int(share * self.options.events))
            self._calm_end()
        return Outcome(
            seed=self.seed,
            options=self.options,
            violations=tuple(self.invariants.violations),
            events=len(self.journal),
            virtual_s=round(world.clock.now_s - START_S, 3),
            digest=world.owner.core.digest(),
            faults=tuple(world.faults.struck),
            counts=self.coverage.totals(),
        )

    # --- phases ---

    def _until_events(self, count: int) -> None:
        while len(self.journal) < count and not self.invariants.violations:
            self.world.clock.step()

    def _calm_end(self) -> None:
        world = self.world
        if self.invariants.violations:
            return
        world.calm_down()
        end_s = world.clock.now_s + CALM_S
        if self.options.mode == "liveness":
            end_s = world.clock.now_s + PROGRESS_S
        while world.clock.now_s < end_s and not self.invariants.violations:
            world.clock.step()
            if (
                self.options.mode == "liveness"
                and not world.tasks()
                and world.clock.now_s > end_s - PROGRESS_S + CALM_S
            ):
                break
        self.invariants.folded(world.owner.core, world.owner.rebuilt())
        self.invariants.drained()
        self.invariants.counted()
        if self.options.mode == "liveness" and not self.invariants.violations:
            self.invariants.finished()

    # --- what the checkers hear ---

    def _started(self, member: Member) -> None:
        assert member.actor is not None
        member.actor.on_break = self._obeyed
        member.actor.on_grant = self.invariants.granted

    def _obeyed(self, actor: Actor, command: m.Break, task: Task | None) -> None:
        self.invariants.obeyed(actor, command, task)
        self.coverage.obeyed(actor, command, task)

    def _decided(self, command: Command) -> None:
        self.invariants.decided(command)
        self.coverage.decided(command)

    def _handled(self) -> None:
        self.invariants.clock(self.world.owner.core)
        for incident in self.invariants.reports(self.world.owner.core):
            self.coverage.opened(incident)

    def _look(self) -> None:
        self.invariants.look_for_missed()
        self.coverage.look()
        self.world.clock.after(LOOK_S, self._look)


def simulate(seed: int, options: Options, kept: frozenset[str] | None = None, events: int | None = None) -> Outcome:
    """Run one seed, if wanted with some of its faults or to fewer events only."""
    if events is not None:
        options = msgspec.structs.replace(options, events=events)
    return Simulation(seed, options, kept).run()
