"""Truth: which waits of the simulated world can never end, found by brute force on what the agents really do.

It shares nothing with the core: no graph, no gates, no events. It looks at the actors' own tasks, queues, slots and
mailboxes, at every message under way, and at the order of lock requests in the journal. Starting from nobody, it says
"can move" of every task that runs or whose wait could be met if all those who can move did what they owe, until nothing
changes. What is left can never move again. Slow, simple, obviously right.
"""

from crewkeeper_bus import messages as m
from crewkeeper_supervisor.chaos.actor import Actor
from crewkeeper_supervisor.chaos.doing import Task, Wait
from crewkeeper_supervisor.chaos.world import World


class Truth:
    """The world at one moment.

    Args:
        world: It; not changed.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.actors = world.actors()
        self.tasks = {task.key: (actor, task) for actor in self.actors for task in actor.tasks.values()}
        self._named: dict[str, list[Actor]] = {}
        """Living actors by name and by role."""
        for actor in self.actors:
            for name in {actor.name: None, actor.spec.name: None}:
                self._named.setdefault(name, []).append(actor)
        self.replies: set[str] = set()
        self.requests: dict[str, str] = {}
        self.news: set[tuple[str, str]] = set()
        """One-way messages under way: (to, sender)."""
        self.leases: set[tuple[str, str]] = set()
        """Grants, releases and requests under way: (what, ticket)."""
        for envelope in world.bus.flying.values():
            match envelope.message:
                case m.Reply() | m.SupervisorReply():
                    self.replies.add(envelope.id)
                case m.Request():
                    self.requests[envelope.id] = envelope.to
                case m.Message():
                    self.news.add((envelope.to, envelope.sender))
                case m.Granted() | m.Release() | m.Acquire():
                    self.leases.add((type(envelope.message).__name__.lower(), envelope.message.ticket))
                case _:
                    continue

    def stuck(self, *, lost_helps: bool = False, timers: bool = True, freed: frozenset[str] = frozenset()) -> set[str]:
        """Keys of the tasks that can never move again.

        Args:
            lost_helps: Whether what was lost on the way counts as if it would still come.
            timers: Whether deadlines and timers count as help.
            freed: Tasks that end by themselves.
        """
        play = _Play(self, lost_helps=lost_helps, timers=timers)
        can_move = {key for key, (_, task) in self.tasks.items() if task.wait is None or key in freed}
        left = {key: each for key, each in self.tasks.items() if key not in can_move}
        moved = True
        while moved:
            moved = False
            for key, (actor, task) in list(left.items()):
                assert task.wait is not None
                if play.can_end(actor, task.wait, can_move):
                    can_move.add(key)
                    del left[key]
                    moved = True
        return set(left)

    def epochs(self, keys: set[str]) -> dict[str, int]:
        """These tasks with the epochs of their waits."""
        return {key: wait.epoch for key in keys if (wait := self.tasks[key][1].wait) is not None}

    # --- where things are ---

    def place(self, call: str, to: str) -> tuple[str, Actor | None, Task | None]:
        """Where a call is: `answered`, `started`, `queued`, `flying` or `nowhere`, with whom, as which task."""
        if call in self.replies:
            return "answered", None, None
        for actor in self.instances(to):
            task = actor.running.get(call)
            if task is not None and not task.answered:
                return "started", actor, task
            if call in actor.queued:
                return "queued", actor, None
        if call in self.requests:
            there = self.instances(to)
            return "flying", there[0] if len(there) == 1 else None, None
        return "nowhere", None, None

    def blockers(self, key: str) -> set[str]:
        """The tasks that the wait of this one hangs on, any way."""
        actor, task = self.tasks[key]
        found: set[str] = set()
        if task.wait is not None:
            for leaf in leaves(task.wait.condition):
                found |= {other for other in self._behind(actor, leaf) if other in self.tasks}
        return found

    def _behind(self, actor: Actor, leaf: m.Condition) -> set[str]:
        match leaf:
            case m.OnCall():
                call = actor.calls.get(leaf.call)
                if call is None:
                    return set()
                where, _, handler = self.place(leaf.call, call.to)
                if where == "started" and handler is not None:
                    return {handler.key}
                # Whoever asks a role cannot know at once which of its instances has the call.
                return {t.key for each in self.instances(call.to) for t in each.tasks.values() if t.has_slot}
            case m.OnMessage():
                senders = [each for name in leaf.senders for each in self.instances(name)]
                return {t.key for each in senders for t in (*each.tasks.values(), *self._callers(each))}
            case m.OnResource():
                queue = self.world.tickets.get(leaf.resource, (1, {}))[1]
                return {f"{grant.actor.name}/{grant.task}" for grant in queue.values()}
            case _:
                return set()

    def _callers(self, actor: Actor) -> list[Task]:
        """Who could call an agent back that lets in what works for it, or is in the way of a call that could."""
        if actor.spec.reentrant != "chain":
            return []
        found = [task for _, task in self.tasks.values() if any(call in actor.calls for call in task.chain)]
        for other in self.actors:
            for call in other.calls.values():
                if any(each in actor.calls for each in (*call.task.chain, call.id)):
                    there = self.instances(call.to) if self.place(call.id, call.to)[0] in ("queued", "flying") else []
                    found += [task for each in there for task in each.tasks.values() if task.has_slot]
        return found

    def instances(self, name: str) -> list[Actor]:
        """Living actors of this name or role."""
        return self._named.get(name, [])


class _Play:
    """One set of rules for what counts as help."""

    def __init__(self, truth: Truth, *, lost_helps: bool, timers: bool) -> None:
        self._truth = truth
        self._world = truth.world
        self._lost_helps = lost_helps
        self._timers = timers

    def can_end(self, actor: Actor, wait: Wait, can_move: set[str]) -> bool:
        """Whether this wait could end if everybody in `can_move` did what they owe."""
        if wait.deadline_s is not None and self._timers:
            return True
        if self._lost_helps and self._has_lost_answer(wait.condition):
            return True
        return self._met(actor, wait, wait.condition, can_move)

    def _has_lost_answer(self, condition: m.Condition) -> bool:
        """Whether an answer was lost that may have been an error, with which the whole wait would have failed."""
        calls = [leaf.call for leaf in leaves(condition) if isinstance(leaf, m.OnCall)]
        return any(("rep", call) in self._world.bus.lost for call in calls)

    def _met(self, actor: Actor, wait: Wait, condition: m.Condition, can_move: set[str]) -> bool:
        match condition:
            case m.OnCall():
                return self._call(actor, condition.call, can_move)
            case m.OnMessage():
                return self._message(actor, wait, condition.senders, can_move)
            case m.OnResource():
                return self._resource(wait, condition, can_move)
            case m.OnHuman():
                lost = (("rep", condition.question) in self._world.bus.lost) and not self._lost_helps
                return not lost
            case m.OnTimer() | m.OnTool():
                return True
            case m.OnAll():
                return all(self._met(actor, wait, part, can_move) for part in condition.of)
            case m.OnSome():
                return sum(self._met(actor, wait, part, can_move) for part in condition.of) >= condition.k

    def _call(self, actor: Actor, id_: str, can_move: set[str]) -> bool:
        call = actor.calls.get(id_)
        if call is None:
            return id_ not in actor.failed
        where, callee, handler = self._truth.place(id_, call.to)
        lost = self._world.bus.lost
        match where:
            case "answered":
                return True
            case "started":
                return handler is not None and handler.key in can_move
            case "nowhere":  # its callee died, and the supervisor will say so; or something was lost
                known = call.callee in self._world.members  # else nobody knows yet which instance took it along
                return self._lost_helps or (known and ("req", id_) not in lost and ("rep", id_) not in lost)
            case "queued":
                return callee is not None and self._lets_in(callee, can_move)
            case _:
                callees = [callee] if callee is not None else self._truth.instances(call.to)
                if not callees:
                    return True
                chain = next((x.message.chain for x in self._world.bus.flying.values() if x.id == id_), ())
                return any(
                    each.spec.reentrant == "full"
                    or (each.spec.reentrant == "chain" and any(c in each.calls for c in (*chain, id_)))
                    or self._lets_in(each, can_move)
                    for each in callees
                )

    @staticmethod
    def _lets_in(callee: Actor, can_move: set[str]) -> bool:
        if callee.spec.reentrant == "full" or callee.used < callee.spec.concurrency:
            return True
        leaving = sum(task.has_slot and task.key in can_move for task in callee.tasks.values())
        return leaving > callee.used - callee.spec.concurrency

    def _message(self, actor: Actor, wait: Wait, senders: tuple[str, ...], can_move: set[str]) -> bool:
        if not senders or any(sender in senders for sender, _ in actor.unread):
            return True
        for name in senders:
            there = self._truth.instances(name)
            dead = any(name in (x.name, x.spec.name) and not x.alive for x in self._world.members.values())
            if dead or any((actor.name, each.name) in self._truth.news for each in there):
                return True  # it will be back, or something of it is under way
            for each in there:
                if each.spec.reentrant == "full" or each.used < each.spec.concurrency:
                    return True
                if any(task.key in can_move for task in each.tasks.values() if task is not wait.task):
                    return True
                if each.spec.reentrant == "chain" and self._called_back(each, can_move):
                    return True  # and what then begins may send it
        return False

    def _called_back(self, actor: Actor, can_move: set[str]) -> bool:
        """Whether somebody who descends from this actor's calls moves, or is still to begin, and may call it back."""
        if any(any(c in actor.calls for c in self._truth.tasks[key][1].chain) for key in can_move):
            return True
        for other in self._truth.actors:
            for call in other.calls.values():
                if any(c in actor.calls for c in (*call.task.chain, call.id)):
                    where, _, _ = self._truth.place(call.id, call.to)
                    if where in ("queued", "flying") and self._call(other, call.id, can_move):
                        return True
        return False

    def _resource(self, wait: Wait, condition: m.OnResource, can_move: set[str]) -> bool:
        capacity, queue = self._world.tickets.get(condition.resource, (1, {}))
        own = queue.get(condition.ticket)
        lost = self._world.bus.lost
        if own is None:
            asked = ("acquire", condition.ticket) not in lost
            return asked or self._lost_helps
        if own.granted:
            return ("granted", condition.ticket) not in lost or self._lost_helps
        ahead, taken = True, 0
        for ticket, other in queue.items():
            if other is own:
                ahead = False
                continue
            if self._goes(ticket, f"{other.actor.name}/{other.task}", other.actor, can_move):
                continue
            same_task = other.actor is own.actor and other.task == own.task
            if capacity > 1:
                taken += other.units if other.granted else 0
                if ahead and not other.granted and not same_task:
                    return False
            elif not same_task and "x" in (own.mode, other.mode) and (other.granted or ahead):
                return False
        return capacity == 1 or own.units <= capacity - taken

    def _goes(self, ticket: str, key: str, actor: Actor, can_move: set[str]) -> bool:
        """Whether a ticket gets out of the way."""
        if not actor.alive or key in can_move or key not in self._truth.tasks:
            return True
        if ("release", ticket) in self._truth.leases:
            return True
        return self._lost_helps and ("release", ticket) in self._world.bus.lost


def leaves(condition: m.Condition) -> list[m.Condition]:
    """The parts of a condition that are not made of others."""
    if isinstance(condition, m.OnAll | m.OnSome):
        return [leaf for part in condition.of for leaf in leaves(part)]
    return [condition]
