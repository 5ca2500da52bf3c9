"""Membership: one incarnation of an agent in a run, from joining to leaving: its parts, what comes in, what it obeys.

What authors call is in `client`; every part keeps its own state and is handed the parts it needs here.
"""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Final, assert_never

import anyio
import anyio.abc
import structlog

from crewkeeper_bus import codec
from crewkeeper_bus.calls import Calls
from crewkeeper_bus.checkpoint import Checkpoint
from crewkeeper_bus.control import Control
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.delegation import Delegations
from crewkeeper_bus.errors import (
    BusError,
    Cancelled,
    CodecError,
    ConfigError,
    ConnectionLost,
    Killed,
    Refused,
    Repeated,
    SubjectError,
    Timeout,
    WouldDeadlock,
)
from crewkeeper_bus.grants import Grants
from crewkeeper_bus.heartbeat import Heartbeats
from crewkeeper_bus.humans import Humans
from crewkeeper_bus.mailbox import Mailbox
from crewkeeper_bus.messages import Begin, Break, Ctl, Granted, Joined, Left, Nudge, Pause, Probe, Resume, Stop
from crewkeeper_bus.nudges import Nudges
from crewkeeper_bus.outgoing import Outgoing, clip
from crewkeeper_bus.outgoing_redaction import OutgoingRedaction
from crewkeeper_bus.reach import Reach
from crewkeeper_bus.serving import Serving
from crewkeeper_bus.settings import Settings
from crewkeeper_bus.slots import Slots
from crewkeeper_bus.subjects import OUT, RECEIVED_KINDS, SUPERVISOR, Address, Kind, parse
from crewkeeper_bus.tasks import Tasks
from crewkeeper_bus.tool_calls import ToolCalls
from crewkeeper_bus.tracing import tracing_of
from crewkeeper_bus.transport import Transport
from crewkeeper_bus.waits import Waits

RENEW_S: Final = 10.0
"""How long a new login may take for which nothing waits."""
REFUSED_GRACE_S: Final = 1.0
"""How long code may go on once the server refuses the agent for good, before it is cancelled."""
LEAVE_LIMIT_S: Final = 5.0
"""How long leaving may take to get the last messages out."""
CLIENT: Final = "crewkeeper-python"

log = structlog.get_logger()


class Membership:
    """The parts of one incarnation, wired."""

    def __init__(self, settings: Settings, open_transport: Callable[[Settings], Awaitable[Transport]]) -> None:
        self.settings = settings
        self._open_transport = open_transport
        self._transport: Transport | None = None
        self._group: anyio.abc.TaskGroup | None = None
        redaction = OutgoingRedaction(settings.redact, settings.redact_key)
        self.outgoing = Outgoing(settings.run, settings.agent, settings.payload_bytes, redaction)
        self.tasks = Tasks(self.outgoing)
        self.slots = Slots(settings.concurrency)
        self.waits = Waits(self.outgoing, settings.limit_s)
        self.tasks.on_end.append(self.waits.leave)
        self.calls = Calls(self.outgoing, self.tasks, self.waits)
        self.checkpoint = Checkpoint(self.outgoing, self.tasks, self.slots)
        self.mailbox = Mailbox(self.outgoing, self.tasks, self.waits, settings.mailbox)
        self.grants = Grants(self.outgoing, self.tasks, self.waits)
        self.humans = Humans(self.outgoing, self.tasks, self.waits)
        self.tool_calls = ToolCalls(self.outgoing, self.tasks, self.waits, lambda: self.is_connected)
        self.delegations = Delegations(settings, self.outgoing, self.tasks)
        self.serving = Serving(
            self.outgoing,
            self.tasks,
            self.slots,
            self.calls,
            self.checkpoint,
            mailbox=settings.mailbox,
            reentrant=settings.reentrant,
        )
        self.heartbeats = Heartbeats(
            settings,
            self.outgoing,
            self.tasks,
            self.calls,
            self.serving,
            self.mailbox,
            self.grants,
            self.checkpoint,
        )
        self.tracing = tracing_of(settings.run, settings.agent)
        self.calls.tracing = self.serving.tracing = self.mailbox.tracing = self.tool_calls.tracing = self.tracing
        self.control = Control(self._obey)
        self.nudges = Nudges(self.outgoing)
        self.waits.on_change = self.checkpoint.look
        self.tasks.after_end = self.checkpoint.look
        self.dropped: Counter[str] = Counter()
        self.peers: tuple[str, ...] = ()
        self._begun = anyio.Event()
        self._stopped = anyio.Event()
        self._grace_s = 0.0
        self._left = anyio.Event()

    async def publish_raw(self, subject: str, payload: bytes) -> None:
        """Publish past every check of the client, and wait until the server has seen it; for agents that test others.

        Raises:
            ConnectionLost: There is no connection, or the server did not answer in time.
        """
        if self._transport is None:
            raise ConnectionLost("not connected: nothing can be published yet")
        await self._transport.publish(subject, payload)
        await self._transport.barrier()

    @property
    def is_connected(self) -> bool:
        """Whether a message would leave now."""
        return self._transport is not None and self._transport.is_connected

    # --- joining and leaving ---

    async def join(self) -> None:
        """Connect, subscribe, and say so.

        Raises:
            ConnectionLost: No server, or it refused the credentials.
        """
        assert self._group is None, "a client joins once: connect again"
        _name_event_loop()
        transport = await self._open_transport(self.settings)
        group = anyio.create_task_group()
        await group.__aenter__()
        try:
            self._transport = transport
            self.outgoing.attach(transport)
            # The first number is taken before anything can come in; nothing is written before subscriptions are live.
            self._announce()
            self.serving.open(group)
            self._group = group
            await self._subscribe(transport)
            await transport.barrier()
        except BaseException:
            self.outgoing.close()
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)  # nothing runs in it yet
            with anyio.move_on_after(LEAVE_LIMIT_S, shield=True):
                await transport.close()
            raise
        transport.on_change(self._connection_changed)
        transport.on_end(self._connection_ended)
        group.start_soon(self.outgoing.write, name="outgoing")
        group.start_soon(self._beat, name="heartbeat")

    def _announce(self) -> None:
        settings = self.settings
        self.outgoing.note(
            Joined,
            role=settings.role,
            concurrency=settings.concurrency,
            reentrant=settings.reentrant,
            mailbox=settings.mailbox,
            heartbeat_s=settings.heartbeat_s,
            pid=os.getpid(),
            client=CLIENT,
        )

    async def _subscribe(self, transport: Transport) -> None:
        run, agent, role = self.settings.run, self.settings.agent, self.settings.role
        for kind in RECEIVED_KINDS:
            await transport.subscribe(f"{OUT}.crew.{run}.{kind}.*.{agent}.*", self.deliver)
        if role != agent:
            await transport.subscribe(f"{OUT}.crew.{run}.{Kind.REQ}.*.{role}.*", self.deliver, role)

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End everything that is open, say so, and disconnect. Returns whether `error` is dealt with."""
        assert self._group is not None
        assert self._transport is not None
        killed = self.checkpoint.killed
        # The text of a cancellation tells of this process's insides.
        why = str(killed or ("" if isinstance(error, asyncio.CancelledError) else error) or "")
        self.serving.refuse_queued(f"{self.settings.agent} has left the run")
        self.slots.close()
        if killed is None:
            leaving = Cancelled(f"{self.settings.agent} leaves run {self.settings.run}")
            self.waits.fail_all(leaving)
            self.delegations.fail_all(leaving)
        self._left.set()
        self._group.cancel_scope.cancel()
        try:
            # Only a cancellation may be the group's own; any other error is the author's and stays as it is.
            own = (kind, error, trace) if isinstance(error, asyncio.CancelledError) else (None, None, None)
            handled = bool(await self._group.__aexit__(*own))
        finally:
            self.calls.cancel_all("the agent leaves")
            for task in list(self.tasks.alive.values()):
                self.tasks.end(task)
            self.outgoing.note(Left, why=clip(why), done=error is None and killed is None)
            self.outgoing.close()
            with anyio.move_on_after(LEAVE_LIMIT_S, shield=True) as limit:
                if not isinstance(self.checkpoint.killed, Refused):  # else nothing reaches the server any more
                    await self.outgoing.flush()
                    await self._settle_wire(self._transport)
            if limit.cancelled_caught:
                log.warning("bus.left_late", agent=self.settings.agent, limit_s=LEAVE_LIMIT_S)
            with anyio.move_on_after(LEAVE_LIMIT_S, shield=True):
                await self._transport.close()
        # The group calls its own cancellation dealt with whatever the block ended by; the author's error must get out.
        own_end = handled and isinstance(error, asyncio.CancelledError)
        if isinstance(killed, Refused) and (own_end or isinstance(error, Killed) or error is None):
            raise killed
        return own_end or (isinstance(error, Killed) and killed is not None)

    @staticmethod
    async def _settle_wire(transport: Transport) -> None:
        try:
            await transport.barrier()
        except BusError as error:
            log.warning("bus.left_unsure", error=str(error))

    # --- what goes on by itself ---

    async def _beat(self) -> None:
        while True:
            self.beat()
            await anyio.sleep(self.settings.heartbeat_s)

    def beat(self, nonce: str = "") -> None:
        """Send a heartbeat, if it fits into a message."""
        if self.outgoing.is_full and not nonce:
            return  # the connection is gone for long; the next one comes at its return
        try:
            self.heartbeats.beat(nonce)
        except CodecError as error:
            log.warning("bus.heartbeat_too_large", agent=self.settings.agent, error=str(error))

    def _connection_changed(self, connected: bool) -> None:
        log.info("bus.connection", agent=self.settings.agent, connected=connected)
        if connected and not self.outgoing.is_closed:
            self.beat()
            self.tool_calls.connected()

    async def begun(self, timeout_s: float) -> None:
        """Return when the supervisor says that the crew is complete. Raises Timeout or Killed."""
        with anyio.move_on_after(timeout_s):
            await self._begun.wait()
        if self.checkpoint.killed is not None:
            raise self.checkpoint.killed
        if not self._begun.is_set():
            raise Timeout(
                f"the supervisor did not say within {timeout_s:g} s that the crew is complete: is it running, and are "
                f"all agents of run {self.settings.run} started?",
                limit_s=timeout_s,
            )

    async def stopped(self) -> None:
        """Return when the supervisor has stopped this agent and its handlers are done, or had their chance."""
        await self._stopped.wait()
        with anyio.move_on_after(self._grace_s):
            await self.serving.quiet()

    # --- what comes in ---

    def deliver(self, subject: str, payload: bytes) -> None:
        """Take one message from the bus; whatever it is, nothing is raised for it."""
        if self.outgoing.is_closed:
            return
        try:
            address = parse(subject)
            theirs = address.sender == SUPERVISOR
            if (address.kind is Kind.CTL) > theirs:
                self._drop("stranger", subject)
                return
            if theirs:
                message = codec.decode_supervisor(address.kind, payload)
            else:
                message = codec.decode_agent(address.kind, payload, self.settings.payload_bytes)
        except (SubjectError, CodecError) as error:
            self._drop("malformed", subject, str(error))
            return
        if not self._take(address, message):
            strange = address.kind in (Kind.REP, Kind.PROG) and self.calls.is_strange(address.sender, address.id)
            self._drop("stranger" if strange else "unexpected", subject)

    def _take(self, address: Address, message: Any) -> bool:
        """Give a decoded message to the part it is for. False: that part has no use for it."""
        sender, id_ = address.sender, address.id
        match address.kind:
            case Kind.REQ:
                return self.serving.accept(sender, id_, message, by_role=address.to != self.settings.agent)
            case Kind.REP:
                ours = (self.humans, self.delegations, self.tool_calls)
                if sender == SUPERVISOR and any(part.accept(id_, message) for part in ours):
                    return True
                return self.calls.accept(sender, id_, message)
            case Kind.MSG:
                return self.mailbox.accept(sender, id_, message)
            case Kind.PROG:
                return self.calls.accept_progress(sender, id_, message.text)
            case Kind.CANCEL:
                return self.serving.cancel(message.caller if sender == SUPERVISOR else sender, id_)
            case Kind.CTL:
                return self.control.accept(message)
            case _:
                return False

    def _drop(self, why: str, subject: str, detail: str = "") -> None:
        self.dropped[why] += 1
        # What is not expected is mostly an answer that comes too late: ordinary.
        tell = log.debug if why == "unexpected" else log.warning
        tell("bus.dropped", agent=self.settings.agent, why=why, subject=subject[:200], detail=detail[:200])

    def _obey(self, command: Ctl) -> bool:
        """Obey a command. False: what it is about is over."""
        match command:
            case Begin():
                self.peers = command.peers
                self.calls.replicas = command.replicas
                self.calls.reach = Reach(command.may_call, command.may_tell)
                self.serving.begin()
                self._begun.set()
            case Break():
                return self._break(command)
            case Probe():
                self.beat(command.nonce)
            case Pause():
                self.checkpoint.pause(command.why)
            case Resume():
                self.checkpoint.resume()
                self.serving.resume()
            case Stop():
                self.stop(command)
            case Granted():
                return self.grants.accept(command)
            case Nudge():
                self.nudges.accept(command)
            case _:
                assert_never(command)
        return True

    def _break(self, command: Break) -> bool:
        wait = self.waits.open.get(command.epoch)
        if wait is None or wait.task.id != command.task:
            return False
        error: BusError = WouldDeadlock(
            command.why, path=command.path, finding=command.finding, retry_after_s=command.retry_after_s
        )
        if command.code == "repeated":
            error = Repeated(command.why, finding=command.finding)
        return self.waits.finish(wait, "broken", error)

    async def delegate(self, name: str, peers: Sequence[str], tools: Sequence[str], limit_s: float) -> Credentials:
        """Let in a helper; raises as `Client.delegate`."""
        given = await self.delegations.ask(name, peers, tools, limit_s)
        if self.calls.reach.is_narrow:
            await self._reach(name)
        return given

    async def _reach(self, name: str) -> None:
        """Where this agent may address few, the server lets it address a new helper, too, from its next login on."""
        assert self._transport is not None
        with anyio.move_on_after(RENEW_S):
            try:
                await self._transport.renew()
            except (ConfigError, ConnectionLost) as error:
                log.warning("bus.helper_not_reached", agent=self.settings.agent, helper=name, reason=str(error)[:200])
        self.calls.reach.add(name)

    async def flush(self) -> None:
        """Return when all that was said is at the server. Raises ConnectionLost; the caller sets a limit."""
        assert self._transport is not None
        await self.outgoing.drained()
        await self._transport.barrier()

    def stop(self, command: Stop) -> None:
        """Fail every wait with `Killed`, and cancel after the grace what did not end by itself. Idempotent."""
        if self.checkpoint.killed is not None:
            return
        error = Killed(f"the supervisor stopped this agent: {command.why or 'no reason given'}")
        self._end_all(error, command.grace_s, "the supervisor stopped this agent")

    def _connection_ended(self, error: Refused) -> None:
        """The server takes this agent no more: whatever waits here can never be answered."""
        if self.checkpoint.killed is None:
            self._end_all(error, REFUSED_GRACE_S, "the server refuses this agent")
        else:
            self.checkpoint.kill(error)

    def _end_all(self, error: BusError, grace_s: float, why: str) -> None:
        assert self._group is not None
        self._grace_s = grace_s
        self.checkpoint.kill(error)
        self.serving.refuse_queued(why)
        self.slots.close()
        self.waits.fail_all(error)
        self.delegations.fail_all(error)
        self._begun.set()
        self._stopped.set()
        self._group.start_soon(self._end_after_grace, name="stop")

    async def _end_after_grace(self) -> None:
        """Cancel what did not end by itself: handlers, and the author's code inside the client."""
        assert self._group is not None
        with anyio.move_on_after(self._grace_s):
            await self._left.wait()
        self._group.cancel_scope.cancel()


def _name_event_loop() -> None:
    """Let anyio know its event loop in callbacks of the loop, too: where sniffio is installed, it asks that alone."""
    with contextlib.suppress(ImportError):
        import_module("sniffio").current_async_library_cvar.set("asyncio")
