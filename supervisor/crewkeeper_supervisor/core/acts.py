"""Acts: what a person can do about an incident from where they are; offered here, carried out elsewhere if they do it.

Each names everything that it would do, so that it can be offered as a link for exactly that.
"""

from typing import Any, Final, Literal

from msgspec import Struct, convert, to_builtins

from crewkeeper_supervisor.core.budget import SPENT, amount
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.core.limits import limit_of
from crewkeeper_supervisor.core.state import RunState

AGENTS_MAX: Final = 2
"""Agents of one incident for which the same act is offered."""
MORE_PARTS: Final = 2
"""A budget is extended by one part of so many of its limit: enough to be no longer told that it runs low."""

Deed = Literal["acknowledge", "resume", "kill", "extend"]


class Act(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a person can do."""

    do: Deed
    agent: str = ""
    """Whom it is done to; for `extend`: whose budget, empty for the crew's."""
    what: str = ""
    """`extend`: the dimension."""
    add: int = 0
    """`extend`: how much more of it."""

    @property
    def label(self) -> str:
        """In few words, as on a button: `kill writer`, `extend by $2.50`."""
        match self.do:
            case "extend":
                whose = f" for {self.agent}" if self.agent else ""
                return f"extend by {self.amount}{whose}"
            case "acknowledge":
                return "acknowledge"
            case verb:
                return f"{verb} {self.agent}"

    @property
    def amount(self) -> str:
        """How much more, for people."""
        return f"{self.add} s" if self.what == "wall_s" else amount(self.what, self.add)


def possible(state: RunState, incident: Incident) -> list[Act]:
    """What can be done about an open incident, the mildest first."""
    if incident.state == "resolved":
        return []
    finding = incident.finding
    made = [] if incident.id in state.ladder.acknowledged else [Act(do="acknowledge")]
    made += [Act(do="resume", agent=name) for name in _held(state, incident)[:AGENTS_MAX]]
    if finding.kind in ("budget_soft", "budget_spent"):
        made += _extension(state, finding.evidence.get("key", ""))
    first = finding.victim.agent if finding.victim is not None else next(iter(finding.agents), "")
    view = state.agents.get(first)
    if view is not None and view.present and view.ending is None:
        made.append(Act(do="kill", agent=first))
    return made


def offered(state: RunState, incident: Incident) -> list[dict[str, Any]]:
    """The same as plain data, for the body of an escalation."""
    return [to_builtins(each) for each in possible(state, incident)]


def read(body: dict[str, Any]) -> list[Act]:
    """What the body of an escalation offers."""
    return convert(body.get("can", []), list[Act])


def _held(state: RunState, incident: Incident) -> list[str]:
    """Agents of an incident that go on only if somebody lets them."""
    held = [agent for agent, holds in state.gate.holds.items() if incident.id in holds]
    held += [name for name in incident.finding.agents if name in state.agents and state.agents[name].hold is not None]
    return list(dict.fromkeys(held))


def _extension(state: RunState, key: str) -> list[Act]:
    """Half as much again as the limit of a finding: `crew microusd`, `agent:writer tokens`, `writer wall`."""
    account, _, dimension = key.partition(" ")
    agent = account.removeprefix("agent:")
    agent = "" if agent == "crew" else agent
    if agent and agent not in state.agents:
        return []
    limit: float | None
    if dimension == "wall":
        dimension = "wall_s"
        limit = limit_of(state, agent, dimension)
    elif dimension in SPENT:
        accounts = state.gate.accounts
        found = accounts.agents.get(agent) if agent else accounts.crew
        limit = found.limit.get(dimension) if found is not None else None
    else:
        return []
    if limit is None:
        return []
    return [Act(do="extend", agent=agent, what=dimension, add=max(1, round(limit) // MORE_PARTS))]
