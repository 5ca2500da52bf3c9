"""Act desk: what a person asks for about one incident, put into the journal once, and what comes of it.

The journal itself sees to it that a link is used once: its entry goes under a subject of its own, and is stored only if
nothing is there. So two people, two servers or a server that was killed in between cannot do the same thing twice, and
whether it was done is read from the same journal that the controller acts by.
"""

from datetime import UTC, datetime

import anyio

from crewkeeper_bus import codec
from crewkeeper_bus.messages import OperatorAsked
from crewkeeper_bus.subjects import SUPERVISOR, stream_name
from crewkeeper_bus.tool_messages import BudgetChanged
from crewkeeper_supervisor.core.acts import Act
from crewkeeper_supervisor.core.budget import SPENT, amount
from crewkeeper_supervisor.core.commands import Command, Escalate
from crewkeeper_supervisor.core.events import Recorded
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.approval_desk import AGAIN_S, EFFECT_S, REASON_MAX_CHARS, Taken
from crewkeeper_supervisor.shell.approval_links import Grant
from crewkeeper_supervisor.shell.nats_link import EXPECTED_LAST, Link
from crewkeeper_supervisor.shell.registry import ENDED


async def refused(link: Link, core: Supervisor, grant: Grant) -> str | None:
    """Why the act of a link cannot be done any more; None: it can be.

    Args:
        link: The connection.
        core: The run, folded to its end.
        grant: What the link stands for.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    used = await link.last(stream_name(core.run), _subject(grant))
    if used is not None:
        at = f" at {used.time.astimezone(UTC):%H:%M:%S UTC}" if isinstance(used.time, datetime) else ""
        return f"this link was used before{at}; each counts once"
    return _over(core, grant)


async def carry_out(
    link: Link, core: Supervisor, grant: Grant, *, by: str, reason: str = "", limit_s: float = EFFECT_S
) -> Taken:
    """Do what a link stands for, and wait for what comes of it.

    Args:
        link: The connection.
        core: The run, folded to its end; it is folded on.
        grant: What the link stands for, which `refused` does not refuse.
        by: Who does it.
        reason: Why; at most 500 characters of it.
        limit_s: How long to wait.

    Raises:
        ConnectionLost: The server did not take it.
    """
    act = grant.deed
    assert act is not None, "decisions on approvals are the approval desk's"
    message = _message(grant, act, by[:200], reason[:REASON_MAX_CHARS])
    watch = _Watch(core, grant.once)
    until_s = anyio.current_time() + limit_s
    again_s = 0.0
    async with journal.follow(link, core.run, core.seq + 1) as entries:
        while not watch.acted and (now_s := anyio.current_time()) < until_s:
            if not watch.seen and now_s >= again_s:
                await link.publish(_subject(grant), codec.encode(message), headers={EXPECTED_LAST: "0"})
                await link.flush()
                again_s = now_s + AGAIN_S
            for entry in await entries.batch(timeout_s=min(AGAIN_S, until_s - now_s)):
                watch.take(entry)
    if not watch.seen:
        return Taken(outcome="unknown", why=f"within {limit_s:g} s the journal has not shown it")
    if not watch.acted:
        late = f"it is in the journal, but within {limit_s:g} s no controller has acted on it; is one running?"
        return Taken(outcome="decided", why=late)
    return Taken(outcome="decided", why=_effect(core, grant, act), acted=True)


def incident_of(core: Supervisor, grant: Grant) -> Incident | None:
    """The incident that a link is about; None for one about a digest, or if it was forgotten."""
    return core.incidents.get(grant.about)


class _Watch:
    """Looks for one entry in the journal, and for what is done about it."""

    def __init__(self, core: Supervisor, id_: str) -> None:
        self.seen = False
        self._id = id_
        self._core = core
        self._owed: set[str] = set()

    def take(self, entry: journal.Entry) -> None:
        event = self._core.read(*entry)
        commands = self._core.handle(event)
        if isinstance(event, Recorded) and (event.sender, event.id) == (SUPERVISOR, self._id) and not self.seen:
            self.seen = True
            self._owed = {command.id for command in commands if _is_awaited(command)}

    @property
    def acted(self) -> bool:
        return self.seen and not self._owed & self._core.pending.keys()


def _is_awaited(command: Command) -> bool:
    """Whether whoever acts waits for it; a message to people may take as long as its receiver is down."""
    return command.durable and not isinstance(command, Escalate)


def _subject(grant: Grant) -> str:
    return journal.op_subject(grant.run, id_=grant.once)


def _message(grant: Grant, act: Act, by: str, reason: str) -> OperatorAsked | BudgetChanged:
    if act.do == "extend":
        return BudgetChanged(agent=act.agent, dimension=act.what, add=act.add, by=by, why=reason)
    return OperatorAsked(action=act.do, agent=act.agent, incident=grant.about, by=by, why=reason)


def _over(core: Supervisor, grant: Grant) -> str | None:
    if core.state in ENDED:
        return f"the run is over ({core.state}); nothing is left to do"
    incident = incident_of(core, grant)
    if incident is None and grant.about not in core.ladder.escalations.digests:
        return "what this link is about is not known any more"
    if incident is not None and incident.state == "resolved":
        over_s = incident.resolved_at_s or 0.0  # what is noted later is who has been told
        said = [step.text for step in incident.steps if step.at_s <= over_s]
        return f"{incident.id} is over{f': {said[-1]}' if said else ''}"
    known = core.ladder.acknowledged.get(grant.about)
    if grant.act == "acknowledge" and known is not None:
        return f"{known.by} has acknowledged it before"
    view = core.agents.get(grant.agent)
    if grant.act == "kill" and (view is None or view.ending is not None):
        return f"{grant.agent} is being ended, or has been"
    return None


def _effect(core: Supervisor, grant: Grant, act: Act) -> str:
    """What has come of it, in one sentence."""
    match act.do:
        case "acknowledge":
            return "who has not been told of it yet will not be; it stays open until it is over"
        case "extend":
            account = core.gate.accounts.crew
            if act.agent:
                account = core.gate.accounts.agents.get(act.agent, account)
            if act.what not in SPENT:
                limit_s = core.limit_of(act.agent, act.what)
                return f"the limit is {limit_s:g} s now" if limit_s is not None else "there is no limit any more"
            limit = account.limit.get(act.what)
            return "there is no limit any more" if limit is None else f"the limit is {amount(act.what, limit)} now"
        case "kill":
            return f"{act.agent} has been told to end; supervisor agent describe shows whether it is proven to have"
        case "resume":
            view = core.agents.get(act.agent)
            held = view is not None and view.hold is not None
            return f"{act.agent} is being let go on" if held else f"{act.agent} goes on"
