"""Mailbox: one-way messages that came and were not taken, and the tasks that wait for some."""

from collections import OrderedDict, deque
from typing import Any, Final

import msgspec

from crewkeeper_bus import codec
from crewkeeper_bus.messages import Message as WireMessage
from crewkeeper_bus.messages import OnMessage, Taken
from crewkeeper_bus.outgoing import Outgoing
from crewkeeper_bus.subjects import Kind, check_token
from crewkeeper_bus.tasks import Tasks
from crewkeeper_bus.tracing import Tracing
from crewkeeper_bus.waits import Wait, Waits, check_timeout

REMEMBERED_MAX: Final = 10_000
"""Messages taken that are remembered, so that one delivered twice is read once."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A one-way message as the author sees it."""

    sender: str
    id: str
    body: Any


class _Unread:
    __slots__ = ("id", "raw", "sender", "trace")

    def __init__(self, sender: str, id_: str, raw: msgspec.Raw, trace: str) -> None:
        self.sender = sender
        self.id = id_
        self.raw = raw
        self.trace = trace


class _Receiver:
    __slots__ = ("found", "senders", "wait")

    def __init__(self, senders: tuple[str, ...], wait: Wait) -> None:
        self.senders = senders
        self.wait = wait
        self.found: _Unread | None = None


class Mailbox:
    """The unread one-way messages of one incarnation, oldest first."""

    def __init__(self, outgoing: Outgoing, tasks: Tasks, waits: Waits, limit: int) -> None:
        self._outgoing = outgoing
        self._tasks = tasks
        self._waits = waits
        self._limit = limit
        self.tracing: Tracing | None = None
        self._unread: deque[_Unread] = deque()
        self._present: set[tuple[str, str]] = set()
        """(sender, message id) of every message not taken."""
        self._taken: OrderedDict[tuple[str, str], None] = OrderedDict()
        """The same of those taken last: what a supervisor delivers again after a pause may have been here."""
        self._receivers: list[_Receiver] = []

    def send(self, to: str, id_: str, body: msgspec.Raw) -> None:
        """Send a one-way message. Raises as `Outgoing.send`."""
        span = None if self.tracing is None else self.tracing.send(to, id_)
        trace = "" if span is None else span.traceparent
        self._outgoing.send(Kind.MSG, to, id_, WireMessage, task=self._tasks.current().id, trace=trace, body=body)
        if span is not None:
            span.end()

    def unread(self) -> tuple[tuple[str, str], ...]:
        """(sender, message id) of every message not taken, oldest first."""
        found = tuple((receiver.found.sender, receiver.found.id) for receiver in self._receivers if receiver.found)
        return found + tuple((message.sender, message.id) for message in self._unread)

    def accept(self, sender: str, id_: str, message: WireMessage) -> bool:
        """Take in a message. False: it has been here, or the mailbox is full."""
        if (sender, id_) in self._present or (sender, id_) in self._taken or len(self._unread) >= max(self._limit, 1):
            return False
        self._present.add((sender, id_))
        self._unread.append(_Unread(sender, id_, message.body.copy(), message.trace))
        self._offer()
        return True

    def _offer(self) -> None:
        """Give unread messages to those who wait, longest waiting first."""
        for receiver in self._receivers:
            if receiver.found is None and not receiver.wait.outcome:
                found = self._find(receiver.senders)
                if found is not None:
                    self._unread.remove(found)
                    receiver.found = found
                    self._waits.finish(receiver.wait, "met")

    def _find(self, senders: tuple[str, ...]) -> _Unread | None:
        return next((message for message in self._unread if not senders or message.sender in senders), None)

    async def receive(self, senders: tuple[str, ...], timeout_s: float | None, type_: Any) -> Message:
        """Take the oldest message of one of `senders` (of anybody if empty), or wait for one.

        Raises:
            CodecError: Its body is not of `type_`; the message is taken all the same.
            BusError: What ended the wait.
        """
        for sender in senders:
            check_token(sender, "sender")
        check_timeout(timeout_s)
        task = self._tasks.current()
        found = self._find(senders)
        if found is not None:
            self._unread.remove(found)
        else:
            receiver = _Receiver(senders, self._waits.begin(task, OnMessage(senders=senders), timeout_s))
            self._receivers.append(receiver)
            try:
                await self._waits.rest(receiver.wait)
            except BaseException:
                if receiver.found is not None:  # cancelled on the way out: somebody else may have it
                    self._unread.appendleft(receiver.found)
                    receiver.found = None
                raise
            finally:
                self._receivers.remove(receiver)
                self._offer()
            found = receiver.found
            assert found is not None
        self._present.discard((found.sender, found.id))
        self._taken[found.sender, found.id] = None
        if len(self._taken) > REMEMBERED_MAX:
            self._taken.popitem(last=False)
        if self.tracing is not None:
            self.tracing.receive(found.sender, found.id, found.trace).end()
        self._outgoing.note(Taken, sender=found.sender, message=found.id, task=task.id)
        return Message(sender=found.sender, id=found.id, body=codec.decode_body(found.raw, type_))
