"""Journal truth: who is stuck for good, told from a journal alone, for runs whose agents nobody can look into.

It shares nothing with the core: no graph, no gates. It keeps what agents have said of tasks, calls, waits, tickets and
mailboxes, and asks by brute force whose wait could still end if everybody who can move did what they owe. Since the
journal comes before delivery, what is in it is what is.
"""

from collections import deque
from typing import Any, Final

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import SIDE
from crewkeeper_supervisor.core.events import Event, Recorded

HISTORY_MAX: Final = 4000
"""How many moments are remembered for reports that come later."""
_TALK: Final = (m.Message, m.Heartbeat, m.Progress, m.Usage, m.CallProgress, m.Tick)


class _Task:
    __slots__ = ("agent", "condition", "epoch", "slot", "timed")

    def __init__(self, agent: str, *, slot: bool) -> None:
        self.agent = agent
        self.slot = slot
        self.condition: m.Condition | None = None
        self.epoch = 0
        self.timed = False


class _Call:
    __slots__ = ("caller", "chain", "handler", "to")

    def __init__(self, caller: str, to: str, chain: tuple[str, ...]) -> None:
        self.caller, self.to, self.chain = caller, to, chain
        self.handler = ""
        """Task that works on it; empty while it is queued."""


class _Ticket:
    __slots__ = ("capacity", "granted", "mode", "resource", "task", "units")

    def __init__(self, task: str, message: m.Acquire) -> None:
        self.task, self.resource, self.mode = task, message.resource, message.mode
        self.units, self.capacity = message.units, message.capacity
        self.granted = False


class JournalTruth:
    """The truth of one run, as far as its agents declare their waits."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._entered: dict[str, str] = {}
        """How each agent lets calls in without a slot."""
        self._roles: dict[str, str] = {}
        self._tasks: dict[str, _Task] = {}
        self._calls: dict[str, _Call] = {}
        self._tickets: dict[str, _Ticket] = {}
        self._unread: dict[str, set[tuple[str, str]]] = {}
        self._there: set[str] = set()
        self._history: deque[frozenset[tuple[str, int]]] = deque([frozenset()], maxlen=HISTORY_MAX)

    def feed(self, event: Event) -> frozenset[str]:
        """Take the next entry; returns the agents that are stuck now."""
        if isinstance(event, Recorded):
            if isinstance(event.message, m.RunDeclared):
                self._declared(event.message)
            elif event.sender in SIDE:
                self._ours(event)
            else:
                self._theirs(event)
            waits_for_words = isinstance(event.message, m.Message)
            if waits_for_words or not isinstance(event.message, _TALK):
                self._history.append(self._stuck())
        return frozenset(key.partition("/")[0] for key, _ in self._history[-1])

    def was_stuck(self, members: dict[str, int]) -> bool:
        """Whether these tasks were stuck together, in the waits of these epochs, at some moment lately."""
        wanted = frozenset(members.items())
        return any(wanted <= moment for moment in self._history)

    # --- what is said ---

    def _declared(self, message: m.RunDeclared) -> None:
        agents: list[dict[str, Any]] = message.crew.get("agents", [])
        for agent in agents:
            self._slots[agent["name"]] = agent.get("concurrency", 1)

    def _theirs(self, event: Recorded) -> None:
        agent, message = event.sender, event.message
        match message:
            case m.Joined():
                self._gone(agent)
                self._there.add(agent)
                self._slots[agent], self._entered[agent] = message.concurrency, message.reentrant
                self._roles[agent] = message.role
            case m.TaskBegan():
                self._tasks[f"{agent}/{message.task}"] = _Task(agent, slot=message.slot)
            case m.TaskEnded():
                self._end(f"{agent}/{message.task}")
            case m.Request():
                self._calls[event.id] = _Call(f"{agent}/{message.task}", event.to, message.chain)
            case m.CallStarted():
                key = f"{agent}/{message.task}"
                self._tasks[key] = _Task(agent, slot=True)
                if message.call in self._calls:
                    self._calls[message.call].handler = key
            case m.Reply():
                call = self._calls.pop(event.id, None)
                if call is not None and not message.early:
                    self._end(call.handler)
            case m.Cancel():
                self._calls.pop(event.id, None)
            case m.Left():
                self._gone(agent)
            case m.WaitBegan() | m.WaitEnded():
                self._waits(f"{agent}/{message.task}", message)
            case _:
                self._shared(event)

    def _shared(self, event: Recorded) -> None:
        """One-way messages, locks and semaphores."""
        agent, message = event.sender, event.message
        match message:
            case m.Message():
                self._unread.setdefault(event.to, set()).add((agent, event.id))
            case m.Taken():
                self._unread.get(agent, set()).discard((message.sender, message.message))
            case m.Acquire():
                self._tickets[message.ticket] = _Ticket(f"{agent}/{message.task}", message)
            case m.Release():
                self._tickets.pop(message.ticket, None)

    def _waits(self, key: str, message: m.WaitBegan | m.WaitEnded) -> None:
        task = self._tasks.get(key)
        if task is None:
            return
        if isinstance(message, m.WaitBegan):
            task.condition, task.epoch, task.timed = message.condition, message.epoch, message.deadline_s is not None
        elif task.epoch == message.epoch:
            task.condition = None

    def _ours(self, event: Recorded) -> None:
        match event.message:
            case m.SupervisorReply() if event.message.final:
                self._calls.pop(event.id, None)
            case m.SupervisorCancel():
                self._calls.pop(event.id, None)
            case m.Granted() if event.message.ticket in self._tickets:
                self._tickets[event.message.ticket].granted = True
            case m.ProcessExited():
                self._gone(event.message.agent)

    def _end(self, key: str) -> None:
        self._tasks.pop(key, None)
        self._tickets = {name: ticket for name, ticket in self._tickets.items() if ticket.task != key}

    def _gone(self, agent: str) -> None:
        self._there.discard(agent)
        for key in [key for key, task in self._tasks.items() if task.agent == agent]:
            self._end(key)
        self._calls = {
            id_: call
            for id_, call in self._calls.items()
            if call.caller.partition("/")[0] != agent and call.to != agent
        }
        self._unread.pop(agent, None)

    # --- what follows ---

    def _stuck(self) -> frozenset[tuple[str, int]]:
        can_move = {key for key, task in self._tasks.items() if task.condition is None or task.timed}
        if len(can_move) == len(self._tasks):
            return frozenset()
        left = {key: task for key, task in self._tasks.items() if key not in can_move}
        moved = True
        while moved:
            moved = False
            for key, task in list(left.items()):
                assert task.condition is not None
                if self._met(key, task, task.condition, can_move):
                    can_move.add(key)
                    del left[key]
                    moved = True
        return frozenset((key, task.epoch) for key, task in left.items())

    def _met(self, key: str, task: _Task, condition: m.Condition, can_move: set[str]) -> bool:
        match condition:
            case m.OnCall():
                return self._call(condition.call, can_move)
            case m.OnMessage():
                return self._message(task, condition.senders, can_move)
            case m.OnResource():
                return self._resource(key, condition.ticket, can_move)
            case m.OnAll():
                return all(self._met(key, task, part, can_move) for part in condition.of)
            case m.OnSome():
                return sum(self._met(key, task, part, can_move) for part in condition.of) >= condition.k
            case _:
                return True

    def _call(self, id_: str, can_move: set[str]) -> bool:
        call = self._calls.get(id_)
        if call is None:
            return True  # answered, given up, or its callee is gone and the supervisor will say so
        if call.handler:
            return call.handler in can_move or call.handler not in self._tasks
        there = self._instances(call.to)
        return not there or any(self._lets_in(agent, (*call.chain, id_), can_move) for agent in there)

    def _instances(self, name: str) -> list[str]:
        return [agent for agent in sorted(self._there) if name in (agent, self._roles.get(agent))]

    def _lets_in(self, agent: str, chain: tuple[str, ...], can_move: set[str]) -> bool:
        manner = self._entered.get(agent, "none")
        if manner == "full":
            return True
        if manner == "chain" and any(
            call in self._calls and self._calls[call].caller.partition("/")[0] == agent for call in chain
        ):
            return True
        holding = [key for key, task in self._tasks.items() if task.agent == agent and task.slot]
        return len(holding) < self._slots.get(agent, 1) or any(key in can_move for key in holding)

    def _message(self, task: _Task, senders: tuple[str, ...], can_move: set[str]) -> bool:
        unread = self._unread.get(task.agent, set())
        if not senders or any(sender in senders for sender, _ in unread):
            return bool(not senders or unread)
        for name in senders:
            there = self._instances(name)
            if not there:
                return True
            for agent in there:
                if any(key in can_move for key, each in self._tasks.items() if each.agent == agent):
                    return True
                if self._lets_in(agent, (), can_move):
                    return True
        return False

    def _resource(self, key: str, ticket: str, can_move: set[str]) -> bool:
        own = self._tickets.get(ticket)
        if own is None or own.granted:
            return True
        taken, ahead = 0, True
        for other in self._tickets.values():
            if other is own:
                ahead = False
                continue
            if other.resource != own.resource or other.task == key or other.task in can_move:
                continue
            if own.capacity > 1:
                taken += other.units if other.granted else 0
                if ahead and not other.granted:
                    return False
            elif "x" in (own.mode, other.mode) and (other.granted or ahead):
                return False
        return own.capacity == 1 or own.units <= own.capacity - taken
