"""Asking for an action and seeing what comes of it: the fold of the journal alone says whether it happened.

The request is an `op` message in the run's journal; the controller acts on it. A controller may be away, an agent may
not obey, a server may not be reached: so the outcome is what the core concludes from the journal, never what was asked.
"""

import getpass
import os
import secrets
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from crewkeeper_bus.messages import (
    AccessSet,
    Left,
    OperatorAsked,
    ProcessExited,
    ProcessStarted,
    Resume,
    Standing,
    StopProcess,
)
from crewkeeper_bus.subjects import SUPERVISOR
from crewkeeper_supervisor.core.confinement import Ending, Hold
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.views.snapshot import SCHEMA_VERSION
from crewkeeper_supervisor.views.story import Story
from crewkeeper_supervisor.views.wording import moment

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.roster import AgentView
    from crewkeeper_supervisor.core.supervisor import Supervisor
    from crewkeeper_supervisor.shell.nats_link import Link

EVIDENCE_MAX: Final = 50
LATE_MAX: Final = 5
"""Entries shown of an agent that still talks."""

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
    peer: str = ""
    """The other one, where two agents are held apart."""
    schema_version: int = SCHEMA_VERSION


def operator() -> str:
    """Who asks, for the journal: `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


class Judge:
    """Judges one request about one agent by the state that the journal folds to.

    Args:
        core: The core that folds the journal.
        action: `kill`, `pause` or `resume`.
        agent: Whom it is about.
        request: Id of the request.
        peer: The other agent, where only what the two say to each other is meant.
    """

    def __init__(self, core: "Supervisor", action: str, agent: str, request: str, *, peer: str = "") -> None:
        self.action = action
        self.agent = agent
        self.peer = peer
        self.request = request
        self.evidence: list[Proof] = []
        self._core = core
        self._late: list[Proof] = []
        self._taken = False
        self._let_go = False

    @property
    def _view(self) -> "AgentView":
        return self._core.agents[self.agent]

    def see(self, event: Event, text: str) -> None:
        """Take in the next journal entry, with its sentence, after the core has."""
        proof = Proof(seq=event.seq, at=moment(event.at_s), text=text)
        message = event.message if isinstance(event, Recorded) else None
        if not self._taken:
            if isinstance(message, OperatorAsked) and isinstance(event, Recorded) and event.id == self.request:
                self._taken = True
                self.evidence.append(proof)
            return
        if isinstance(message, Resume) and isinstance(event, Recorded) and event.to == self.agent:
            self._let_go = True
        ending = self._view.ending
        if event.sender == self.agent and ending is not None and ending.heard_seq == event.seq:
            said = text or f"{self.agent} sent an entry that was not read"
            self._late = [*self._late[-LATE_MAX + 1 :], Proof(seq=proof.seq, at=proof.at, text=said)]
        elif self._bears_on_it(event, message) and len(self.evidence) < EVIDENCE_MAX:
            self.evidence.append(proof)

    def _bears_on_it(self, event: Event, message: object) -> bool:
        match message:
            case ProcessExited(agent=agent) | ProcessStarted(agent=agent) | StopProcess(agent=agent):
                return agent == self.agent
            case AccessSet(agent=agent, peer=peer):
                return {agent, peer} - {""} == {self.agent, self.peer} - {""}
            case Left() | Standing():
                return event.sender == self.agent
            case _:
                return isinstance(event, Recorded) and event.to == self.agent and event.sender == SUPERVISOR

    @property
    def decided(self) -> bool:
        """Whether the journal already proves that the request was carried out."""
        return self.verdict()[0] in ("terminated", "paused", "running")

    def verdict(self) -> tuple[Verdict, str]:
        """The outcome as far as the journal shows it, and why."""
        if not self._taken:
            return "unknown", "the journal has not taken the request"
        if self.peer:
            return self._apart()
        match self.action:
            case "kill":
                return _killed(self._view.ending)
            case "pause":
                return _paused(self._view, self._view.hold)
            case _ if not self._let_go:
                return "unknown", "no controller has acted on the request"
            case _:
                return _resumed(self._view, self._view.hold)

    def _apart(self) -> tuple[Verdict, str]:
        step = self._core.apart.get((min(self.agent, self.peer), max(self.agent, self.peer)), "")
        match self.action, step:
            case "pause", "held":
                return "paused", "the server holds what they say to each other"
            case "resume", "":
                return "running", "nothing holds what they say to each other"
            case "pause", "failed":
                return "unknown", "the server could not be made to hold them apart"
            case _:
                return "unknown", "the supervisor has not reported what came of it"

    def result(self, run: str) -> Result:
        """The outcome with its evidence."""
        outcome, why = self.verdict()
        return Result(
            run=run,
            agent=self.agent,
            action=self.action,
            request=self.request,
            outcome=outcome,
            ok=self.decided,
            why=why,
            evidence=tuple(sorted([*self.evidence, *self._late], key=lambda proof: proof.seq)),
            peer=self.peer,
        )


def _killed(ending: Ending | None) -> tuple[Verdict, str]:
    if ending is None:
        return "unknown", "no controller has acted on the request"
    if ending.outcome:
        return ending.outcome, ending.why_so
    if not ending.tries:
        return "unknown", "its time to stop by itself is not over, as far as the journal shows"
    return "unknown", "the proof that it has ended is not complete"


def _paused(view: "AgentView", hold: Hold | None) -> tuple[Verdict, str]:
    if not view.present:
        return "unknown", f"it is not there ({view.status})"
    if hold is None:
        return "unknown", "no controller has acted on the request"
    if hold.step == "held":
        return "paused", "the server holds it: it can say nothing"
    if hold.said and view.status == "paused":
        return "paused", "the agent reports that it is paused"
    if not hold.enforced:
        return "unknown", "the agent has not reported it, and nobody has power over the server to hold it"
    return "unknown", f"the agent has not reported it{': ' + hold.detail[:200] if hold.detail else ''}"


def _resumed(view: "AgentView", hold: Hold | None) -> tuple[Verdict, str]:
    if not view.present:
        return "unknown", f"it is not there ({view.status})"
    if hold is not None:
        return "unknown", f"the server has not let it go on{': ' + hold.detail[:200] if hold.detail else ''}"
    if view.status == "up":
        return "running", "nothing holds it"
    return "unknown", "the agent has not reported it"


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


async def ask_and_see(
    link: "Link", story: Story, asked: dict[str, Any], agents: list[str], limit_s: float, *, of_all: bool
) -> list[Result]:
    """Ask for an action and wait for its effect on these agents.

    Args:
        link: The connection.
        story: The run so far.
        asked: Fields of the request, without who asks and about whom.
        agents: Whose state decides.
        limit_s: How long to wait.
        of_all: Whether the whole crew is asked for at once, rather than each of these agents.

    Raises:
        ConnectionLost: The server did not take the request.
    """
    core, judges = story.fold.supervisor, []
    id_ = ""
    for name in agents:
        if not (of_all and id_):
            message = OperatorAsked(agent="" if of_all else name, by=operator(), **asked)
            id_ = await request(link, story.fold.run, message)
        judges.append(Judge(core, asked["action"], name, id_, peer=asked.get("peer", "")))

    def see(event: Event, text: str) -> None:
        for judge in judges:
            judge.see(event, text)

    await observe(link, story, see, lambda: all(judge.decided for judge in judges), limit_s)
    return [judge.result(story.fold.run) for judge in judges]


def ended_before(story: Story, agent: str) -> Result | None:
    """What is known of an agent that is proven to have been ended; None: it is not."""
    ending = story.fold.supervisor.agents[agent].ending
    if ending is None or ending.outcome != "terminated":
        return None
    steps = [
        (ending.exited_seq, ending.exited_at_s, "its process had ended"),
        (ending.shut_seq, ending.shut_at_s, "the server had shut it out"),
    ]
    proofs = [Proof(seq=seq, at=moment(at_s), text=text) for seq, at_s, text in sorted(steps) if seq]
    return Result(
        run=story.fold.run,
        agent=agent,
        action="kill",
        request="",
        outcome="terminated",
        ok=True,
        why=f"it was ended before: {ending.why_so}",
        evidence=tuple(proofs),
    )
