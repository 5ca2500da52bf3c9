"""Calls: the calls this agent made and has no answer for, and the waits that end when answers come."""

import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from crewkeeper_bus import codec
from crewkeeper_bus.conditions import still_open
from crewkeeper_bus.errors import (
    BusError,
    Cancelled,
    CodecError,
    Killed,
    PeerGone,
    Refused,
    SubjectError,
    WouldDeadlock,
)
from crewkeeper_bus.messages import Cancel, Fault, OnAll, OnCall, OnSome, Reply, Request, SupervisorReply
from crewkeeper_bus.outgoing import Outgoing, clip, new_id
from crewkeeper_bus.reach import Reach
from crewkeeper_bus.subjects import SUPERVISOR, Kind, check_token
from crewkeeper_bus.tasks import CHAIN_MAX, Task, Tasks
from crewkeeper_bus.tracing import Span, Tracing
from crewkeeper_bus.waits import Waits, check_timeout, outcome_of

CALLS_MAX: Final = 1000
"""Calls that may be open at once: they are all listed in every heartbeat."""
TOGETHER_MAX: Final = 256
"""Calls that one wait may join."""
_ORDINAL: Final = re.compile(r"[1-9][0-9]{0,5}\Z")


def error_of(fault: Fault, peer: str) -> BusError:
    """The error to raise for a fault that `peer` sent."""
    match fault.code:
        case "would_deadlock":
            return WouldDeadlock(fault.text, path=fault.path, finding=fault.finding)
        case "peer_gone":
            return PeerGone(fault.text, peer=peer)
        case "cancelled":
            return Cancelled(fault.text)
        case code:
            return Refused(fault.text, reason=code, peer=peer)


def fault_of(error: BaseException) -> Fault:
    """What to tell a caller whose handler raised `error`: type and text, never the traceback."""
    match error:
        case WouldDeadlock():
            path = tuple(clip(edge) for edge in error.path[:64])
            return Fault(code="would_deadlock", text=clip(str(error)), path=path, finding=error.finding)
        case PeerGone():
            return Fault(code="peer_gone", text=clip(str(error)))
        case Cancelled():
            return Fault(code="cancelled", text=clip(str(error)))
        case Killed():
            return Fault(code="killed", text=clip(str(error)))
        case Refused():
            try:
                return Fault(code=check_token(error.reason, "reason"), text=clip(str(error)))
            except SubjectError:
                return Fault(code="refused", text=clip(f"{error.reason}: {error}"))
        case TimeoutError():
            return Fault(code="timeout", text=clip(f"{type(error).__name__}: {error}"))
        case _:
            return Fault(code="handler_failed", text=clip(f"{type(error).__name__}: {error}"))


class Call:
    """A call that was made; `Client.call` makes one.

    Attributes:
        id: The call id.
        to: The agent or role that was asked.
        progress: What the callee last told of its progress.
    """

    def __init__(self, calls: "Calls", task: Task, to: str, type_: Any) -> None:
        self._calls = calls
        self.id = new_id()
        self.to = to
        self.task = task
        self.progress = ""
        self.callee = to
        """Who works on it, once that is known: differs from `to` where that is a role."""
        self._type = type_
        self.is_open = True
        self.turn = 0
        """When it ended, among the calls of this agent."""
        self._value: Any = None
        self.error: BusError | None = None
        self.watchers: list[Callable[[], None]] = []
        self.span: Span | None = None

    @property
    def is_good(self) -> bool:
        """Whether it has been answered without an error."""
        return not self.is_open and self.error is None

    @property
    def value(self) -> Any:
        """The answer. Only of a good call."""
        assert self.is_good
        return self._value

    async def answer(self, timeout_s: float | None = None) -> Any:
        """Wait for the answer.

        Raises:
            BusError: As `Client.ask`.
        """
        await self._calls.join([self], 1, OnCall(call=self.id), timeout_s)
        return self.value

    async def cancel(self, why: str = "the caller gave up") -> None:
        """Give the call up; nothing happens if it is over. A later answer is dropped."""
        self._calls.cancel(self, why)

    def resolve(self, body: Any, error: BusError | None) -> None:
        """Take the answer or the error, and wake whoever waits."""
        self.is_open = False
        self.turn = self._calls.next_turn()
        self.error = error
        if error is None:
            try:
                self._value = None if body is msgspec.UNSET else codec.decode_body(body, self._type)
            except CodecError as bad:
                self.error = bad
        if self.span is not None:
            self.span.end(self.error)
        for watcher in list(self.watchers):
            watcher()


class Calls:
    """All open calls of one incarnation, by id."""

    def __init__(self, outgoing: Outgoing, tasks: Tasks, waits: Waits) -> None:
        self._outgoing = outgoing
        self._tasks = tasks
        self._waits = waits
        self.open: dict[str, Call] = {}
        self.replicas: Mapping[str, int] | None = None
        """Roles and how many instances they have; None: not known yet."""
        self.tracing: Tracing | None = None
        self.reach = Reach()
        self._turns = itertools.count(1)
        self._given_up: OrderedDict[str, str] = OrderedDict()
        """Calls to a role that were cancelled before it was known who has them: call id to role."""
        tasks.on_end.append(self._task_ended)

    def next_turn(self) -> int:
        """1, 2, 3, … as calls end."""
        return next(self._turns)

    def make(self, to: str, body: Any, verb: str, deadline_s: float | None, type_: Any) -> Call:
        """Send a request.

        Raises:
            SubjectError: `to` or `verb` is not a name.
            CodecError: The body cannot be sent.
            Refused: Too many calls are open, this one descends from too many others, or it goes to whom this agent may
                not call.
        """
        check_token(to, "agent")
        check_token(verb, "verb")
        check_timeout(deadline_s)
        self.check_reach(to)
        raw = codec.encode_body(body, self._outgoing.body_limit_bytes)
        if len(self.open) >= CALLS_MAX:
            raise Refused(f"{CALLS_MAX} calls are open, the most there may be: wait for some", reason="too_many_calls")
        task = self._tasks.current()
        if len(task.chain) > CHAIN_MAX:
            raise Refused(f"this call descends from more than {CHAIN_MAX} others: a loop of calls?", reason="too_deep")
        call = Call(self, task, to, type_)
        call.span = span = None if self.tracing is None else self.tracing.call(to, call=call.id, verb=verb)
        try:
            self._outgoing.send(
                Kind.REQ,
                to,
                call.id,
                Request,
                task=task.id,
                verb=verb,
                chain=task.chain,
                deadline_s=deadline_s,
                trace="" if span is None else span.traceparent,
                body=raw,
            )
        except BusError as error:
            if span is not None:
                span.end(error)
            raise
        self.open[call.id] = call
        return call

    async def join(
        self, calls: Sequence[Call], k: int, condition: OnCall | OnAll | OnSome, timeout_s: float | None
    ) -> None:
        """Wait until `k` of `calls` are answered; whatever happens, those still open then are cancelled.

        Raises:
            BusError: So many failed that `k` cannot be reached (the first failure), or the wait was ended otherwise.
        """

        def lost() -> BusError | None:
            errors = [call.error for call in calls if call.error is not None]
            return errors[0] if len(errors) > len(calls) - k else None

        def won() -> bool:
            return sum(call.is_good for call in calls) >= k

        try:
            check_timeout(timeout_s)
            if not won() and (error := lost()) is None:
                wait = self._waits.begin(self._tasks.current(), condition, timeout_s)

                def look() -> None:
                    if won():
                        self._waits.finish(wait, "met")
                    elif (why := lost()) is not None:
                        self._waits.finish(wait, outcome_of(why), why)
                    else:
                        good = {call.id for call in calls if call.is_good}
                        failed = {call.id for call in calls if call.error is not None}
                        self._waits.narrow(wait, still_open(condition, good, failed))

                for call in calls:
                    call.watchers.append(look)
                await self._waits.rest(wait)
            elif not won() and error is not None:
                raise error
        finally:
            for call in calls:
                call.watchers.clear()
                self.cancel(call, "no longer waited for")

    def cancel(self, call: Call, why: str) -> None:
        """Give a call up, if it is open."""
        if self.open.pop(call.id, None) is None:
            return
        if not self._outgoing.is_closed:
            self._outgoing.send(Kind.CANCEL, call.callee, call.id, Cancel, why=clip(why))
            if call.callee == call.to:
                self._given_up[call.id] = call.to
                if len(self._given_up) > CALLS_MAX:
                    self._given_up.popitem(last=False)
        call.resolve(msgspec.UNSET, Cancelled(f"call to {call.to} was cancelled: {why}"))

    def is_strange(self, sender: str, id_: str) -> bool:
        """Whether a call of this id is open that was made to somebody else than `sender`: an intruder's answer."""
        call = self.open.get(id_)
        return call is not None and sender != SUPERVISOR and not self._is_asked(sender, call.callee, call.to)

    def accept(self, sender: str, id_: str, reply: Reply | SupervisorReply) -> bool:
        """Take a reply. False: nobody asked for it, or not from that sender."""
        call = self.open.get(id_)
        if call is None or not (sender == SUPERVISOR or self._is_asked(sender, call.callee, call.to)):
            return False
        del self.open[id_]
        peer = call.to if sender == SUPERVISOR else sender
        call.resolve(reply.body, None if reply.error is None else error_of(reply.error, peer))
        return True

    def accept_progress(self, sender: str, id_: str, text: str) -> bool:
        """Take a callee's progress, which also says which agent of a role has the call. False: as `accept`."""
        call = self.open.get(id_)
        if call is None:
            role = self._given_up.pop(id_, "")
            if not role or sender == role or not self._is_asked(sender, role, role):
                return False
            self._outgoing.send(Kind.CANCEL, sender, id_, Cancel, why="cancelled before it was known who has it")
            return True
        if not self._is_asked(sender, call.callee, call.to):
            return False
        call.progress = text or call.progress
        call.callee = sender
        return True

    def _is_asked(self, sender: str, callee: str, to: str) -> bool:
        """Whether `sender` may answer: it is the callee or, unless that is known, an instance of the role."""
        return sender == callee or (callee == to and self._is_instance(sender, to))

    def check_reach(self, to: str, *, tell: bool = False) -> None:
        """Let pass what this agent may send.

        Raises:
            Refused: It may not.
        """
        role = to.rpartition("-")[0]
        self.reach.check(to, role if self._is_instance(to, role) else to, tell=tell)

    def _is_instance(self, sender: str, role: str) -> bool:
        name, _, number = sender.rpartition("-")
        if name != role or not _ORDINAL.match(number):
            return False
        return self.replicas is None or int(number) <= self.replicas.get(role, 0)

    def _task_ended(self, task: Task, failed: bool) -> None:
        if failed:
            for call in [call for call in self.open.values() if call.task is task]:
                self.cancel(call, "the task that made it failed or was cancelled")

    def cancel_all(self, why: str) -> None:
        """Give every call up."""
        for call in list(self.open.values()):
            self.cancel(call, why)
