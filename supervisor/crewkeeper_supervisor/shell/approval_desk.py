"""Approval desk: where the approvals of one run are looked up and decided; whether a decision counts is up to the core.

A decision is published to the journal and then looked for there: the same fold that the controller decides by says
whether it was the one that counted. So two people who decide at once are both told the truth, and so is who comes late.
"""

import secrets
import time
from typing import Final, Literal

import anyio
from msgspec import Struct

from crewkeeper_bus.subjects import SUPERVISOR
from crewkeeper_bus.tool_messages import ApprovalDecided
from crewkeeper_supervisor.core.commands import AnswerCall, Command, TellService
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link

AGAIN_S: Final = 2.0
"""A decision that does not show in the journal is published again after this long."""
EFFECT_S: Final = 10.0
REASON_MAX_CHARS: Final = 500

Outcome = Literal["decided", "late", "unknown"]
"""Of a decision: it counted; it was not the first, or came too late; the journal does not show it."""


class Taken(Struct, frozen=True, kw_only=True):
    """What came of a decision."""

    outcome: Outcome
    why: str
    """One sentence. May quote names that agents chose."""
    acted: bool = False
    """Whether a controller has passed it on."""


class Desk:
    """Approvals of one run. Not for two tasks at once.

    Attributes:
        run: The run.
        core: Its state, as of the last `catch_up`.
    """

    def __init__(self, link: Link, run: str) -> None:
        self.run = run
        self.core: Supervisor = make_fold(run)
        self._link = link

    async def catch_up(self) -> None:
        """Take in everything that the journal has now. What was taken in stays, also when this is cut off.

        Raises:
            RunNotFound: There is no such journal.
            StoreUnavailable: The server did not answer.
            JournalGap: Entries are missing.
        """
        end = await journal.last_seq(self._link, self.run)
        if self.core.seq >= end:
            return
        async with journal.follow(self._link, self.run, self.core.seq + 1) as entries:
            while self.core.seq < end:
                for entry in await entries.batch():
                    self.core.handle(self.core.read(*entry))

    @property
    def approvals(self) -> dict[str, Approval]:
        """By id, oldest first."""
        return self.core.gate.approvals

    async def decide(
        self, approval: Approval, decision: str, *, by: str, via: str, reason: str = "", limit_s: float = EFFECT_S
    ) -> Taken:
        """Decide on a call and wait for what comes of it.

        Args:
            approval: One of `approvals`.
            decision: `approve` or `deny`.
            by: Who decides.
            via: `cli`, `link` or `callback`.
            reason: Why, told to the agent; at most 500 characters of it.
            limit_s: How long to wait.

        Raises:
            ConnectionLost: The server did not take it.
        """
        if (over := refused(approval, time.time())) is not None:
            return Taken(outcome="late", why=over)
        message = ApprovalDecided(
            approval=approval.id,
            decision=decision,
            digest=approval.digest,
            by=by[:200],
            reason=reason[:REASON_MAX_CHARS],
            via=via,
        )
        watch = _Watch(self.core, approval, secrets.token_urlsafe(12))
        until_s = anyio.current_time() + limit_s
        again_s = 0.0
        async with journal.follow(self._link, self.run, self.core.seq + 1) as entries:
            while not watch.is_over and (now_s := anyio.current_time()) < until_s:
                if not watch.seen and now_s >= again_s:
                    await journal.publish_op(self._link, self.run, message, id_=watch.id)
                    await self._link.flush()
                    again_s = now_s + AGAIN_S
                for entry in await entries.batch(timeout_s=min(AGAIN_S, until_s - now_s)):
                    watch.take(entry)
        return watch.taken(limit_s)


class _Watch:
    """Looks for one decision in the journal, and for what is done about it."""

    def __init__(self, core: Supervisor, approval: Approval, id_: str) -> None:
        self.id = id_
        self.seen = False
        self._core = core
        self._approval = approval
        self._counted = False
        self._owed: set[str] = set()

    def take(self, entry: journal.Entry) -> None:
        was_pending = self._approval.state == "pending"
        event = self._core.read(*entry)
        commands = self._core.handle(event)
        if self.seen or not isinstance(event, Recorded) or (event.sender, event.id) != (SUPERVISOR, self.id):
            return
        self.seen = True
        self._counted = was_pending and self._approval.state != "pending"
        self._owed = {command.id for command in commands if self._is_about_it(command)}

    def _is_about_it(self, command: Command) -> bool:
        match command:
            case TellService(message=message):
                return (message.agent, message.call) == (self._approval.agent, self._approval.call)
            case AnswerCall(agent=agent, call=call):
                return (agent, call) == (self._approval.agent, self._approval.call)
        return False

    @property
    def _acted(self) -> bool:
        return self._counted and not self._owed & self._core.pending.keys()

    @property
    def is_over(self) -> bool:
        return self.seen and (self._acted or not self._counted)

    def taken(self, limit_s: float) -> Taken:
        if not self.seen:
            return Taken(outcome="unknown", why=f"within {limit_s:g} s the journal has not shown the decision")
        if not self._counted:
            over = refused(self._approval, self._core.now_s) or "it did not count: the journal has another action"
            return Taken(outcome="late", why=over)
        if not self._acted:
            late = f"it counts, but within {limit_s:g} s no controller has passed it on; is one running?"
            return Taken(outcome="decided", why=late)
        return Taken(outcome="decided", why=effect(self._core, self._approval), acted=True)


def refused(approval: Approval, now_s: float) -> str | None:
    """Why an approval cannot be decided on any more; None: it can be."""
    by = f" by {approval.by}" if approval.by else ""
    why = f": {approval.reason}" if approval.reason else ""
    match approval.state:
        case "pending" if now_s < approval.expires_at_s:
            return None
        case "pending" | "expired":
            return "nobody decided in time: it has expired, and the call was not run"
        case "cancelled":
            return f"the request was cancelled before anybody decided{by}{why}"
        case state:
            return f"it was {state} before{by}{why}"


def effect(core: Supervisor, approval: Approval) -> str:
    """What has become of the call, in one sentence."""
    key = (approval.agent, approval.call)
    call = core.gate.open.get(key)
    if call is not None:
        return {
            "running": "the call is let through",
            "held": "new calls of its agent are held, and it waits with them",
            "queued": "the call waits for others of its tool to end",
            "asking": "the call waits for its budget to be raised",
        }.get(call.stage, f"the call goes on ({call.stage})")
    ended = core.gate.ended.get(approval.agent, {}).get(approval.call)
    if ended is None:
        return "the call is over"
    if ended.error is None:
        return "the call has run"
    return f"{approval.agent} was told: {ended.error.text}"
