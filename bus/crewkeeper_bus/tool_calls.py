"""Tool calls: what this agent asked the gate and has no final answer for; what is allowed is decided at the gate.

Theory of operation. A call is known by its id, which its caller may choose. The same id is the same call, however often
it is said: the gate answers it alike and runs and charges it once. So while an answer is awaited the call is simply
said again, less and less often, and neither a lost message nor a controller that is away for a while is noticed by the
caller. A wait that ends early says so (`CallGivenUp`), unless it ended by its own deadline: then it may be resumed.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from crewkeeper_bus import codec
from crewkeeper_bus.calls import error_of
from crewkeeper_bus.errors import (
    ApprovalDenied,
    ApprovalExpired,
    BadArguments,
    BudgetSpent,
    BusError,
    CodecError,
    ConnectionLost,
    GateClosed,
    PayloadTooLarge,
    Pending,
    PolicyDenied,
    Refused,
    Timeout,
    ToolFailed,
    ToolLost,
    ToolRefused,
    ToolTimeout,
    UnknownTool,
)
from crewkeeper_bus.messages import Fault, OnTool, Sent, SupervisorReply
from crewkeeper_bus.outgoing import Outgoing, clip, new_id
from crewkeeper_bus.subjects import SUPERVISOR, Kind, check_token
from crewkeeper_bus.tasks import Tasks
from crewkeeper_bus.tool_messages import CallGivenUp, ModelCall, Proposed, Survey, ToolCall
from crewkeeper_bus.tracing import Tracing, current
from crewkeeper_bus.waits import Wait, Waits, check_timeout, outcome_of

OPEN_MAX: Final = 1000
"""Calls that may wait for the gate at once."""
AGAIN_S: Final = 2.0
"""How long an answer is waited for before the call is said again; twice as long after each time."""
AGAIN_MAX_S: Final = 30.0
TAKEN_MAX: Final = 2000
TOOL_MAX_CHARS: Final = 200
"""What is sent of a name: no tool has a longer one."""
TARGET_MAX_CHARS: Final = 2000
"""The same, of names of resources and prompts, which rules match as a whole."""
SURVEYED_MAX_CHARS: Final = 500
PROPOSED_MAX: Final = 128
ENVELOPE_BYTES: Final = 4096
"""What a message needs around the arguments."""

_ERRORS: Final[dict[str, type[ToolRefused]]] = {
    "unknown_tool": UnknownTool,
    "bad_arguments": BadArguments,
    "too_large": BadArguments,
    "denied": PolicyDenied,
    "budget_spent": BudgetSpent,
    "approval_denied": ApprovalDenied,
    "approval_expired": ApprovalExpired,
    "tool_failed": ToolFailed,
    "tool_timeout": ToolTimeout,
    "tool_lost": ToolLost,
    "gate_closed": GateClosed,
}
_OURS: Final = ("would_deadlock", "peer_gone")
"""Codes that mean here what they mean everywhere."""


def refusal_of(fault: Fault, tool: str, call: str) -> BusError:
    """The error to raise for what the gate said of a call."""
    if fault.code in _OURS:
        return error_of(fault, SUPERVISOR)
    kind = _ERRORS.get(fault.code, ToolRefused)
    return kind(fault.text or f"{tool}: {fault.code}", reason=fault.code, tool=tool, call=call)


def encode_args(args: Any, limit_bytes: int) -> tuple[Raw, Fault | None]:
    """Arguments as they are sent, and why they are not if they are no JSON, nested too deep, or too large."""
    try:
        return codec.encode_body({} if args is None else args, limit_bytes - ENVELOPE_BYTES), None
    except CodecError as error:
        code = "too_large" if isinstance(error, PayloadTooLarge) else "bad_arguments"
        return Raw(b"{}"), Fault(code=code, text=clip(f"the arguments were not sent: {error}"))


class _Asked:
    """One call and everybody here who waits for its answer."""

    __slots__ = ("approval", "delay_s", "patient", "reply", "say", "timer", "tool", "what", "why")

    def __init__(self, tool: str, what: tuple[Any, ...], say: Callable[[], None]) -> None:
        self.tool = tool
        self.what = what
        """What is asked for: the same for everybody who gives its id."""
        self.say = say
        self.patient: dict[int, tuple[Wait, bool]] = {}
        """Open waits by epoch, and whether they last until a person has decided."""
        self.approval = ""
        self.why = ""
        """Why it has to wait, where that is not for a person to approve it."""
        self.reply: SupervisorReply | None = None
        self.delay_s = AGAIN_S
        self.timer: asyncio.TimerHandle | None = None


class ToolCalls:
    """The calls of one incarnation that have no final answer, by call id."""

    def __init__(self, outgoing: Outgoing, tasks: Tasks, waits: Waits, can_send: Callable[[], bool]) -> None:
        self._outgoing = outgoing
        self._tasks = tasks
        self._waits = waits
        self._can_send = can_send
        self.tracing: Tracing | None = None
        self._open: dict[str, _Asked] = {}
        self._taken: OrderedDict[str, None] = OrderedDict()
        """Ids of the answers that were taken of late: each comes twice, and is taken once."""

    async def call(
        self,
        tool: str,
        args: Any,
        call_id: str | None,
        limit_s: float | None,
        *,
        wait: bool,
        inside: bool = False,
        kind: str = "tool",
    ) -> Raw:
        """Ask for a tool and wait for what came of it; raises as `Client.call_tool`."""
        call = new_id() if call_id is None else check_token(call_id, "call id")
        if kind != "tool" and len(tool) > TARGET_MAX_CHARS:  # rules judge the whole name, or nothing
            text = f"the name of the {kind} has {len(tool)} characters; at most {TARGET_MAX_CHARS} can be judged"
            raise BadArguments(text, reason="too_large", tool=clip(tool, TOOL_MAX_CHARS), call=call)
        name = _sendable(tool, TOOL_MAX_CHARS if kind == "tool" else TARGET_MAX_CHARS)
        raw, unsent = encode_args(args, self._outgoing.body_limit_bytes)
        fields: dict[str, Any] = {"tool": name, "args": raw, "inside": inside, "what": kind, "deadline_s": limit_s}
        if unsent is not None:
            fields["unsent"] = unsent
        return await self._ask(call, name, ToolCall, fields, limit_s, wait=wait)

    async def model(self, call_id: str | None, limit_s: float | None, **fields: Any) -> tuple[str, Raw]:
        """Ask for a model call that this agent makes itself; (call id, what was granted)."""
        call = new_id() if call_id is None else check_token(call_id, "call id")
        fields["model"] = model = _sendable(fields["model"])
        return call, await self._ask(call, model, ModelCall, fields, limit_s, wait=True)

    async def survey(self, names: Sequence[str], kind: str, limit_s: float) -> list[str]:
        """Those of the names that no call could be made of; raises as `Client.never_callable`.

        A name that is too long to be sent whole is one of them.
        """
        never = [name for name in names if len(name) > SURVEYED_MAX_CHARS]
        sent = [name for name in names if len(name) <= SURVEYED_MAX_CHARS]
        for begin in range(0, len(sent), PROPOSED_MAX):
            page = sent[begin : begin + PROPOSED_MAX]
            shown = tuple(_sendable(name, SURVEYED_MAX_CHARS) for name in page)
            raw = await self._ask(new_id(), kind, Survey, {"names": shown, "what": kind}, limit_s, wait=False)
            told = codec.decode_body(raw, dict[str, tuple[int, ...]]).get("never", ())
            never += [page[place] for place in told if 0 <= place < len(page)]
        return never

    def propose(self, tools: tuple[str, ...], unsafe: str = "") -> None:
        """Say which tools a model wants to call, or why nobody may call them."""
        task = self._tasks.current().id
        for begin in range(0, len(tools), PROPOSED_MAX):
            names = tuple(_sendable(tool) for tool in tools[begin : begin + PROPOSED_MAX])
            self._outgoing.send(Kind.TOOL, SUPERVISOR, new_id(), Proposed, task=task, tools=names, unsafe=clip(unsafe))

    @staticmethod
    def fresh_id() -> str:
        """An id for a call whose caller gave none."""
        return new_id()

    def say(self, call: str, type_: type[Sent], **fields: Any) -> None:
        """Say something about a call, if anything can be said any more."""
        if not self._outgoing.is_closed:
            self._outgoing.send(Kind.TOOL, SUPERVISOR, call, type_, **fields)

    async def _ask(
        self, call: str, tool: str, type_: type[Sent], fields: dict[str, Any], limit_s: float | None, *, wait: bool
    ) -> Raw:
        check_timeout(limit_s)
        if len(self._open) >= OPEN_MAX and call not in self._open:
            raise Refused(f"{OPEN_MAX} calls wait for the gate, the most there may: wait for some", reason="too_many")
        task = self._tasks.current()
        here = current() if self.tracing is None else self.tracing.here()
        about = {"trace": here} if here and type_ is not Survey else {}

        def say() -> None:
            self._outgoing.send(Kind.TOOL, SUPERVISOR, call, type_, task=task.id, **about, **fields)

        what = (type_, *(_plain(value) for key, value in fields.items() if key != "deadline_s"))
        asked = self._open.get(call) or _Asked(tool, what, say)
        if asked.what != what:
            text = f"call id {call} is open for another call, of {asked.tool}: give this one its own"
            raise ToolRefused(text, reason="call_id_reused", tool=tool, call=call)
        say()
        self._open[call] = asked
        if asked.timer is None:
            self._schedule(asked)
        open_wait: Wait | None = None
        try:
            open_wait = self._waits.begin(task, OnTool(call=call, tool=tool), limit_s)
            asked.patient[open_wait.epoch] = (open_wait, wait)
            if asked.approval and not wait:
                self._waits.finish(open_wait, "met")
            await self._waits.rest(open_wait)
        except Timeout as late:
            raise self._late(asked, call, late) from None
        finally:
            if open_wait is not None:
                asked.patient.pop(open_wait.epoch, None)
            self._leave(asked, call, open_wait)
        if asked.reply is None:
            raise self._pending(asked, call)
        return Raw(b"null") if asked.reply.body is msgspec.UNSET else asked.reply.body

    def _pending(self, asked: _Asked, call: str) -> Pending:
        waits = f"has to wait ({asked.why})" if asked.why else f"waits for a person to approve it ({asked.approval})"
        return Pending(
            f"{asked.tool} {waits}; it has not run. Ask again under call id {call} to hear what was decided.",
            approval=asked.approval,
            tool=asked.tool,
            call=call,
        )

    def _late(self, asked: _Asked, call: str, late: Timeout) -> BusError:
        if asked.approval:
            return self._pending(asked, call)
        text = (
            f"{asked.tool}: no answer within {late.limit_s:g} s; it may run or have run: ask again under call id {call}"
        )
        return Timeout(text, limit_s=late.limit_s)

    def _leave(self, asked: _Asked, call: str, wait: Wait | None) -> None:
        """Somebody waits no more; the last one ends the repetition, and gives the call up unless it may be resumed."""
        if asked.patient:
            return
        if asked.timer is not None:
            asked.timer.cancel()
        if self._open.get(call) is asked:
            del self._open[call]
        if asked.reply is None and wait is not None and wait.outcome not in ("met", "timeout"):
            self.say(call, CallGivenUp, why=clip(f"the wait for it ended: {wait.outcome}"))

    # --- what comes in, and what is said again ---

    def accept(self, id_: str, reply: SupervisorReply) -> bool:
        """Take an answer of the gate. False: nobody waits for that call."""
        if reply.id in self._taken:
            return True  # its copy by way of the journal
        asked = self._open.get(id_)
        if asked is None or reply.inc not in ("", self._outgoing.inc):
            return False  # answered already, or granted to an earlier incarnation, which may have acted upon it
        self._taken[reply.id] = None
        if len(self._taken) > TAKEN_MAX:
            self._taken.popitem(last=False)
        if not reply.final:
            return self._take_pending(asked, reply)
        del self._open[id_]
        asked.reply = reply
        error = None if reply.error is None else refusal_of(reply.error, asked.tool, id_)
        for wait, _ in list(asked.patient.values()):
            self._waits.finish(wait, "met" if error is None else outcome_of(error), error)
        return True

    def _take_pending(self, asked: _Asked, reply: SupervisorReply) -> bool:
        try:
            told = {} if reply.body is msgspec.UNSET else codec.decode_body(reply.body, dict[str, Any])
        except CodecError:
            return False
        asked.approval = str(told.get("pending") or "?")[:32]
        asked.why = clip(str(told.get("why") or ""), 500)
        for wait, lasts in list(asked.patient.values()):
            if not lasts:
                self._waits.finish(wait, "met")
        return True

    def _schedule(self, asked: _Asked) -> None:
        spread_s = asked.delay_s * random.uniform(0.8, 1.2)  # noqa: S311 - only to spread repetitions
        asked.timer = asyncio.get_running_loop().call_later(spread_s, self._again, asked)
        asked.delay_s = min(asked.delay_s * 2, AGAIN_MAX_S)

    def _again(self, asked: _Asked) -> None:
        # While there is no connection the first word still waits to be sent: another would only queue behind it.
        if self._can_send():
            try:
                asked.say()
            except ConnectionLost:
                return
        self._schedule(asked)

    def connected(self) -> None:
        """The connection is back: what was on its way when it was lost is said again soon."""
        for asked in self._open.values():
            if asked.timer is not None:
                asked.timer.cancel()
            asked.delay_s = AGAIN_S / 4
            self._schedule(asked)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, Raw) else value


def _sendable(name: str, limit_chars: int = TOOL_MAX_CHARS) -> str:
    """A name as a model made it up: whatever it is, it can be sent, and is answered."""
    return clip(str(name).encode("utf-8", "replace").decode(), limit_chars)
