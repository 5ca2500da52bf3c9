"""Sightings: what a run's journal shows, entry by entry, folded with the production core; the same for every mode."""

from collections.abc import Iterable
from typing import Any, Final

from crewkeeper_bus import messages as m
from crewkeeper_bus import tool_messages as t
from crewkeeper_bus.subjects import SIDE
from crewkeeper_supervisor.chaos.trial.events import FINDINGS, Sighting, Span
from crewkeeper_supervisor.core.commands import Command, Escalate
from crewkeeper_supervisor.core.events import Event, Recorded
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.gate.rules import make_fold

EDGES_MAX: Final = 60
"""Most waits that are kept of one finding."""
SPANS_MAX: Final = 20_000
_MAIN: Final = "main"
_TALK: Final = (m.Request, m.Message)


class Sightings:
    """The fold of one run, and what was seen in it.

    Args:
        run: The run's id.

    Attributes:
        core: The fold.
        seen: Everything seen so far, in journal order.
        began_s: Journal time at which the crew began; None before that.
    """

    def __init__(self, run: str) -> None:
        self.core = make_fold(run)
        self.seen: list[Sighting] = []
        self.began_s: float | None = None
        self.talk: list[tuple[str, str, str]] = []
        """(`messages` or `calls`, sender, receiver) of everything agents said to each other."""
        self.entries: dict[str, int] = {}
        self._told_incidents: set[str] = set()
        self._open: dict[str, Incident] = {}
        self._escalations: dict[str, Escalate] = {}
        self.told: dict[str, None] = {}
        """Ids of the incidents that people were told of."""
        self._mains: dict[tuple[str, str], str] = {}
        self.now_s = 0.0
        self._begun: dict[tuple[str, str, str], tuple[float, str]] = {}
        self._spans: list[Span] = []
        self.asked: dict[tuple[str, str], str] = {}
        """Tools by (agent, call id)."""
        self._shut: set[str] = set()
        self._breaks: set[tuple[str, str, int]] = set()
        """Waits that were told to fail: others fail with an answer that says so."""

    def feed(self, event: Event) -> list[Sighting]:
        """Take the next entry; returns what it shows."""
        return self.folded(event, self.core.handle(event))

    def folded(self, event: Event, commands: Iterable[Command]) -> list[Sighting]:
        """As `feed`, of an entry that `core` has handled, and these are what it said to do."""
        self.now_s = event.at_s
        found: list[tuple[str, dict[str, Any]]] = []
        for command in commands:
            if isinstance(command, Escalate):
                self._escalations[command.id] = command
        if event.sender and event.sender not in SIDE:
            self.entries[event.sender] = self.entries.get(event.sender, 0) + 1
            if event.sender in self._shut:
                found.append(("heard_after_end", {"agent": event.sender}))
        if isinstance(event, Recorded):
            found += self._ours(event) if event.sender in SIDE else self._theirs(event)
        found += self._incidents()
        if self.began_s is None and any(name == "began" for name, _ in found):
            self.began_s = event.at_s
        made = [self._sighting(event, name, fields) for name, fields in found]
        self.seen += made
        return made

    def _sighting(self, event: Event, name: str, fields: dict[str, Any]) -> Sighting:
        incident = self.core.incidents.get(fields.get("id", "")) if name in FINDINGS else None
        if incident is None:
            return Sighting(at_s=event.at_s, event=name, fields=fields, seq=event.seq)
        finding = incident.finding
        edges = tuple((edge.agent, edge.agents, edge.text) for edge in finding.edges[:EDGES_MAX])
        return Sighting(at_s=event.at_s, event=name, fields=fields, seq=event.seq, summary=finding.summary, edges=edges)

    def spans(self) -> list[Span]:
        """What lasted in the life of each agent; what is still open lasts until now."""
        left = [
            Span(agent=agent, what=what, from_s=from_s, to_s=self.now_s, text=text)
            for (agent, what, _), (from_s, text) in self._begun.items()
        ]
        return [*self._spans, *left]

    def _begin(self, agent: str, what: str, key: str, text: str = "") -> None:
        self._begun.setdefault((agent, what, key), (self.now_s, text))

    def _end(self, agent: str, what: str, key: str) -> None:
        begun = self._begun.pop((agent, what, key), None)
        if begun is not None and len(self._spans) < SPANS_MAX:
            self._spans.append(Span(agent=agent, what=what, from_s=begun[0], to_s=self.now_s, text=begun[1]))

    def spent_microusd(self) -> int:
        """What the crew has spent and holds."""
        account = self.core.gate.accounts.crew
        return sum(amounts.get("microusd", 0) for amounts in (account.settled, account.held, account.over))

    # --- what agents say ---

    def _theirs(self, event: Recorded) -> list[tuple[str, dict[str, Any]]]:
        agent, message = event.sender, event.message
        if isinstance(message, _TALK):
            self.talk.append(("calls" if isinstance(message, m.Request) else "messages", agent, event.to))
        match message:
            case m.Joined():
                return [("joined", {"agent": agent})]
            case m.TaskBegan() if message.name == _MAIN:
                self._mains[agent, message.task] = message.inc
            case m.TaskEnded() if (agent, message.task) in self._mains:
                return [("done", {"agent": agent})]
            case m.WaitBegan():
                text = type(message.condition).__name__.removeprefix("On").lower()
                self._begin(agent, "wait", f"{message.inc} {message.epoch}", text)
                return [("waiting", {"agent": agent})]
            case m.WaitEnded():
                self._end(agent, "wait", f"{message.inc} {message.epoch}")
                told = (agent, message.task, message.epoch) in self._breaks
                return [("wait_broken", {"agent": agent})] if told and message.outcome == "broken" else []
            case m.Standing():
                (self._begin if message.state == "paused" else self._end)(agent, "held", "")
                return [("paused" if message.state == "paused" else "resumed", {"agent": agent})]
            case m.Left():
                return [("left", {"agent": agent, "done": message.done})]
            case t.ToolCall():
                self.asked.setdefault((agent, event.id), message.tool)
        return []

    # --- what the supervisor's side says ---

    def _ours(self, event: Recorded) -> list[tuple[str, dict[str, Any]]]:
        message, to = event.message, event.to
        match message:
            case m.Begin():
                return [("began", {"agent": to})]
            case m.Probe():
                return [("probe", {"agent": to})]
            case m.Break():
                self._breaks.add((to, message.task, message.epoch))
                return [("break", {"agent": to, "code": message.code})]
            case m.ProcessStarted():
                self._begin(message.agent, "up", "")
                return [("started", {"agent": message.agent, "restarts": message.restarts})]
            case m.ProcessExited():
                self._gone(message.agent)
                return [("exited", {"agent": message.agent, "code": message.code, "restart": message.restart})]
            case m.RestartsExhausted():
                return [("gave_up", {"agent": message.agent})]
            case m.OwnerChanged() if message.term > 1:
                return [("takeover", {"term": message.term})]
            case m.RunEnded():
                return [("run_ended", {"state": message.state})]
            case m.Outcome() if message.ok and message.command in self._escalations:
                escalation = self._escalations[message.command]
                self.told |= dict.fromkeys(_incidents_of(escalation))
                return [("told", {"kind": str(escalation.body.get("kind", ""))})]
            case m.AccessSet() if message.state == "killed":
                if message.ok:
                    self._shut.add(message.agent)
                return [("shut_out", {"agent": message.agent, "ok": message.ok})]
            case m.SupervisorReply() if message.error is not None:
                return [self._failed(to, event.id, message.error.code)]
            case _:
                return self._gate(message)

    def _gone(self, agent: str) -> None:
        for who, what, key in list(self._begun):
            if who == agent:
                self._end(who, what, key)

    def _failed(self, agent: str, call: str, code: str) -> tuple[str, dict[str, Any]]:
        tool = self.asked.get((agent, call))
        if tool is None:
            return "call_failed", {"agent": agent, "code": code}
        return "refused", {"agent": agent, "code": code, "tool": tool}

    def _gate(self, message: Any) -> list[tuple[str, dict[str, Any]]]:
        match message:
            case t.RunTool():
                return [("tool_run", {"agent": message.agent, "tool": message.tool})]
            case t.ToolRan():
                tool = self.asked.get((message.agent, message.call), "")
                return [("tool_ran", {"agent": message.agent, "tool": tool, "ok": message.ok, "code": message.code})]
            case t.SpendAsked():
                return [("model_asked", {"agent": message.agent, "model": message.model})]
            case t.Spent():
                return [("model_ran", {"agent": message.agent, "ok": message.ok, "forwarded": message.forwarded})]
            case t.ApprovalAsked():
                return [("approval_asked", {"agent": message.agent, "tool": message.tool})]
            case t.ApprovalDecided():
                return [("approval_decided", {"decision": message.decision})]
            case t.PolicyChanged():
                return [("policy_changed", {})]
            case _:
                return []

    # --- what the core concludes ---

    def _incidents(self) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []
        for id_, incident in reversed(self.core.incidents.items()):
            if id_ in self._told_incidents:
                break
            self._told_incidents.add(id_)
            self._open[id_] = incident
        for id_, known in list(self._open.items()):
            incident = self.core.incidents.get(id_, known)
            agents = list(incident.finding.agents)
            if not incident.finding.suspected and f"{id_}!" not in self._told_incidents:
                self._told_incidents.add(f"{id_}!")
                fields: dict[str, Any] = {"agents": _members(incident), "id": id_, "timed": incident.finding.timed}
                if len(agents) == 1:
                    fields["agent"] = agents[0]
                found.append((incident.finding.kind, fields))
            if incident.state == "resolved":
                del self._open[id_]
                if f"{id_}!" in self._told_incidents:
                    found.append(("resolved", {"kind": incident.finding.kind, "agents": agents, "id": id_}))
        return found


def _incidents_of(told: Escalate) -> list[str]:
    """Ids of the incidents that a message to people is about: one, or those of a digest."""
    by_kind: dict[str, list[str]] = told.body.get("ids", {}) if told.kind == "digest" else {"": [told.incident]}
    return [id_ for ids in by_kind.values() for id_ in ids]


def _members(incident: Incident) -> list[str]:
    """Whom a finding blames: of a deadlock the members of its core, without those that hang on it."""
    finding = incident.finding
    if finding.kind != "deadlock":
        return list(finding.agents)
    return list(dict.fromkeys(task.partition("/")[0] for group in finding.core for task in group))
