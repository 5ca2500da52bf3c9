"""Effects: one command of the core carried out on the bus or put into the outbox. Nothing is decided here."""

import time
from collections.abc import Callable
from typing import Any, assert_never

import msgspec
from msgspec import UNSET

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.detectors import DetectorMissing
from crewkeeper_bus.messages import Outcome, RunEnded, SupervisorCancel, SupervisorReply
from crewkeeper_bus.redaction import Redactor
from crewkeeper_bus.subjects import HOST, OUT, SUPERVISOR, Kind
from crewkeeper_bus.tool_messages import ApprovalAsked, HookAnswered
from crewkeeper_supervisor.core.commands import (
    Admit,
    AnswerCall,
    AskApproval,
    AskHook,
    AskHost,
    CancelCall,
    Command,
    EndRun,
    Escalate,
    OrderShare,
    SetAccess,
    TellAgent,
    TellService,
)
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell import approval_notice, journal, webhook
from crewkeeper_supervisor.shell.access_orders import AccessOrders
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.outbox import Entry, Outbox

AskHooks = Callable[[AskHook, Crew | None], None]
"""Takes a question to a Python hook over, at once; the answer comes to the journal, whatever the hook is doing."""
NOBODY_TO_TELL = "the crew file names no receiver: add one under escalate"


class Effects:
    """Carries out the commands of one run under one term. Doing it twice is harmless: ids are obeyed once."""

    def __init__(
        self,
        link: Link,
        run: str,
        term: int,
        outbox: Outbox,
        orders: AccessOrders,
        hooks: AskHooks,
        shares: Callable[[OrderShare], None],
    ) -> None:
        self._link = link
        self._hooks = hooks
        self._shares = shares
        self._orders = orders
        self._run = run
        self._term = term
        self._outbox = outbox

    async def carry_out(self, command: Command, crew: Crew | None, *, ahead: bool = False) -> None:
        """Carry out one command. What is sent may wait for `Link.push`.

        Args:
            command: The command.
            crew: The crew of the run.
            ahead: Whether an answer of the gate is delivered before the journal has stored it, and then once more.

        Raises:
            ConnectionLost: Not connected; nothing was sent.
            StoreUnavailable: The outbox did not acknowledge.
        """
        match command:
            case TellAgent():
                await self._control(command.agent, command.id, command.message)
            case AskHost():
                await self._control(HOST, command.id, command.message)
            case AnswerCall():
                await self._answer(command, ahead=ahead)
            case CancelCall():
                cancel = SupervisorCancel(id=command.id, caller=command.caller, why=command.why)
                await self._publish(Kind.CANCEL, command.agent, command.call, cancel)
            case TellService():
                await self._control(command.to, command.id, command.message)
            case AskApproval():
                await journal.publish_op(self._link, self._run, asked(command))
            case AskHook():
                self._hooks(command, crew)
            case Escalate():
                await self._escalate(command, crew)
            case OrderShare():
                self._shares(command)
            case EndRun():
                ended = RunEnded(state=command.state, why=command.why, command=command.id)
                await journal.publish_op(self._link, self._run, ended)
            case SetAccess() | Admit():
                self._orders.give(command, PAYLOAD_MAX_BYTES if crew is None else crew.payload_bytes)
            case _:
                assert_never(command)

    async def _answer(self, command: AnswerCall, *, ahead: bool) -> None:
        body = UNSET if command.body is None else command.body
        reply = codec.encode(
            SupervisorReply(id=command.id, error=command.error, body=body, final=command.final, inc=command.inc)
        )
        subject = subjects.build(self._run, Kind.REP, SUPERVISOR, command.agent, command.call)
        if ahead:
            await self._link.post(f"{OUT}.{subject}", reply)
        await self._link.post(subject, reply)

    async def _control(self, to: str, id_: str, message: Any) -> None:
        await self._publish(Kind.CTL, to, id_, msgspec.structs.replace(message, id=id_, term=self._term))

    async def _publish(self, kind: Kind, to: str, id_: str, message: Any) -> None:
        subject = subjects.build(self._run, kind, SUPERVISOR, to, id_)
        await journal.publish(self._link, subject, codec.encode(message))

    async def _escalate(self, command: Escalate, crew: Crew | None) -> None:
        receivers = () if crew is None else crew.escalate
        if not receivers:
            outcome = Outcome(command=command.id, ok=False, detail=NOBODY_TO_TELL)
            await journal.publish_op(self._link, self._run, outcome)
            return
        sent = command.body
        if crew is not None and "webhooks" in crew.redact.places:
            try:
                redactor = Redactor(bytes.fromhex(crew.redact.key), crew.redact.kinds)
            except DetectorMissing as error:
                outcome = Outcome(command=command.id, ok=False, detail=f"not sent: {error}"[:500])
                await journal.publish_op(self._link, self._run, outcome)
                return
            sent = redactor.value(command.body)[0]
        # Links are made after that, for they are secrets that are meant to be sent.
        if crew is not None:
            sent = approval_notice.completed(self._link.place.state, self._run, crew, command, sent)
        body = webhook.body(self._run, "" if crew is None else crew.name, msgspec.structs.replace(command, body=sent))
        now_s = time.time()
        for endpoint, receiver in enumerate(receivers):
            await self._outbox.enqueue(
                Entry(
                    run=self._run,
                    command=command.id,
                    endpoint=endpoint,
                    receiver=receiver,
                    body=body,
                    incident=command.incident,
                    closing=command.kind == "resolved",
                    digest=str(command.body.get("digest", "")) if command.body.get("kind") == "incidents" else "",
                    acknowledged_by=str(sent.get("by", "")) if command.kind == "acknowledged" else "",
                    due_s=now_s + receiver.after_s,
                )
            )


def asked(command: AskApproval) -> ApprovalAsked:
    """What a person is asked, as the journal has it."""
    return ApprovalAsked(
        command=command.id,
        approval=command.approval,
        agent=command.agent,
        call=command.call,
        tool=command.tool,
        args=command.args,
        digest=command.digest,
        policy=command.policy,
        rule=command.rule,
        because=command.because,
        who=command.who,
        cost_microusd=command.cost_microusd,
        expires_s=command.expires_s,
    )


def unanswered(command: AskHook) -> HookAnswered:
    """The answer where nothing runs hooks."""
    because = f"nothing here runs the hook {command.hook}"
    return HookAnswered(
        command=command.id,
        agent=command.agent,
        call=command.call,
        hook=command.hook,
        answer="failed",
        because=because[:2000],
    )


def target(command: Command) -> str:
    """Whom a command is for, for the log."""
    match command:
        case TellAgent() | AnswerCall() | CancelCall() | SetAccess() | Admit() | AskApproval() | AskHook():
            return command.agent
        case TellService():
            return command.to
        case AskHost():
            return HOST
        case Escalate() | OrderShare() | EndRun():
            return ""
        case _:
            assert_never(command)


def finding(command: Command) -> str:
    """Id of the finding a command answers, empty if none."""
    match command:
        case TellAgent():
            return str(getattr(command.message, "finding", ""))
        case AnswerCall():
            return command.error.finding if command.error is not None else ""
        case Escalate():
            return command.incident
        case (
            AskHost()
            | CancelCall()
            | SetAccess()
            | Admit()
            | TellService()
            | AskApproval()
            | AskHook()
            | OrderShare()
            | EndRun()
        ):
            return ""
        case _:
            assert_never(command)
