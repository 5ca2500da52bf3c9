"""Actor: a simulated incarnation of an agent, with the bus client's semantics: tasks, slots, waits, grants, mailbox.

It follows "Conversation" in `docs/protocol.md` message by message. What it does is a program: a generator that yields
how long it works, or a `Wait` it rests in; everything else a program does through the methods here. An actor that died
says nothing more, whatever its programs' clean-up tries.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus.conditions import still_open
from crewkeeper_bus.subjects import SUPERVISOR
from crewkeeper_bus.tool_messages import CallGivenUp, ToolCall
from crewkeeper_supervisor.chaos.bus import Envelope
from crewkeeper_supervisor.chaos.doing import Body, Call, Failed, GivenUp, Task, ToolRefused, Wait, Work
from crewkeeper_supervisor.chaos.incarnation import BODY, WAKE_S, Incarnation


class Actor(Incarnation):
    """One incarnation with all it can hear and do. Arguments as `Incarnation`.

    Attributes:
        on_stop: Called when it is told to stop; random programs never are.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.on_raw: Callable[[str, str, bytes], None] = lambda *_: None
        """Takes what it publishes past every check."""
        self.on_stop: Callable[[Any, str], None] | None = None
        self.tells_parts = ord(self.name[-1]) % 2 == 0
        """Whether its heartbeats leave out what it no longer waits for; clients may tell the whole all the same."""
        self.tools: dict[str, Wait] = {}
        """Calls of tools that are waited for."""

    # --- hearing ---

    def deliver(self, envelope: Envelope) -> None:
        """Take one message."""
        message, sender, id_ = envelope.message, envelope.sender, envelope.id
        match message:
            case m.Request():
                self._accept(sender, id_, message, by_role=envelope.to != self.name)
            case m.Reply() | m.SupervisorReply():
                self._answered(sender, id_, message)
            case m.Message():
                if (sender, id_) not in self.unread and id_ not in self._past:
                    self._past.add(id_)
                    self.unread[sender, id_] = None
                    self._offer()
            case m.CallProgress():
                call = self.calls.get(id_)
                if call is not None and sender.startswith(call.to):
                    call.callee = sender
            case m.Cancel():
                self._cancelled(sender, id_)
            case m.SupervisorCancel():
                self._cancelled(message.caller, id_)
            case m.Control():
                self._control(message)
            case _:
                raise AssertionError(f"{envelope.kind} was delivered to {self.name}")

    def _control(self, command: Any) -> None:
        if command.term < self._term:
            return
        self._term = command.term
        if command.id in self._obeyed:
            return
        self._obeyed.add(command.id)
        match command:
            case m.Begin():
                self.began = True
                self._pump()
            case m.Probe():
                self.beat(command.nonce)
            case m.Break():
                self._break(command)
            case m.Granted():
                self._granted(command)
            case m.Pause():
                if not self.paused:
                    self.paused = True
                    self.say(m.Standing, state="paused")
            case m.Resume():
                self._resume_all()
            case m.Nudge():
                return  # good advice, which no script heeds
            case m.Stop() if self.on_stop is not None:
                self.on_stop(self, command.why)
            case _:
                raise AssertionError(f"nobody tells simulated agents to {command!r}")

    def _resume_all(self) -> None:
        if self.paused:
            self.paused = False
            self.say(m.Standing, state="running")
            held, self._held_steps = self._held_steps, []
            for task, turn, error in held:
                self._step(task, turn, error)
            for work in list(self.queued.values()):
                if work not in self.line:
                    self._admit(work)
            self._pump()

    def _accept(self, sender: str, id_: str, request: m.Request, *, by_role: bool) -> None:
        if id_ in self._past:
            return
        self._past.add(id_)
        if by_role:
            self.say(m.CallProgress, sender, id_)
        work = self.queued[id_] = Work(id_, sender, request.chain, request.verb)
        self._admit(work)

    def _break(self, command: m.Break) -> None:
        task = self.tasks.get(command.task)
        if task is None or task.wait is None or task.wait.epoch != command.epoch:
            self.on_break(self, command, None)
            return
        self.on_break(self, command, task)
        self._finish(task.wait, "broken", Failed(command.code))

    def publish_raw(self, subject: str, payload: bytes) -> None:
        """Publish bytes past every check."""
        if self.alive:
            self.on_raw(self.name, subject, payload)

    def sleep(self, task: Task, after_s: float) -> Body:
        """A declared timer."""
        wait = self.wait(task, m.OnTimer(after_s=after_s), None)
        self.clock.after(after_s, self._finish, wait)
        yield wait

    def ask_person(self, task: Task, timeout_s: float | None = None) -> Body:
        """A question to a person."""
        question = self.fresh("q")
        self.say(m.AskHuman, task=task.id, question=question, who="ops", text="?")
        wait = self.questions[question] = self.wait(task, m.OnHuman(who="ops", question=question), timeout_s)
        try:
            yield wait
        finally:
            self.questions.pop(question, None)

    # --- calls ---

    def call(
        self, task: Task, to: str, timeout_s: float | None = None, verb: str = "ask", body: msgspec.Raw = BODY
    ) -> Call:
        """Make a call."""
        call = Call(self.fresh("c"), to, task)
        self.say(m.Request, to, call.id, task=task.id, chain=task.chain, deadline_s=timeout_s, verb=verb, body=body)
        self.calls[call.id] = call
        return call

    def join(
        self, task: Task, calls: list[Call], k: int, condition: m.Condition, timeout_s: float | None = None
    ) -> Body:
        """Wait for `k` of these calls as `condition` says; those still open then are cancelled."""

        def errors() -> list[str]:
            return [call.error for call in calls if call.error]

        def won() -> bool:
            if isinstance(condition, m.OnAll | m.OnSome):
                return _met(condition, {call.id for call in calls if call.good})
            return sum(call.good for call in calls) >= k

        try:
            if not won() and len(errors()) <= len(calls) - k:
                wait = self.wait(task, condition, timeout_s)

                def look() -> None:
                    if won():
                        self._finish(wait)
                    elif len(errors()) > len(calls) - k:
                        self._finish(wait, "failed", Failed(errors()[0]))
                    elif self.tells_parts:
                        good = {call.id for call in calls if call.good}
                        wait.condition = still_open(condition, good, self.failed)

                for call in calls:
                    call.look = look
                yield wait
            elif not won():
                raise Failed(errors()[0])
        finally:
            for call in calls:
                call.look = None
                self.cancel(call)

    def _answered(self, sender: str, id_: str, reply: m.Reply | m.SupervisorReply) -> None:
        tool = self.tools.get(id_)
        if tool is not None and isinstance(reply, m.SupervisorReply):
            if reply.final:
                del self.tools[id_]
                self._finish(tool, *(() if reply.error is None else ("failed", ToolRefused(reply.error.code))))
            return
        question = self.questions.pop(id_, None)
        if question is not None and sender == SUPERVISOR:
            self._finish(question, *(() if reply.error is None else ("failed", Failed(reply.error.code))))
            return
        call = self.calls.get(id_)
        if call is None or not (sender == SUPERVISOR or sender == call.callee or sender.startswith(call.to + "-")):
            return
        del self.calls[id_]
        call.is_open = False
        call.good, call.error = reply.error is None, "" if reply.error is None else reply.error.code
        if call.error:
            self.failed.add(id_)
        if call.look is not None:
            call.look()

    def _cancelled(self, sender: str, id_: str) -> None:
        work = self.queued.get(id_)
        if work is not None and work.sender == sender:
            del self.queued[id_]
            if work in self.line:
                self.line.remove(work)
            return
        task = self.running.get(id_)
        if task is None or task.caller != sender or task.answered:
            return
        if task.wait is not None:
            self._finish(task.wait, "cancelled", GivenUp())
        else:
            self._plan(task, WAKE_S, GivenUp())

    def reply_early(self, task: Task, body: msgspec.Raw = BODY) -> None:
        """Answer now and go on working."""
        if task.call and not task.answered:
            self.say(m.Reply, task.caller, task.call, early=True, body=body)
            task.answered, task.call, task.caller = True, "", ""

    # --- tools ---

    def use_tool(self, task: Task, name: str, args: msgspec.Raw, timeout_s: float | None) -> Body:
        """Ask the gate for a tool, and wait for what came of it."""
        call = self.fresh("t")
        self.say(ToolCall, SUPERVISOR, call, task=task.id, tool=name, args=args, deadline_s=timeout_s)
        self.tools[call] = self.wait(task, m.OnTool(call=call), timeout_s)
        try:
            yield self.tools[call]
        except BaseException:
            if self.tools.pop(call, None) is not None:
                self.say(CallGivenUp, SUPERVISOR, call)
            raise

    # --- messages ---

    def tell(self, task: Task, to: str, body: msgspec.Raw = BODY) -> None:
        """Send a one-way message."""
        self.say(m.Message, to, self.fresh("m"), task=task.id, body=body)

    def receive(self, task: Task, senders: tuple[str, ...], timeout_s: float | None) -> Body:
        """Take a message of one of these, or wait for one."""
        found = self._find(senders)
        if found is not None:
            del self.unread[found]
        else:
            wait = self.wait(task, m.OnMessage(senders=senders), timeout_s)
            self.waiting_for_message.append(wait)
            try:
                yield wait
            except BaseException:
                if wait.found is not None:
                    self.unread = {wait.found: None, **self.unread}
                    wait.found = None
                raise
            finally:
                self.waiting_for_message.remove(wait)
                self._offer()
            found = wait.found
            assert found is not None
        self.say(m.Taken, sender=found[0], message=found[1], task=task.id)

    def _find(self, senders: tuple[str, ...]) -> tuple[str, str] | None:
        return next((each for each in self.unread if not senders or each[0] in senders), None)

    def _offer(self) -> None:
        for wait in self.waiting_for_message:
            if wait.found is None and not wait.over and isinstance(wait.condition, m.OnMessage):
                found = self._find(wait.condition.senders)
                if found is not None:
                    del self.unread[found]
                    wait.found = found
                    self._finish(wait)

    # --- locks ---

    def holding(self, task: Task, resource: str, inside: Body, timeout_s: float | None, **fields: Any) -> Body:
        """Do something while holding a lock, or units of a semaphore."""
        ticket = self.fresh("k")
        self.say(m.Acquire, task=task.id, resource=resource, ticket=ticket, **fields)
        try:
            wait = self.asked[ticket] = self.wait(task, m.OnResource(resource=resource, ticket=ticket), timeout_s)
            yield wait
            yield from inside
        finally:
            self.asked.pop(ticket, None)
            self.held.pop(ticket, None)
            self.say(m.Release, task=task.id, resource=resource, ticket=ticket)

    def _granted(self, command: m.Granted) -> None:
        wait = self.asked.get(command.ticket)
        if wait is None or wait.over:
            return
        del self.asked[command.ticket]
        self.held[command.ticket] = (command.resource, wait.task)
        self.on_grant(self, command, wait.task)
        self._finish(wait)


def _met(condition: m.Condition, good: set[str]) -> bool:
    match condition:
        case m.OnCall():
            return condition.call in good
        case m.OnAll():
            return all(_met(part, good) for part in condition.of)
        case m.OnSome():
            return sum(_met(part, good) for part in condition.of) >= condition.k
        case _:
            return False
