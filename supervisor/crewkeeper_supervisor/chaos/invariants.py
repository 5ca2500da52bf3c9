"""Invariants: what must hold of the core's conclusions and commands, one checker for each, against the true state.

A checker records violations and never raises, so that one run can break several. What is found stuck in truth is kept
as snapshots for a while: a report speaks of an instant between its first evidence and itself.
"""

from collections import deque
from typing import Final

from msgspec import Struct

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.bus import Envelope
from crewkeeper_supervisor.chaos.doing import Task
from crewkeeper_supervisor.chaos.orphans import Orphans
from crewkeeper_supervisor.chaos.truth import Truth, leaves
from crewkeeper_supervisor.chaos.world import World
from crewkeeper_supervisor.core.commands import Command, TellAgent
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.core.findings import Finding, Incident
from crewkeeper_supervisor.core.supervisor import Supervisor

OBEY_S: Final = 5.0
"""How long a victim has to obey before another may be tried."""
OBEY_SLACK_S: Final = 4.0
"""How much of that may pass between the decision and its trace."""
TRACE_S: Final = 10.0
"""How long after all faults a command may be without a trace."""
_FRESH_S: Final = 0.001
_SNAPSHOTS_MAX: Final = 4000
_VIOLATIONS_MAX: Final = 20


class Violation(Struct, frozen=True, kw_only=True):
    """One broken invariant. `at_s` is virtual time since the run began."""

    invariant: str
    at_s: float
    text: str


class _Snapshot:
    """What was stuck in truth at one moment: key to wait epoch, with and without timers."""

    __slots__ = ("at_s", "strict", "timeless")

    def __init__(self, at_s: float, strict: dict[str, int], timeless: dict[str, int]) -> None:
        self.at_s = at_s
        self.strict = strict
        self.timeless = timeless


class Invariants:
    """The checkers of one run.

    Attributes:
        violations: What was broken, in order.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self._snapshots: deque[_Snapshot] = deque(maxlen=_SNAPSHOTS_MAX)
        self._seen: set[str] = set()
        self._unchecked: set[str] = set()
        """Deadlocks only suspected so far, by incident: a suspicion claims nothing until it is confirmed."""
        self.orphans = Orphans(world, self.broken)
        self._stuck_since: dict[tuple[str, int], float] = {}
        self._missed: set[tuple[str, int]] = set()
        self._calm: tuple[int, ...] = ()
        """Moment of the world at which nobody was stuck, when it was last looked at."""
        self._breaks: dict[str, list[TellAgent]] = {}
        """Breaks decided, by finding."""
        self._traced_s: dict[str, float] = {}
        """When each was stored, by id."""
        self._started: set[str] = set()
        """Calls of which the journal says that somebody works on them."""
        self._obeyed: dict[tuple[str, str, str, int], str] = {}

    def broken(self, invariant: str, text: str) -> None:
        """Record a violation."""
        if len(self.violations) < _VIOLATIONS_MAX:
            at_s = round(self._world.clock.now_s - 1000.0, 3)
            self.violations.append(Violation(invariant=invariant, at_s=at_s, text=text))

    def snapshot(self) -> None:
        """Remember what is stuck now."""
        now_s = self._world.clock.now_s
        if self._snapshots and self._snapshots[-1].at_s == now_s:
            return
        truth = Truth(self._world)
        strict, timeless = truth.epochs(truth.stuck()), truth.epochs(truth.stuck(timers=False))
        self._snapshots.append(_Snapshot(now_s, strict, timeless))

    # --- no false report ---

    def reports(self, core: Supervisor) -> list[Incident]:
        """Check what is newly claimed: incidents, or suspicions that are confirmed now. Returns those."""
        new = []
        for id_, incident in reversed(core.incidents.items()):
            if id_ in self._seen:
                break
            self._seen.add(id_)
            if incident.finding.suspected:
                self._unchecked.add(id_)
            else:
                new.append(incident)
        for id_ in sorted(self._unchecked):  # by name: a successor has made the incident anew
            suspected = core.incidents.get(id_)
            if suspected is None or suspected.state == "resolved" or not suspected.finding.suspected:
                self._unchecked.discard(id_)
            if suspected is not None and not suspected.finding.suspected:
                new.append(suspected)
        for incident in new:
            if incident.finding.kind == "deadlock":
                self._check_report(incident.finding)
        return new

    def clock(self, core: Supervisor) -> None:
        """Check that what was due has been met: a time left behind would make the owner tick without end."""
        due_s = core.next_tick_at_s()
        if due_s is not None and due_s <= core.now_s:
            self.broken("what is due is met", f"a tick is wanted at {due_s}, and it is {core.now_s}")

    def _check_report(self, finding: Finding) -> None:
        self.snapshot()
        members = {edge.task: edge.epoch for edge in finding.edges if edge.task in finding.core[0]}
        since_s = max((edge.since_s for edge in finding.edges if edge.task in members), default=0.0)
        if not self._was_stuck(members, since_s - 0.001, timed=finding.timed):
            known = Truth(self._world).tasks
            told = ", ".join(f"{key}@{epoch}{'' if key in known else ' (over)'}" for key, epoch in members.items())
            kind = "timed deadlock" if finding.timed else "deadlock"
            self.broken("no false report", f"{finding.id}: {kind} of {told}, never stuck together in truth")
        else:
            self._check_members(finding, members)

    def _was_stuck(self, members: dict[str, int], since_s: float, *, timed: bool) -> bool:
        for snapshot in reversed(self._snapshots):
            if snapshot.at_s < since_s:
                return False
            stuck = snapshot.timeless if timed else snapshot.strict
            if all(stuck.get(key) == epoch for key, epoch in members.items()):
                return True
        return False

    def _check_members(self, finding: Finding, members: dict[str, int]) -> None:
        """The core is exact: stuck even if all others were freed, and each member is waited for by a member."""
        truth = Truth(self._world)
        stuck = truth.epochs(truth.stuck(timers=not finding.timed))
        if any(stuck.get(key) != epoch for key, epoch in members.items()):
            return  # it has been helped in the meantime, or rests in another wait: nothing to compare with
        others = frozenset(truth.tasks) - frozenset(members)
        if not frozenset(members) <= truth.stuck(timers=not finding.timed, freed=others):
            self.broken("exact members", f"{finding.id}: {sorted(members)} would move if others did")
        if len(members) > 1:
            awaited = set().union(*(truth.blockers(key) for key in members))
            if not frozenset(members) <= awaited:
                idle = sorted(frozenset(members) - awaited)
                self.broken("exact members", f"{finding.id}: no member waits for {idle}")

    # --- none missed ---

    def look_for_missed(self) -> None:
        """Check that every true deadlock that has lasted is in an open report."""
        world, now_s = self._world, self._world.clock.now_s
        moment = world.moment()
        if moment == self._calm:
            return
        truth = Truth(world)
        stuck = truth.epochs(truth.stuck(lost_helps=True, timers=False))
        self._calm = () if stuck else moment
        keys = {(key, epoch) for key, epoch in stuck.items()}
        self._stuck_since = {key: self._stuck_since.get(key, now_s) for key in keys}
        late = [key for key in keys if now_s - self._stuck_since[key] >= world.options.patience_s]
        if not late or not world.owner.present:
            return
        told = {
            (edge.task, edge.epoch)
            for incident in world.owner.core.incidents.values()
            if incident.finding.kind == "deadlock" and incident.state != "resolved" and not incident.finding.suspected
            for edge in incident.finding.edges
            if edge.task in incident.finding.core[0]
        }
        for key, epoch in late:
            if (key, epoch) not in self._missed and not self._is_told(truth, key, stuck, told):
                self._missed.add((key, epoch))
                self.broken("none missed", f"{key}@{epoch} can never move and no open report says why")

    def _is_told(self, truth: Truth, key: str, stuck: dict[str, int], told: set[tuple[str, int]]) -> bool:
        seen, ahead = {key}, [key]
        troubled_s = self._world.owner.absent_until_s
        while ahead:
            here = ahead.pop()
            if (here, stuck[here]) in told:
                return True
            troubled_s = max(troubled_s, self._world.members[here.partition("/")[0]].troubled_s)
            more = [other for other in truth.blockers(here) if other in stuck and other not in seen]
            seen.update(more)
            ahead += more
        recent_s = self._world.clock.now_s - self._world.options.patience_s
        youngest_s = max(self._stuck_since[each, stuck[each]] for each in seen)
        return max(troubled_s, youngest_s) > recent_s  # not everybody could talk for long enough

    # --- no double intervention ---

    def decided(self, command: Command) -> None:
        """Check a command when it is decided."""
        self.orphans.decided(command)
        if not isinstance(command, TellAgent):
            return
        self._world.note_granted(command)
        if isinstance(command.message, m.Probe):
            self.snapshot()
        if isinstance(command.message, m.Break) and command.message.finding:
            self._check_break(command, command.message)

    def stored(self, event: Event, envelope: Envelope) -> None:
        """Note when a `Break` left its trace, and which calls are told to have started."""
        match envelope.message:
            case m.Break():
                self._traced_s.setdefault(envelope.id, event.at_s)
            case m.CallStarted(call=call):
                self._started.add(call)
            case m.Heartbeat(tasks=tasks):
                self._started.update(each.call for each in tasks if each.call)

    def _check_break(self, command: TellAgent, told: m.Break) -> None:
        """A second victim only after the first, told for long enough, did not obey."""
        journal = self._world.bus.journal
        decided_at = int(command.id.partition("-")[0]) - 1
        if decided_at >= len(journal):
            self.broken("replay", f"{command.id} names no entry of the journal")
            return
        decided_s = journal[decided_at].at_s
        earlier = self._breaks.setdefault(told.finding, [])
        fresh = self._world.clock.now_s - decided_s < _FRESH_S  # not decided in hindsight, at a takeover
        if fresh and not earlier and told.code == "would_deadlock" and self._is_started(f"{command.agent}/{told.task}"):
            self.broken(
                "started work is spared", f"{told.finding}: {command.agent}/{told.task} waits for handlers only"
            )
        for other in earlier:
            age_s = decided_s - self._traced_s.get(other.id, decided_s)
            if age_s < OBEY_S - OBEY_SLACK_S:
                victims = f"{other.agent} and {command.agent}"
                self.broken(
                    "no double intervention", f"{told.finding}: {victims}, {age_s:.2f} s after the first was told"
                )
        earlier.append(command)

    def _is_started(self, key: str) -> bool:
        """Whether this task waits for nothing but handlers known to be at work, which another member never has to."""
        truth = Truth(self._world)
        if key not in truth.stuck(timers=False):
            return False
        actor, task = truth.tasks[key]
        assert task.wait is not None
        calls = [leaf for leaf in leaves(task.wait.condition) if isinstance(leaf, m.OnCall)]
        if len(calls) < len(leaves(task.wait.condition)):
            return False
        places = [truth.place(leaf.call, actor.calls[leaf.call].to)[0] for leaf in calls if leaf.call in actor.calls]
        # A call may start while the choice is made: nobody who has not been told can spare it.
        return all(place == "started" for place in places) and self._started.issuperset(leaf.call for leaf in calls)

    def obeyed(self, actor: Actor, command: m.Break, task: Task | None) -> None:
        """Check a `Break` when an agent obeys it (or, task None, ignores it)."""
        if task is None:
            return
        name = (actor.name, actor.inc, command.task, command.epoch)
        if name in self._obeyed:
            self.broken("no double intervention", f"{actor.name} obeyed twice: {command.task}@{command.epoch}")
        self._obeyed[name] = command.id
        incident = self._world.owner.core.incidents.get(command.finding)
        if command.code != "would_deadlock" or incident is None:
            return
        assert task.wait is not None
        timed = incident.finding.timed
        if not self._was_stuck({task.key: command.epoch}, task.wait.began_s - 0.001, timed=timed):
            self.broken("breaks are of stuck waits", f"{task.key}@{command.epoch} was broken and never stuck")

    # --- locks ---

    def granted(self, actor: Actor, command: m.Granted, task: Task) -> None:
        """Check a grant when an agent takes it: nobody else holds what conflicts with it."""
        capacity, queue = self._world.tickets.get(command.resource, (1, {}))
        own = queue.get(command.ticket)
        if own is None:
            return
        taken = own.units
        for other in self._world.actors():
            for ticket, (resource, holder) in other.held.items():
                if resource != command.resource or ticket == command.ticket or holder is task:
                    continue
                grant = queue.get(ticket)
                taken += grant.units if grant is not None else 0
                if capacity == 1 and grant is not None and "x" in (own.mode, grant.mode):
                    self.broken("exclusion", f"{actor.name} and {other.name} both hold {command.resource}")
        if capacity > 1 and taken > capacity:
            self.broken("exclusion", f"{taken} of {capacity} units of {command.resource} are held")

    # --- replay, and the end ---

    def folded(self, core: Supervisor, again: Supervisor) -> None:
        """Check that the journal alone gives the same state and the same commands."""
        if core.digest() != again.digest():
            self.broken("replay", f"the fold of {core.seq} entries differs from the state that made them")
        elif list(core.pending.values()) != list(again.pending.values()):
            self.broken("replay", f"the fold of {core.seq} entries has other commands pending")

    def counted(self) -> None:
        """Check at the end that nothing stored twice was counted twice."""
        traffic = (m.Request, m.Reply, m.Cancel, m.Message, m.CallProgress)
        said = {
            (event.sender, event.message.inc, event.message.seq)
            for event in self._world.bus.journal
            if isinstance(event, Recorded) and isinstance(event.message, traffic)
        }
        if self._world.owner.core.usage.messages > len(said):
            self.broken("counted once", f"{self._world.owner.core.usage.messages} messages of {len(said)} were counted")

    def drained(self) -> None:
        """Check at the calm end that every command has left its trace."""
        owner = self._world.owner
        for id_, command in owner.core.pending.items():
            age_s = self._world.clock.now_s - owner.decided_s.get(id_, 0.0)
            if age_s > TRACE_S:
                self.broken("pending drains", f"{type(command).__name__} {id_} has no trace after {age_s:.0f} s")

    def finished(self) -> None:
        """Check at the calm end that whatever can move has moved, and that no wait hangs on what was lost."""
        truth = Truth(self._world)
        stuck, healed = truth.stuck(), truth.stuck(lost_helps=True)
        for key, (actor, task) in truth.tasks.items():
            if task.wait is None:
                self.broken("progress", f"{key} still runs")
            elif key in healed:
                self.broken("progress", f"{key}@{task.wait.epoch} is deadlocked for good")
            elif key in stuck:
                self.broken(
                    "nothing is stranded", f"{key}@{task.wait.epoch} hangs on what was lost: {task.wait.condition}"
                )
            elif not self._may_wait(truth, actor, task, set()):
                self.broken("progress", f"{key}@{task.wait.epoch} could move and does not: {task.wait.condition}")

    def _may_wait(self, truth: Truth, actor: Actor, task: Task, seen: set[str]) -> bool:
        """Whether, however far one follows the wait, somebody outside or something lost is behind it."""
        if task.wait is None or task.key in seen:
            return False
        seen.add(task.key)
        text = str(task.wait.condition)
        if "OnMessage" in text or task.key in truth.stuck():
            return True
        behind = [truth.tasks[key] for key in truth.blockers(task.key)]
        return any(self._may_wait(truth, *each, seen) for each in behind if each[1] is not task)
