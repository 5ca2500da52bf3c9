"""The wait-for graph: which task of which agent waits for what, kept up to date one fact at a time.

Theory of operation. Nodes are *tasks* (the handling of one call, or an activity of its own), not agents: an agent has
`concurrency` slots, every slot task holds one from its first fact to its last, also while it waits, and a call that
finds no free slot is queued. A wait is a threshold formula over calls, one-way messages, locks and semaphores, people
and timers. This module only keeps the facts; `reduction` says what follows from them.

Every update costs O(1) except the death of an agent, which costs its own tasks and calls. Facts about tasks and calls
that are not known yet make them known, so the order between agents does not matter; each agent's own facts must come in
its own order. A task that the graph has no wait for counts as running: unknown things can hide a deadlock, never invent
one. The model is the AND-OR / k-of-n wait model (Knapp 1987; Kshemkalyani and Singhal 1994) on tasks and slots.
"""

from crewkeeper_bus.messages import OnCall
from crewkeeper_supervisor.core.conditions import AnyCondition
from crewkeeper_supervisor.core.nodes import AgentNode, Call, Task, Wait, is_plain
from crewkeeper_supervisor.core.tickets import Resource, Ticket


class WaitGraph:
    """The facts. Callers mark nothing dirty: `dirty` collects the waits that an update took support from."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentNode] = {}
        self.roles: dict[str, dict[str, AgentNode]] = {}
        self.role_inbound: dict[str, dict[str, Call]] = {}
        self.calls: dict[str, Call] = {}
        self.resources: dict[str, Resource] = {}
        self.waiting: dict[str, Task] = {}
        self.dirty: dict[str, Task] = {}
        self.moved: dict[str, bool] = {}
        """Tasks whose wait ended or was followed by another since this was last emptied; only while `watched`."""
        self.watched = False
        """Whether anybody asks which waits have ended."""
        self.published: dict[str, dict[str, dict[str, str]]] = {}
        """Messages on topics not taken yet: agent to topic to {message id: sender}."""
        self.asked_of: dict[str, str] = {}
        """Calls that wait for a person's approval, as `agent/call`, with who is asked."""
        self._listeners = 0
        """Open waits for messages, or for anything else that is no call, lock, person or timer."""
        self._chained = False
        """Whether any agent lets in what descends from its own tasks."""

    # --- agents ---

    def agent(self, name: str, role: str = "") -> AgentNode:
        """The node of this agent, made at its first mention."""
        node = self.agents.get(name)
        if node is None:
            node = self.agents[name] = AgentNode(name, role or name)
            self.roles.setdefault(node.role, {})[name] = node
        elif role and node.role != role:
            self.roles[node.role].pop(name, None)
            node.role = role
            self.roles.setdefault(role, {})[name] = node
        return node

    def declare(self, name: str, role: str, concurrency: int, reentrant: str) -> None:
        """An agent says, or the crew file said, how it serves."""
        node = self.agent(name, role)
        if concurrency < node.concurrency or reentrant != node.reentrant:
            self.dirty.update(self.waiting)  # rare; a free slot supports whoever calls it or waits for its messages
        node.concurrency = concurrency
        node.reentrant = reentrant
        node.alive = True
        self._chained |= reentrant == "chain"

    def died(self, name: str, *, returning: bool = False) -> list[Call]:
        """An agent's process or connection is gone with all it was doing. Its tickets stay until they are released.

        Args:
            name: The agent.
            returning: Whether it is about to be started again.

        Returns:
            The calls that will never be answered because of it.
        """
        node = self.agents.get(name)
        if node is None:
            return []
        node.alive, node.returning = False, returning
        inbound = list(node.inbound.values())
        if len(self.live_instances(node.role)) == 0:
            inbound += self.role_inbound.pop(node.role, {}).values()
        for task in list(node.tasks.values()):
            self._end(task)
        lost = [call for call in inbound if call.id in self.calls and self.call_lost(call.id) is not None]
        node.inbound.clear()
        for sender in list(node.unread):
            del node.unread[sender]
        self.dirty.update(self.waiting)
        return lost

    def live_instances(self, role: str) -> list[AgentNode]:
        """The living agents of this role, or the living agent of this name."""
        instances = [node for node in self.roles.get(role, {}).values() if node.alive]
        if not instances:
            node = self.agents.get(role)
            return [node] if node is not None and node.alive else []
        return instances

    def assured(self, node: AgentNode) -> None:
        """An agent has told its whole state: its tasks are believed to wait again."""
        if node.unsure:
            node.unsure = False
            for task in node.tasks.values():
                self._dirty(task)

    def returning(self, role: str) -> bool:
        """Whether a dead agent of this role, or of this name, is about to be started again."""
        instances = list(self.roles.get(role, {}).values()) or [n for n in (self.agents.get(role),) if n is not None]
        return any(node.returning and not node.alive for node in instances)

    # --- tasks and calls ---

    def task_began(self, node: AgentNode, task: str, at_s: float, *, slot: bool, name: str = "") -> Task:
        """An activity that no call started begins."""
        known = node.tasks.get(task)
        if known is None:
            known = self._begin(node, task, at_s, slot=slot)
        elif known.slot != slot:
            node.slot_tasks += 1 if slot else -1
            known.slot = slot
        known.name = name or known.name
        return known

    def task_ended(self, node: AgentNode, task: str) -> Call | None:
        """A task is over. Returns the call it was to answer and did not."""
        known = node.tasks.get(task)
        if known is None:
            return None
        call = known.call
        self._end(known)
        return self.call_lost(call.id) if call is not None and call.state == "started" else None

    def call_opened(
        self,
        node: AgentNode,
        task: str,
        call: str,
        to: str,
        at_s: float,
        verb: str = "",
        callee: AgentNode | None = None,
    ) -> Call | None:
        """A request was sent. None if the id is another caller's. `callee`: the agent named `to`, if at hand."""
        known = self.calls.get(call)
        if known is not None:
            if known.caller not in ("", node.name):
                return None
            if known.caller == node.name:  # the id is used again: what it meant before is over
                self._forget_call(known)
                known = None
        owner = node.tasks.get(task) or self.task_began(node, task, at_s, slot=False)
        if known is None:
            known = self.calls[call] = Call(call, node.name, owner, to, verb, at_s)
            known.callee = callee = callee or self.agents.get(to)
            (callee.inbound if callee is not None else self.role_inbound.setdefault(to, {}))[call] = known
        else:  # its start came first: another agent's stream ran ahead
            known.caller, known.task, known.verb, known.opened_s = node.name, owner, verb, at_s
        owner.adopt(known)
        return known

    def call_started(self, node: AgentNode, call: str, caller: str, task: str, at_s: float) -> None:
        """A handler begins to work on a call."""
        known = self.calls.get(call)
        if known is None:
            owner = Task(self.agent(caller), "", f"{caller}/", False, at_s)  # stands in until its own stream names it
            known = self.calls[call] = Call(call, "", owner, node.name, "", at_s)
        if known.state in ("answered", "lost"):
            self._begin_handler(node, task, at_s, None).answers = call
            return
        if known.callee is not node:
            self.pin(known, node)
        handler = self._begin_handler(node, task, at_s, known)
        if known.handler is not None and known.handler is not handler:
            known.handler.call = None
        handler.answers = call
        known.state, known.handler = "started", handler

    def call_answered(self, call: str, *, early: bool = False, failed: bool = False) -> None:
        """The answer, or the error, to the call of this id, if it is known, is in the journal."""
        known = self.calls.get(call)
        if known is not None:
            self.answered(known, early=early, failed=failed)

    def answered(self, known: Call, *, early: bool, failed: bool) -> None:
        """The answer, or the error, is in the journal: whoever waits for it will get it."""
        if self._chained:
            self._unchain(known)
        handler = known.handler
        if known.state != "answered":  # of several answers the caller takes the first
            known.state, known.failed = "answered", failed
        known.handler = None
        self._forget_inbound(known)
        if handler is not None:
            handler.call = None
            if not early:
                self._end(handler)
        if known.failed:  # kept until the next wait is over: that may need it among others
            self._dirty(known.task)
        elif known.task.wait is None:
            known.task.disown(known)
            self.calls.pop(known.id, None)  # gone already if the handler that ended had made it

    def handler_replied(self, node: AgentNode, call: str) -> None:
        """An agent answered a call that its caller had given up, or that had been answered in its stead."""
        for task in node.tasks.values():
            if task.answers == call:
                self._end(task)
                return

    def call_closed(self, call: str) -> None:
        """The caller no longer waits for it: cancelled, or its answer was taken."""
        known = self.calls.get(call)
        if known is not None:
            self._forget_call(known)

    def call_lost(self, call: str) -> Call | None:
        """Nobody will answer this call."""
        known = self.calls.get(call)
        if known is None or known.state == "answered":
            return None
        if known.caller == "":  # nobody is known to wait for it
            self._forget_call(known)
            return None
        self._unchain(known)
        if known.handler is not None:
            known.handler.call = None
        known.state, known.handler = "lost", None
        self._forget_inbound(known)
        self._dirty(known.task)
        return known

    def pin(self, call: Call, node: AgentNode) -> None:
        """A call to a role is at this instance now."""
        if call.to != node.name:
            self._forget_inbound(call)
            call.to = node.name
            self._dirty(call.task)  # no other instance can take it any more
        call.callee = node
        node.inbound[call.id] = call

    # --- waits ---

    def wait_began(
        self, node: AgentNode, task: str, epoch: int, condition: AnyCondition, since_s: float, deadline_s: float | None
    ) -> Task:
        """A task begins to wait, in this wait epoch of its agent."""
        known = node.tasks.get(task) or self.task_began(node, task, since_s, slot=False)
        if known.wait is not None:
            self._awake(known)
        listens = type(condition) is not OnCall and not is_plain(condition)
        known.wait = Wait(condition, epoch, since_s, deadline_s, listens)
        self._listeners += listens
        self.waiting[known.key] = self.dirty[known.key] = known
        return known

    def wait_narrowed(self, task: Task, condition: AnyCondition) -> None:
        """An open wait is for a part of what it was for: the rest is met, or no longer can be."""
        wait = task.wait
        if wait is None:
            return
        self._listeners -= wait.listens
        wait.condition, wait.listens = condition, not is_plain(condition)
        self._listeners += wait.listens
        self._dirty(task)

    def wait_ended(self, node: AgentNode, task: str, epoch: int | None = None) -> None:
        """The wait is over. With `epoch`, only if it is that one."""
        known = node.tasks.get(task)
        if known is None or known.wait is None or (epoch is not None and known.wait.epoch != epoch):
            return
        self._awake(known)
        for call in known.open_calls():
            if call.state in ("answered", "lost"):
                known.disown(call)  # all else of it was forgotten when it was answered, or found lost
                self.calls.pop(call.id, None)

    # --- one-way messages ---

    def message_sent(self, sender: str, to: str, message: str, at_s: float) -> None:
        """A one-way message is on its way, or in the mailbox."""
        self.agent(to).received(sender, message, at_s)

    def message_taken(self, node: AgentNode, sender: str, message: str, by: str = "") -> None:
        """A task took it (`by`: its wait is about to be over); other waiters may have counted on it."""
        box = node.unread.get(sender)
        if box is None or box.pop(message, None) is None:
            return
        if not box:
            del node.unread[sender]
        for task in node.tasks.values():
            if task.id != by:
                self._dirty(task)

    # --- locks and semaphores ---

    def requested(
        self, node: AgentNode, task: str, resource: str, ticket: str, mode: str, units: int, capacity: int, at_s: float
    ) -> list[Ticket]:
        """A task asks. Returns the tickets to grant now."""
        known = node.tasks.get(task) or self.task_began(node, task, at_s, slot=False)
        res = self.resources.get(resource)
        if res is None:
            res = self.resources[resource] = Resource(resource, capacity)
        if ticket not in res.queue:
            first = next(iter(res.queue.values()), None)
            res.queue[ticket] = asked = Ticket(ticket, known, res, mode, units)
            known.hold(asked)
            if first is not None and not res.counting and asked.conflicts(first):
                return []  # the first in line stands in its way, granted or not; and it is in nobody's
        return self._grant(res)

    def released(self, resource: str, ticket: str) -> list[Ticket]:
        """A ticket is given back, or no longer asked for. Returns the tickets to grant now."""
        res = self.resources.get(resource)
        known = res.queue.get(ticket) if res is not None else None
        if res is None or known is None:
            return []
        stood_in_the_way = known.granted or next(reversed(res.queue)) != ticket
        del res.queue[ticket]
        known.task.drop(known)
        granted = self._grant(res) if stood_in_the_way else []
        if not res.queue:
            del self.resources[resource]
        return granted

    def tickets_of(self, agent: str) -> list[Ticket]:
        """What an agent holds or asks for."""
        return [t for res in self.resources.values() for t in res.queue.values() if t.task.agent.name == agent]

    def _grant(self, res: Resource) -> list[Ticket]:
        granted = list(res.grantable())
        for ticket in granted:
            ticket.granted = True
        if granted:
            for ticket in res.queue.values():
                if not ticket.granted:
                    self._dirty(ticket.task)
        return granted

    # --- inside ---

    def _awake(self, task: Task) -> None:
        assert task.wait is not None  # the callers have looked
        self._listeners -= task.wait.listens
        task.wait = None
        if self.watched:
            self.moved[task.key] = True
        del self.waiting[task.key]
        if self.dirty:
            self.dirty.pop(task.key, None)

    def _begin(self, node: AgentNode, task: str, at_s: float, *, slot: bool, call: Call | None = None) -> Task:
        known = node.tasks[task] = Task(node, task, f"{node.name}/{task}", slot, at_s, call)
        node.slot_tasks += slot  # whoever counted on the free slot now counts on this task, which runs
        return known

    def _begin_handler(self, node: AgentNode, task: str, at_s: float, call: Call | None) -> Task:
        known = node.tasks.get(task)
        if known is None:
            return self._begin(node, task, at_s, slot=True, call=call)
        if known.call is not None and known.call is not call:  # it cannot work on two: the first is queued again
            known.call.state, known.call.handler = "open", None
        known.call = call
        if not known.slot:
            known.slot = True
            node.slot_tasks += 1
        return known

    def _end(self, task: Task) -> None:
        node = task.agent
        if node.tasks.pop(task.id, None) is None:
            return
        node.slot_tasks -= task.slot
        if task.wait is not None:
            self._awake(task)
        for call in task.open_calls():
            self._forget_call(call)
        if task.holds:
            for ticket in task.holds.values():
                for waiter in ticket.resource.queue.values():
                    self._dirty(waiter.task)
        if self._chained or self._listeners or node.slot_tasks >= node.concurrency:
            # Nobody else counts on a task that ends: it frees its slot. These may have counted on it as it is.
            for sibling in node.tasks.values():
                self._dirty(sibling)

    def _forget_inbound(self, call: Call) -> None:
        box = call.callee.inbound if call.callee is not None else self.role_inbound.get(call.to)
        if box:
            box.pop(call.id, None)

    def _forget_call(self, call: Call) -> None:
        self.calls.pop(call.id, None)
        call.task.disown(call)
        self._forget_inbound(call)
        if self._chained:
            self._unchain(call)
        if call.handler is not None:
            call.handler.call = None

    def _unchain(self, call: Call) -> None:
        """A link of a chain is gone: what was let in, or could come in, through it may not be any more."""
        if self._chained and (call.handler is not None or call.task.agent.reentrant == "chain"):
            self.dirty.update(self.waiting)

    def is_needed(self, task: Task) -> bool:
        """Whether anybody could be waiting for something this task does. True where that is not known at once."""
        if self._chained or self._listeners or task.call is not None:
            return True
        for ticket in task.holds.values() if task.holds else ():
            if ticket.resource.barging or next(reversed(ticket.resource.queue)) != ticket.id:
                return True
        node = task.agent
        if not task.slot or node.slot_tasks < node.concurrency:
            return False
        for box in (node.inbound, self.role_inbound.get(node.role)):
            if box and any(call.state == "open" for call in box.values()):
                return True
        return False

    def _dirty(self, task: Task) -> None:
        if task.wait is not None:
            self.dirty[task.key] = task
