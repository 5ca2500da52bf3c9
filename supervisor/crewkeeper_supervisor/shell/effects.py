"""Effects: one command of the core carried out on the bus or put into the outbox. Nothing is decided here."""

from typing import Any, assert_never

import msgspec
from msgspec import UNSET

from crewkeeper_bus import codec, subjects
from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_bus.messages import Outcome, SupervisorCancel, SupervisorReply
from crewkeeper_bus.subjects import HOST, SUPERVISOR, Kind
from crewkeeper_supervisor.core.commands import (
    Admit,
    AnswerCall,
    AskHost,
    CancelCall,
    Command,
    Escalate,
    SetAccess,
    TellAgent,
)
from crewkeeper_supervisor.core.crew import Crew
from crewkeeper_supervisor.shell import journal, webhook
from crewkeeper_supervisor.shell.access_orders import AccessOrders
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.outbox import Entry, Outbox

NOBODY_TO_TELL = "the crew file names no receiver: add one under escalate"


class Effects:
    """Carries out the commands of one run under one term. Doing it twice is harmless: ids are obeyed once."""

    def __init__(self, link: Link, run: str, term: int, outbox: Outbox, orders: AccessOrders) -> None:
        self._link = link
        self._orders = orders
        self._run = run
        self._term = term
        self._outbox = outbox

    async def carry_out(self, command: Command, crew: Crew | None) -> None:
        """Carry out one command.

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
                body = UNSET if command.body is None else command.body
                reply = SupervisorReply(id=command.id, error=command.error, body=body)
                await self._publish(Kind.REP, command.agent, command.call, reply)
            case CancelCall():
                cancel = SupervisorCancel(id=command.id, caller=command.caller, why=command.why)
                await self._publish(Kind.CANCEL, command.agent, command.call, cancel)
            case Escalate():
                await self._escalate(command, crew)
            case SetAccess() | Admit():
                self._orders.give(command, PAYLOAD_MAX_BYTES if crew is None else crew.payload_bytes)
            case _:
                assert_never(command)

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
        body = webhook.body(self._run, "" if crew is None else crew.name, command)
        for endpoint, receiver in enumerate(receivers):
            await self._outbox.enqueue(
                Entry(run=self._run, command=command.id, endpoint=endpoint, receiver=receiver, body=body)
            )


def target(command: Command) -> str:
    """Whom a command is for, for the log."""
    match command:
        case TellAgent() | AnswerCall() | CancelCall() | SetAccess() | Admit():
            return command.agent
        case AskHost():
            return HOST
        case Escalate():
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
        case AskHost() | CancelCall() | SetAccess() | Admit():
            return ""
        case _:
            assert_never(command)
