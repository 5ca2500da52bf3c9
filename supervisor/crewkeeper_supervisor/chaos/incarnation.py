"""Incarnation: a simulated agent process as its supervisor sees it: its stream, tasks, slots and steps.

What it does is a program: a generator that yields how long it works, or a `Wait` it rests in. An incarnation that died
says nothing more, whatever its programs' clean-up tries. What comes in, and what programs can do, is in `actor`.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import SUPERVISOR, Kind
from crewkeeper_bus.tool_messages import CallGivenUp, ToolCall
from crewkeeper_supervisor.chaos.bus import Envelope
from crewkeeper_supervisor.chaos.clock import Clock
from crewkeeper_supervisor.chaos.doing import Body, Call, Failed, GivenUp, Task, Wait, Work
from crewkeeper_supervisor.core.crew import Agent

WAKE_S: Final = 0.001
"""Between the end of a wait and the next step of the task that waited."""
BODY: Final = msgspec.Raw(b"{}")

_KINDS: Final[dict[type[Any], Kind]] = {
    m.Request: Kind.REQ,
    m.Reply: Kind.REP,
    m.Cancel: Kind.CANCEL,
    m.Message: Kind.MSG,
    m.CallProgress: Kind.PROG,
    m.Heartbeat: Kind.HB,
    ToolCall: Kind.TOOL,
    CallGivenUp: Kind.TOOL,
}


class Incarnation:
    """One incarnation.

    Args:
        name: The instance's name.
        spec: As declared.
        inc: Its incarnation.
        clock: Virtual time.
        send: Takes what it publishes.
        program: Makes the body of a task from the actor, the task and the work.
    """

    def __init__(
        self,
        name: str,
        spec: Agent,
        inc: str,
        clock: Clock,
        send: Callable[[Envelope], None],
        program: Callable[[Any, Task, Work], Body],
    ) -> None:
        self.name, self.spec, self.inc = name, spec, inc
        self.clock = clock
        self._send = send
        self._program = program
        self.alive = True
        self.began = False
        self.paused = False
        self.frozen = False
        """Stopped in its tracks: whatever is due is done when it is thawed."""
        self.pace = 1.0
        """How many times longer its work takes."""
        self.heartbeat_s = 2.0
        self.seq = self._epoch = self._ids = self._term = 0
        self.used = 0
        self.tasks: dict[str, Task] = {}
        self.calls: dict[str, Call] = {}
        self.queued: dict[str, Work] = {}
        self.running: dict[str, Task] = {}
        self.line: deque[Work] = deque()
        self.unread: dict[tuple[str, str], None] = {}
        self.waiting_for_message: list[Wait] = []
        self.asked: dict[str, Wait] = {}
        self.questions: dict[str, Wait] = {}
        self.held: dict[str, tuple[str, Task]] = {}
        self.failed: set[str] = set()
        """Calls that were answered with an error."""
        self._past: set[str] = set()
        self._obeyed: set[str] = set()
        self._held_steps: list[tuple[Task, int, Exception | None]] = []
        self._overdue: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.on_end: Callable[[Any, Task, str], None] = lambda *_: None
        """Called when a task is over, with the code of the error that ended it."""
        self.on_break: Callable[[Any, m.Break, Task | None], None] = lambda *_: None
        """Called with every `Break` obeyed (the task) or ignored (None)."""
        self.on_grant: Callable[[Any, m.Granted, Task], None] = lambda *_: None
        self.chain_entries = 0

    def has_had(self, id_: str) -> bool:
        """Whether a request or message of this id has come: another copy of it changes nothing."""
        return id_ in self._past

    # --- saying ---

    def say(self, type_: type[Any], to: str = SUPERVISOR, id_: str = "", **fields: Any) -> None:
        """Publish one message in the actor's own stream."""
        if not self.alive:
            return
        self.seq += 1
        message = type_(inc=self.inc, seq=self.seq, **fields)
        kind = _KINDS.get(type_, Kind.NOTE)
        self._send(Envelope(kind, self.name, to, id_ or f"{self.inc}-{self.seq}", message))

    def fresh(self, letter: str) -> str:
        """A new id."""
        self._ids += 1
        return f"{letter}{self.inc}-{self._ids}"

    def join_run(self) -> None:
        """Say that it is there, and go on saying so."""
        spec = self.spec
        self.say(
            m.Joined,
            role=spec.name,
            concurrency=spec.concurrency,
            reentrant=spec.reentrant,
            heartbeat_s=self.heartbeat_s,
        )
        self._beat_on()

    def thaw(self) -> None:
        """Go on, with what has come due in the meantime."""
        self.frozen = False
        overdue, self._overdue = self._overdue, []
        for action, arguments in overdue:
            action(*arguments)

    def _is_put_off(self, action: Callable[..., object], *arguments: Any) -> bool:
        """Whether something that is due has to wait, because everything here has stopped."""
        if self.frozen:
            self.put_off(action, *arguments)
        return self.frozen

    def put_off(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do something when it goes on."""
        self._overdue.append((action, arguments))

    def _beat_on(self) -> None:
        if self.alive and not self._is_put_off(self._beat_on):
            self.beat()
            self.clock.after(self.heartbeat_s, self._beat_on)

    def beat(self, nonce: str = "") -> None:
        """Say the whole state."""
        now_s, spec = self.clock.now_s, self.spec
        found = tuple(wait.found for wait in self.waiting_for_message if wait.found is not None)
        self.say(
            m.Heartbeat,
            nonce=nonce,
            role=spec.name,
            concurrency=spec.concurrency,
            reentrant=spec.reentrant,
            heartbeat_s=self.heartbeat_s,
            state="paused" if self.paused else "running",
            tasks=tuple(
                m.TaskState(task=t.id, call=t.call, caller=t.caller, slot=t.slot, wait=_open_wait(t.wait, now_s))
                for t in self.tasks.values()
            ),
            queued=tuple(self.queued),
            calls=tuple(m.OpenCall(call=c.id, to=c.to, task=c.task.id) for c in self.calls.values()),
            unread=found + tuple(self.unread),
            held=tuple(m.Held(resource=r, ticket=ticket, task=t.id) for ticket, (r, t) in self.held.items()),
        )

    # --- slots ---

    def _admit(self, work: Work) -> None:
        manner = self.spec.reentrant
        if manner == "full" or (manner == "chain" and self._descends(work)):
            if not self.paused:
                self.used += manner == "chain"
                self.chain_entries += manner == "chain" and self.used > self.spec.concurrency
                self._start(work, has_slot=manner == "chain")
            return
        self.line.append(work)
        self._pump()

    def _descends(self, work: Work) -> bool:
        return any(call in self.calls for call in (*work.chain, work.id))

    def begin_activity(self, id_: str) -> None:
        """Do something of its own, once there is a slot."""
        self.line.append(Work(id_))
        self._pump()

    def _pump(self) -> None:
        while self.alive and self.line and not self.paused and self.used < self.spec.concurrency:
            self.used += 1
            self._start(self.line.popleft(), has_slot=True)

    def _start(self, work: Work, *, has_slot: bool) -> None:
        if work.sender:
            del self.queued[work.id]
            task = Task(self.name, self.fresh("h"), slot=True, call=work.id, caller=work.sender)
            task.chain = (*work.chain, work.id)
            self.running[work.id] = task
            self.say(m.CallStarted, call=work.id, caller=work.sender, task=task.id)
        else:
            task = Task(self.name, self.fresh("a"), slot=True, name=work.id)
            self.say(m.TaskBegan, task=task.id, name=work.id)
        self.tasks[task.id] = task
        task.has_slot = has_slot
        task.body = self._program(self, task, work)
        self._plan(task, 0.0)

    # --- steps ---

    def _plan(self, task: Task, after_s: float, error: Exception | None = None) -> None:
        task.turn += 1
        self.clock.after(after_s, self._step, task, task.turn, error)

    def _step(self, task: Task, turn: int, error: Exception | None) -> None:
        if task.ended or not self.alive or turn != task.turn or self._is_put_off(self._step, task, turn, error):
            return
        if self.paused:
            self._held_steps.append((task, turn, error))
            return
        assert task.body is not None
        try:
            doing = task.body.send(None) if error is None else task.body.throw(error)
        except StopIteration:
            self._end(task)
        except Failed as failed:
            self._end(task, failed.code)
        except GivenUp:
            self._end(task, "given_up")
        else:
            if not isinstance(doing, Wait):
                self._plan(task, doing * self.pace)
            elif doing.over:  # it ended before the program came to rest in it
                self._plan(task, WAKE_S)

    def _end(self, task: Task, fault: str = "") -> None:
        if task.call and not task.answered and fault != "given_up":
            error = m.Fault(code=fault, text="it failed") if fault else None
            self.say(m.Reply, task.caller, task.call, error=error, **({} if error else {"body": BODY}))
        else:
            self.say(m.TaskEnded, task=task.id)
        if fault:
            for call in [call for call in self.calls.values() if call.task is task]:
                self.cancel(call)
        task.ended = True
        del self.tasks[task.id]
        self.running = {call: running for call, running in self.running.items() if running is not task}
        if task.has_slot:
            self.used -= 1
        self.on_end(self, task, fault)
        self._pump()

    # --- waits ---

    def wait(self, task: Task, condition: m.Condition, timeout_s: float | None) -> Wait:
        """Announce a wait; the program then yields it."""
        self._epoch += 1
        self.say(m.WaitBegan, task=task.id, epoch=self._epoch, condition=condition, deadline_s=timeout_s)
        now_s = self.clock.now_s
        deadline_s = None if timeout_s is None else now_s + timeout_s
        wait = task.wait = Wait(task, self._epoch, condition, now_s, deadline_s)
        if timeout_s is not None:
            self.clock.after(timeout_s, self._finish, wait, "timeout", Failed("timeout"))
        return wait

    def _finish(self, wait: Wait, outcome: str = "met", error: Exception | None = None) -> bool:
        if wait.over or not self.alive or self._is_put_off(self._finish, wait, outcome, error):
            return False
        wait.over = True
        wait.task.wait = None
        self.say(m.WaitEnded, task=wait.task.id, epoch=wait.epoch, outcome=outcome)
        self._plan(wait.task, WAKE_S, error)
        return True

    def cancel(self, call: Call) -> None:
        """Give a call up, if it is open."""
        if self.calls.pop(call.id, None) is not None:
            call.is_open, call.error = False, "cancelled"
            self.say(m.Cancel, call.callee, call.id)


def _open_wait(wait: Wait | None, now_s: float) -> m.OpenWait | None:
    if wait is None:
        return None
    left_s = None if wait.deadline_s is None else max(0.0, wait.deadline_s - now_s)
    for_s = max(0.0, now_s - wait.began_s)
    return m.OpenWait(epoch=wait.epoch, condition=wait.condition, for_s=for_s, deadline_s=left_s)
