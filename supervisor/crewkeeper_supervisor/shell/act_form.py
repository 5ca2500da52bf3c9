"""Act form: the page behind a link to act upon an incident, as plain HTML; nothing here acts or knows a secret.

As on the pages of approvals everything passes through `shown`: summaries and names come from agents and their models.
"""

from typing import Final

from msgspec import Struct

from crewkeeper_supervisor.core.acts import Act
from crewkeeper_supervisor.core.findings import Edge, Incident, Step
from crewkeeper_supervisor.shell.approval_form import page, shown, utc

_STEPS_MAX: Final = 8
_WAITS_MAX: Final = 10


class Standing(Struct, frozen=True, kw_only=True):
    """How what a link is about stands, for people."""

    run: str
    crew: str
    act: Act
    what: str
    """What it is about, in one sentence."""
    cost: str
    """What the run costs."""
    incident: Incident | None
    """None: a digest."""
    known_to: str = ""
    """Who has acknowledged it."""


def form(standing: Standing) -> str:
    """The page behind a link: what would be done, and a button. Looking at it does nothing."""
    act = standing.act
    word = act.label[:1].upper() + act.label[1:]
    return page(
        f"{word}?",
        f"<p>{shown(_told(act))}</p>",
        f"<dl>{_facts(standing)}</dl>",
        # No action: it goes to the address of the page itself, which holds the token.
        '<form method="post" autocomplete="off">'
        '<label>Your name, for the record <input name="by" maxlength="100"></label>'
        '<label>Reason, for the record <input name="reason" maxlength="500"></label>'
        f'<button type="submit">{shown(word)}</button></form>',
    )


def done(act: Act) -> str:
    """The title of the page that says that it was done."""
    match act.do:
        case "acknowledge":
            return "Acknowledged"
        case "resume":
            return f"{act.agent} is let go on"
        case "kill":
            return f"{act.agent} is being ended"
        case "extend":
            return f"Extended by {act.amount}"


def _told(act: Act) -> str:
    """What the button does, in full."""
    match act.do:
        case "acknowledge":
            return (
                "Say that you know of it. Nobody else is told; nothing else changes, and it is open until it is over."
            )
        case "resume":
            return f"Let {act.agent} go on, though what was found about it stands."
        case "kill":
            return f"End {act.agent} for good. Who waits for it is told that it is gone. This cannot be undone."
        case "extend":
            whose = f"the budget of {act.agent}" if act.agent else "the budget of the crew"
            return f"Raise {whose} by {act.amount}. Calls that wait for that go on at once."


def _facts(standing: Standing) -> str:
    incident = standing.incident
    rows = [("What", standing.what), ("Crew and run", f"{standing.crew}, {standing.run}")]
    if incident is not None:
        rows.append(("Since", f"{utc(incident.finding.at_s)} ({incident.id}, {incident.finding.kind})"))
        rows += [("Waits", _wait(edge)) for edge in incident.finding.edges[:_WAITS_MAX]]
    rows.append(("It costs", standing.cost))
    if incident is not None:
        rows += [("Done so far", _step(step)) for step in incident.steps[-_STEPS_MAX:]]
    if standing.known_to:
        rows.append(("Acknowledged by", standing.known_to))
    told, last = "", ""
    for name, value in rows:
        told += ("" if name == last else f"<dt>{shown(name)}</dt>") + f"<dd>{shown(value)}</dd>"
        last = name
    return told


def _wait(edge: Edge) -> str:
    return f"{edge.text} (since {utc(edge.since_s)})"


def _step(step: Step) -> str:
    return f"{utc(step.at_s)}: {step.text}"
