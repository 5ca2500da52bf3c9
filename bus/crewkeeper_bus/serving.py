"""Serving: calls that came in, their queue, and the handlers that answer them."""

import contextlib
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.abc
import structlog

from crewkeeper_bus import codec
from crewkeeper_bus.calls import Calls, fault_of
from crewkeeper_bus.checkpoint import Checkpoint
from crewkeeper_bus.errors import BusError, CodecError
from crewkeeper_bus.messages import CallProgress, Fault, Reply
from crewkeeper_bus.messages import Request as WireRequest
from crewkeeper_bus.outgoing import Outgoing, clip
from crewkeeper_bus.slots import Claim, Slots
from crewkeeper_bus.subjects import Kind
from crewkeeper_bus.tasks import Task, Tasks
from crewkeeper_bus.tracing import Span, Tracing

log = structlog.get_logger()

Handler = Callable[["Request"], Awaitable[Any]]
ANY_VERB: Final = "*"
REMEMBERED_MAX: Final = 10_000
"""Ids of past calls that are kept, so that a call delivered twice runs once."""


class Request:
    """A call as its handler sees it.

    Attributes:
        body: What the caller sent.
        sender: Who called; true, the server fixes it.
        id: The call id.
        verb: What the caller asked for.
        chain: Calls it descends from, outermost first.
        deadline_s: Seconds from its sending after which the caller gives up, if it said so.
    """

    def __init__(self, serving: "Serving", sender: str, id_: str, wire: WireRequest) -> None:
        self._serving = serving
        self.sender = sender
        self.id = id_
        self.verb = wire.verb
        self.chain = wire.chain
        self.deadline_s = wire.deadline_s
        self.trace = wire.trace
        self.body: Any = None
        self.raw = wire.body.copy()
        self.task: Task | None = None
        self.scope = anyio.CancelScope()
        self.claim: Claim | None = None
        self.has_slot = False
        self.is_answered = False
        self.is_early = False
        self.is_cancelled = False

    async def progress(self, text: str) -> None:
        """Tell the caller how far the work is; nothing happens once it is answered."""
        await self._serving.outgoing.room()
        if not self.is_answered:
            self._serving.outgoing.send(Kind.PROG, self.sender, self.id, CallProgress, text=clip(text))

    async def reply(self, value: Any = None) -> None:
        """Answer now and go on working; the handler's return value is ignored then.

        Raises:
            CodecError: The value cannot be sent.
            RuntimeError: It is answered already.
        """
        await self._serving.outgoing.room()
        if self.is_answered:
            raise RuntimeError(f"call {self.id} is answered already")
        self._serving.answer(self, value, early=True)


class Serving:
    """The calls of one incarnation that are queued or being worked on."""

    def __init__(
        self,
        outgoing: Outgoing,
        tasks: Tasks,
        slots: Slots,
        calls: Calls,
        checkpoint: Checkpoint,
        *,
        mailbox: int,
        reentrant: str,
    ) -> None:
        self.outgoing = outgoing
        self._tasks = tasks
        self._slots = slots
        self._calls = calls
        self._checkpoint = checkpoint
        self._mailbox = mailbox
        self._reentrant = reentrant
        self.tracing: Tracing | None = None
        self._handlers: dict[str, tuple[Handler, Any]] = {}
        self._queued: dict[str, Request] = {}
        self._running: dict[str, Request] = {}
        self._past: OrderedDict[str, None] = OrderedDict()
        self._group: anyio.abc.TaskGroup | None = None
        self._complete = False
        self._leaving = False
        self._quiet = anyio.Event()

    def register(self, verb: str, handler: Handler, type_: Any) -> None:
        """Say who answers calls with `verb`.

        Raises:
            ValueError: Somebody does already.
        """
        if verb in self._handlers:
            raise ValueError(f"verb {verb!r} has a handler already: {self._handlers[verb][0]!r}")
        self._handlers[verb] = (handler, type_)
        self._admit_waiting()

    def open(self, group: anyio.abc.TaskGroup) -> None:
        """Run handlers in `group` from now on."""
        self._group = group

    def begin(self) -> None:
        """The crew is complete: from now on a call without a handler is refused instead of kept."""
        self._complete = True
        self._admit_waiting()

    def queued(self) -> tuple[str, ...]:
        """Ids of calls received and not started, oldest first."""
        return tuple(self._queued)

    def accept(self, sender: str, id_: str, wire: WireRequest, *, by_role: bool = False) -> bool:
        """Take in a call: start, queue or refuse it. False: it was here before.

        A call that came by the role is acknowledged with an empty progress, so that the caller knows whom to tell if
        it gives the call up: what is addressed to a role, other than calls, reaches nobody.
        """
        if id_ in self._past:
            return False
        self._past[id_] = None
        if len(self._past) > REMEMBERED_MAX:
            self._past.popitem(last=False)
        request = Request(self, sender, id_, wire)
        if self._leaving:
            self._refuse(request, "peer_gone", "this agent is leaving")
            return True
        if by_role:
            self.outgoing.send(Kind.PROG, sender, id_, CallProgress)
        self._queued[id_] = request
        self._admit(request)
        if id_ in self._queued and len(self._queued) > self._mailbox:
            self._drop(request)
            self._refuse(request, "queue_full", f"{self._mailbox} calls wait already: ask again later")
        return True

    def _admit(self, request: Request) -> None:
        """Start a queued request, or line it up for a slot, or leave it until it can be decided."""
        if request.claim is not None or (not self._complete and self._handler(request.verb) is None):
            return
        if not self._needs_slot(request):
            if not self._checkpoint.must_hold():
                if self._reentrant == "chain":
                    self._slots.force()
                    request.has_slot = True
                self._start(request)
            return

        def start() -> None:
            request.has_slot = True
            self._start(request)

        request.claim = Claim(start)
        self._slots.enter(request.claim)

    def _needs_slot(self, request: Request) -> bool:
        if self._reentrant == "chain":  # it is, or descends from, a call that one of our tasks made and waits for
            return not any(call in self._calls.open for call in (*request.chain, request.id))
        return self._reentrant == "none"

    def _admit_waiting(self) -> None:
        for request in list(self._queued.values()):
            self._admit(request)

    def resume(self) -> None:
        """Start what a pause held back and needs no free slot."""
        self._admit_waiting()

    def _handler(self, verb: str) -> tuple[Handler, Any] | None:
        return self._handlers.get(verb) or self._handlers.get(ANY_VERB)

    def _drop(self, request: Request) -> None:
        del self._queued[request.id]
        if request.claim is not None:
            self._slots.withdraw(request.claim)

    def cancel(self, sender: str, id_: str) -> bool:
        """The caller gives a call up. False: there is no such call of that caller."""
        queued = self._queued.get(id_)
        if queued is not None and queued.sender == sender:
            self._drop(queued)
            return True
        running = self._running.get(id_)
        if running is None or running.sender != sender:
            return False
        if not running.is_answered:
            running.is_cancelled = True
            running.scope.cancel()
        return True

    def _start(self, request: Request) -> None:
        """Begin to work on a request whose slot, if it needs one, is taken."""
        assert self._group is not None
        del self._queued[request.id]
        self._running[request.id] = request
        task = self._tasks.begin_handler(request.id, request.sender, request.chain)
        request.task = task
        self._group.start_soon(self._run, request, task, name=f"handler {request.verb} {request.id}")

    async def _run(self, request: Request, task: Task) -> None:
        failed = True
        try:
            self._tasks.bind(task)
            with request.scope, self._span(request) as span:
                failed = not await self._handle(request)
                if failed and span is not None:
                    span.fail("handler_failed")
        finally:
            self._settle(request, task, failed)

    def _span(self, request: Request) -> contextlib.AbstractContextManager[Span | None]:
        """What the handler does, as part of what its caller does."""
        if self.tracing is None:
            return contextlib.nullcontext()
        about = {"agent_name": self.tracing.agent, "call": request.id, "verb": request.verb}
        return self.tracing.work(self.tracing.agent, request.trace, messaging="nats", **about)

    async def _handle(self, request: Request) -> bool:
        """Run the handler and answer. Returns whether all went well."""
        found = self._handler(request.verb)
        if found is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            self._refuse(request, "no_handler", f"no handler for verb {request.verb!r}; there are: {known}")
            return True
        handler, type_ = found
        try:
            request.body = codec.decode_body(request.raw, type_)
        except CodecError as error:
            self._refuse(request, "bad_request", str(error))
            return True
        try:
            value = await handler(request)
            if not request.is_answered and not request.is_cancelled:
                self.answer(request, value)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its caller's answer
            # As text: a renderer that shows local variables would show bodies.
            trace = "" if isinstance(error, BusError) else "".join(traceback.format_exception(error, limit=-8))
            kind = type(error).__name__
            log.warning("bus.handler_failed", call=request.id, verb=request.verb, error=kind, trace=trace)
            if not request.is_answered and not request.is_cancelled:
                self._send_fault(request, fault_of(error))
            return False
        return True

    def answer(self, request: Request, value: Any, *, early: bool = False) -> None:
        """Send the answer to a call. Raises CodecError if it cannot be sent."""
        body = codec.encode_body(value, self.outgoing.body_limit_bytes)
        self.outgoing.send(Kind.REP, request.sender, request.id, Reply, body=body, early=early)
        request.is_answered = True
        if early and request.task is not None:
            request.is_early = True
            request.task.call = ""
            request.task.caller = ""

    def _refuse(self, request: Request, code: str, text: str) -> None:
        self._send_fault(request, Fault(code=code, text=clip(text)))

    def _send_fault(self, request: Request, fault: Fault) -> None:
        if not self.outgoing.is_closed:
            self.outgoing.send(Kind.REP, request.sender, request.id, Reply, error=fault)
        request.is_answered = True

    def _settle(self, request: Request, task: Task, failed: bool) -> None:
        """End the task of a handler that is over, in the same step as its answer."""
        del self._running[request.id]
        if not request.is_answered and not request.is_cancelled:  # cancelled from this side
            code = "peer_gone" if self._leaving else "cancelled"
            self._refuse(request, code, "the handler was cancelled before it answered")
        ended_by_reply = request.is_answered and not request.is_early
        self._tasks.end(task, announce=not ended_by_reply, failed=failed)
        if request.has_slot:
            self._slots.release()
        if not self._running:
            self._quiet.set()

    def refuse_queued(self, text: str) -> None:
        """Answer every call that has not been started, and all that still come: this agent goes."""
        self._leaving = True
        for request in list(self._queued.values()):
            self._drop(request)
            self._refuse(request, "peer_gone", text)

    async def quiet(self) -> None:
        """Return when no handler runs. The caller sets the limit."""
        while self._running:
            self._quiet = anyio.Event()
            await self._quiet.wait()

    def cancel_all(self) -> None:
        """Cancel every handler that runs."""
        for request in self._running.values():
            request.scope.cancel()
