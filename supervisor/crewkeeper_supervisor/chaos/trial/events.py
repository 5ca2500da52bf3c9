"""Events and metrics: everything that a scenario can speak of, by name, with the fields it can be told by.

Where they come from is `sightings` (the journal), the oracles and the stages; here are only the words.
"""

from typing import Any, Final, get_args

from msgspec import Struct, field

from crewkeeper_supervisor.core.findings import FindingKind


class Sighting(Struct, frozen=True, kw_only=True):
    """One thing that was seen. `at_s` is journal time since the crew began; below 0 before that."""

    at_s: float
    event: str
    fields: dict[str, Any] = field(default_factory=dict)
    seq: int = 0
    """Of the journal; 0 for what does not stand there."""
    summary: str = ""
    """Of a finding, in one sentence."""
    edges: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    """Of a finding: who waits, for which agents, and why in words."""


class Span(Struct, frozen=True, kw_only=True):
    """Something in the life of an agent that lasted: an open wait (`wait`), its process (`up`), or a pause (`held`)."""

    agent: str
    what: str
    from_s: float
    to_s: float
    text: str = ""


class Word(Struct, frozen=True, kw_only=True):
    """One event or metric: what it means, and its fields."""

    doc: str
    fields: tuple[str, ...] = ()


FINDINGS: Final = get_args(FindingKind)
_FINDING_FIELDS: Final = ("agents", "agent", "id", "timed")
_OTHERS: Final = {
    "began": Word(doc="An agent was told to begin.", fields=("agent",)),
    "joined": Word(doc="An incarnation of an agent is there.", fields=("agent",)),
    "done": Word(doc="An agent's main activity came to its end.", fields=("agent",)),
    "left": Word(doc="An agent said that it goes.", fields=("agent", "done")),
    "exited": Word(doc="A process ended.", fields=("agent", "code", "restart")),
    "started": Word(doc="A process was started.", fields=("agent", "restarts")),
    "gave_up": Word(doc="A process is not started again any more.", fields=("agent",)),
    "waiting": Word(doc="A wait began.", fields=("agent",)),
    "wait_broken": Word(doc="A wait was failed by the supervisor.", fields=("agent",)),
    "call_failed": Word(doc="The supervisor answered a call with an error.", fields=("agent", "code")),
    "probe": Word(doc="An agent was asked whether it still waits.", fields=("agent",)),
    "break": Word(doc="An agent was told to fail a wait.", fields=("agent", "code")),
    "resolved": Word(doc="An incident is over.", fields=("kind", "agents", "id")),
    "told": Word(doc="A message to people was delivered, by the journal.", fields=("kind",)),
    "webhook": Word(doc="The receiver got a request.", fields=("kind", "type", "signed", "again")),
    "tool_run": Word(doc="A tool host was told to run a call.", fields=("agent", "tool")),
    "tool_ran": Word(doc="A call of a tool ended.", fields=("agent", "tool", "ok", "code")),
    "model_asked": Word(doc="An agent wants to call a model.", fields=("agent", "model")),
    "model_ran": Word(doc="A call of a model ended.", fields=("agent", "ok", "forwarded")),
    "refused": Word(doc="The gate refused a call.", fields=("agent", "code", "tool")),
    "approval_asked": Word(doc="A person was asked.", fields=("agent", "tool")),
    "approval_decided": Word(doc="A person decided.", fields=("decision",)),
    "policy_changed": Word(doc="Other rules hold from here on.", fields=()),
    "paused": Word(doc="An agent holds.", fields=("agent",)),
    "resumed": Word(doc="An agent goes on.", fields=("agent",)),
    "shut_out": Word(doc="The server shuts an agent out.", fields=("agent", "ok")),
    "heard_after_end": Word(doc="Something of an agent was stored after it was shut out.", fields=("agent",)),
    "takeover": Word(doc="Another controller owns the run.", fields=("term",)),
    "run_ended": Word(doc="The run is over.", fields=("state",)),
    "truth.deadlock": Word(doc="Tasks are stuck for good; the oracle's word.", fields=("agents",)),
    "truth.freed": Word(doc="Nothing is stuck any more; the oracle's word.", fields=()),
    "false_deadlock": Word(doc="A deadlock was reported that never was.", fields=("agents", "id")),
    "missed_deadlock": Word(doc="A deadlock was not reported for long.", fields=("agents",)),
    "violation": Word(doc="An invariant of the simulation, or of records, was broken.", fields=("invariant",)),
    "fault": Word(doc="A fault was injected.", fields=("fault", "do", "target")),
    "fault.end": Word(doc="A fault healed.", fields=("fault", "do", "target")),
    "action": Word(doc="A person did something.", fields=("do", "agent")),
}
EVENTS: Final[dict[str, Word]] = {
    **{kind: Word(doc=f"The finding {kind}.", fields=_FINDING_FIELDS) for kind in FINDINGS},
    **_OTHERS,
}
"""Every event by its name; those of findings are the kinds of findings."""
METRICS: Final[dict[str, Word]] = {
    "messages": Word(doc="Messages and calls sent.", fields=("agent", "to")),
    "calls": Word(doc="Calls of agents made.", fields=("agent", "to")),
    "tool_calls": Word(doc="Calls of tools asked for.", fields=("agent", "tool")),
    "tool_runs": Word(doc="Calls that a tool host was told to run.", fields=("agent", "tool")),
    "spent_microusd": Word(doc="What the crew's budget says is spent or held.", fields=()),
    "restarts": Word(doc="Processes started again.", fields=("agent",)),
    "webhooks": Word(doc="Requests that the receiver took, each id once.", fields=("kind",)),
    "incidents": Word(doc="Incidents opened.", fields=("kind",)),
    "incidents_told": Word(doc="Incidents that people were told of, one by one or in a digest.", fields=("kind",)),
    "entries": Word(doc="Journal entries of an agent.", fields=("agent",)),
}
"""Every metric by its name; counted at the end of the run."""


def matches(fields: dict[str, Any], where: dict[str, Any]) -> bool:
    """Whether a sighting is what `where` asks for: lists as sets, everything else equal."""
    for key, wanted in where.items():
        got = fields.get(key)
        if isinstance(wanted, list):
            if not isinstance(got, list | tuple) or sorted(map(str, wanted)) != sorted(map(str, got)):
                return False
        elif got != wanted:
            return False
    return True
