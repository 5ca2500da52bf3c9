"""An honest crew in a journal: agents that do random things, as their client would let them, over a slow network."""

import random

from crewkeeper_bus.messages import Condition, OnAll, OnCall, OnMessage, OnResource, OnSome
from crewkeeper_supervisor.core.crew import Agent, Crew, Responses
from crewkeeper_supervisor.core.supervisor import Supervisor
from support.journal import Journal, Mirror


class HonestCrew:
    """A few agents, each doing one small thing at a time.

    Args:
        rnd: The source of chance.
        obey: Whether breaks are obeyed.
        core: The class of the core.
        responses: What is done about findings; None: what the product does by itself.
    """

    def __init__(
        self,
        rnd: random.Random,
        *,
        obey: bool = True,
        core: type[Supervisor] = Supervisor,
        responses: Responses | None = None,
    ) -> None:
        self.rnd = rnd
        self.obey = obey
        agents = tuple(
            Agent(
                name=f"a{number}", concurrency=rnd.choice((1, 1, 1, 2)), reentrant=rnd.choice(("none", "none", "full"))
            )
            for number in range(rnd.randint(2, 4))
        )
        self.journal = Journal(Crew(name="honest", agents=agents, responses=responses or Responses()), core=core)
        self.journal.start()
        self.journal.hold = True
        self.ids = 0

    def live(self, steps: int) -> None:
        """Let random agents do random things."""
        for _ in range(steps):
            self.journal.now_s += self.rnd.choice((0.0, 0.01, 0.1))
            mirror = self.rnd.choice(list(self.journal.mirrors.values()))
            if self.rnd.random() < 0.5:
                self.journal.receive(mirror.name, self.rnd.randint(1, 3))
            self.react(mirror)
            self._act(mirror)
            due_s = self.journal.core.next_tick_at_s()
            if due_s is not None and due_s <= self.journal.now_s:
                self.journal.tick(0)

    def freeze(self, rounds: int, tick_s: float) -> None:
        """Nobody begins or ends anything of its own; what is on its way arrives, and time passes."""
        for _ in range(rounds):
            for mirror in self.journal.mirrors.values():
                self.journal.receive(mirror.name)
                self.react(mirror)
            self.journal.tick(tick_s)

    def react(self, mirror: Mirror) -> None:
        """Do what the client does by itself: answer, obey, wake what has what it waited for, drop what was given up."""
        self.journal.affirm(mirror.name)
        if self.obey:
            self.journal.obey_breaks(mirror.name)
        for task in [task for task in mirror.cancelled if task in mirror.tasks]:
            if mirror.tasks[task].wait is not None:
                self.journal.wake(mirror.name, task, "cancelled")
            self._finish(mirror, task)
        mirror.cancelled.clear()
        for task, doing in list(mirror.tasks.items()):
            if doing.wait is None or not self._met(mirror, doing.wait.condition):
                continue
            for message in self._taken(mirror, doing.wait.condition):
                self.journal.take(mirror.name, task, message)
            self.journal.wake(mirror.name, task)
            for call in [call for call, (_, by) in mirror.calls.items() if by == task]:
                self.journal.cancel(mirror.name, call)

    def _met(self, mirror: Mirror, condition: Condition) -> bool:
        match condition:
            case OnCall():
                return condition.call not in mirror.calls
            case OnResource():
                return condition.ticket in mirror.held
            case OnMessage():
                return any(sender in condition.senders for sender in mirror.unread.values())
            case OnAll():
                return all(self._met(mirror, part) for part in condition.of)
            case OnSome():
                return sum(self._met(mirror, part) for part in condition.of) >= condition.k
            case _:
                return False

    def _taken(self, mirror: Mirror, condition: Condition) -> list[str]:
        if not isinstance(condition, OnMessage):
            return []
        return [message for message, sender in mirror.unread.items() if sender in condition.senders][:1]

    # --- initiative ---

    def _new(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}{self.ids}"

    def _act(self, mirror: Mirror) -> None:
        free = sum(doing.slot for doing in mirror.tasks.values()) < mirror.spec.concurrency
        if mirror.queued and (free or mirror.spec.reentrant == "full"):
            self.journal.begin_call(mirror.name, next(iter(mirror.queued)), self._new("h"))
        elif free and self.rnd.random() < 0.5:
            self.journal.task(mirror.name, self._new("t"))
        runners = [task for task, doing in mirror.tasks.items() if doing.wait is None]
        if runners:
            self._do(mirror, self.rnd.choice(runners))

    def _do(self, mirror: Mirror, task: str) -> None:
        name, journal, rnd = mirror.name, self.journal, self.rnd
        others = list(journal.mirrors)
        kind = rnd.choice(("ask", "ask", "some", "lock", "lock", "lock", "tell", "receive", "end", "end", "think"))
        match kind:
            case "ask":
                call = self._new("c")
                journal.call(name, task, call, rnd.choice(others))
                deadline_s = 4.0 if rnd.random() < 0.1 else None
                journal.wait(name, task, OnCall(call=call), deadline_s=deadline_s)
            case "some":
                calls = [self._new("c") for _ in range(rnd.randint(2, 3))]
                for call in calls:
                    journal.call(name, task, call, rnd.choice(others))
                parts = tuple(OnCall(call=call) for call in calls)
                whole = OnAll(of=parts) if rnd.random() < 0.5 else OnSome(k=rnd.randint(1, len(parts)), of=parts)
                journal.wait(name, task, whole)
            case "lock":
                ticket, resource = self._new("k"), rnd.choice(("disk", "desk", "gpu"))
                capacity = 2 if resource == "gpu" else 1
                journal.acquire(name, task, resource, ticket, mode=rnd.choice("xxs"), capacity=capacity)
                journal.wait(name, task, OnResource(resource=resource, ticket=ticket))
            case "tell":
                journal.send(name, task, rnd.choice(others), self._new("m"))
            case "receive":
                journal.wait(name, task, OnMessage(senders=(rnd.choice(others),)))
            case "end":
                self._finish(mirror, task)
            case _:
                pass

    def _finish(self, mirror: Mirror, task: str) -> None:
        for ticket in [ticket for ticket, (_, by) in mirror.tickets.items() if by == task]:
            self.journal.release(mirror.name, ticket)
        for call in [call for call, (_, by) in mirror.calls.items() if by == task]:
            self.journal.cancel(mirror.name, call)
        if mirror.tasks[task].call:
            self.journal.reply(mirror.name, task)
        else:
            self.journal.end(mirror.name, task)
