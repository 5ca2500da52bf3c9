"""Client: what an agent's author calls to take part in a run; the machinery behind it is wired in `membership`.

Waits that the supervisor should see as one wait are one call here: use `ask_all`, `ask_any` and `gather` rather than
`asyncio.gather` over several `ask`, which makes every one of them a task of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from crewkeeper_bus import codec
from crewkeeper_bus.activity import Activity
from crewkeeper_bus.calls import TOGETHER_MAX, Call
from crewkeeper_bus.credentials import Credentials, from_file
from crewkeeper_bus.errors import Timeout
from crewkeeper_bus.grants import Hold
from crewkeeper_bus.mailbox import Message
from crewkeeper_bus.membership import Membership
from crewkeeper_bus.messages import OnAll, OnCall, OnSome, OnTimer, Progress, Stop, Usage
from crewkeeper_bus.outgoing import clip, new_id
from crewkeeper_bus.serving import ANY_VERB, Handler
from crewkeeper_bus.settings import Settings, resolve
from crewkeeper_bus.subjects import check_token
from crewkeeper_bus.tool_verbs import ToolVerbs
from crewkeeper_bus.transport import Transport
from crewkeeper_bus.waits import check_timeout

Asked = tuple[str, Any] | tuple[str, Any, str]
"""One call of several: (to, body) or (to, body, verb)."""
_H = TypeVar("_H", bound=Handler)


class Client(ToolVerbs):
    """An agent's membership in a run: an async context manager, for one use; `connect` makes one.

    Every method that waits may raise `WouldDeadlock` (the supervisor broke the wait, or the call), `Killed` (this agent
    is being stopped), `Timeout` (the deadline, or the limit of waits without one, passed), `ConnectionLost` (the client
    is closed). Methods are for the event loop that entered it.
    """

    def __init__(self, settings: Settings, open_transport: Callable[[Settings], Awaitable[Transport]]) -> None:
        self._membership = Membership(settings, open_transport)

    async def __aenter__(self) -> "Client":
        await self._membership.join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave the run. `Killed` does not leave the block if the supervisor did stop this agent: that is an end."""
        return await self._membership.leave(kind, error, trace)

    # --- what it is ---

    @property
    def agent(self) -> str:
        """This agent's name."""
        return self._membership.settings.agent

    @property
    def run(self) -> str:
        """The run it belongs to."""
        return self._membership.settings.run

    @property
    def role(self) -> str:
        """Its role; its name where it has no other."""
        return self._membership.settings.role

    @property
    def incarnation(self) -> str:
        """A token made anew at every connect."""
        return self._membership.outgoing.inc

    @property
    def peers(self) -> tuple[str, ...]:
        """The agents of the run, as the supervisor named them when the crew was complete."""
        return self._membership.peers

    @property
    def is_connected(self) -> bool:
        """Whether a message would leave now; what is sent meanwhile is kept, within limits."""
        return self._membership.is_connected

    @property
    def is_stopped(self) -> bool:
        """Whether the supervisor has stopped this agent."""
        return self._membership.checkpoint.killed is not None

    @property
    def dropped(self) -> int:
        """How many incoming messages were dropped: malformed, from a stranger, or not expected."""
        return self._membership.dropped.total()

    # --- standing ---

    async def ready(self, timeout_s: float = 30.0) -> None:
        """Return when the supervisor says that the crew is complete.

        Raises:
            Timeout: It did not within `timeout_s`.
        """
        check_timeout(timeout_s)
        await self._membership.begun(timeout_s)

    async def checkpoint(self, *, wait: bool = True) -> None:
        """Hold here while the supervisor pauses this agent.

        Raises:
            Paused: It does, and `wait` is false.
            Killed: This agent is stopped.
        """
        await self._membership.checkpoint.hold(wait)

    async def run_forever(self) -> None:
        """Serve until the supervisor stops this agent.

        Raises:
            Killed: It did. Leaving the client's `async with` by it is a normal end.
        """
        self._membership.tasks.end_implicit()
        await self._membership.stopped()
        assert self._membership.checkpoint.killed is not None
        raise self._membership.checkpoint.killed

    def stop(self, why: str, *, grace_s: float = 5.0) -> None:
        """Stop this agent from within (a signal, say) as the supervisor would: `Killed`, then the end after the grace.

        Idempotent; the first stop counts.
        """
        self._membership.stop(Stop(id="", why=clip(why), grace_s=grace_s))

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when everything said so far has reached the server.

        Raises:
            Timeout: It did not within `timeout_s`.
            ConnectionLost: The server does not answer.
        """
        with anyio.move_on_after(timeout_s) as limit:
            await self._membership.flush()
        if limit.cancelled_caught:
            raise Timeout(f"what was said did not reach the server within {timeout_s:g} s", limit_s=timeout_s)

    # --- calls ---

    async def ask(
        self,
        to: str,
        body: Any = None,
        *,
        verb: str = "ask",
        timeout_s: float | None = None,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> Any:
        """Call an agent or a role, and wait for its answer.

        Args:
            to: Agent or role.
            body: Anything that becomes JSON.
            verb: Which of its handlers.
            timeout_s: Seconds after which the call is cancelled; the supervisor sees the deadline.
            type: What to decode the answer into; plain data if absent.

        Raises:
            Refused: The callee refused or its handler failed; `reason` has the code.
            PeerGone: There is no callee, or it went before it answered.
            Cancelled: The callee gave the call up.
            CodecError: The body cannot be sent, or the answer is not of `type`.
        """
        call = await self.call(to, body, verb=verb, timeout_s=timeout_s, type=type)
        return await call.answer(timeout_s)

    async def call(
        self,
        to: str,
        body: Any = None,
        *,
        verb: str = "ask",
        timeout_s: float | None = None,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> Call:
        """Make a call that nobody waits for yet; wait with `Call.answer`, or give it up with `Call.cancel`.

        It is cancelled when the task that made it fails or is cancelled. Raises as `ask` does for what can be sent.
        """
        await self._membership.checkpoint.hold()
        return self._membership.calls.make(to, body, verb, timeout_s, type)

    async def ask_all(
        self,
        asked: Sequence[Asked],
        *,
        timeout_s: float | None = None,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> list[Any]:
        """Make several calls and wait for all answers, which come in the order of the calls.

        Raises:
            BusError: As `ask`; the first failure fails it, and the other calls are cancelled.
            ValueError: More than 256 calls.
        """
        if not asked:
            return []
        calls = await self._join(asked, len(asked), timeout_s, type)
        return [call.value for call in calls]

    async def ask_any(
        self,
        asked: Sequence[Asked],
        *,
        timeout_s: float | None = None,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> tuple[str, Any]:
        """Make several calls and wait for the first good answer; the other calls are cancelled.

        Returns:
            Whom that call was made to, and the answer.

        Raises:
            BusError: As `ask`, if all of them failed.
            ValueError: No calls, or more than 256.
        """
        calls = await self._join(asked, 1, timeout_s, type)
        first = min((call for call in calls if call.is_good), key=lambda call: call.turn)
        return first.to, first.value

    async def gather(
        self,
        k: int,
        asked: Sequence[Asked],
        *,
        timeout_s: float | None = None,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> dict[int, Any]:
        """Make several calls and wait for `k` good answers; the other calls are cancelled.

        Returns:
            Exactly `k` answers, by the position of their call in `asked`.

        Raises:
            BusError: As `ask`, as soon as `k` cannot be reached.
            ValueError: `k` is not from 1 to the number of calls, or more than 256 calls.
        """
        calls = await self._join(asked, k, timeout_s, type)
        good = sorted((call for call in calls if call.is_good), key=lambda call: call.turn)[:k]
        return {index: call.value for index, call in enumerate(calls) if call in good}

    async def _join(self, asked: Sequence[Asked], k: int, timeout_s: float | None, type_: Any) -> list[Call]:
        if not 1 <= k <= len(asked) <= TOGETHER_MAX:
            raise ValueError(f"{k} answers of {len(asked)} calls: give 1 <= k <= calls <= {TOGETHER_MAX}")
        parts = self._membership
        await parts.checkpoint.hold()
        calls: list[Call] = []
        try:
            for to, body, *verb in asked:
                calls.append(parts.calls.make(to, body, verb[0] if verb else "ask", timeout_s, type_))
        except BaseException:
            for call in calls:
                parts.calls.cancel(call, "another call of the same wait could not be made")
            raise
        leaves = tuple(OnCall(call=call.id) for call in calls)
        await parts.calls.join(calls, k, OnAll(of=leaves) if k == len(leaves) else OnSome(k=k, of=leaves), timeout_s)
        return calls

    # --- one-way messages ---

    async def tell(self, to: str, body: Any = None) -> str:
        """Send a one-way message. Returns its id.

        Raises:
            CodecError: The body cannot be sent.
            Refused: This agent may send nothing to `to`.
        """
        parts = self._membership
        check_token(to, "agent")
        parts.calls.check_reach(to, tell=True)
        raw, id_ = codec.encode_body(body, parts.outgoing.body_limit_bytes), new_id()
        await parts.checkpoint.hold()
        parts.mailbox.send(to, id_, raw)
        return id_

    async def receive(
        self,
        from_: str | Sequence[str] | None = None,
        *,
        timeout_s: float | None = None,
        type: Any = Any,  # noqa: A002 - reads as in msgspec
    ) -> Message:
        """Take the oldest unread one-way message, or wait for one.

        Args:
            from_: Whose messages; None: anybody's.
            timeout_s: Declared deadline, seconds.
            type: What to decode the body into; plain data if absent.

        Raises:
            CodecError: The body is not of `type`; the message is taken all the same.
        """
        senders = () if from_ is None else (from_,) if isinstance(from_, str) else tuple(from_)
        await self._membership.checkpoint.hold()
        return await self._membership.mailbox.receive(senders, timeout_s, type)

    # --- resources, people, time ---

    def lock(self, name: str, *, mode: str = "x", timeout_s: float | None = None) -> Hold:
        """A lock that the supervisor grants, `async with crew.lock("report.md") as grant`.

        Args:
            name: Any text; agents that use the same text mean the same lock.
            mode: `x` exclusive, `s` shared.
            timeout_s: Declared deadline for getting it, seconds.

        Raises:
            ConfigError: Another mode, or no name.
        """
        return Hold(self._membership, name, mode, 1, 1, timeout_s)

    def semaphore(self, name: str, *, capacity: int, units: int = 1, timeout_s: float | None = None) -> Hold:
        """Units of a semaphore that the supervisor grants; the first request of a name fixes its capacity.

        Raises:
            ConfigError: Not 1 <= units <= capacity <= 1,000,000, or no name.
        """
        return Hold(self._membership, name, "x", units, capacity, timeout_s)

    async def ask_human(self, text: str, *, who: str = "operator", timeout_s: float | None = None) -> str:
        """Ask a person through the supervisor, and wait for the answer.

        Raises:
            CodecError: `text` is longer than 2000 characters.
            Refused: The supervisor refused to ask.
        """
        await self._membership.checkpoint.hold()
        return await self._membership.humans.ask(text, who, timeout_s)

    async def sleep(self, seconds: float) -> None:
        """Wait for time to pass, visibly."""
        check_timeout(seconds)
        parts = self._membership
        await parts.checkpoint.hold()
        wait = parts.waits.begin(parts.tasks.current(), OnTimer(after_s=seconds), None, limited=False)
        timer = asyncio.get_running_loop().call_later(seconds, parts.waits.finish, wait, "met")
        try:
            await parts.waits.rest(wait)
        finally:
            timer.cancel()

    # --- helpers of its own ---

    async def delegate(
        self, name: str, *, peers: Sequence[str] = (), tools: Sequence[str] = (), limit_s: float
    ) -> Credentials:
        """Let in a helper: an agent for a part of the current task, that may do no more than this one.

        It lives until the task ends, this agent leaves or is killed, or `limit_s` has passed, whichever comes first.

        Args:
            name: Its name, new in the crew.
            peers: Agents and roles it may send to; it may answer whoever calls it.
            tools: Tools it may use.
            limit_s: Seconds from now until its credentials end.

        Returns:
            What it logs in with: a secret, for it alone.

        Raises:
            Refused: It asks for more than this agent may do itself, or the name is taken.
            ConfigError: `limit_s` is out of range.
            SubjectError: A name is none.
            Timeout: No supervisor answered.
        """
        await self._membership.checkpoint.hold()
        return await self._membership.delegate(name, peers, tools, limit_s)

    # --- work ---

    def task(self, name: str = "") -> Activity:
        """A root activity, `async with crew.task("write report")`: waits for one of the agent's slots and holds it."""
        return Activity(self._membership, name)

    def serve(self, verb: str = "ask", *, type: Any = Any) -> Callable[[_H], _H]:  # noqa: A002 - as `ask`
        """Register the decorated coroutine function as the handler of a verb; `*` is any verb without its own.

        Register before `ready`: a call that comes later for a verb without handler is refused with `no_handler`.

        Args:
            verb: The verb, or `*`.
            type: What to decode bodies into; others are refused with `bad_request`.

        Raises:
            ValueError: The verb has a handler.
            SubjectError: It is not a name.
        """
        if verb != ANY_VERB:
            check_token(verb, "verb")

        def register(handler: _H) -> _H:
            self._membership.serving.register(verb, handler, type)
            return handler

        return register

    async def progress(self, text: str = "") -> None:
        """Tell the supervisor that the task got somewhere."""
        parts = self._membership
        await parts.outgoing.room()
        parts.outgoing.note(Progress, task=parts.tasks.current().id, text=clip(text))

    async def report_usage(
        self, *, model: str = "", input_tokens: int = 0, output_tokens: int = 0, cost_microusd: int = 0
    ) -> None:
        """Tell the supervisor what the task spent since its last report.

        Raises:
            CodecError: A figure is negative or beyond 2**53.
        """
        parts = self._membership
        await parts.outgoing.room()
        parts.outgoing.note(
            Usage,
            task=parts.tasks.current().id,
            model=clip(model, 200),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_microusd=cost_microusd,
        )


def connect(
    url: str | None = None,
    *,
    run: str | None = None,
    agent: str | None = None,
    role: str | None = None,
    user: str | None = None,
    password: str | None = None,
    credentials_file: str | Path | None = None,
    session_s: float | None = None,
    concurrency: int | None = None,
    reentrant: str | None = None,
    mailbox: int | None = None,
    heartbeat_s: float | None = None,
    limit_s: float | None = None,
    redact: str | None = None,
    transport: Transport | None = None,
) -> Client:
    """Make a client, to be entered with `async with`. What is not given comes from `CREWKEEPER_…` or its default.

    Args:
        url: The server, e.g. `nats://127.0.0.1:4222`.
        run: The run to join.
        agent: Under which name.
        role: Calls to this name go to one of the agents of the role; the agent's name if absent.
        user: Name for the server.
        password: Secret for the server.
        credentials_file: A JSON file with url, user, password and expires_at, read anew at every (re)connect.
        session_s: How long one connection may live where a supervisor decides about logins; no limit if absent.
        concurrency: How many handlers and activities may run at a time; 1 if absent.
        reentrant: `none`, `chain` (calls that descend from this agent's own pass the limit) or `full` (no limit).
        mailbox: How many calls, and how many messages, may wait; 1000 if absent.
        heartbeat_s: Seconds between heartbeats; 2 if absent.
        limit_s: Limit of waits without a timeout, seconds; 3600 if absent.
        redact: What is replaced in what is published, with commas; `secrets` if absent, `none` for nothing.
        transport: A ready transport instead of a server; the client closes it.

    Raises:
        ConfigError: Settings are missing or out of range; all of them are listed.
    """
    arguments = {key: value for key, value in locals().items() if key != "transport"}
    settings = resolve(arguments, needs_url=transport is None)

    async def ready_transport(_: Settings) -> Transport:
        assert transport is not None
        await anyio.lowlevel.checkpoint()
        return transport

    return Client(settings, _open_server if transport is None else ready_transport)


async def _open_server(settings: Settings) -> Transport:
    # Deferred, so that a client on a ready transport never imports nats.
    from crewkeeper_bus.nats_transport import NatsTransport

    path = settings.credentials_file
    return await NatsTransport.open(
        settings.url,
        user=settings.user,
        password=settings.password,
        session_s=settings.session_s,
        credentials=None if path is None else lambda: from_file(path),
        name=settings.agent,
    )
