"""Tasks: the activities of this agent that the supervisor knows by name; the slots they take are in `slots`.

A task is a handler run, a declared activity, or an asyncio task that waited without being either (an implicit task,
which takes no slot). A child asyncio task of a handler is an implicit task of its own, so one task never has two waits;
unless it declares itself a part of the handler's task (`begin_part`): then it has no name on the bus, and what all the
parts of a task wait for is one wait of that task, which `waits` puts together.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Raw, UnsetType

from crewkeeper_bus import codec
from crewkeeper_bus.messages import CallStarted, TaskBegan, TaskEnded
from crewkeeper_bus.outgoing import Outgoing, clip, new_id

if TYPE_CHECKING:
    from crewkeeper_bus.waits import Wait

CHAIN_MAX: Final = 64
AROUND_BYTES: Final = 512
"""Room in a message for what stands around a body."""


class Task:
    """One task that is alive.

    Attributes:
        id: Its name on the bus.
        call: The call it works on; empty for an activity, and once the answer is out.
        caller: Who made that call.
        chain: Calls it descends from, outermost first, its own call last.
        slot: Whether it takes one of the agent's slots.
        wait: Its open wait.
        result: Main activity: what it came to, told when it ends; see `conclude`.
        whole: The task that this one is a part of, whose name it goes by.
        parts: Its own parts that are alive.
    """

    __slots__ = (
        "call",
        "caller",
        "chain",
        "ended",
        "id",
        "parts",
        "registry",
        "result",
        "runner",
        "slot",
        "wait",
        "whole",
    )

    def __init__(self, registry: "Tasks", id_: str, *, slot: bool, call: str = "", caller: str = "") -> None:
        self.registry = registry
        self.id = id_
        self.slot = slot
        self.call = call
        self.caller = caller
        self.chain: tuple[str, ...] = ()
        self.wait: Wait | None = None
        self.runner: asyncio.Task[Any] | None = None
        self.ended = False
        self.result: Raw | UnsetType = UNSET
        self.whole: Task | None = None
        self.parts: dict[Task, None] = {}

    @property
    def top(self) -> "Task":
        """The task on the bus that this one is, or is a part of."""
        return self if self.whole is None else self.whole.top

    def conclude(self, result: Any) -> None:
        """Say what the task came to: plain data or a struct. The last result of a crew's main activities is its answer.

        Raises:
            CodecError: It is no JSON, or larger than a message may be.
        """
        self.result = codec.encode_body(result, self.registry.result_limit_bytes)


_LINEAGE: ContextVar[Task | None] = ContextVar("crewkeeper_lineage", default=None)
"""The task that the running code descends from; inherited by child asyncio tasks, which are tasks of their own."""


class Tasks:
    """The tasks of one incarnation that are alive."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self.alive: dict[str, Task] = {}
        self._bound: dict[asyncio.Task[Any], Task] = {}
        self.on_end: list[Callable[[Task, bool], None]] = []
        """Called with (task, whether it failed or was cancelled) before its end is announced."""
        self.after_end: Callable[[], None] = lambda: None

    @property
    def result_limit_bytes(self) -> int:
        """Largest result of a task: a message, without what stands around it."""
        return self._outgoing.body_limit_bytes - AROUND_BYTES

    def bound(self) -> Task | None:
        """The task of the asyncio task that runs now, if it has one."""
        running = asyncio.current_task()
        return None if running is None else self._bound.get(running)

    def current(self) -> Task:
        """The task of the code that runs now; an implicit one begins if there is none.

        Raises:
            ConnectionLost: The client is closed.
        """
        running = asyncio.current_task()
        assert running is not None, "the client is used from a coroutine"
        task = self._bound.get(running)
        if task is not None and task.whole is not None and task.top.ended:  # it has outlived what it was a part of
            self.end_part(task)
            task = None
        if task is None:
            task = Task(self, "i" + new_id(), slot=False)
            parent = _LINEAGE.get()
            if parent is not None and parent.registry is self:
                task.chain = parent.chain
            self._outgoing.note(TaskBegan, task=task.id, name=clip(running.get_name(), 200), slot=False)
            self.alive[task.id] = task
            self._bound[running] = task
            task.runner = running
            running.add_done_callback(self._implicit_done)
        return task

    def _implicit_done(self, done: "asyncio.Task[Any]") -> None:
        task = self._bound.get(done)
        if task is not None:
            self.end(task, failed=done.cancelled())

    def end_implicit(self) -> None:
        """End the implicit task of the running asyncio task, which goes on as something else, or not to wait again."""
        task = self.bound()
        if task is not None and not task.slot:
            running = asyncio.current_task()
            assert running is not None
            running.remove_done_callback(self._implicit_done)
            self.end(task)

    def begin_activity(self, name: str, trace: str = "") -> Task:
        """Announce an activity that has its slot; it must then be bound."""
        task = Task(self, "a" + new_id(), slot=True)
        self._outgoing.note(TaskBegan, task=task.id, name=clip(name), trace=trace)
        self.alive[task.id] = task
        return task

    def begin_handler(self, call: str, caller: str, chain: tuple[str, ...]) -> Task:
        """Announce that a handler works on a call from now on; it must then be bound."""
        task = Task(self, "h" + new_id(), slot=True, call=call, caller=caller)
        task.chain = (*chain, call)
        self._outgoing.note(CallStarted, call=call, caller=caller, task=task.id)
        self.alive[task.id] = task
        return task

    def bind(self, task: Task) -> None:
        """Make `task` the task of the running asyncio task."""
        running = asyncio.current_task()
        assert running is not None
        assert running not in self._bound
        self._bound[running] = task
        task.runner = running
        _LINEAGE.set(task)

    def begin_part(self) -> Task | None:
        """Make the running asyncio task a part of the task it descends from. None: it is that task, or of no task.

        From here on, what it starts are parts of this part.
        """
        running = asyncio.current_task()
        assert running is not None, "the client is used from a coroutine"
        bound, whole = self._bound.get(running), _LINEAGE.get()
        if whole is None or whole.registry is not self or whole.ended or (bound is not None and bound.slot):
            return None
        if bound is not None and bound.whole is not None:
            return None
        self.end_implicit()
        part = Task(self, whole.id, slot=False)
        part.whole, part.chain, part.runner = whole, whole.chain, running
        whole.parts[part] = None
        self._bound[running] = part
        _LINEAGE.set(part)
        return part

    def end_part(self, part: Task) -> None:
        """A part is done; what it has started and is not done goes on as tasks of their own."""
        part.ended = True
        if part.whole is not None:
            part.whole.parts.pop(part, None)
            _LINEAGE.set(part.whole)
        if part.runner is not None:
            del self._bound[part.runner]
            part.runner = None

    def end(self, task: Task, *, announce: bool = True, failed: bool = False) -> None:
        """End a task; idempotent. `announce` is false where a reply says it."""
        if task.ended:
            return
        for call_back in self.on_end:
            call_back(task, failed)
        assert task.wait is None, f"task {task.id} ends inside wait {task.wait and task.wait.epoch}"
        task.ended = True
        self.alive.pop(task.id, None)
        if task.runner is not None:
            del self._bound[task.runner]
            task.runner = None
        if _LINEAGE.get() is task:
            _LINEAGE.set(None)
        if announce and not self._outgoing.is_closed:
            self._outgoing.note(TaskEnded, task=task.id, result=task.result)
        self.after_end()
