"""The story of a run: one plain sentence for each journal entry, and for each conclusion the core draws from it.

Sentences never show the content of messages between agents, only who did what to whom; texts that agents wrote for
people (progress, reasons, questions) are shown made safe.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import TOOLS
from crewkeeper_supervisor.core.commands import Command, Escalate
from crewkeeper_supervisor.core.events import Event, Recorded, Rejected, Throttled
from crewkeeper_supervisor.core.findings import Incident
from crewkeeper_supervisor.views import host_story
from crewkeeper_supervisor.views.approval_story import ApprovalEnds
from crewkeeper_supervisor.views.fold import Fold, JournalEntry
from crewkeeper_supervisor.views.gate_story import GateStory
from crewkeeper_supervisor.views.incident import ring_text
from crewkeeper_supervisor.views.snapshot import incident_row
from crewkeeper_supervisor.views.wording import clock, counted, duration, moment, safe

REMEMBERED_CALLS_MAX: Final = 10_000
"""Calls whose verb is remembered to name it in later sentences; older ones are named by their id."""

Weight = Literal["detail", "normal", "good", "bad"]
"""`detail` is shown only with --all; `good` and `bad` are what a reader must not miss."""

_SIGNALS: Final = {
    -2: "interrupted",
    -6: "aborted",
    -9: "killed",
    -11: "crashed (segmentation fault)",
    -15: "terminated",
}


class Line(Struct, frozen=True, kw_only=True):
    """One sentence of the story, safe to print."""

    at: datetime
    seq: int
    run: str
    text: str
    weight: Weight

    def __str__(self) -> str:
        return f"{clock(self.at)} {self.text}"


class Story:
    """Tells one run: feed it the journal in order, get sentences back.

    Attributes:
        fold: The state of the run, for whoever shows it beside the story.
    """

    def __init__(self, run: str) -> None:
        self.fold = Fold(run)
        self._calls: OrderedDict[str, str] = OrderedDict()
        self._escalations: OrderedDict[str, Escalate] = OrderedDict()
        self._incidents: dict[str, str] = {}
        self._rungs: dict[str, int] = {}
        self._approvals = ApprovalEnds()
        self._gate = GateStory()
        self._owned = False
        self._begun = False

    def feed(
        self, entry: JournalEntry, decided: Callable[[list[Command]], None] | None = None
    ) -> tuple[Event, list[Line]]:
        """Take in the next entry and tell it: first what happened, then what the core concludes.

        Args:
            entry: The entry.
            decided: Gets the commands that the core decides upon it.
        """
        event, commands = self.fold.feed(entry)
        if decided is not None:
            decided(commands)
        lines = []
        told = self._tell(event)
        if told is not None:
            text, weight = told
            lines.append(self._line(event, text, weight))
        self._remember(commands)
        lines.extend(self._conclusions(event))
        lines.extend(self._line(event, *each) for each in self._approvals.tell(event, self.fold.supervisor))
        return event, lines

    def _line(self, event: Event, text: str, weight: Weight) -> Line:
        return Line(at=moment(event.at_s), seq=event.seq, run=self.fold.run, text=text, weight=weight)

    def _remember(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Escalate):
                _put(self._escalations, command.id, command)

    # --- conclusions ---

    def _conclusions(self, event: Event) -> list[Line]:
        lines = []
        for incident in self.fold.supervisor.incidents.values():
            before = self._incidents.get(incident.id)
            if incident.rung != self._rungs.get(incident.id, 0):
                self._rungs[incident.id] = incident.rung
                if before is not None and incident.state != "resolved":
                    lines.append(self._line(event, _climbed(event.seq, incident), "bad"))
            if before == incident.state:
                continue
            self._incidents[incident.id] = incident.state
            if before is None:
                lines.append(self._line(event, _opened(self.fold.run, incident), "bad"))
            if incident.state == "resolved":
                lines.append(self._line(event, *self._resolved(incident)))
        return lines

    def _resolved(self, incident: Incident) -> tuple[str, Weight]:
        what = f"{incident.finding.kind.replace('_', ' ')} {incident.id}"
        if self.fold.ended:
            return f"{what} is closed: the run is over", "normal"  # nothing has become better
        if incident.resolved_at_s is None:
            return f"{what} is resolved", "good"
        return f"{what} is resolved after {duration(incident.resolved_at_s - incident.finding.at_s)}", "good"

    # --- events ---

    def _tell(self, event: Event) -> tuple[str, Weight] | None:
        if isinstance(event, Throttled):
            return None
        if isinstance(event, Rejected):
            what = "forged" if event.forged else "malformed"
            return f"rejected a {what} message of {safe(event.sender) or 'nobody'}: {safe(event.reason)}", "detail"
        message = event.message
        if isinstance(message, m.Op):
            return self._op(message)
        if isinstance(message, m.Ctl | m.HostCtl):
            return self._control(event, message)
        if isinstance(message, m.SupervisorReply):
            return self._gate.replied(event, message) or self._supervisor_reply(event, message)
        if isinstance(message, m.SupervisorCancel):
            return f"takes back {safe(message.caller)}'s call {self._verb(event.id)}{_because(message.why)}", "normal"
        if isinstance(message, m.Note):
            return self._note(safe(event.sender), message)
        return self._talk(event, message) or self._gate.told(event)

    def _op(self, message: m.Op) -> tuple[str, Weight] | None:
        match message:
            case m.RunDeclared():
                return _declared(message), "normal"
            case m.Tick():
                return "tick", "detail"
            case m.OwnerChanged(owner=owner, term=term):
                known, self._owned = self._owned, True
                return f"controller {safe(owner)} takes charge (term {term})", "normal" if known else "detail"
            case m.ProcessStarted(agent=agent, pid=pid, restarts=restarts):
                again = f", restart {restarts}" if restarts else ""
                return f"{_process(agent)} started (process {pid}{again})", "normal"
            case m.ProcessExited():
                return host_story.late(self.fold.supervisor.hosting, message) or _exited(message)
            case m.RestartsExhausted(agent=agent, intensity=intensity, period_s=period_s):
                limit = f"more than {intensity} restarts in {duration(period_s)}"
                return f"gave up on {_process(agent)}: {limit}", "bad"
            case m.HostsSeen() | m.HostLeaving() | m.HostLost() | m.StartRefused():
                return host_story.stated(message)
            case m.OperatorAsked():
                return _operator(message), "normal"
            case m.Outcome():
                return self._outcome(message)
            case m.RunEnded(state=state, why=why):
                return f"the run is over: {state}{_because(why)}", "good" if state == "done" else "bad"
            case m.AccessSet() | m.Violation() | m.Delegated() | m.Revoked():
                return _access(message)
        return None

    def _begins(self) -> tuple[str, Weight]:
        missing = [view for view in self.fold.supervisor.agents.values() if view.status in ("expected", "starting")]
        late = [view.name for view in missing if not view.external]
        outside = [view.name for view in missing if view.external]
        said = f"the crew begins without {_some(late)}: not joined in time" if late else "the crew begins"
        if outside:
            said += f"; not there yet, and started elsewhere: {_some(outside)}"
        return said, "bad" if late else "normal"

    def _outcome(self, message: m.Outcome) -> tuple[str, Weight]:
        escalation = self._escalations.get(message.command)
        detail = _because(message.detail)
        if escalation is None:
            return f"command {safe(message.command)} {'done' if message.ok else 'failed'}{detail}", (
                "detail" if message.ok else "bad"
            )
        about = f"{safe(escalation.incident)} {safe(escalation.kind)}"
        if not escalation.incident:
            over = "the end of " if escalation.kind == "resolved" else ""
            about = f"{over}{counted(escalation.body['count'], 'incident')} in a digest"
        if message.ok:
            return f"told people by webhook about {about}{detail}", "good"
        return f"could not tell people about {about}{detail}", "bad"

    def _control(self, event: Recorded, message: m.Ctl | m.HostCtl) -> tuple[str, Weight] | None:
        to = safe(event.to)
        match message:
            case m.Begin():
                begun, self._begun = self._begun, True
                return self._begins() if not begun else (f"{to} may begin", "detail")
            case m.Break():
                return f"broke {to}'s wait{_because(self._why_victim(message))}", "good"
            case m.Probe():
                return f"asks {to} whether it still waits", "detail"
            case m.Pause(why=why):
                return f"asks {to} to pause{_because(why)}", "normal"
            case m.Resume():
                return f"lets {to} go on", "normal"
            case m.Stop(why=why):
                return f"asks {to} to stop{_because(why)}", "normal"
            case m.Granted(resource=resource):
                return f"{to} holds {safe(resource)!r}", "normal"
            case m.Nudge(finding=finding, text=text):
                return f"nudges {to} about {safe(finding)}: {safe(text, 600)}", "normal"
            case m.StartProcess():
                return host_story.given(message), "normal"
            case m.StopProcess(place=place, agent=agent) if place:
                return f"tells the lost host to end {_process(agent)}'s process, should it come back", "detail"
            case m.StopProcess(agent=agent):
                return f"asks the host to end {safe(agent)}'s process", "normal"
            case m.StopRun(why=why):
                return f"asks the host to stop the crew{_because(why)}", "detail"
        return None

    def _why_victim(self, message: m.Break) -> str:
        """Why this wait; the error's own text, which names the ring again, where the finding is not known."""
        incident = self.fold.supervisor.incidents.get(message.finding)
        victim = None if incident is None else incident.finding.victim
        return message.why if victim is None else victim.why

    def _supervisor_reply(self, event: Recorded, message: m.SupervisorReply) -> tuple[str, Weight]:
        to = safe(event.to)
        if message.error is not None:
            verb = self._verb(event.id)
            return f"answers {to}'s call {verb} with {safe(message.error.code)}: {safe(message.error.text)}", "normal"
        return f"{to} gets its answer", "normal"

    def _talk(self, event: Recorded, message: Any) -> tuple[str, Weight] | None:
        sender, to = safe(event.sender), safe(event.to)
        match message:
            case m.Request(verb=verb):
                _put(self._calls, event.id, safe(verb))
                return f"{sender} asks {to} {self._verb(event.id)}", "normal"
            case m.Reply(error=error):
                if error is not None:
                    refusal = f"{safe(error.code)}{_because(error.text)}"
                    return f"{sender} cannot answer {to} {self._verb(event.id)}: {refusal}", "normal"
                return f"{sender} answers {to} {self._verb(event.id)}", "normal"
            case m.Message():
                return f"{sender} tells {to} something", "normal"
            case m.Cancel(why=why):
                return f"{sender} gives up {self._verb(event.id)} at {to}{_because(why)}", "normal"
            case m.CallProgress(text=text):
                if not text:  # that is how an instance takes a call to its role
                    return f"{sender} takes {self._verb(event.id)} of {to}", "detail"
                return f"{sender} on {self._verb(event.id)} for {to}: {safe(text)}", "normal"
            case m.Heartbeat():
                return f"{sender} is alive ({len(message.tasks)} tasks, {len(message.queued)} queued)", "detail"
        return None

    def _note(self, who: str, message: m.Note) -> tuple[str, Weight] | None:
        match message:
            case m.Joined(pid=pid):
                return f"{who} joined the crew" + (f" (process {pid})" if pid else ""), "normal"
            case m.WaitBegan(condition=condition):
                silent = isinstance(condition, m.OnCall | m.OnTimer | m.OnResource | m.OnHuman | m.OnTool)
                return f"{who} waits for {self._condition(condition)}", "detail" if silent else "normal"
            case m.WaitEnded(outcome=outcome):
                return _woke(who, outcome)
            case m.Taken(sender=sender):
                return f"{who} takes {safe(sender)}'s message", "detail"
            case m.Acquire(resource=resource):
                return f"{who} asks for {safe(resource)!r}", "normal"
            case m.Release(resource=resource):
                return f"{who} gives back {safe(resource)!r}", "normal"
            case m.AskHuman(who=person, text=text, question=question):
                return f"{who} asks {safe(person)} (a person): {safe(text)} [question {safe(question)}]", "normal"
        return self._task_note(who, message)

    def _task_note(self, who: str, message: m.Note) -> tuple[str, Weight] | None:
        match message:
            case m.TaskBegan(name=name):
                return f"{who} begins {safe(name)!r}", "detail"
            case m.TaskEnded():
                return f"{who} ended a task", "detail"
            case m.CallStarted(call=call, caller=caller):
                return f"{who} starts on {self._verb(call)} for {safe(caller)}", "detail"
            case m.Usage(input_tokens=read, output_tokens=written):
                return f"{who} used {read + written} tokens", "detail"
            case m.Progress(text=text):
                return f"{who}: {safe(text)}", "normal"
            case m.Standing(state=state):
                return f"{who} is {state}", "normal"
            case m.NudgeTaken():
                return f"{who}'s model is given a nudge", "normal"
            case m.Delegate(agent=agent):
                return f"{who} asks to let in {safe(agent)} as its helper", "normal"
            case m.Left(why=why):
                return f"{who} left{_because(why)}", "normal"
        return None

    def _verb(self, call: str) -> str:
        verb = self._calls.get(call)
        return f"'{verb}'" if verb is not None else f"(call {safe(call)})"

    def _condition(self, condition: m.Condition) -> str:
        match condition:
            case m.OnCall(call=call):
                return f"the answer to {self._verb(call)}"
            case m.OnMessage(senders=senders):
                return f"a message of {safe(' or '.join(senders), 100) or 'anybody'}"
            case m.OnResource(resource=resource):
                return repr(safe(resource))
            case m.OnHuman(who=who):
                return f"{safe(who)} (a person)"
            case m.OnTool(tool=tool):
                return f"the tool {safe(tool)!r}"
            case m.OnTimer(after_s=after_s):
                return f"{duration(after_s)} to pass"
            case m.OnAll(of=of):
                return "all of: " + self._conditions(of)
            case m.OnSome(k=k, of=of):
                return ("any of: " if k == 1 else f"{k} of: ") + self._conditions(of)

    def _conditions(self, parts: tuple[m.Condition, ...]) -> str:
        shown = ", ".join(self._condition(part) for part in parts[:8])
        return shown + (f", … ({len(parts)} in all)" if len(parts) > 8 else "")


def _put(memory: OrderedDict[str, Any], key: str, value: Any) -> None:
    memory[key] = value
    if len(memory) > REMEMBERED_CALLS_MAX:
        memory.popitem(last=False)


def _because(why: str) -> str:
    return f": {safe(why)}" if why else ""


def _some(names: list[str]) -> str:
    return ", ".join(safe(name) for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _declared(message: m.RunDeclared) -> str:
    agents = message.crew.get("agents")
    names = (
        [str(agent.get("name", "?")) for agent in agents if isinstance(agent, dict)] if isinstance(agents, list) else []
    )
    shown = safe(", ".join(names), 120)
    return f"crew {safe(str(message.crew.get('name', '?')))} declared: {counted(len(names), 'agent')} ({shown})"


def _process(name: str) -> str:
    return "the tool host" if name == TOOLS else safe(name)


def _exited(message: m.ProcessExited) -> tuple[str, Weight]:
    who = _process(message.agent)
    if message.code < 0:
        how = f"was {_SIGNALS[message.code]}" if message.code in _SIGNALS else f"died of signal {-message.code}"
    else:
        how = "ended" if message.code == 0 else f"failed with status {message.code}"
    again = ", it is started again" if message.restart else ""
    weight: Weight = "normal" if message.code in (0, -15) and not message.restart else "bad"
    what = who if message.agent == TOOLS else f"{who}'s process"
    why = "" if message.why == f"exit status {message.code}" else message.why  # that is said
    return f"{what} {how}{again}{_because(why)}", weight


def _operator(message: m.OperatorAsked) -> str:
    who = safe(message.by) or "an operator"
    whom = safe(message.agent) or "the crew"
    if message.peer:
        whom = f"what {whom} and {safe(message.peer)} say to each other"
    why = _because(message.why)
    match message.action:
        case "answer":
            return f"{who} answers question {safe(message.question)}"
        case "goal":
            return f"{who} changes what the crew is for: {safe(message.answer, 200)}"
        case "stop_run":
            return f"{who} asks to stop the crew{why}"
        case "acknowledge":
            return f"{who} acknowledges {safe(message.incident)}{why}"
        case "resolve":
            return f"{who} closes {safe(message.incident)}{why}"
        case action:
            return f"{who} asks to {action} {whom}{why}"


_SHUT: Final = {
    "running": "lets {} in again",
    "paused": "holds {}",
    "killed": "shuts {} out",
    "revoked": "has cut off the lost process of {}",
}

_VIOLATIONS: Final = {
    "denied": "the server refused {} what it may not do",
    "login_refused": "a login as {} was refused",
    "second_connection": "somebody else is connected as {}",
    "revoked_login": "a login as {} with withdrawn credentials was refused",
    "not_joined": "{} is connected and has not joined",
    "flood": "{} sends more than it may",
}


def _access(message: m.AccessSet | m.Violation | m.Delegated | m.Revoked) -> tuple[str, Weight]:
    who = safe(message.agent) or "somebody"
    match message:
        case m.AccessSet(ok=True):
            if message.peer:
                apart = "holds {} and {} apart" if message.state == "paused" else "lets {} and {} speak again"
                return f"the server {apart.format(who, safe(message.peer))}", "normal"
            cut = f" ({message.connections} connections closed)" if message.connections else ""
            return f"the server {_SHUT[message.state].format(who)}{cut}", "normal"
        case m.AccessSet():
            weight: Weight = "bad" if message.enforced else "detail"
            return f"the server could not be made to set {who} to {message.state}{_because(message.detail)}", weight
        case m.Violation():
            times = f", {message.count} times" if message.count > 1 else ""
            return f"{_VIOLATIONS[message.what].format(who)}{times}{_because(message.detail)}", "bad"
        case m.Delegated():
            return f"{safe(message.parent)} lets in {who} for {duration(message.expires_s)}", "normal"
        case m.Revoked():
            return f"credentials of {who} were withdrawn{_because(message.why)}", "normal"


def _woke(who: str, outcome: str) -> tuple[str, Weight]:
    match outcome:
        case "met":
            return f"{who} goes on", "detail"
        case "broken":
            return f"{who}'s wait has failed; it carries on", "normal"
        case "timeout":
            return f"{who}'s wait timed out", "normal"
        case "failed":
            return f"{who} has an error for an answer; it carries on", "detail"
        case "gone":
            return f"{who}'s wait failed: who should have answered is gone", "normal"
        case _:
            return f"{who}'s wait was {outcome}", "normal"


def _climbed(seq: int, incident: Incident) -> str:
    """The rung that was taken, with what was noted of it."""
    noted = "; ".join(safe(step.text) for step in incident.steps if step.seq == seq)
    what = f"{incident.finding.kind.replace('_', ' ')} {incident.id}"
    return f"{what} goes on: {noted or incident.actions[incident.rung - 1]}"


def _opened(run: str, incident: Incident) -> str:
    row = incident_row(run, incident)
    head = f"{row.kind.replace('_', ' ').upper()} {row.id}"
    if row.kind == "deadlock":
        return f"{head}: {ring_text(row)}"
    return f"{head}: {safe(row.summary)}"
