"""Asking for an action and seeing what comes of it: the journal alone says whether it happened.

The request is an `op` message in the run's journal; the controller acts on it. A controller may be away, an agent may
not obey: so the outcome is judged from what the journal shows afterwards, never from the request.
"""

import getpass
import os
import secrets
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from crewkeeper_bus.messages import (
    Left,
    OperatorAsked,
    ProcessExited,
    ProcessStarted,
    Resume,
    Standing,
    StopProcess,
)
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.story import Story
from crewkeeper_supervisor.views.wording import moment

if TYPE_CHECKING:
    from crewkeeper_supervisor.shell.nats_link import Link

EVIDENCE_MAX = 50

Verdict = Literal["terminated", "still_talking", "paused", "running", "unknown"]


class Proof(Struct, frozen=True, kw_only=True):
    """One journal entry that bears on the outcome."""

    seq: int
    at: datetime
    text: str


class Result(Struct, frozen=True, kw_only=True):
    """What came of a request."""

    run: str
    agent: str
    action: str
    request: str
    """Id of the request in the journal."""
    outcome: Verdict
    ok: bool
    why: str
    evidence: tuple[Proof, ...]
    schema_version: int = SCHEMA_VERSION


def operator() -> str:
    """Who asks, for the journal: `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


class Judge:
    """Judges one request from the journal entries after it.

    Args:
        action: `kill`, `pause` or `resume`.
        agent: Whom it is about.
        request: Id of the request.
        has_process: Whether a host runs the agent, so that the end of its process will be reported; the word of an
            agent that it leaves then proves nothing yet.
        paused: Whether the agent stood paused when it was asked for.
        grace_s: How long after the request the agent may still speak without having failed to obey.
    """

    def __init__(
        self,
        action: str,
        agent: str,
        request: str,
        *,
        has_process: bool,
        paused: bool = False,
        grace_s: float = 0.0,
    ) -> None:
        self.action = action
        self.agent = agent
        self.request = request
        self.has_process = has_process
        self.grace_s = grace_s
        self.evidence: list[Proof] = []
        self._asked_at_s: float | None = None
        self._exited = False
        self._left = False
        self._standing = "paused" if paused else ""
        self._free = False
        self._late: Proof | None = None

    def see(self, event: Event, text: str) -> None:
        """Take in the next journal entry, with its sentence."""
        proof = Proof(seq=event.seq, at=moment(event.at_s), text=text)
        message = event.message if isinstance(event, Recorded) else None
        if self._asked_at_s is None:
            if isinstance(message, OperatorAsked) and isinstance(event, Recorded) and event.id == self.request:
                self._asked_at_s = event.at_s
                self._prove(proof)
            return
        match message:
            case ProcessExited(agent=agent) if agent == self.agent:
                self._exited = not message.restart
                self._prove(proof)
            case ProcessStarted(agent=agent) if agent == self.agent:
                self._exited = self._left = False
                self.has_process = True
                self._prove(proof)
            case StopProcess(agent=agent) if agent == self.agent:
                self._prove(proof)
            case Left() if event.sender == self.agent:
                self._left = True
                self._prove(proof)
            case Standing(state=state) if event.sender == self.agent:
                self._standing = state
                self._prove(proof)
            case Resume() if isinstance(event, Recorded) and event.to == self.agent:
                # It reports no change if it had not been paused; whatever pause is on its way to it is lifted.
                self._free = self._standing != "paused"
                self._prove(proof)
            case _ if event.sender == self.agent:
                self._left = False
                if event.at_s > self._asked_at_s + self.grace_s:
                    self._late = proof
            case _ if isinstance(event, Recorded) and event.to == self.agent and event.sender.startswith("_"):
                self._prove(proof)

    def _prove(self, proof: Proof) -> None:
        if len(self.evidence) < EVIDENCE_MAX:
            self.evidence.append(proof)

    @property
    def decided(self) -> bool:
        """Whether the journal already proves that the request was carried out."""
        return self.verdict()[0] in ("terminated", "paused", "running")

    def verdict(self) -> tuple[Verdict, str]:
        """The outcome as far as the journal shows it, and why."""
        if self._asked_at_s is None:
            return "unknown", "the journal has not taken the request"
        if self.action == "kill":
            return self._killed()
        wanted: Verdict = "paused" if self.action == "pause" else "running"
        if self._standing == wanted:
            return wanted, f"the agent reports that it is {wanted}"
        if self.action == "resume" and self._free:
            return wanted, "it was not paused"
        if self._exited:
            return "unknown", "its process has ended"
        return "unknown", "the agent has not reported it; it obeys at its next checkpoint"

    def _killed(self) -> tuple[Verdict, str]:
        if self._exited:
            return "terminated", "its host reports that the process has ended"
        if self._left and not self.has_process:
            return "terminated", "it has left the crew; no host runs its process"
        if self._late is not None:
            return "still_talking", f"it published entry {self._late.seq} after its time to stop was over"
        if self._left:
            return "unknown", "it says that it left, but its host has not reported the end of its process"
        return "unknown", "the journal shows no end of it"

    def result(self, run: str) -> Result:
        """The outcome with its evidence."""
        outcome, why = self.verdict()
        evidence = (
            (*self.evidence, self._late) if self._late is not None and outcome == "still_talking" else self.evidence
        )
        return Result(
            run=run,
            agent=self.agent,
            action=self.action,
            request=self.request,
            outcome=outcome,
            ok=self.decided,
            why=why,
            evidence=tuple(evidence),
        )


async def request(link: "Link", run: str, message: OperatorAsked) -> str:
    """Publish a request to a run's journal; returns its id.

    Raises:
        ConnectionLost: The server did not take it.
    """
    id_ = secrets.token_urlsafe(12)
    await journal.publish_op(link, run, message, id_=id_)
    await link.flush()
    return id_


async def observe(
    link: "Link", story: Story, see: Callable[[Event, str], Any], done: Callable[[], bool], limit_s: float
) -> None:
    """Feed the entries after the story's end to `see` until `done`, or until the limit has passed."""
    until_s = time.monotonic() + limit_s
    async with journal.follow(link, story.fold.run, story.fold.supervisor.seq + 1) as entries:
        while not done() and (left_s := until_s - time.monotonic()) > 0:
            for entry in await entries.batch(timeout_s=left_s):
                event, lines = story.feed(entry)
                see(event, lines[0].text if lines else "")
                if done():
                    return
