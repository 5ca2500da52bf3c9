"""Orphans: whether what the core failed as lost, or as owed by somebody gone, truly was.

`PeerGone` tells a caller that it may ask again. Said of a call that somebody has, or is about to get, it makes the same
work be done twice.
"""

from collections.abc import Callable
from typing import Final

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.truth import Truth, leaves
from crewkeeper_supervisor.chaos.world import World
from crewkeeper_supervisor.core.commands import AnswerCall, Command, TellAgent
from crewkeeper_supervisor.core.events import Recorded

INVARIANT: Final = "no false orphan"


class Orphans:
    """The checker of one run.

    A call that is nowhere stays nowhere, and a wait that is over stays over, so a verdict may be checked when it is
    carried out, even if a fold by a successor has come to it in hindsight.

    Args:
        world: The run's.
        broken: Takes the invariant and what broke it.
    """

    def __init__(self, world: World, broken: Callable[[str, str], None]) -> None:
        self._world = world
        self._broken = broken

    def decided(self, command: Command) -> None:
        """Check a command when it is decided."""
        if isinstance(command, AnswerCall) and command.error is not None and command.error.code == "peer_gone":
            why = self._call_lives(command.agent, command.call)
            if why:
                self._broken(INVARIANT, f"{command.id}: call {command.call} of {command.agent} {why}")
        elif isinstance(command, TellAgent) and isinstance(command.message, m.Break):
            told = command.message
            if told.code == "peer_gone" and self._wait_lives(f"{command.agent}/{told.task}", told.epoch):
                self._broken(INVARIANT, f"{command.id}: {command.agent}/{told.task}@{told.epoch} could have been met")

    def _call_lives(self, caller: str, call: str) -> str:
        """Why this call needed no help; empty where it did, or where nobody waits for it any more."""
        if not any(call in actor.calls for actor in self._world.actors() if actor.name == caller):
            return ""
        for actor in self._world.actors():
            task = actor.running.get(call)
            has = (
                "is in work" if task is not None and not task.answered else "is queued" if call in actor.queued else ""
            )
            if has and self._knew_it(actor.name, actor.inc, call):
                return f"{has} at {actor.name}"
        for envelope in self._world.bus.flying.values():
            if envelope.id != call:
                continue
            if isinstance(envelope.message, m.Reply):
                member = self._world.members[envelope.sender]
                inc = member.actor.inc if member.actor is not None and member.alive else ""
                if envelope.message.inc == inc and self._knew_it(envelope.sender, inc, call):
                    return f"has its answer under way from {envelope.sender}"
            if isinstance(envelope.message, m.Request):
                there = [actor for actor in self._world.actors() if envelope.to in (actor.name, actor.spec.name)]
                fresh = [actor for actor in there if not actor.has_had(call)]  # a second copy is dropped
                if any(self._knew_it(actor.name, actor.inc, call) for actor in fresh):
                    return f"is under way to {envelope.to}"
        return ""

    def _knew_it(self, agent: str, inc: str, call: str) -> bool:
        """Whether this incarnation was in the journal before the call: one that comes later cannot be counted on."""
        for event in self._world.bus.journal:
            if not isinstance(event, Recorded):
                continue
            if isinstance(event.message, m.Joined) and (event.sender, event.message.inc) == (agent, inc):
                return True
            if isinstance(event.message, m.Request) and event.id == call:
                return False
        return False

    def _wait_lives(self, key: str, epoch: int) -> bool:
        """Whether a wait could still be met if everybody else, those about to return included, did what they owe."""
        truth = Truth(self._world)
        if truth.epochs({key} & truth.tasks.keys()).get(key) != epoch:
            return False
        wait = truth.tasks[key][1].wait
        assert wait is not None  # it has an epoch
        asked = [leaf for leaf in leaves(wait.condition) if isinstance(leaf, m.OnResource)]
        if any(("acquire", leaf.ticket) in truth.leases for leaf in asked):
            return True
        return key not in truth.stuck(timers=False, freed=frozenset(truth.tasks) - {key})
